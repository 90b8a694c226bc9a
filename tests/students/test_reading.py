"""Cached contexts against reading everything each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.students import LoRA, reading
from skipthinking.students.reading import CachedReader, PlainReader, reader
from tests.students.tiny import ARCHITECTURES, CAUSAL, scratch


def _ids(rng: np.random.Generator, length: int) -> Any:
    return rng.integers(1, 300, size=length)


@torch.no_grad()
def _play(made: Any, seed: int, impatient: bool = False) -> list[Any]:
    """Grows, scores and narrows at random; the same for every reader of a seed."""
    rng = np.random.default_rng(seed)
    found, rows = [], 5
    for turn in range(5):
        for row in range(rows):
            made.grow(row, _ids(rng, int(rng.integers(0, 4))))
        texts = [_ids(rng, int(rng.integers(1, 8))) for _ in range(rows)]
        first = [int(rng.integers(0, len(text))) for text in texts]
        enough = (lambda row, scores, turn=turn: (row + turn) % 2 == 0) if impatient else None
        found += made.score(texts, first, enough)
        if rows == 5 and rng.random() < 0.5:
            made.narrow([3, 0, 2])
            rows = 3
    return found


def _prompts() -> list[Any]:
    rng = np.random.default_rng(0)
    return [_ids(rng, length) for length in (5, 1, 9, 3, 3)]


@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", CAUSAL)
def test_cached_contexts_are_read_as_whole_ones(architecture: str, lora: LoRA | None) -> None:
    student = scratch(architecture, lora=lora)
    for seed in range(6):
        cached, plain = reader(student, _prompts(), 40), PlainReader(student, _prompts())
        assert isinstance(cached, CachedReader)
        for ours, theirs in zip(_play(cached, seed), _play(plain, seed), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_pieces_are_the_beginning_of_the_whole(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PIECE", 2)
    student, shorter = scratch(architecture), 0
    for seed in range(6):
        parts, plain = _play(reader(student, _prompts(), 40), seed, True), _play(PlainReader(student, _prompts()), seed)
        for ours, theirs in zip(parts, plain, strict=True):
            shorter += len(ours) < len(theirs)
            np.testing.assert_allclose(ours, theirs[: len(ours)], atol=2e-5)
    assert shorter


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_who_cannot_be_told_positions_reads_everything(architecture: str) -> None:
    made = reader(scratch(architecture), _prompts(), 40)
    assert isinstance(made, PlainReader if architecture == "t5" else CachedReader)


def test_a_window_shorter_than_the_text_is_not_cached() -> None:
    student = scratch("phi3", more={"sliding_window": 20})
    assert isinstance(reader(student, _prompts(), 20), PlainReader)
    assert isinstance(reader(student, _prompts(), 19), CachedReader)


@torch.no_grad()
def test_contexts_are_forwarded_once() -> None:
    student = scratch("llama")
    tokens: list[int] = []
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    made = reader(student, [np.arange(1, 30)], 40)
    for _ in range(3):
        made.score([np.arange(1, 4)], [0])
    assert tokens == [29 + 2, 1 + 2, 1 + 2]
