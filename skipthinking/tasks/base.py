"""The record of a task: prompt, answer sentence, grader, and the source of its examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

from skipthinking.records import DataError, UserError
from skipthinking.tasks.generation import Generator
from skipthinking.tasks.graders import Grader

__all__ = ["Grade", "HubSource", "Task"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """Location of a benchmark on the Hugging Face hub.

    Attributes:
        path: Id of the data set.
        config: Configuration of the data set, if it has several.
        splits: Maps "train" and "test" to names of the hub's splits. A key is missing if the hub has no such rows with
            answers.
    """

    path: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """The verdict on one completion.

    Attributes:
        extracted: Canonical form of the answer after the answer phrase, None without one ("no answer").
        extracted_lenient: ``extracted``, or else the last plausible answer anywhere in the text.
        correct: Whether ``extracted``, or another reading of the same text, is the gold answer.
        correct_lenient: The same for ``extracted_lenient``.
    """

    extracted: str | None
    extracted_lenient: str | None
    correct: bool
    correct_lenient: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """How questions of a benchmark or a built-in task are asked, and how their answers are graded.

    Attributes:
        name: Name for :func:`skipthinking.tasks.get_task`.
        grader: Extracts and compares answers.
        question: Prompt text; ``{question}`` stands for the question.
        answer: Answer sentence at the end of a completion; ``{answer}`` stands for the answer.
        hub: Location of the rows on the hub; None if they come from a file.
        generator: Draws the examples of a built-in task; None for other tasks.
    """

    name: str
    grader: Grader
    question: str = "{question}"
    answer: str = "Therefore, the answer is {answer}."
    hub: HubSource | None = None
    generator: Generator[Any] | None = None

    def __post_init__(self) -> None:
        for field_name, slot in (("question", "{question}"), ("answer", "{answer}")):
            text = getattr(self, field_name)
            if slot not in text:
                raise UserError(
                    f"Expected a text with {slot} in it, got {text!r} ({field_name} of task {self.name}). Add {slot}."
                )

    @property
    def cue(self) -> str:
        """The core of the answer phrase: its last clause before ``{answer}``, such as "the answer is" or "A:".

        The clause ends where a wrapper of the answer begins ("the answer is \\boxed{"). The core of a clause without
        words ("#### ") is the clause itself.
        """
        clause = self.answer.partition("{answer}")[0].rpartition(",")[2].strip()
        words = re.match(r"[\w\s'’-]+[:=.)>]*", clause)
        return " ".join(words.group().split()) if words else clause

    def ask(self, question: str) -> str:
        """Returns the prompt text for a question."""
        return self.question.replace("{question}", question)

    def answer_sentence(self, answer: str) -> str:
        """Returns the answer sentence with the answer in its display form ("18.0" as 18, "(b)" as B).

        Raises:
            DataError: The grader cannot read the answer.
        """
        self.check_gold(answer, "answer sentence")
        return self.answer.replace("{answer}", self.grader.show(answer))

    def check_gold(self, answer: str, where: str) -> None:
        """Checks that the grader can read a gold answer: no completion could match another one.

        Args:
            answer: The gold answer.
            where: File and line, or example id, for the error.

        Raises:
            DataError: The grader cannot read the answer.
        """
        if self.grader.read(answer) is None:
            raise DataError(
                f"Expected an answer that the grader {self.grader!r} of task {self.name} can read, got {answer!r} "
                f"({where}). Fix the answer or choose another task."
            )

    def read_in_part(self, answers: Iterable[str]) -> list[str]:
        """Describes the gold answers with words that grading ignores, such as "72 clips"; empty without any."""
        partial = [answer for answer in answers if self.grader.rest(answer)]
        if not partial:
            return []
        first = f"{shorten(partial[0], 60)!r} is {self.grader.show(partial[0])}"
        return [f"{len(partial)} gold answer{'s' if len(partial) > 1 else ''} read in part ({first})"]

    def grade(self, completion: str, gold: str) -> Grade:
        """Grades a completion against the gold answer.

        Strict extraction reads the text after the last answer phrase, up to the end of the line or sentence. Lenient
        extraction takes the last plausible answer anywhere in the text if strict extraction gives none.

        Raises:
            DataError: The grader cannot read ``gold``.
        """
        self.check_gold(gold, "gold answer")
        target = self.grader.read(gold)
        assert target is not None
        grades = [self._grade_by(grader, completion, target) for grader in self.grader.readings(gold)]
        return replace(
            grades[0],
            correct=any(grade.correct for grade in grades),
            correct_lenient=any(grade.correct_lenient for grade in grades),
        )

    def _grade_by(self, grader: Grader, completion: str, target: str) -> Grade:
        strict = grader.strict(completion, self.cue)
        lenient = grader.last(completion) if strict is None else strict
        return Grade(
            extracted=strict,
            extracted_lenient=lenient,
            correct=strict is not None and grader.same(target, strict),
            correct_lenient=lenient is not None and grader.same(target, lenient),
        )
