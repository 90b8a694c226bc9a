"""The complete job: requests from examples, completions into the log, rationales from the log into a file."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skipthinking.data.importing import count
from skipthinking.files import write_json, write_jsonl
from skipthinking.records import Example, UserError
from skipthinking.teacher.choosing import Keep, grade_completion
from skipthinking.teacher.client import Client, Request, Sampling, make_request
from skipthinking.teacher.completion_log import CompletionLog, Position, open_log, read_positions, rows_of
from skipthinking.teacher.dispatch import AGAIN, Outcome, dispatch
from skipthinking.teacher.prompts import Prompt
from skipthinking.teacher.tally import Tally

__all__ = ["Job"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Turns examples into a rationale file.

    Attributes:
        examples: Questions with gold answers.
        client: The teacher.
        prompt: Turns a question into a chat.
        sampling: How completions are sampled.
        keep: Selects the completions that become rationales.
        lenient: Whether an answer without the task's answer phrase counts.
        stop_after: Number of consecutive failures after which the run stops.
        retry_failed: Whether only failed completions are requested, again.
        out: The rationale file, NAME.jsonl, beside NAME.records (the completion log) and NAME.report.
    """

    examples: Sequence[Example]
    client: Client
    prompt: Prompt
    sampling: Sampling
    keep: Keep
    lenient: bool
    stop_after: int
    retry_failed: bool
    out: Path

    @property
    def log_path(self) -> Path:
        """The completion log."""
        return self.out.with_suffix(".records")

    def requests(self) -> Iterator[Request]:
        """A request for all samples of each example, made as it is needed."""
        return (make_request(self.client, self.prompt, example, self.sampling) for example in self.examples)

    def open_requests(self, positions: Mapping[str, Position]) -> Iterator[Request]:
        """The requests still to send, by what is in the log."""

        def wanted(fingerprint: str) -> bool:
            position = positions.get(fingerprint)
            return position is not None and position.failed if self.retry_failed else position is None

        for request in self.requests():
            yield from request.select(wanted).split(self.client.samples_per_request)

    def show(self) -> None:
        """Prints the first prompt and the number of requests; sends and writes nothing."""
        positions = read_positions(self.log_path)[0] if self.log_path.exists() else {}
        for message in next(self.requests()).messages:
            print(f"[{message['role']}]\n{message['content']}\n")
        total = sum(len(request.samples) for request in self.requests())
        sizes = [len(request.samples) for request in self.open_requests(positions)]
        print(
            f"{total} completions of {count(len(self.examples), 'question')}, {total - sum(sizes)} of them on record; "
            f"{count(len(sizes), 'request')} to {json.dumps(dict(self.client.identity))}"
        )

    def run(self) -> None:
        """Requests the completions that are missing, and writes the rationales and the report.

        Raises:
            UserError: The teacher is out of reach, or nothing can be kept.
        """
        total = sum(len(request.samples) for request in self.requests())  # fails early if a prompt can't be made
        with open_log(self.log_path) as log:
            missing = sum(len(request.samples) for request in self.open_requests(log.positions))
            if missing:
                print(f"requesting {missing} of {total} completions ({self.log_path})", file=sys.stderr)
                with tqdm(total=total, initial=total - missing, unit=" completions", delay=2, leave=False) as bar:
                    asyncio.run(self._complete(log, bar))
                log.refresh()
            tally = Tally()
            write_jsonl(self.out, self._rows(log, tally))
        settings = {"teacher": dict(self.client.identity), "prompt": type(self.prompt).__name__}
        write_json(self.out.with_suffix(".report"), settings | asdict(self.sampling) | tally.as_json())
        print(f"wrote {self.out}")

    async def _complete(self, log: CompletionLog, bar: tqdm[Any]) -> None:
        """Sends the open requests; logs every outcome at once and advances the progress bar."""
        counts = Counter[str]()

        def record(outcomes: list[Outcome]) -> None:
            rows = [row for outcome in outcomes for row in rows_of(outcome)]
            log.append(rows)
            for outcome in outcomes:
                for completion in outcome.reply.completions if outcome.reply else ():
                    counts[grade_completion(outcome.request.example, 0, completion, self.lenient).verdict] += 1
            counts["failed"] += sum("error" in row for row in rows)
            answered = counts.total() - counts["failed"]
            share = f"{counts['correct'] / answered:.0%}" if answered else "-"
            bar.set_postfix(correct=share, failed=counts["failed"], retries=self.client.retries, refresh=False)
            bar.update(len(rows))

        await self.client.open()
        try:
            await dispatch(self.client, self.open_requests(log.positions), record, self.stop_after)
        finally:
            await self.client.close()

    def _rows(self, log: CompletionLog, tally: Tally) -> Iterator[dict[str, Any]]:
        """Rows of the rationale file; prints the report at the end. No row is an error, so that an older file stays."""
        for request in self.requests():
            example, candidates = request.example, []
            for sample, fingerprint in request.samples.items():
                if fingerprint in log.positions:
                    completion, row = log.read(log.positions[fingerprint])
                    tally.add_row(row)
                    if completion is not None:
                        candidates.append(grade_completion(example, sample, completion, self.lenient))
            kept, duplicates = self.keep.choose(candidates)
            tally.add_question(len(request.samples), candidates, kept, duplicates)
            for candidate in kept:
                yield {
                    "id": f"{example.id}/{candidate.sample}",
                    "question": example.question,
                    "rationale": candidate.rationale,
                    **({"conclusion": candidate.conclusion} if candidate.conclusion else {}),
                    "answer": example.answer,
                    "task": example.task,
                    "meta": {"verdict": candidate.verdict},
                }
        print("\n".join(tally.lines()))
        if not tally.answered and not tally.failed:
            raise UserError(
                f"No request of this command has failed ({self.log_path}). Leave --retry_failed out to send those that "
                "are not on record."
            )
        if not tally.answered:
            raise UserError(
                f"All {tally.failed} completions failed, for example with: {next(iter(tally.causes)).rstrip('.')}. Fix "
                f"the cause. {AGAIN}"
            )
        if not tally.kept:
            raise UserError(
                f"Expected at least one rationale to keep, got none of {tally.answered} completions "
                f"({self.log_path}). Look at them; fix the prompt, or set keep or lenient."
            )
