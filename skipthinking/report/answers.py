"""Answers of the methods to the same test questions: a random sample side by side, and counts over all of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from skipthinking.report.comparing import Comparison
from skipthinking.report.grouping import Group

__all__ = ["Answer", "Pairs", "Question", "Sample", "paired_counts", "sample"]

_LABELS = {"right": "\u2713 right", "cut_off": "\u25d0 gold answer, cut off", "wrong": "\u2717 wrong"}


class Answer(NamedTuple):
    """A method's answer to a question."""

    method: str
    verdict: str  # "right" only if it is finished too; else "cut_off"; or "wrong"
    label: str  # the verdict in words
    about: str  # its length, whether it is finished, and what it skips
    stages: list[tuple[str, str]]  # name and text
    finished: bool


class Question(NamedTuple):
    """A test question with the teacher's rationale and the methods' answers."""

    question: str
    gold: str
    rationale: str  # the teacher's; empty if the test set has none
    answers: list[Answer]

    @property
    def kind(self) -> str:
        """The verdict on all answers; "mixed" if it is not the same."""
        verdicts = {answer.verdict for answer in self.answers}
        return verdicts.pop() if len(verdicts) == 1 else "mixed"

    @property
    def finished(self) -> bool:
        """Whether all answers are finished."""
        return all(answer.finished for answer in self.answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Questions of a test set, drawn at random.

    Attributes:
        questions: The drawn questions, each with the answers of every method's run with the lowest seed.
        total: Number of questions of the test set.
        accuracies: Accuracy of these runs by method: on the drawn questions, and on all.
    """

    questions: list[Question]
    total: int
    accuracies: dict[str, tuple[float, float]]


def sample(comparison: Comparison, test: str, count: int) -> Sample:
    """Draws questions of a test set, the same ones whatever the methods; more of them begin with the same ones.

    Args:
        comparison: The comparison.
        test: The test set.
        count: Maximum number of questions.
    """
    groups = [group for group in comparison.groups if group.test == test]
    answered = {group.method: group.runs[0].answers[group.name] for group in groups}
    ids = sorted({id for answers in answered.values() for id in answers})
    random.Random(test).shuffle(ids)
    drawn = ids[:count]
    return Sample(
        questions=[_question(id, groups) for id in drawn],
        total=len(ids),
        accuracies={
            method: (_accuracy([answers[id] for id in drawn if id in answers]), _accuracy(list(answers.values())))
            for method, answers in answered.items()
        },
    )


def _accuracy(answers: list[Mapping[str, Any]]) -> float:
    return sum(answer["correct"] for answer in answers) / max(1, len(answers))


def _question(id: str, groups: list[Group]) -> Question:
    answered = [group for group in groups if id in group.runs[0].answers[group.name]]
    rows = [group.runs[0].answers[group.name][id] for group in answered]
    return Question(
        question=rows[0]["question"],
        gold=rows[0]["gold"],
        rationale=next((row["rationale"] for row in rows if row.get("rationale")), ""),
        answers=[_answer(group, row) for group, row in zip(answered, rows, strict=True)],
    )


def _answer(group: Group, row: Mapping[str, Any]) -> Answer:
    finished = row.get("finished") is not False  # files of earlier versions do not say it
    verdict = "wrong" if not row["correct"] else "right" if finished else "cut_off"
    label = "\u2717 no answer" if verdict == "wrong" and row.get("extracted", "") is None else _LABELS[verdict]
    about = [f"{row['new_tokens']} tokens" + ("" if finished or verdict == "cut_off" else ", cut off")]
    if row.get("skipped") is not None and row.get("chunks"):
        about.append(f"skips {round(row['skipped'] * row['chunks'])} of {row['chunks']} chunks")
    if len(group.runs) > 1:
        right = sum(run.answers[group.name][row["id"]]["correct"] for run in group.runs)
        about.append(f"right with {right} of {len(group.runs)} seeds")
    stages = [(name if len(row["stages"]) > 1 else "", text) for name, text in row["stages"]]
    return Answer(group.method, verdict, label, ", ".join(about), stages or [("", row["completion"])], finished)


class Pairs(NamedTuple):
    """Numbers of questions by who answered them right; a method's run with the lowest seed against the baseline's."""

    method: str
    both: int
    only_method: int
    only_baseline: int
    neither: int


def paired_counts(comparison: Comparison, test: str) -> list[Pairs]:
    """Counts of every method but the baseline on the questions that both answered; empty without a baseline."""
    answers = {
        group.method: {id: row["correct"] for id, row in group.runs[0].answers[group.name].items()}
        for group in comparison.groups
        if group.test == test
    }
    theirs = answers.pop(comparison.baseline or "", {})
    counts = []
    for method, ours in answers.items():
        pairs = [(ours[id], theirs[id]) for id in ours.keys() & theirs.keys()]
        if pairs:
            each = (pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))
            counts.append(Pairs(method, *each))
    return counts
