"""Iteration sampling: which stage of a rationale an example shows in an epoch."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Literal

from skipthinking.records import UserError

__all__ = ["StageSampling", "draw_stage"]

StageSampling = Literal["cycle", "uniform", "loss", "all"]


def draw_stage(
    sampling: StageSampling, stages: int, *, seed: int, epoch: int, id: str, losses: Sequence[float] | None = None
) -> int | None:
    """Draws the stage that an example shows in an epoch: a function of its arguments alone.

    Args:
        sampling: ``cycle`` goes through a seeded permutation, so that ``stages`` epochs show each stage once;
            ``uniform`` draws each alike; ``loss`` draws in proportion to ``losses``; ``all`` draws none.
        stages: Number of stages.
        seed: Seed.
        epoch: Epoch.
        id: Example id.
        losses: Summed NLL of each stage; ``loss`` draws uniformly without it.

    Returns:
        A stage from 0 to ``stages - 1``; None for all of them in one instance.

    Raises:
        UserError: A loss is not finite.
    """
    if sampling == "all":
        return None
    lap = epoch // stages if sampling == "cycle" else epoch
    digest = hashlib.blake2b(f"{seed}\0{lap}\0{id}".encode(), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    if sampling == "cycle":
        order = list(range(stages))
        rng.shuffle(order)
        return order[epoch % stages]
    if sampling == "loss" and losses is not None and sum(losses) != 0:
        if not all(0 <= loss < math.inf for loss in losses):
            raise UserError(f"Expected finite stage losses, got {list(losses)} of example {id!r} in epoch {epoch}.")
        return rng.choices(range(stages), weights=losses)[0]
    return rng.randrange(stages)
