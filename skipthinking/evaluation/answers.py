"""Answers of the student: how one is graded, and how long one takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skipthinking.records import Example, Prediction
from skipthinking.students.scoring import frozen
from skipthinking.tasks import get_task

__all__ = ["graded", "latency"]


def graded(example: Example, completion: str, text: str, *, new_tokens: int, finished: bool) -> Prediction:
    """Grades a completion.

    Args:
        example: What was asked; an empty gold answer makes nothing correct.
        completion: The student's text.
        text: The part of it that is graded.
        new_tokens: Its tokens, EOS included.
        finished: Whether EOS came.
    """
    task = get_task(example.task)
    strict = task.grader.strict(text, task.cue)
    grade = task.grade(text, example.answer) if example.answer else None
    return Prediction(
        id=example.id,
        task=example.task,
        question=example.question,
        gold=example.answer,
        completion=completion,
        extracted=strict,
        extracted_lenient=task.grader.last(text) if strict is None else strict,
        correct=grade is not None and grade.correct,
        correct_lenient=grade is not None and grade.correct_lenient,
        new_tokens=new_tokens,
        finished=finished,
    )


def latency(student: Any, prompts: Sequence[Tensor], max_new_tokens: int) -> float:
    """Median seconds per answer at batch size 1, after one answer that is not counted."""
    seconds = []
    with frozen(student):
        for prompt in [prompts[0], *prompts]:
            start = time.perf_counter()
            student.generate([prompt], max_new_tokens)
            seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[len(prompts) // 2]
