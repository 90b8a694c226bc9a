"""Which of a question's completions become rationales: graded, without duplicates, and some of the correct ones."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from skipthinking.data.phrases import question_key, strip_closing, thoughts, unended
from skipthinking.records import Example, UserError
from skipthinking.tasks import get_task
from skipthinking.teacher.client import Completion

__all__ = ["Candidate", "Correct", "Diverse", "Everything", "Keep", "Shortest", "Verdict", "judge"]

Verdict = Literal["correct", "wrong", "unparsable", "cut off"]

_CUT_OFF = ("length", "content_filter")
_WORDS_TOGETHER = 3  # n-grams of this many words tell two rationales apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A completion as a rationale.

    Attributes:
        sample: Its number among the question's.
        rationale: The text before the sentence that states the answer; of a reasoning model its thoughts.
        verdict: What the grader says. A completion that ran into the limit is cut off, whatever it states.
        conclusion: What a reasoning model says between its thoughts and the answer.
    """

    sample: int
    rationale: str
    verdict: Verdict
    conclusion: str = ""


def judge(example: Example, sample: int, completion: Completion, lenient: bool = False) -> Candidate:
    """Grades a completion, and takes the answer and what follows it off. What stands in thoughts is not graded.

    Args:
        example: The question with its gold answer.
        sample: The completion's number.
        completion: The completion.
        lenient: Whether an answer without the task's answer phrase counts, too.
    """
    task = get_task(example.task)
    thought, said = thoughts(completion.text) or ("", completion.text)
    grade = task.grade(said, example.answer)
    found = grade.extracted_lenient if lenient else grade.extracted
    right = grade.correct_lenient if lenient else grade.correct
    verdict: Verdict = "unparsable" if found is None else "correct" if right else "wrong"
    if completion.finish in _CUT_OFF or unended(completion.text):
        verdict = "cut off"
    before, thought = _before_answer(said, task.cue), strip_closing(thought)
    return Candidate(sample=sample, rationale=thought or before, verdict=verdict, conclusion=before if thought else "")


def _before_answer(text: str, cue: str) -> str:
    """What comes before the last answer phrase; all of it if there is none. A lone ** that enclosed it goes, too."""
    pattern = r"(?<!\w)" + r"\s+".join(re.escape(word) for word in cue.split()) + r"(?!\w)"
    phrases = list(re.finditer(pattern, text, re.IGNORECASE))
    # With a plain answer in its place, the rule that reads rationale files takes the whole sentence away.
    rationale = strip_closing(text[: phrases[-1].start()] + "the answer is 0." if phrases else text)
    return rationale[:-2].rstrip() if rationale.endswith("**") and rationale.count("**") % 2 else rationale


class Keep(ABC):
    """Chooses among the candidates of one question."""

    verdicts: tuple[Verdict, ...] = ("correct",)
    """Which of them may be chosen."""

    def choose(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], int]:
        """Drops what has no text, duplicates (case and white space play no role), and what may not be chosen.

        Returns:
            The chosen ones, and the number of duplicates among those that might have been.
        """
        eligible = [row for row in candidates if row.verdict in self.verdicts and row.rationale]
        distinct: dict[str, Candidate] = {}
        for row in sorted(eligible, key=lambda row: row.sample):
            distinct.setdefault(question_key(row.rationale), row)
        chosen = self.pick(list(distinct.values()))
        return sorted(chosen, key=lambda row: row.sample), len(eligible) - len(distinct)

    @abstractmethod
    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """Chooses among distinct rationales."""


class Correct(Keep):
    """All correct ones."""

    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """All."""
        return rows


class Everything(Correct):
    """Whatever has a text, right or wrong, cut off or not. The gold answer stands behind all of them."""

    verdicts = ("correct", "wrong", "unparsable", "cut off")


class Shortest(Keep):
    """The shortest correct ones, counted in words.

    Args:
        k: How many of a question's.
    """

    def __init__(self, k: int = 1) -> None:
        if k < 1:
            raise UserError(f"Expected at least 1 rationale per question, got keep.k={k}.")
        self.k = k

    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """The first of them by length."""
        return sorted(rows, key=_words)[: self.k]


class Diverse(Shortest):
    """Correct ones that differ: the shortest, then again and again the one that is farthest from all chosen ones.

    The distance of two texts is the Jaccard distance of their sets of three words in a row. Farthest-point insertion:
    the smallest distance between two of the chosen is at least half of what any choice of k could have (Ravi,
    Rosenkrantz and Tayi, 1994, doi 10.1287/opre.42.2.299).

    Args:
        k: How many of a question's.
    """

    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """Farthest points."""
        left = sorted(rows, key=_words)
        parts = {row.sample: trigrams(row.rationale) for row in rows}
        chosen = left[:1]
        while len(chosen) < min(self.k, len(rows)):
            left = [row for row in left if row not in chosen]
            chosen.append(
                max(left, key=lambda row: min(distance(parts[row.sample], parts[other.sample]) for other in chosen))
            )
        return chosen


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """Sets of three words in a row, case aside; a shorter text is one of all its words."""
    words = text.casefold().split()
    count = max(1, len(words) - _WORDS_TOGETHER + 1)
    return frozenset(tuple(words[i : i + _WORDS_TOGETHER]) for i in range(count))


def distance(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Jaccard distance: the share of their elements that only one of two sets has."""
    return 1 - len(a & b) / len(a | b)


def _words(row: Candidate) -> int:
    return len(row.rationale.split())
