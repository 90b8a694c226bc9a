"""Rows shared among ranks: as many tokens for each, and the results of one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skipthinking.ranks import by_length, shared_by_length

MOST = 8192


def _rows(kind: str) -> list[Any]:
    """Rows of skewed lengths: as many as SVAMP has rationales, some long traces, and hardly more than ranks."""
    count, mean, spread = {"short": (696, 5.0, 0.5), "long": (200, 8.0, 0.8), "few": (40, 4.0, 0.8)}[kind]
    lengths = np.random.default_rng(0).lognormal(mean, spread, count).astype(int) + 1
    return [SimpleNamespace(id=f"e{n:03}", tokens=int(length)) for n, length in enumerate(lengths)]


def _padded(blocks: list[list[Any]]) -> int:
    return sum(len(block) * max(row.tokens for row in block) for block in blocks)


@pytest.mark.parametrize("kind", ["short", "long", "few"])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_no_rank_waits_for_the_largest_share(kind: str, ranks: int) -> None:
    rows = _rows(kind)
    shares = shared_by_length(rows, lambda row: row.tokens, MOST, ranks)
    assert len(shares) == ranks
    assert sorted(row.id for share in shares for block in share for row in block) == [row.id for row in rows]
    assert all(len(block) == 1 or _padded([block]) <= MOST for share in shares for block in share)
    tokens, alone = list(map(_padded, shares)), by_length(rows, lambda row: row.tokens, MOST)
    dealt = [_padded(alone[rank::ranks]) for rank in range(ranks)]  # as they would be dealt in turn
    largest, in_turn = max(tokens) / np.mean(tokens), max(dealt) / np.mean(dealt)
    print(f"{kind}, {ranks} ranks: {len(alone)} blocks of one rank, {sum(map(len, shares))} of all; ")
    print(f"largest share over the mean: {largest:.3f}, dealt in turn {in_turn:.3f}")
    assert largest < (1.15 if kind == "few" else 1.04)
    assert max(tokens) <= max(dealt)
    if ranks == 1:
        assert shares == [alone]
