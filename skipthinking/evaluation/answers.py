"""Grading of a single answer, and latency of answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from skipthinking.records import Example, Prediction, UserError
from skipthinking.tasks import get_task

__all__ = ["Completion", "SearchContext", "budgets_up_to", "grade", "latency"]

_BUDGETS = (32, 64, 128, 256)  # new tokens
_LATENCY_SECONDS = 120.0  # other ranks wait at a barrier, which NCCL ends after 30 minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A completion of the student as parsed by the method.

    Attributes:
        text: The part that is graded.
        stages: The stages of the completion, as (name, text) pairs.
        skipped: Share of the teacher's chunks that the student left out; None if it names no stages.
        chunks: Number of the teacher's chunks; None if the method names no stages or there is no rationale.
    """

    text: str
    stages: list[tuple[str, str]] = field(default_factory=list)
    skipped: float | None = None
    chunks: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchContext:
    """The student that a search judges, and how its answers are graded.

    Attributes:
        student: The student; callers freeze it before scoring.
        right: Whether completion tokens answer the example with the given id correctly.
        mentioned: Whether the last plausible answer in a text equals the gold answer of the example with the given id.
        max_new_tokens: Maximum number of tokens per completion.
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
        example: The example; with an empty gold answer, no completion is correct.
        text: Full text of the student.
        completion: The text as parsed by the method; by default, the full text is graded.
        new_tokens: Number of generated tokens, EOS included.
        finished: Whether EOS was generated.
    """
    parsed = completion or Completion(text=text)
    task = get_task(example.task)
    strict = task.grader.strict(parsed.text, task.cue)
    result = task.grade(parsed.text, example.answer) if example.answer else None
    return Prediction(
        id=example.id,
        task=example.task,
        question=example.question,
        gold=example.answer,
        completion=text,
        extracted=strict,
        extracted_lenient=task.grader.last(parsed.text) if strict is None else strict,
        correct=result is not None and result.correct,
        correct_lenient=result is not None and result.correct_lenient,
        new_tokens=new_tokens,
        finished=finished,
        stages=parsed.stages,
        # More stages may follow in an answer that is cut off, so what it skips is not known.
        skipped=parsed.skipped if strict is not None and finished else None,
        chunks=parsed.chunks,
    )


def budgets_up_to(limit: int, budgets: Sequence[int] | None) -> tuple[int, ...]:
    """Budgets of new tokens, ascending; by default those of 32, 64, 128 and 256 that the limit allows.

    Raises:
        UserError: A budget is not between 1 and the limit.
    """
    if budgets is None:
        return tuple(budget for budget in _BUDGETS if budget <= limit)
    allowed = [budget for budget in budgets if 1 <= budget <= limit]
    if len(allowed) < len(budgets):
        raise UserError(
            f"Expected budgets from 1 to model.max_new_tokens={limit} tokens, got model.budgets={list(budgets)}. "
            f"Set model.budgets: {allowed}, or raise the limit."
        )
    return tuple(sorted(set(allowed)))


def latency(
    student: Any, prompts: Sequence[Tensor], max_new_tokens: int, most_seconds: float = _LATENCY_SECONDS
) -> float:
    """Median seconds per answer at batch size 1, after one answer as a warm-up.

    Args:
        student: The student.
        prompts: Prompt ids.
        max_new_tokens: Maximum number of new tokens per answer.
        most_seconds: Time limit, after which no further answer starts.
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
