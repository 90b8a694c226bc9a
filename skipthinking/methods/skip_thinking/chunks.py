"""Chunk search: chunk boundaries with minimal loss under the student, and the losses of steps and stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.annotator import Annotator, Context, Drawing, Notes
from skipthinking.data.chunkers import AverageChunks, Chunker, best_partition
from skipthinking.data.chunkers import StepLosses as StepLossesOf
from skipthinking.data.instances import instance
from skipthinking.methods.skip_thinking.stages import Stages
from skipthinking.records import Encoded, Span, UserError
from skipthinking.students.measures import nll
from skipthinking.students.scoring import score

__all__ = [
    "Chunks", "SearchChunks", "StageLosses", "StepLosses", "chunk_costs", "greedy_partition", "objective",
    "spread_costs", "stage_losses", "step_losses",
]  # fmt: skip

_ROUNDING = 1e-9  # minimum decrease of J, as a share: below it, rounding could move a boundary back and forth forever


def chunk_costs(nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean token NLL of every possible chunk, from prefix sums.

    Args:
        nll: Summed NLL of every step, shape (S,).
        tokens: Tokens of every step, shape (S,).

    Returns:
        ``costs[i, j]`` for the chunk of steps i..j-1, shape (S + 1, S + 1); infinite for empty chunks.

    >>> chunk_costs(np.array([1.0, 4.0]), np.array([1, 2]))[0]
    array([       inf, 1.        , 1.66666667])
    """
    until = np.concatenate([[0.0], np.cumsum(nll)])
    count = np.concatenate([[0], np.cumsum(tokens)])
    sizes = count[None, :] - count[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sizes > 0, (until[None, :] - until[:, None]) / sizes, np.inf)


def spread_costs(nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """How unlike the steps of every possible chunk are: squared deviations of their mean NLL, weighted by tokens.

    Arguments and shape as of :func:`chunk_costs`. Minimized over partitions, this is one-dimensional k-means of the
    steps' mean NLL, in order, in which a step counts as many times as it has tokens.

    >>> spread_costs(np.array([1.0, 4.0]), np.array([1, 2]))[0].round(4)
    array([   inf, 0.    , 0.6667])
    """
    parts = (tokens, nll, nll**2 / tokens)  # sums of n, n x and n x^2 of steps with n tokens and a mean NLL of x
    until = [np.concatenate([[0.0], np.cumsum(part)]) for part in parts]
    count, total, squares = (one[None, :] - one[:, None] for one in until)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, np.maximum(squares - total**2 / count, 0.0), np.inf)


def objective(chunks: Sequence[Span], costs: NDArray[np.float64]) -> float:
    """J: mean cost of the chunks."""
    return float(np.mean([costs[i, j] for i, j in chunks]))


def greedy_partition(start: Sequence[Span], costs: NDArray[np.float64], min_improvement: float) -> tuple[Span, ...]:
    """Moves boundaries of neighboring chunks to where J is minimal, until no move decreases J by enough.

    Args:
        start: Initial chunks.
        costs: See :func:`chunk_costs`.
        min_improvement: Minimum decrease of J per move, as a share of J.
    """
    edges = [0, *(end for _, end in start)]
    moved = True
    while moved:
        moved = False
        for k in range(1, len(edges) - 1):  # the boundary between chunks k - 1 and k
            left, right = edges[k - 1], edges[k + 1]
            rest = sum(costs[i, j] for chunk, (i, j) in enumerate(pairwise(edges)) if chunk not in (k - 1, k))
            cuts = np.arange(left + 1, right)
            pairs = costs[left, cuts] + costs[cuts, right]
            best = int(pairs.argmin())
            current = rest + costs[left, edges[k]] + costs[edges[k], right]
            if rest + pairs[best] < current * (1 - max(min_improvement, _ROUNDING)):
                edges[k] = int(cuts[best])
                moved = True
    return tuple(pairwise(edges))


