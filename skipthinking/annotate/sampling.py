"""Stage sampling: which stage of a rationale an example trains on in an epoch."""

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
    """Draws the stage that an example trains on in an epoch; the result depends only on the arguments.

    Args:
        sampling: ``cycle`` follows a seeded permutation, so that ``stages`` epochs cover each stage once; ``uniform``
            draws uniformly; ``loss`` draws in proportion to ``losses``; ``all`` selects all stages.
        stages: Number of stages.
        seed: Seed.
        epoch: Epoch.
        id: Example id.
        losses: Summed NLL of each stage; without it, ``loss`` draws uniformly.

    Returns:
        A stage from 0 to ``stages - 1``; None for all stages in one instance.

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
