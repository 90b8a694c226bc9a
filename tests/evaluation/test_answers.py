"""Latency is measured in bounded time; a completion is graded as its method reads it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from skipthinking.evaluation import answers
from skipthinking.evaluation.answers import Completion, grade, latency
from skipthinking.records import Example


class Slow:
    """A student whose n-th answer takes n seconds of a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.count = 0.0, 0
        monkeypatch.setattr(answers.time, "perf_counter", lambda: self.now)

    def frozen(self) -> Any:
        return nullcontext()

    def generate(self, prompts: Any, limit: int) -> None:
        self.count += 1
        self.now += self.count


def test_latency_is_the_median_without_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Slow(monkeypatch)
    assert latency(student, [torch.zeros(1)] * 5, 8) == 4.0  # answers 2 to 6 count
    assert student.count == 6


@pytest.mark.parametrize(("bound", "count"), [(0.0, 2), (3.0, 3), (10.0, 5), (1e9, 21)])
def test_latency_begins_no_answer_after_its_time(bound: float, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 + 2 + ... seconds; after the warm-up one answer is always measured, because other ranks need a number."""
    student = Slow(monkeypatch)
    assert latency(student, [torch.zeros(1)] * 20, 8, most_seconds=bound) > 0
    assert student.count == count


def test_only_the_read_part_is_graded_and_no_skip_is_claimed_without_an_answer() -> None:
    example = Example(id="a", question="?", rationale="", answer="3", task="arithmetic")
    text = "[7] Therefore, the answer is 3."
    read = Completion(text="Therefore, the answer is 3.", stages=[("[7]", "x")], skipped=0.5)
    right = grade(example, text, read, new_tokens=9, finished=True)
    assert (right.correct, right.completion, right.stages, right.skipped) == (True, text, [("[7]", "x")], 0.5)
    nothing = grade(example, "[7] [8]", Completion(text="", skipped=0.5), new_tokens=2, finished=False)
    assert (nothing.correct, nothing.extracted, nothing.skipped) == (False, None, None)
    cut_off = grade(example, text, read, new_tokens=9, finished=False)  # other stages may follow
    assert (cut_off.correct, cut_off.skipped) == (True, None)