class SearchChunks(Chunker):
    """SBC: chunks with minimal loss under the student (Skip-Thinking, arXiv 2505.18642).

    The search minimizes J, the mean over chunks of the chunk's mean token NLL given the question and all preceding
    tokens. It starts from average chunks and keeps their number. One teacher-forced pass per example, with stage
    markers at the current chunk boundaries, gives the NLL of every step; the cost of a chunk is a difference of prefix
    sums.

    Departures: the paper's text was not available; ``exact`` (dynamic programming, the optimum for the same number of
    chunks), the threshold of ``greedy`` and the objective ``spread`` are ours. J weighs chunks equally whatever their
    size, so its optimum puts expensive steps together in one large chunk; each other chunk is a cheap step. With the
    chunks' means weighted by tokens, J would be the mean NLL of the rationale, the same for all chunks; so ``spread``
    weighs by tokens how unlike the steps of a chunk are. It hardly makes chunks more even: in 40 rationales of SVAMP
    with six steps and more, under SmolLM2-135M before training, the largest of four chunks has 47% of the tokens with
    either (``greedy`` with ``spread`` 40%, average chunks 31%).

    Args:
        n_chunks: Number of chunks M, at least 1; a rationale with fewer steps gets one chunk per step.
        search: ``greedy``, as in the paper, or ``exact``.
        refresh_every_n_epochs: Epochs between searches, each with the current student. Until the first search, chunks
            are average chunks, or the result of the run of ``start_from`` for the same examples.
        min_improvement: Minimum decrease of J per move of ``greedy``, as a share of J.
        by: Unit of the sizes of average chunks, see AverageChunks.
        minimize: ``mean_nll`` is J; ``spread`` is :func:`spread_costs`, so that steps of like NLL form a chunk.
    """

    searches = True

    def __init__(
        self,
        n_chunks: int = 4,
        search: Literal["greedy", "exact"] = "greedy",
        refresh_every_n_epochs: int = 4,
        min_improvement: float = 0.01,
        by: Literal["tokens", "steps"] = "tokens",
        minimize: Literal["mean_nll", "spread"] = "mean_nll",
    ) -> None:
        if refresh_every_n_epochs < 1 or not 0 <= min_improvement < 1:
            raise UserError(
                "Expected at least 1 epoch between searches and an improvement from 0 to below 1, got data.chunker: "
                f"refresh_every_n_epochs={refresh_every_n_epochs}, min_improvement={min_improvement}. "
                "Leave out what is outside of its range, for its default."
            )
        self._average = AverageChunks(n_chunks, by)
        self.n_chunks, self.how, self.every = n_chunks, search, refresh_every_n_epochs
        self.min_improvement, self.minimize = min_improvement, minimize

    def chunk(self, encoded: Encoded) -> tuple[Span, ...]:
        """Average chunks, which apply until the first search."""
        return self._average.chunk(encoded)

    def due(self, epoch: int) -> bool:
        """Whether a search runs at the start of an epoch."""
        return epoch > 0 and epoch % self.every == 0

    def settings(self) -> dict[str, Any]:
        """All settings that the result of a search depends on, besides data and student."""
        return {
            "n_chunks": self.n_chunks,
            "search": self.how,
            "min_improvement": self.min_improvement,
            "by": self._average.by,
            "minimize": self.minimize,
        }

    def search(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]], step_losses: StepLossesOf
    ) -> dict[str, tuple[Span, ...]]:
        """New chunks of least J for every example, from one pass of the student; arguments as in Chunker.search."""
        losses = step_losses(encoded, chunks)
        return {row.id: self._best(row, losses[row.id]) for row in encoded}

    def _best(self, encoded: Encoded, nll: NDArray[np.float64]) -> tuple[Span, ...]:
        start = self._average.chunk(encoded)
        if len(start) < 2:
            return start
        costs_of = chunk_costs if self.minimize == "mean_nll" else spread_costs
        costs = costs_of(nll, np.array([end - first for first, end in encoded.steps]))
        if self.how == "exact":
            return best_partition(costs, len(start))
        return greedy_partition(start, costs, self.min_improvement)


class Chunks(Annotator[tuple[Span, ...]]):
    """The chunks of every rationale: initially of average size, then the result of the chunker's latest search.

    Args:
        chunker: The chunker of the data module.
        stages: Converts stages to tokens.
        allowed: Whether chunks may change at the start of the given epoch.
    """

    name = "chunks"
    title = "Chunk search"
    dtype = "int64"

    def __init__(self, chunker: Chunker, stages: Stages, allowed: Callable[[int], bool] = lambda epoch: True) -> None:
        self.chunker, self.stages, self.allowed = chunker, stages, allowed
        self.uses_student = chunker.searches

    def due(self, epoch: int) -> bool:
        """Whether the chunker searches at the start of an epoch, and chunks may change then."""
        return self.chunker.due(epoch) and self.allowed(epoch)

    def settings(self) -> Mapping[str, Any]:
        """Settings of the chunker, and the stage marker."""
        return {**self.chunker.settings(), "marker": self.stages.marker}

    def accepts(self, settings: Mapping[str, Any]) -> bool:
        """Whether chunks of another run have the same number of chunks."""
        return self.chunker.searches and settings.get("n_chunks") == self.chunker.settings().get("n_chunks")

    def initial(self, encoded: Encoded) -> tuple[Span, ...]:
        """Chunks before any search."""
        return self.chunker.chunk(encoded)

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """Number of tokens of prompt and completion with all markers."""
        return encoded.length + sum(map(len, self.stages.markers(len(notes[self]))))

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, tuple[Span, ...]]:
        """Searches new chunks, with one pass of the student over the current ones."""
        current = {row.id: context.notes[row.id][self] for row in rows}
        return self.chunker.search(rows, current, lambda *args: step_losses(context.student, self.stages, *args))

    def report(self, values: Mapping[str, tuple[Span, ...]], rows: Sequence[Encoded], context: Context) -> str:
        """The number of rationales whose chunks changed."""
        changed = sum(values[row.id] != context.notes[row.id][self] for row in rows)
        return f"chunk search: {changed:,} of {len(rows):,} rationales have new chunks"

    def encode(self, value: tuple[Span, ...]) -> NDArray[Any]:
        """The end of every chunk, in steps."""
        return np.array([end for _, end in value], dtype=self.dtype)

    def decode(self, array: NDArray[Any]) -> tuple[Span, ...]:
        """Spans between consecutive ends: [2, 5] -> (0, 2), (2, 5)."""
        return tuple(pairwise((0, *array.tolist())))

    def draw(self, value: tuple[Span, ...], encoded: Encoded, codec: Any) -> Drawing:
        """One line per chunk; all chunks are kept."""
        return {"chunks": [list(span) for span in value], "kept": list(range(len(value)))}


