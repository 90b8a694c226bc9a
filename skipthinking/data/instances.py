"""The function that joins token arrays to a training instance, for all methods."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Instance

__all__ = ["instance"]

Tokens = NDArray[np.int64]


def instance(id: str, prompt: Tokens, parts: Sequence[Tokens], targets: Collection[int], term: int = 0) -> Instance:
    """Joins parts to an instance: parts in ``targets`` get weight 1, others 0; parts after the last target are omitted.

    >>> instance("a", np.array([9]), [np.array([1, 2]), np.array([3]), np.array([4])], {1}).weights
    array([0., 0., 1.], dtype=float32)
    """
    shown = parts[: max(targets) + 1]
    return Instance(
        id=id,
        prompt=prompt,
        tokens=np.concatenate(shown),
        weights=np.concatenate([np.full(len(part), i in targets, dtype=np.float32) for i, part in enumerate(shown)]),
        term=term,
    )
