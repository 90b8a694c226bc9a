"""Stages of a rationale as tokens: each chunk with its marker, then the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Encoded, Span

__all__ = ["Stages", "stage_tokens"]

Tokens = NDArray[np.int64]


def stage_tokens(encoded: Encoded, chunks: Sequence[Span], markers: Sequence[Tokens] = ()) -> list[Tokens]:
    """The tokens of every stage: each chunk after its marker, then the answer.

    Args:
        encoded: The example.
        chunks: Step spans that cover all steps.
        markers: Marker tokens of every chunk; none by default. The answer stage has no marker.
    """
    stages = [encoded.tokens[encoded.steps[i][0] : encoded.steps[j - 1][1]] for i, j in chunks]
    if len(markers):
        stages = [np.concatenate([marker, stage]) for marker, stage in zip(markers, stages, strict=False)]
    return [*stages, encoded.tokens[slice(*encoded.answer)]]


class Stages:
    """Converts the stages of a rationale to tokens, with a marker before each chunk.

    Args:
        marker: Text that opens stage m, with one ``{}`` for m, counted from 1; None for no markers.
        encode: Returns the token ids of a text between two words.
    """

    def __init__(self, marker: str | None, encode: Callable[[str], Tokens]) -> None:
        self.marker = marker
        self._encode = cache(lambda number: encode(str(marker).format(number)))

    def markers(self, chunks: int) -> list[Tokens]:
        """The marker tokens of stages 1..chunks; empty without markers."""
        return [self._encode(m) for m in range(1, chunks + 1)] if self.marker else []

    def tokens(self, encoded: Encoded, chunks: Sequence[Span]) -> list[Tokens]:
        """The tokens of every stage, markers included."""
        return stage_tokens(encoded, chunks, self.markers(len(chunks)))

    def opening(self, stage: int, chunks: int) -> int:
        """Number of tokens that name a stage: its marker, or the first token of the answer phrase."""
        return 1 if stage == chunks else len(self.markers(chunks)[stage]) if self.marker else 0
