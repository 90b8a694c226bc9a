"""Making instances: a pure function on token arrays that every method shares."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Instance

__all__ = ["instance"]

Tokens = NDArray[np.int64]


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
