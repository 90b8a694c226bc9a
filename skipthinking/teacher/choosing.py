"""Which completions of a question become rationales: grading, removal of duplicates, and selection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from skipthinking.data.phrases import question_key, strip_closing
from skipthinking.data.thoughts import BadTags, Tagged, split_tags
from skipthinking.records import Example, UserError
from skipthinking.tasks import get_task
from skipthinking.tasks.graders import cue_pattern
from skipthinking.teacher.client import Completion

__all__ = ["Candidate", "Correct", "Diverse", "Everything", "Keep", "Shortest", "Verdict", "grade_completion"]

Verdict = Literal["correct", "wrong", "unparsable", "cut off"]

_CUT_OFF = ("length", "content_filter")  # finish reasons of an incomplete text


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A graded completion that may become a rationale.

    Attributes:
        sample: Index of the completion among those of the question.
        rationale: The text before the answer sentence; for a reasoning model its thoughts.
        verdict: The grader's verdict. A completion that hit the token limit is cut off, whatever it states.
        conclusion: What a reasoning model says between its thoughts and the answer.
    """

    sample: int
    rationale: str
    verdict: Verdict
    conclusion: str = ""


def grade_completion(example: Example, sample: int, completion: Completion, lenient: bool = False) -> Candidate:
    """Grades a completion and removes the answer with all that follows. Thoughts are not graded.

    Args:
        example: The question with its gold answer.
        sample: Index of the completion among those of the question.
        completion: The completion.
        lenient: Whether an answer without the task's answer phrase counts, too.
    """
    task = get_task(example.task)
    try:
        tagged, broken = split_tags(completion.text), None
    except BadTags as error:
        tagged, broken = Tagged(None, completion.text), error
    thought, spoken = tagged.thoughts or "", tagged.text
    if tagged.answer is not None:
        spoken = f"{spoken}\n\n{task.answer.replace('{answer}', tagged.answer)}"
    grade = task.grade(spoken, example.answer)
    extracted = grade.extracted_lenient if lenient else grade.extracted
    correct = grade.correct_lenient if lenient else grade.correct
    verdict: Verdict = "unparsable" if extracted is None else "correct" if correct else "wrong"
    if broken:
        verdict = "unparsable"
    if completion.finish in _CUT_OFF or (broken and broken.unended):
        verdict = "cut off"
    before, thought = _before_answer(spoken, task.cue), strip_closing(thought)
    return Candidate(sample=sample, rationale=thought or before, verdict=verdict, conclusion=before if thought else "")


def _before_answer(text: str, cue: str) -> str:
    """The text before the last answer phrase, or all of it if there is none, without a ** that opened the phrase."""
    phrases = list(cue_pattern(cue).finditer(text))
    # "So we get: therefore, the answer is $18" -> "So we get: the answer is 0.": with a plain answer in place, the rule
    # of the rationale files removes the entire sentence.
    rationale = strip_closing(text[: phrases[-1].start()] + "the answer is 0." if phrases else text)
    return rationale[:-2].rstrip() if rationale.endswith("**") and rationale.count("**") % 2 else rationale


class Keep(ABC):
    """Selects among the candidates of one question."""

    verdicts: tuple[Verdict, ...] = ("correct",)
    """Verdicts of the candidates that are eligible."""

    def choose(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], int]:
        """Selects among the eligible candidates that have a text, without duplicates (up to case and white space).

        Returns:
            The selected candidates, and the number of duplicates among the eligible ones.
        """
        eligible = [row for row in candidates if row.verdict in self.verdicts and row.rationale]
        distinct: dict[str, Candidate] = {}
        for row in sorted(eligible, key=lambda row: row.sample):
            distinct.setdefault(question_key(row.rationale), row)
        selected = self.pick(list(distinct.values()))
        return sorted(selected, key=lambda row: row.sample), len(eligible) - len(distinct)

    @abstractmethod
    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """Selects among distinct candidates."""


class Correct(Keep):
    """Keeps all correct completions."""

    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """Selects all."""
        return rows


class Everything(Correct):
    """Keeps every completion with a text: correct, wrong or cut off. Each gets the gold answer."""

    verdicts = ("correct", "wrong", "unparsable", "cut off")


class Shortest(Keep):
    """Keeps the shortest correct completions, measured in words.

    Args:
        k: Maximum number of rationales per question.
    """

    def __init__(self, k: int = 1) -> None:
        if k < 1:
            raise UserError(f"Expected at least 1 rationale per question, got keep.k={k}. Set keep.k: 2, for example.")
        self.k = k

    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """Selects the k shortest."""
        return sorted(rows, key=_words)[: self.k]


class Diverse(Shortest):
    """Keeps correct completions that differ: the shortest, then repeatedly the one farthest from all selected ones.

    The distance of two texts is the Jaccard distance of their sets of word trigrams. Farthest-point insertion: the
    smallest distance between two selected texts is at least half of the best that any selection of k texts reaches
    (Ravi, Rosenkrantz and Tayi, 1994, doi 10.1287/opre.42.2.299).

    Args:
        k: Maximum number of rationales per question.
    """

    def pick(self, rows: list[Candidate]) -> list[Candidate]:
        """Selects by farthest-point insertion."""
        remaining = sorted(rows, key=_words)
        sets = {row.sample: trigrams(row.rationale) for row in rows}
        selected = remaining[:1]
        while len(selected) < min(self.k, len(rows)):
            remaining = [row for row in remaining if row not in selected]
            gaps = [min(distance(sets[row.sample], sets[other.sample]) for other in selected) for row in remaining]
            selected.append(remaining[gaps.index(max(gaps))])
        return selected


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """The set of three consecutive words, ignoring case; a shorter text is one tuple of all its words."""
    words = text.casefold().split()
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def distance(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Jaccard distance of two sets: the fraction of their union that only one of them has."""
    return 1 - len(a & b) / len(a | b)


def _words(row: Candidate) -> int:
    return len(row.rationale.split())
