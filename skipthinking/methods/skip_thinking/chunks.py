"""SearchChunks: chunk boundaries that the student's own loss asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipthinking.data.chunkers import AverageChunks, Chunker, StepLosses, best_partition
from skipthinking.records import Encoded, Span, UserError

__all__ = ["SearchChunks", "chunk_costs", "greedy_partition", "objective"]

_ROUNDING = 1e-9  # a smaller share of J is no fall: without a bound, rounding could move a border to and fro for ever


def chunk_costs(nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean token NLL of every possible chunk, from prefix sums.

    Args:
        nll: Summed NLL of every step, shape (S,).
        tokens: Tokens of every step, shape (S,).

    Returns:
        ``costs[i, j]`` for the chunk of steps i..j-1, shape (S + 1, S + 1); infinite where it is empty.

    >>> chunk_costs(np.array([1.0, 4.0]), np.array([1, 2]))[0]
    array([       inf, 1.        , 1.66666667])
    """
    until = np.concatenate([[0.0], np.cumsum(nll)])
    count = np.concatenate([[0], np.cumsum(tokens)])
    sizes = count[None, :] - count[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sizes > 0, (until[None, :] - until[:, None]) / sizes, np.inf)


def objective(chunks: Sequence[Span], costs: NDArray[np.float64]) -> float:
    """J: the mean over chunks of their cost."""
    return float(np.mean([costs[i, j] for i, j in chunks]))


def greedy_partition(start: Sequence[Span], costs: NDArray[np.float64], min_improvement: float) -> tuple[Span, ...]:
    """Moves the border of two neighbouring chunks to where J is least, if J falls by enough; until none does.

    Args:
        start: The chunks to begin with.
        costs: See :func:`chunk_costs`.
        min_improvement: Share of J that a move must save.
    """
    edges = [0, *(end for _, end in start)]
    moved = True
    while moved:
        moved = False
        for place in range(1, len(edges) - 1):
            left, right = edges[place - 1], edges[place + 1]
            rest = sum(costs[i, j] for at, (i, j) in enumerate(pairwise(edges)) if at not in (place - 1, place))
            cuts = np.arange(left + 1, right)
            pairs = costs[left, cuts] + costs[cuts, right]
            best = int(pairs.argmin())
            now = rest + costs[left, edges[place]] + costs[edges[place], right]
            if rest + pairs[best] < now * (1 - max(min_improvement, _ROUNDING)):
                edges[place] = int(cuts[best])
                moved = True
    return tuple(pairwise(edges))


class SearchChunks(Chunker):
    """SBC: chunks of least loss under the student itself (Skip-Thinking, arXiv 2505.18642).

    J is the mean over chunks of the chunk's mean token NLL, given the question and all that comes before it. It begins
    with average chunks and keeps their number. One teacher-forced pass per example, with the stage markers where the
    chunks now begin, gives the NLL of every step; the cost of any chunk is a difference of prefix sums.

    Departures: ``exact`` (dynamic programming, the optimum for the same number of chunks) and the threshold of
    ``greedy`` are ours; the paper's text was not at hand.

    Args:
        n_chunks: Number of chunks M, at least 1; a rationale of fewer steps gets one per step.
        search: ``greedy``, as in the paper, or ``exact``.
        refresh_every_n_epochs: Epochs between searches, each with the student as it then is. Before the first one the
            chunks are average ones, or those that the run of ``start_from`` found for the same examples.
        min_improvement: Share of J that a move of ``greedy`` must save.
        by: What average chunks count, see AverageChunks.
    """

    searches = True

    def __init__(
        self,
        n_chunks: int = 4,
        search: Literal["greedy", "exact"] = "greedy",
        refresh_every_n_epochs: int = 4,
        min_improvement: float = 0.01,
        by: Literal["tokens", "steps"] = "tokens",
    ) -> None:
        if refresh_every_n_epochs < 1 or not 0 <= min_improvement < 1:
            raise UserError(
                "Expected at least 1 epoch between searches and an improvement from 0 to below 1, got data.chunker: "
                f"refresh_every_n_epochs={refresh_every_n_epochs}, min_improvement={min_improvement}."
            )
        self._average = AverageChunks(n_chunks, by)
        self.n_chunks, self.how, self.every = n_chunks, search, refresh_every_n_epochs
        self.min_improvement = min_improvement

    def chunk(self, encoded: Encoded) -> tuple[Span, ...]:
        """Average chunks, until the first search."""
        return self._average.chunk(encoded)

    def due(self, epoch: int) -> bool:
        """Whether an epoch begins with a search."""
        return epoch > 0 and epoch % self.every == 0

    def settings(self) -> dict[str, Any]:
        """What the result depends on, beside data and student."""
        return {"n_chunks": self.n_chunks, "search": self.how, "min_improvement": self.min_improvement}

    def search(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]], step_losses: StepLosses
    ) -> dict[str, tuple[Span, ...]]:
        """New chunks for every example.

        Args:
            encoded: The examples.
            chunks: Their chunks so far, which say where markers stand in the pass.
            step_losses: The pass.
        """
        losses = step_losses(encoded, chunks)
        return {row.id: self._best(row, losses[row.id]) for row in encoded}

    def _best(self, encoded: Encoded, nll: NDArray[np.float64]) -> tuple[Span, ...]:
        start = self._average.chunk(encoded)
        if len(start) < 2:
            return start
        costs = chunk_costs(nll, np.array([end - first for first, end in encoded.steps]))
        if self.how == "exact":
            return best_partition(costs, len(start))
        return greedy_partition(start, costs, self.min_improvement)
