"""Annotators of LongCoT: pruned lengths of traces, reference log-likelihoods of preference pairs, and step losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.annotator import Annotator, Context, Drawing, Notes
from skipthinking.evaluation.answers import SearchContext
from skipthinking.methods.long_cot.cuts import Cutter, Trace
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students.measures import nll
from skipthinking.students.scoring import score
from skipthinking.tasks import get_task

__all__ = ["Cuts", "References", "TraceLosses"]

Pair = tuple[float, float]


class Traces(Protocol):
    """The part of LongCoT that its annotators use."""

    marks: tuple[str, str]
    trainer: Any
    warmup_epochs: int
    sft_epochs: int

    def trace(self, encoded: Encoded) -> Trace:
        """Splits a long rationale into its parts."""

    def instance_of(self, encoded: Encoded, steps: int | None) -> Instance:
        """Question -> the first steps (None for all) and the conclusion."""

    def prefers(self, epoch: int) -> bool:
        """Whether an epoch trains by DPO."""


class Cuts(Annotator[int | None]):
    """Number of steps that each trace keeps; None if no prefix is valid, which drops the example.

    Args:
        epoch: Epoch at whose start traces are pruned.
        cutter: The cutter.
        method: The LongCoT method.
    """

    name = "cuts"
    title = "Cutting"
    dtype = "int64"
    once = True

    def __init__(self, epoch: int, cutter: Cutter, method: Traces) -> None:
        self.epoch, self.cutter, self.method = epoch, cutter, method

    def due(self, epoch: int) -> bool:
        """Whether this is the first epoch after the warm-up."""
        return epoch == self.epoch

    def settings(self) -> Mapping[str, Any]:
        """Settings of the cutter, and the thinking marks."""
        return {**self.cutter.settings(), "marks": list(self.method.marks)}

    def most_tokens(self, student: Any) -> int:
        """As many as the cutter can hold."""
        return self.cutter.most_tokens(student)

    def accepts(self, settings: Mapping[str, Any]) -> bool:
        """Whether the cuts of another run come from the same cutter and marks."""
        return settings == dict(self.settings())

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """The prompt and the full trace with both marks."""
        trace = self.method.trace(encoded)
        return len(trace.prompt) + len(trace.completion(len(trace.steps)))

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, int | None]:
        """Prunes a block of traces."""
        by_id = {row.id: row.example for row in rows}

        def grade(id: str, tokens: list[int]) -> Any:
            return get_task(by_id[id].task).grade(context.codec.decode(tokens), by_id[id].answer)

        search = SearchContext(
            student=context.student,
            right=lambda id, tokens: grade(id, tokens).correct,
            mentioned=lambda id, tokens: grade(id, tokens).correct_lenient,
        )
        return self.cutter.cut([self.method.trace(row) for row in rows], search)

    def finish(self, values: dict[str, int | None], rows: Sequence[Encoded], context: Context) -> dict[str, int | None]:
        """Passes all cuts to the cutter together."""
        return self.cutter.finish(values, {row.id: len(row.steps) for row in rows})

    def report(self, values: Mapping[str, int | None], rows: Sequence[Encoded], context: Context) -> str:
        """How many traces were shortened, kept in full, and dropped.

        Raises:
            UserError: No example is left to train on, or no pair for DPO.
        """
        kept = [(row, steps) for row in rows if (steps := values[row.id]) is not None]
        if not kept:
            raise UserError(
                f"Expected traces with a valid prefix, got none of {len(rows)} by {type(self.cutter).__name__}. A "
                "student that cannot answer yet finds none: train it first (model.warmup_epochs, or model.start_from)."
            )
        short = sum(steps < len(row.steps) for row, steps in kept)
        last = self.method.trainer.max_epochs
        if not short and (last is None or last < 0 or self.method.prefers(last - 1)):
            before = self.method.warmup_epochs + self.method.sft_epochs
            end = f"Set trainer.max_epochs: {before}, so that the run ends with SFT, or choose" if before else "Choose"
            raise UserError(f"Expected shortened traces for DPO, got none of {len(kept)}. {end} another model.cutter.")
        removed = 1 - sum(row.steps[steps - 1][1] for row, steps in kept) / sum(row.steps[-1][1] for row, _ in kept)
        n = len(rows)
        return (
            f"cut: {short:,} of {n:,} traces shortened ({short / n:.1%}), {len(kept) - short:,} kept in full "
            f"({(len(kept) - short) / n:.1%}), {n - len(kept):,} dropped without a "
            f"valid prefix ({(n - len(kept)) / n:.1%}); {removed:.1%} of the thinking tokens of the others removed"
        )

    def encode(self, value: int | None) -> NDArray[Any]:
        """The number of kept steps, shape (1,); shape (0,) for a dropped example."""
        return np.array([] if value is None else [value], dtype=self.dtype)

    def decode(self, array: NDArray[Any]) -> int | None:
        """The number of kept steps."""
        return int(array[0]) if len(array) else None

    def draw(self, value: int | None, encoded: Encoded, codec: Any) -> Drawing:
        """Draws every step as a chunk; removed steps are struck through."""
        chunks = [[place, place + 1] for place in range(len(encoded.steps))]
        return {"chunks": chunks, "kept": list(range(value or 0)), "cut": value}


class References(Annotator[Pair | None]):
    """Log-likelihoods under the reference, nats: of the pruned trace (chosen) and of the full one (rejected).

    The reference is the student at the start of DPO, so no second model is needed. None if both traces are equal, or
    the example was dropped.

    Args:
        epoch: First epoch of DPO.
        cuts: Annotator of the pruned lengths.
        method: The LongCoT method.
    """

    name = "reference"
    needs = ("cuts",)
    title = "Reference"
    for_training = True

    def __init__(self, epoch: int, cuts: Cuts, method: Traces) -> None:
        self.epoch, self.cuts, self.method = epoch, cuts, method

    def due(self, epoch: int) -> bool:
        """Whether this is the first epoch of DPO."""
        return epoch == self.epoch

    def settings(self) -> Mapping[str, Any]:
        """The thinking marks."""
        return {"marks": list(self.method.marks)}

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """The prompt and the full trace with both marks."""
        return self.cuts.tokens(encoded, notes)

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Pair | None]:
        """Scores both traces of every shortened example, in two passes."""
        cuts = {row.id: context.notes[row.id][self.cuts] for row in rows}
        short = [row for row in rows if cuts[row.id] not in (None, len(row.steps))]
        scores = [
            score(context.student, side, nll)
            for side in (
                [self.method.instance_of(row, cuts[row.id]) for row in short],
                [self.method.instance_of(row, None) for row in short],
            )
        ]
        pairs: dict[str, Pair | None] = dict.fromkeys(cuts)
        for row in short:
            chosen, rejected = (-float(side[row.id].sum(dtype=np.float64)) for side in scores)
            pairs[row.id] = chosen, rejected
        return pairs

    def report(self, values: Mapping[str, Pair | None], rows: Sequence[Encoded], context: Context) -> str:
        """The number of pairs."""
        pairs = sum(value is not None for value in values.values())
        return f"DPO: {pairs:,} pairs; {len(rows) - pairs:,} examples without two different traces"

    def encode(self, value: Pair | None) -> NDArray[Any]:
        """The pair, shape (2,); shape (0,) for an example without one."""
        return np.array(value or (), dtype=self.dtype)

    def decode(self, array: NDArray[Any]) -> Pair | None:
        """Log-likelihoods of chosen and rejected trace."""
        return (float(array[0]), float(array[1])) if len(array) else None

    def draw(self, value: Pair | None, encoded: Encoded, codec: Any) -> Drawing:
        """Both log-likelihoods, drawn as a line below the trace."""
        return {"pair": None if value is None else list(value)}


class TraceLosses(Annotator[NDArray[np.float64]]):
    """Mean token NLL of every step of the full trace, nats.

    Args:
        cuts: Annotator of the pruned lengths.
        method: The LongCoT method.
    """

    name = "nll"
    needs = ("cuts",)
    title = "Step losses"
    for_display = True

    def __init__(self, cuts: Cuts, method: Traces) -> None:
        self.cuts, self.method = cuts, method

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """The prompt and the full trace with both marks."""
        return self.cuts.tokens(encoded, notes)

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float64]]:
        """Scores the full traces in one pass of the student."""
        scores = score(context.student, [self.method.instance_of(row, None) for row in rows], nll)
        losses = {}
        for row in rows:
            thinking = scores[row.id][len(self.method.trace(row).opening) :, 0]
            losses[row.id] = np.array([thinking[slice(*span)].mean(dtype=np.float64) for span in row.steps])
        return losses

    def draw(self, value: NDArray[np.float64], encoded: Encoded, codec: Any) -> Drawing:
        """Colors of the steps."""
        return {"nll": [round(loss, 4) for loss in value.tolist()]}
