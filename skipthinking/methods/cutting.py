"""Cutting instances: pure functions on token arrays that every method shares."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Encoded, Instance, Span

__all__ = ["instance", "stage_tokens"]

Tokens = NDArray[np.int64]


def stage_tokens(encoded: Encoded, chunks: Sequence[Span], markers: Sequence[Tokens] = ()) -> list[Tokens]:
    """The tokens of every stage: the chunks, each behind its marker, then the answer.

    Args:
        encoded: The example.
        chunks: Step spans that cover all steps.
        markers: Marker of every chunk; none by default. The answer stage opens with the answer phrase.
    """
    stages = [encoded.tokens[encoded.steps[i][0] : encoded.steps[j - 1][1]] for i, j in chunks]
    if len(markers):
        stages = [np.concatenate([marker, stage]) for marker, stage in zip(markers, stages, strict=False)]
    return [*stages, encoded.tokens[slice(*encoded.answer)]]


def instance(id: str, prompt: Tokens, parts: Sequence[Tokens], targets: Collection[int], term: int = 0) -> Instance:
    """Joins parts into an instance; those in ``targets`` get weight 1, and nothing follows the last of them."""
    shown = parts[: max(targets) + 1]
    return Instance(
        id=id,
        prompt=prompt,
        tokens=np.concatenate(shown),
        weights=np.concatenate([np.full(len(part), i in targets, dtype=np.float32) for i, part in enumerate(shown)]),
        term=term,
    )