class _Losses(Annotator[NDArray[np.float64]]):
    """Base class for losses of stages or steps, with stage markers at the chunk boundaries."""

    needs = ("chunks",)

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """Number of tokens of prompt and completion with all markers."""
        return self.chunks.tokens(encoded, notes)

    def _chunks(self, rows: Sequence[Encoded], context: Context) -> dict[str, tuple[Span, ...]]:
        return {row.id: context.notes[row.id][self.chunks] for row in rows}


class StageLosses(_Losses):
    """Summed NLL of every stage at the start of each epoch, nats: sampling weights of the stage sampling ``loss``."""

    name = "stage_losses"
    title = "Stage losses"
    for_training = True

    def due(self, epoch: int) -> bool:
        """Every epoch."""
        return True

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float64]]:
        """One pass of the student."""
        return stage_losses(context.student, self.chunks.stages, rows, self._chunks(rows, context))


class StepLosses(_Losses):
    """Mean token NLL of every step without markers, nats, for drawings of chunks."""

    name = "nll"
    title = "Step losses"
    for_display = True

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float64]]:
        """One pass of the student."""
        summed = step_losses(context.student, self.chunks.stages, rows, self._chunks(rows, context))
        return {row.id: summed[row.id] / [end - start for start, end in row.steps] for row in rows}

    def draw(self, value: NDArray[np.float64], encoded: Encoded, codec: Any) -> Drawing:
        """Colors of the steps."""
        return {"nll": [round(loss, 4) for loss in value.tolist()]}


Chunkings = Mapping[str, Sequence[Span]]


def _stage_nll(
    student: Any, stages: Stages, rows: Sequence[Encoded], chunks: Chunkings
) -> Iterator[tuple[Encoded, list[NDArray[np.int64]], list[NDArray[np.float32]]]]:
    """Scores the examples: yields each with the tokens of its stages, markers included, and their NLL in nats."""
    parts = {row.id: stages.tokens(row, chunks[row.id]) for row in rows}
    full = [instance(row.id, row.prompts[""], parts[row.id], range(len(parts[row.id]))) for row in rows]
    losses = score(student, full, nll)
    for row in rows:
        edges = np.cumsum([len(part) for part in parts[row.id]])[:-1]
        yield row, parts[row.id], np.split(losses[row.id][:, 0], edges)


def stage_losses(
    student: Any, stages: Stages, rows: Sequence[Encoded], chunks: Chunkings
) -> dict[str, NDArray[np.float64]]:
    """Summed NLL of every stage by example id, nats, shape (M + 1,)."""
    return {
        row.id: np.array([np.add.reduce(losses) for losses in by_stage], dtype=np.float64)
        for row, _, by_stage in _stage_nll(student, stages, rows, chunks)
    }


def step_losses(
    student: Any, stages: Stages, rows: Sequence[Encoded], chunks: Chunkings
) -> dict[str, NDArray[np.float64]]:
    """Summed NLL of every step by example id, nats, shape (S,); markers are in the input but not in the sums."""
    result = {}
    for row, parts, by_stage in _stage_nll(student, stages, rows, chunks):
        markers = stages.markers(len(parts) - 1)
        starts = [len(marker) for marker in markers] or [0] * (len(parts) - 1)
        bare = [losses[start:] for losses, start in zip(by_stage[:-1], starts, strict=True)]
        steps = np.concatenate(bare).astype(np.float64)
        result[row.id] = np.add.reduceat(steps, [start for start, _ in row.steps])
    return result
