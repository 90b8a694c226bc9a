"""Packing: instances of a micro-batch share rows of the student's input, so that few or no positions are padding.

Everything is computed on the host from lengths: a device that is asked where its sequences start has to finish first.

Shape suffixes: B instances, R rows, W positions of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Layout", "Packed", "pack"]

Layout = Literal["rows", "flat"]
"""``rows``: rows as long as the longest instance; ``flat``: one row of all instances, for kernels that take lengths."""


class Packed(NamedTuple):
    """Rows that instances share. Positions at the end of a row that hold no instance form one more sequence.

    Attributes:
        places_RW: Place of every position in the flattened padded inputs; 0 for positions without an instance.
        positions_RW: Position within the instance, from 0.
        sequences_RW: Number of the instance within its row.
        starts: First position of every instance and the number of positions, (B + 1,), int32; None but for one row.
        longest: Positions of the longest instance.
    """

    places_RW: Tensor
    positions_RW: Tensor
    sequences_RW: Tensor
    starts: Tensor | None
    longest: int


def pack(lengths: Sequence[int], width: int, layout: Layout) -> tuple[Packed, NDArray[np.int64]]:
    """Packs the instances of a micro-batch; returns the first place of every instance in the flattened rows, too.

    Args:
        lengths: Positions of every instance.
        width: Positions of a padded row.
        layout: How long the rows are.

    >>> packed, first = pack([3, 2, 1], 3, "rows")
    >>> packed.places_RW.tolist(), packed.positions_RW.tolist(), first.tolist()
    ([[0, 1, 2], [3, 4, 6]], [[0, 1, 2], [0, 1, 0]], [0, 3, 5])
    """
    rows = [list(range(len(lengths)))] if layout == "flat" else _first_fit(lengths)
    longest = sum(lengths) if layout == "flat" else max(lengths)
    places_RW, positions_RW, sequences_RW = np.zeros((3, len(rows), longest), dtype=np.int64)
    first_B = np.zeros(len(lengths), dtype=np.int64)
    for r, row in enumerate(rows):
        at = 0
        for number, i in enumerate(row):
            inside = slice(at, at + lengths[i])
            positions_RW[r, inside] = np.arange(lengths[i])
            places_RW[r, inside] = i * width + positions_RW[r, inside]
            sequences_RW[r, inside] = number
            first_B[i] = r * longest + at
            at += lengths[i]
        positions_RW[r, at:], sequences_RW[r, at:] = np.arange(longest - at), len(row)
    starts = np.cumsum([0, *lengths], dtype=np.int32)
    packed = Packed(
        places_RW=torch.from_numpy(places_RW),
        positions_RW=torch.from_numpy(positions_RW),
        sequences_RW=torch.from_numpy(sequences_RW),
        starts=torch.from_numpy(starts) if layout == "flat" else None,
        longest=max(lengths),
    )
    return packed, first_B


def _first_fit(lengths: Sequence[int]) -> list[list[int]]:
    """Puts each instance, the longest first, into the first row with space for it; rows hold the longest instance."""
    rows: list[list[int]] = []
    space: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, left in enumerate(space) if left >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            space.append(max(lengths))
        rows[row].append(i)
        space[row] -= lengths[i]
    return rows
