"""The whole way: requests from examples, completions on record, rationales in a file."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skipthinking.data.importing import count
from skipthinking.files import write_json, write_jsonl
from skipthinking.records import Example, UserError
from skipthinking.teacher.choosing import Keep, judge
from skipthinking.teacher.client import Client, Request, Sampling, request_for
from skipthinking.teacher.completion_log import Place, RecordFile, answered, failed, index
from skipthinking.teacher.dispatch import Outcome, ask
from skipthinking.teacher.prompts import Prompt
from skipthinking.teacher.tally import Tally, rationales

__all__ = ["Job"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Examples in, a rationale file out.

    Attributes:
        examples: Questions with gold answers.
        client: Whom to ask.
        prompt: What is asked.
        sampling: How completions are drawn.
        keep: Which become rationales.
        lenient: Whether an answer counts that is stated without the task's answer phrase.
        stop_after: Failures in a row that end the run.
        out: The rationale file. Beside it lie its .records and its .report.
    """

    examples: Sequence[Example]
    client: Client
    prompt: Prompt
    sampling: Sampling
    keep: Keep
    lenient: bool
    stop_after: int
    out: Path

    @property
    def records(self) -> Path:
        """The record file."""
        return self.out.with_suffix(".records")

    def requests(self) -> Iterator[Request]:
        """One for every example, made as it is needed."""
        return (request_for(self.client, self.prompt, example, self.sampling) for example in self.examples)

    def open_parts(self, places: Mapping[str, Place], retry_failed: bool) -> Iterator[Request]:
        """The requests to send: for what is not on record, or for what has failed."""
        for request in self.requests():
            left = request.only(lambda key: _open(key, places, retry_failed))
            yield from left.parts(self.client.samples_per_request)

    def show(self, retry_failed: bool) -> None:
        """Prints the first prompt and how much there is to ask; touches no file and asks nobody."""
        places = index(self.records) if self.records.exists() else {}
        for message in next(self.requests()).messages:
            print(f"[{message['role']}]\n{message['content']}\n")
        total = sum(len(request.keys) for request in self.requests())
        parts = [len(part.keys) for part in self.open_parts(places, retry_failed)]
        print(
            f"{total} completions of {count(len(self.examples), 'question')}, {total - sum(parts)} of them on record; "
            f"{count(len(parts), 'request')} to {json.dumps(dict(self.client.identity))}"
        )

    def run(self, retry_failed: bool) -> None:
        """Asks what is not on record, and writes the rationales.

        Args:
            retry_failed: Ask what has failed, and only that.

        Raises:
            UserError: The teacher is out of reach, or nothing can be kept.
        """
        total = sum(len(request.keys) for request in self.requests())  # and every prompt can be made
        with RecordFile(self.records) as records:
            places = records.index()
            left = sum(len(part.keys) for part in self.open_parts(places, retry_failed))
            if left:
                self._ask(records, places, retry_failed, total, left)
            tally = Tally()
            write_jsonl(self.out, self._rows(records, tally))
        write_json(self.out.with_suffix(".report"), self._settings() | tally.as_json())
        print(f"wrote {self.out}")

    def _ask(self, records: RecordFile, places: dict[str, Place], retry_failed: bool, total: int, left: int) -> None:
        print(f"asking for {left} of {total} completions ({self.records})", file=sys.stderr)
        with tqdm(total=total, initial=total - left, unit=" completions", delay=2, leave=False) as bar:
            asyncio.run(self._send(self.open_parts(places, retry_failed), _Keeper(self, records, bar)))

    async def _send(self, stream: Iterator[Request], keep: Callable[[list[Outcome]], None]) -> None:
        await self.client.open()
        try:
            await ask(self.client, stream, keep, self.stop_after)
        finally:
            await self.client.close()

    def _rows(self, records: RecordFile, tally: Tally) -> Iterator[dict[str, Any]]:
        """All rows, then the report; where there is no row an error, so that an older file stays."""
        yield from rationales(self.requests(), records, records.index(), self.keep, self.lenient, tally)
        print("\n".join(tally.lines()))
        if not tally.answered and not tally.failed:
            raise UserError(f"Expected failures to ask again, got none ({self.records}). Leave --retry_failed out.")
        if not tally.answered:
            raise UserError(
                f"Expected replies, got {tally.failed} failures, such as: {next(iter(tally.causes))}. Mend the "
                "cause and ask again by --retry_failed true."
            )
        if not tally.kept:
            raise UserError(
                f"Expected at least one rationale to keep, got none of {tally.answered} completions "
                f"({self.records}). Look at them; mend the prompt, or set keep or lenient."
            )

    def _settings(self) -> dict[str, Any]:
        return {"teacher": dict(self.client.identity), "prompt": type(self.prompt).__name__, **asdict(self.sampling)}


class _Keeper:
    """Puts outcomes on record, and the bar forward."""

    def __init__(self, job: Job, records: RecordFile, bar: tqdm[Any]) -> None:
        self.job, self.records, self.bar = job, records, bar
        self.answered = self.correct = self.failed = 0

    def __call__(self, outcomes: list[Outcome]) -> None:
        """Keeps outcomes."""
        rows: list[dict[str, Any]] = []
        for outcome in outcomes:
            request = outcome.request
            if outcome.reply is None:
                rows += failed(request, outcome.cause)
                self.failed += len(request.keys)
                continue
            rows += answered(request, outcome.reply)
            for completion in outcome.reply.completions:
                self.answered += 1
                self.correct += judge(request.example, 0, completion, self.job.lenient).verdict == "correct"
        self.records.append(rows)
        share = f"{self.correct / self.answered:.0%}" if self.answered else "-"
        self.bar.set_postfix(correct=share, failed=self.failed, retries=self.job.client.retries, refresh=False)
        self.bar.update(len(rows))


def _open(key: str, places: Mapping[str, Place], retry_failed: bool) -> bool:
    """Whether a completion is to be asked for."""
    place = places.get(key)
    return place is not None and place.failed if retry_failed else place is None
