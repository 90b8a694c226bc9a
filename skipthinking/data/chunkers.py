"""Chunkers group the steps of a rationale into chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Encoded, Span, UserError
from skipthinking.settings import Configurable

__all__ = ["AverageChunks", "Chunker", "StepLosses", "best_partition", "even_partition"]

StepLosses = Callable[[Sequence[Encoded], Mapping[str, Sequence[Span]]], Mapping[str, NDArray[np.float64]]]
"""(examples, their chunks) -> summed NLL of every step, per example id."""


def best_partition(costs: NDArray[np.float64], groups: int) -> tuple[Span, ...]:
    """Partitions S items into contiguous groups of least total cost, by dynamic programming.

    Args:
        costs: ``costs[i, j]`` is the cost of the group of items i..j-1, shape (S + 1, S + 1); only i < j is read.
        groups: Number of groups, 1 <= groups <= S.

    Returns:
        Half-open spans of items; among equal partitions, the one whose last groups begin earliest.

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


def even_partition(sizes: Sequence[int], groups: int) -> tuple[Span, ...]:
    """Partitions S items into contiguous groups of least squared deviation of their sizes, in O(S * groups).

    The result is that of :func:`best_partition` with exact costs (size - mean)^2, without S^2 of them: with prefix sums
    q, the cost of items i..j-1 after the best partition of the first i is a line in q[j], with slope -2 q[i]. The lower
    envelope of these lines gives the best i for every j (the "convex hull trick"). All numbers are integers: sizes are
    multiplied by the number of groups, so that the mean is the sum of the sizes.

    Args:
        sizes: Sizes of the items, positive, shape (S,).
        groups: Number of groups, 1 <= groups <= S.

    >>> even_partition([1, 1, 2, 4], 2)
    ((0, 3), (3, 4))
    """
    mean = sum(sizes)
    q = [0, *accumulate(size * groups for size in sizes)]
    best: list[int] = [(end - mean) ** 2 for end in q]  # least cost of the first j items in one group
    choices: list[list[int]] = []
    for group in range(1, groups):
        envelope: deque[tuple[int, int, int]] = deque()  # lines (slope, height, i) by falling slope
        costs, choice = [0] * len(q), [0] * len(q)
        for j in range(group + 1, len(q)):
            i, x = j - 1, q[j] - mean
            line = -2 * q[i], best[i] + q[i] ** 2, i
            # The last line goes if the ones beside it meet below it, or on it: among equals the earliest i counts.
            while len(envelope) > 1 and _hides(envelope[-2], envelope[-1], line):
                envelope.pop()
            envelope.append(line)
            while len(envelope) > 1 and _at(envelope[1], x) < _at(envelope[0], x):
                envelope.popleft()
            costs[j], choice[j] = _at(envelope[0], x) + x * x, envelope[0][2]
        best = costs
        choices.append(choice)
    ends = [len(sizes)]
    for choice in reversed(choices):
        ends.append(choice[ends[-1]])
    ends.append(0)
    ends.reverse()
    return tuple(pairwise(ends))


def _at(line: tuple[int, int, int], x: int) -> int:
    return line[0] * x + line[1]


def _hides(before: tuple[int, int, int], line: tuple[int, int, int], after: tuple[int, int, int]) -> bool:
    """Whether a line is nowhere lower than both the line before it and the line after it."""
    return (after[1] - before[1]) * (before[0] - line[0]) <= (line[1] - before[1]) * (before[0] - after[0])


class Chunker(Configurable, ABC):
    """Groups the steps of a rationale into chunks."""

    searches: bool = False
    """Whether :meth:`search` finds chunks with the student."""

    @abstractmethod
    def chunk(self, encoded: Encoded) -> tuple[Span, ...]:
        """Returns half-open spans of step indices that cover all steps in order; none is empty."""

    def due(self, epoch: int) -> bool:
        """Whether a search is due at the start of an epoch."""
        return False

    def search(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]], step_losses: StepLosses
    ) -> dict[str, tuple[Span, ...]]:
        """Returns new chunks for every example.

        Args:
            encoded: The examples.
            chunks: Current chunks of the examples, which place the stage markers in the student's input.
            step_losses: Runs the student and returns the summed NLL of every step.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Returns all settings that the result of a search depends on, besides data and student."""
        return {}


class AverageChunks(Chunker):
    """AC: contiguous chunks of near-equal size (Skip-Thinking, arXiv 2505.18642).

    The chunks minimize the squared deviation of their sizes from the mean. A rationale with fewer steps than
    ``n_chunks`` gets one chunk per step.

    Departures: the paper divides by steps; the default here is tokens. With M = 4, on 398 rationales of SVAMP with five
    steps and more (ChatGPT's, level 6), the largest chunk has 33% of a rationale's tokens by tokens and 39% by steps.
    Each epoch draws one stage per example, so chunks of like size give every stage as much to learn. What chunks are
    made of hardly differs: on five built-in tasks the share of a chunk's steps that are of one kind differs by at most
    0.02. Which of the two trains better was not tried.

    Args:
        n_chunks: Number of chunks M, at least 1.
        by: Unit of the chunk sizes; ``steps`` is the paper's.
    """

    def __init__(self, n_chunks: int = 4, by: Literal["tokens", "steps"] = "tokens") -> None:
        if n_chunks < 1:
            raise UserError(
                f"Expected at least 1 chunk, got n_chunks={n_chunks}. Set data.chunker.init_args.n_chunks: 4, for "
                "example."
            )
        self.n_chunks, self.by = n_chunks, by

    def chunk(self, encoded: Encoded) -> tuple[Span, ...]:
        """Returns the chunks whose sizes are closest to their mean."""
        groups = min(self.n_chunks, len(encoded.steps))
        if groups == 0:
            return ()
        return even_partition([end - start if self.by == "tokens" else 1 for start, end in encoded.steps], groups)
