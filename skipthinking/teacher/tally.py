"""From records to rationales, and the count of what became of every completion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from skipthinking.data.importing import count
from skipthinking.records import Example
from skipthinking.teacher.choosing import Candidate, Keep, Verdict, judge
from skipthinking.teacher.client import Request
from skipthinking.teacher.completion_log import Place, RecordFile

__all__ = ["Tally", "rationales"]


@dataclass(kw_only=True, slots=True)
class Tally:
    """What became of the completions. asked = answered + failed + waiting; answered = the four verdicts.

    Attributes:
        questions: Questions of the source.
        asked: Completions wanted of them.
        answered: Completions on record.
        failed: Completions given up.
        verdicts: Of the answered, by what the grader says.
        empty: Of the answered, those without a text before the answer.
        duplicates: Correct ones (or those that may be kept) that repeat another one of the same question.
        kept: Rationales written.
        kept_questions: Questions with at least one.
        words: Words of all kept rationales.
        prompt_tokens: Tokens read, as far as the server tells.
        completion_tokens: Tokens written, likewise.
        seconds: Time of the answered requests, added up over those that ran side by side.
        causes: Why completions failed, with how often.
    """

    questions: int = 0
    asked: int = 0
    answered: int = 0
    failed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    empty: int = 0
    duplicates: int = 0
    kept: int = 0
    kept_questions: int = 0
    words: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    causes: Counter[str] = field(default_factory=Counter)

    def add(self, row: dict[str, Any]) -> None:
        """Counts a line of the record file."""
        if "error" in row:
            self.failed += 1
            self.causes[row["error"]] += 1
            return
        self.answered += 1
        self.prompt_tokens += row.get("prompt_tokens") or 0
        self.completion_tokens += row.get("completion_tokens") or 0
        self.seconds += row.get("seconds") or 0.0

    def as_json(self) -> dict[str, Any]:
        """The counts by name."""
        values = {name.name: getattr(self, name.name) for name in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}

    def lines(self) -> list[str]:
        """The report."""
        waiting = self.asked - self.answered - self.failed
        of = f" ({self.verdicts['correct'] / self.answered:.1%} of the answered)" if self.answered else ""
        per = f", {self.words / self.kept:.1f} words each" if self.kept else ""
        rows = [
            ("asked", f"{self.asked} ({count(self.questions, 'question')})"),
            ("answered", f"{self.answered}"),
            ("  correct", f"{self.verdicts['correct']}{of}"),
            *((f"  {name}", f"{self.verdicts[name]}") for name in ("wrong", "unparsable", "cut off")),
            ("failed", f"{self.failed}"),
            ("not asked yet", f"{waiting}"),
            ("without a rationale", f"{self.empty}"),
            ("duplicates", f"{self.duplicates}"),
            ("kept", f"{self.kept} ({count(self.kept_questions, 'question')}{per})"),
            ("tokens", f"{self.prompt_tokens:,} read, {self.completion_tokens:,} written"),
            ("time of requests", f"{self.seconds:,.1f} s"),
        ]
        told = [f"{name:<21}{value}" for name, value in rows]
        return told + [f"failed {number} times: {cause}" for cause, number in self.causes.most_common(3)]


def rationales(
    requests: Iterable[Request],
    records: RecordFile,
    places: dict[str, Place],
    keep: Keep,
    lenient: bool,
    tally: Tally,
) -> Iterator[dict[str, Any]]:
    """Rows of the rationale file, a question at a time, in the order of the source.

    Args:
        requests: All requests, whatever of them is on record.
        records: The record file.
        places: Its index. Records of other settings are left alone.
        keep: Chooses.
        lenient: Whether an answer without the task's answer phrase counts.
        tally: Is counted into.
    """
    for request in requests:
        example, found = request.example, []
        tally.questions += 1
        tally.asked += len(request.keys)
        for key, sample in zip(request.keys, request.missing, strict=True):
            if key in places:
                completion, row = records.read(places[key])
                tally.add(row)
                if completion is not None:
                    found.append(judge(example, sample, completion, lenient))
        tally.verdicts.update(row.verdict for row in found)
        tally.empty += sum(not row.rationale for row in found)
        chosen, duplicates = keep.choose(found)
        tally.duplicates += duplicates
        tally.kept += len(chosen)
        tally.kept_questions += bool(chosen)
        tally.words += sum(len(row.rationale.split()) for row in chosen)
        yield from (_row(example, row) for row in chosen)


def _row(example: Example, chosen: Candidate) -> dict[str, Any]:
    return {
        "id": f"{example.id}/{chosen.sample}",
        "question": example.question,
        "rationale": chosen.rationale,
        **({"conclusion": chosen.conclusion} if chosen.conclusion else {}),
        "answer": example.answer,
        "task": example.task,
        "meta": {"verdict": chosen.verdict},
    }
