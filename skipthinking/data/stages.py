"""Stages of a rationale: how steps are grouped into chunks, and which stage an example shows in an epoch."""

from __future__ import annotations

import hashlib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Encoded, Span, UserError

__all__ = ["AverageChunks", "Chunker", "StageSampling", "StepLosses", "best_partition", "draw_stage"]

StepLosses = Callable[[Sequence[Encoded], Mapping[str, Sequence[Span]]], Mapping[str, NDArray[np.float64]]]
"""(examples, their chunks) -> summed NLL of every step, per example id."""
StageSampling = Literal["cycle", "uniform", "loss", "all"]


def best_partition(costs: NDArray[np.float64], groups: int) -> tuple[Span, ...]:
    """Cuts S items into contiguous groups of least total cost, by dynamic programming.

    Args:
        costs: ``costs[i, j]`` is the cost of the group of items i..j-1, shape (S + 1, S + 1); only i < j is read.
        groups: Number of groups, 1 <= groups <= S.

    Returns:
        The half-open item spans. Among equals, the one whose last groups begin earliest.

    >>> best_partition(np.array([[0, 1, 9], [0, 0, 1], [0, 0, 0]]), 2)
    ((0, 1), (1, 2))
    """
    size = len(costs) - 1
    open_costs = np.where(np.triu(np.ones_like(costs, dtype=bool), k=1), costs, np.inf)
    best = open_costs[0]  # least cost of the first j items in one group
    choices = []
    for _ in range(groups - 1):
        through = best[:, None] + open_costs
        choices.append(through.argmin(axis=0))
        best = through.min(axis=0)
    ends = [size]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    ends.append(0)
    ends.reverse()
    return tuple(pairwise(ends))


class Chunker(ABC):
    """Groups the steps of a rationale into chunks."""

    searches: bool = False
    """Whether :meth:`search` finds chunks with the student."""

    @abstractmethod
    def chunk(self, encoded: Encoded) -> tuple[Span, ...]:
        """Returns half-open spans of step indices that cover all steps in order; none is empty."""

    def due(self, epoch: int) -> bool:
        """Whether an epoch begins with new chunks, found with the student."""
        return False

    def search(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]], step_losses: StepLosses
    ) -> dict[str, tuple[Span, ...]]:
        """New chunks for every example.

        Args:
            encoded: The examples.
            chunks: Their chunks so far, which say where stage markers stand in the pass.
            step_losses: The pass of the student: the summed NLL of every step.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What the result of a search depends on, beside data and student."""
        return {}


class AverageChunks(Chunker):
    """AC: contiguous chunks of near-equal size (Skip-Thinking, arXiv 2505.18642).

    The cut minimises the squared deviation of the chunk sizes from their mean. A rationale with fewer steps than
    ``n_chunks`` gets one chunk per step.

    Args:
        n_chunks: Number of chunks M, at least 1.
        by: What is counted: the tokens of a step, or steps.
    """

    def __init__(self, n_chunks: int = 4, by: Literal["tokens", "steps"] = "tokens") -> None:
        if n_chunks < 1:
            raise UserError(f"Expected at least 1 chunk, got n_chunks={n_chunks}. Set data.chunker.init_args.n_chunks.")
        self.n_chunks, self.by = n_chunks, by

    def chunk(self, encoded: Encoded) -> tuple[Span, ...]:
        """Cuts where the chunk sizes are closest to their mean."""
        groups = min(self.n_chunks, len(encoded.steps))
        if groups == 0:
            return ()
        sizes = np.array([end - start if self.by == "tokens" else 1 for start, end in encoded.steps])
        until = np.concatenate([[0], np.cumsum(sizes)])
        return best_partition((until[None, :] - until[:, None] - until[-1] / groups) ** 2, groups)


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
