"""Stage sampling: which stage of a rationale an example trains on in an epoch."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Literal

from skipthinking.records import UserError

__all__ = ["StageSampling", "draw_in_phase", "draw_stage"]

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
    if sampling == "cycle":
        return _order(stages, seed, epoch // stages, id)[epoch % stages]
    rng = _random(seed, epoch, id)
    if sampling == "loss" and losses is not None and sum(losses) != 0:
        if not all(0 <= loss < math.inf for loss in losses):
            raise UserError(f"Expected finite stage losses, got {list(losses)} of example {id!r} in epoch {epoch}.")
        return rng.choices(range(stages), weights=losses)[0]
    return rng.randrange(stages)


def draw_in_phase(phase: Sequence[Sequence[int]], *, seed: int, start: int, id: str) -> int:
    """Draws a stage as ``cycle`` does, in a phase of training that may leave out stages of an example.

    Every epoch shows one of the stages that were shown least often in the phase so far, in the order of a seeded
    permutation per lap. So if E epochs have the same n stages, each is drawn floor(E / n) or ceil(E / n) times; with
    ``start`` 0 the result is that of :func:`draw_stage`. It is computed again from the first epoch of the phase, so it
    depends only on the arguments.

    Args:
        phase: The stages that the example has in each epoch of the phase, the last of which is the present one; the
            largest stage, the answer, is in all of them.
        seed: Seed.
        start: The first epoch of the phase.
        id: Example id.

    Returns:
        A stage of ``phase[-1]``.
    """
    counts = [0] * (max(phase[-1]) + 1)
    drawn, orders = 0, dict[int, list[int]]()  # orders of the stages by lap
    for stages in phase:
        lap = min(counts[stage] for stage in stages)
        if lap not in orders:
            orders[lap] = _order(len(counts), seed, f"{start}/{lap}" if start else lap, id)
        drawn = next(stage for stage in orders[lap] if counts[stage] == lap and stage in stages)
        counts[drawn] += 1
    return drawn


def _order(stages: int, seed: int, lap: int | str, id: str) -> list[int]:
    order = list(range(stages))
    _random(seed, lap, id).shuffle(order)
    return order


def _random(seed: int, turn: int | str, id: str) -> random.Random:
    digest = hashlib.blake2b(f"{seed}\0{turn}\0{id}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
