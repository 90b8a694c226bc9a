"""Chunk search: chunk boundaries of least loss under the student, and the losses of steps and stages."""

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
    "stage_losses", "step_losses",
]  # fmt: skip

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
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]], step_losses: StepLossesOf
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


class Chunks(Annotator[tuple[Span, ...]]):
    """The chunks of every rationale: of average size at first, then as a searching chunker finds them.

    Args:
        chunker: The chunker of the data.
        stages: How stages become tokens.
        allowed: Whether chunks may change at the start of an epoch.
    """

    name = "chunks"
    title = "Chunk search"
    dtype = "int64"

    def __init__(self, chunker: Chunker, stages: Stages, allowed: Callable[[int], bool] = lambda epoch: True) -> None:
        self.chunker, self.stages, self.allowed = chunker, stages, allowed
        self.uses_student = chunker.searches

    def due(self, epoch: int) -> bool:
        """As the chunker asks for it, while chunks may change."""
        return self.chunker.due(epoch) and self.allowed(epoch)

    def settings(self) -> Mapping[str, Any]:
        """Those of the chunker, and the marker."""
        return {**self.chunker.settings(), "marker": self.stages.marker}

    def accepts(self, settings: Mapping[str, Any]) -> bool:
        """Chunks of another run serve if there are as many of them."""
        return self.chunker.searches and settings.get("n_chunks") == self.chunker.settings().get("n_chunks")

    def initial(self, encoded: Encoded) -> tuple[Span, ...]:
        """Chunks that need no student."""
        return self.chunker.chunk(encoded)

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """Prompt and completion with all markers."""
        return encoded.length + sum(map(len, self.stages.markers(len(notes[self]))))

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, tuple[Span, ...]]:
        """New chunks from one pass of the student, with the markers where the chunks now begin."""
        now = {row.id: context.notes[row.id][self] for row in rows}
        return self.chunker.search(rows, now, lambda *args: step_losses(context.student, self.stages, *args))

    def report(self, values: Mapping[str, tuple[Span, ...]], rows: Sequence[Encoded], context: Context) -> str:
        """How many rationales have other chunks than before."""
        changed = sum(values[row.id] != context.notes[row.id][self] for row in rows)
        return f"chunk search: {changed:,} of {len(rows):,} rationales have new chunks"

    def encode(self, value: tuple[Span, ...]) -> NDArray[Any]:
        """The end of every chunk."""
        return np.array([end for _, end in value], dtype=self.dtype)

    def decode(self, array: NDArray[Any]) -> tuple[Span, ...]:
        """Spans from one end to the next."""
        return tuple(pairwise((0, *array.tolist())))

    def draw(self, value: tuple[Span, ...], encoded: Encoded, codec: Any) -> Drawing:
        """A line per chunk; all are kept."""
        return {"chunks": [list(span) for span in value], "kept": list(range(len(value)))}


class _Losses(Annotator[NDArray[np.float64]]):
    """Losses of parts of a rationale, with the markers where the chunks begin."""

    needs = ("chunks",)

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """Prompt and completion with all markers."""
        return self.chunks.tokens(encoded, notes)

    def _chunks(self, rows: Sequence[Encoded], context: Context) -> dict[str, tuple[Span, ...]]:
        return {row.id: context.notes[row.id][self.chunks] for row in rows}


class StageLosses(_Losses):
    """Summed NLL of every stage, nats, at the start of every epoch: the weights of the stage sampling ``loss``."""

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
    """Mean token NLL of every step, nats, markers left out: what drawings of chunks show."""

    name = "nll"
    title = "Step losses"
    for_display = True

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float64]]:
        """One pass of the student."""
        summed = step_losses(context.student, self.chunks.stages, rows, self._chunks(rows, context))
        return {row.id: summed[row.id] / [end - start for start, end in row.steps] for row in rows}

    def draw(self, value: NDArray[np.float64], encoded: Encoded, codec: Any) -> Drawing:
        """The color of a step."""
        return {"nll": [round(loss, 4) for loss in value.tolist()]}


Chunkings = Mapping[str, Sequence[Span]]


def _stage_nll(
    student: Any, stages: Stages, rows: Sequence[Encoded], chunks: Chunkings
) -> Iterator[tuple[Encoded, list[NDArray[np.int64]], list[NDArray[np.float32]]]]:
    """Every example, the tokens of its stages with their markers, and their NLL, from one pass per example."""
    parts = {row.id: stages.tokens(row, chunks[row.id]) for row in rows}
    full = [instance(row.id, row.prompts[""], parts[row.id], range(len(parts[row.id]))) for row in rows]
    losses = score(student, full, nll)
    for row in rows:
        edges = np.cumsum([len(part) for part in parts[row.id]])[:-1]
        yield row, parts[row.id], np.split(losses[row.id][:, 0], edges)


def stage_losses(
    student: Any, stages: Stages, rows: Sequence[Encoded], chunks: Chunkings
) -> dict[str, NDArray[np.float64]]:
    """Summed NLL of every stage of every example under the student, nats, shape (M + 1,)."""
    return {
        row.id: np.array([np.add.reduce(losses) for losses in by_stage], dtype=np.float64)
        for row, _, by_stage in _stage_nll(student, stages, rows, chunks)
    }


def step_losses(
    student: Any, stages: Stages, rows: Sequence[Encoded], chunks: Chunkings
) -> dict[str, NDArray[np.float64]]:
    """Summed NLL of every step of every example, nats, shape (S,); markers stand in the pass but do not count."""
    result = {}
    for row, parts, by_stage in _stage_nll(student, stages, rows, chunks):
        opening = [stages.opening(m, len(parts) - 1) for m in range(len(parts) - 1)]
        bare = [losses[start:] for losses, start in zip(by_stage[:-1], opening, strict=True)]
        steps = np.concatenate(bare).astype(np.float64)
        result[row.id] = np.add.reduceat(steps, [start for start, _ in row.steps])
    return result
