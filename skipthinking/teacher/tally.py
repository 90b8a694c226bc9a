"""The report of ``teach``: counts of what became of every completion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from skipthinking.data.importing import count
from skipthinking.teacher.choosing import Candidate, Verdict

__all__ = ["Tally"]


@dataclass(kw_only=True, slots=True)
class Tally:
    """Counts of completions: asked = answered + failed + not asked yet, answered = the four verdicts.

    Attributes:
        questions: Questions of the source.
        asked: Completions wanted for all questions.
        answered: Completions in the log.
        failed: Completions whose request failed.
        verdicts: Answered completions by the grader's verdict.
        empty: Answered completions without a text before the answer.
        duplicates: Eligible completions that repeat another one of the same question.
        kept: Rationales written.
        kept_questions: Questions with at least one rationale.
        words: Words of all kept rationales.
        prompt_tokens: Prompt tokens, as far as the server says.
        completion_tokens: Completion tokens, as far as the server says.
        seconds: Sum of the durations of the answered requests, concurrent or not.
        causes: Number of failed completions by the error.
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

    def add_row(self, row: dict[str, Any]) -> None:
        """Counts a row of the completion log."""
        if "error" in row:
            self.failed += 1
            self.causes[row["error"]] += 1
            return
        self.answered += 1
        self.prompt_tokens += row.get("prompt_tokens") or 0
        self.completion_tokens += row.get("completion_tokens") or 0
        self.seconds += row.get("seconds") or 0.0

    def add_question(
        self, asked: int, candidates: Sequence[Candidate], kept: Sequence[Candidate], duplicates: int
    ) -> None:
        """Counts a question: its wanted completions, its graded ones, the kept ones, and duplicates."""
        self.questions += 1
        self.asked += asked
        self.verdicts.update(row.verdict for row in candidates)
        self.empty += sum(not row.rationale for row in candidates)
        self.duplicates += duplicates
        self.kept += len(kept)
        self.kept_questions += bool(kept)
        self.words += sum(len(row.rationale.split()) for row in kept)

    def as_json(self) -> dict[str, Any]:
        """The counts by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def lines(self) -> list[str]:
        """The report that is printed."""
        correct = f" ({self.verdicts['correct'] / self.answered:.1%} of the answered)" if self.answered else ""
        length = f", {self.words / self.kept:.1f} words each" if self.kept else ""
        rows = {
            "asked": f"{self.asked} ({count(self.questions, 'question')})",
            "answered": self.answered,
            "  correct": f"{self.verdicts['correct']}{correct}",
            "  wrong": self.verdicts["wrong"],
            "  unparsable": self.verdicts["unparsable"],
            "  cut off": self.verdicts["cut off"],
            "failed": self.failed,
            "not asked yet": self.asked - self.answered - self.failed,
            "without a rationale": self.empty,
            "duplicates": self.duplicates,
            "kept": f"{self.kept} ({count(self.kept_questions, 'question')}{length})",
            "tokens": f"{self.prompt_tokens:,} read, {self.completion_tokens:,} written",
            "time of requests": f"{self.seconds:,.1f} s",
        }
        lines = [f"{name:<21}{value}" for name, value in rows.items()]
        return lines + [f"failed {number} times: {cause}" for cause, number in self.causes.most_common(3)]
