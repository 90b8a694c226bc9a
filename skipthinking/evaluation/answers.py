"""One answer: how it is graded, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from skipthinking.records import Example, Prediction
from skipthinking.tasks import get_task

__all__ = ["Completion", "SearchContext", "grade", "latency"]

_LATENCY_SECONDS = 120.0  # other ranks wait at a barrier, which NCCL ends after 30 minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A student's text as its method reads it.

    Attributes:
        text: The part that is graded.
        stages: The stages of the completion, as (name, text) pairs.
        skipped: Share of the teacher's chunks that the student left out; None where it names no stages.
    """

    text: str
    stages: list[tuple[str, str]] = field(default_factory=list)
    skipped: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchContext:
    """The student of a search, and how its answers are graded.

    Attributes:
        student: The student, frozen by whoever scores with it.
        right: Whether a completion answers the example of that id correctly.
        mentioned: Whether the last plausible answer in a text is that of the example; for searches that read text.
        max_new_tokens: Most tokens of a completion.
    """

    student: Any
    right: Callable[[str, list[int]], bool]
    mentioned: Callable[[str, list[int]], bool] = lambda id, tokens: False
    max_new_tokens: int = 256


def grade(
    example: Example, text: str, completion: Completion | None = None, *, new_tokens: int, finished: bool
) -> Prediction:
    """Grades a completion.

    Args:
        example: The question; with an empty gold answer nothing is correct.
        text: The student's whole text.
        completion: How its method reads it; all of it is graded by default.
        new_tokens: Its tokens, EOS included.
        finished: Whether EOS came.
    """
    read = completion or Completion(text=text)
    task = get_task(example.task)
    strict = task.grader.strict(read.text, task.cue)
    found = task.grade(read.text, example.answer) if example.answer else None
    return Prediction(
        id=example.id,
        task=example.task,
        question=example.question,
        gold=example.answer,
        completion=text,
        extracted=strict,
        extracted_lenient=task.grader.last(read.text) if strict is None else strict,
        correct=found is not None and found.correct,
        correct_lenient=found is not None and found.correct_lenient,
        new_tokens=new_tokens,
        finished=finished,
        stages=read.stages,
        skipped=read.skipped if strict is not None else None,
    )


def latency(
    student: Any, prompts: Sequence[Tensor], max_new_tokens: int, most_seconds: float = _LATENCY_SECONDS
) -> float:
    """Median seconds per answer at batch size 1, after one answer that is not counted.

    Args:
        student: The student.
        prompts: Prompt ids.
        max_new_tokens: Most new tokens of an answer.
        most_seconds: No further answer begins after this time.
    """
    seconds: list[float] = []
    with student.frozen():
        begin = time.perf_counter()
        for prompt in [prompts[0], *prompts]:
            start = time.perf_counter()
            if len(seconds) > 1 and start - begin > most_seconds:
                break
            student.generate([prompt], max_new_tokens)
            seconds.append(time.perf_counter() - start)
    counted = sorted(seconds[1:])
    return counted[len(counted) // 2]
