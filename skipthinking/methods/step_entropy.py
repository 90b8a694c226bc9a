"""StepEntropy: leaves out the steps about which the student is least uncertain."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate import Annotator, Context, Notes
from skipthinking.data.instances import instance
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students.measures import entropy
from skipthinking.students.scoring import score_rationales

__all__ = ["StepEntropies", "StepEntropy"]


class StepEntropies(Annotator[NDArray[np.float64]]):
    """Entropy of every step in nats: the sum of its tokens' predictive entropies under the student, shape (S,)."""

    name = "entropy"

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float64]]:
        """One pass of the student over the rationales."""
        entropies = score_rationales(context.student, rows, entropy)
        return {row.id: np.add.reduceat(entropies[row.id][:, 0], [start for start, _ in row.steps]) for row in rows}


class StepEntropy(Distiller):
    """SFT on rationales with lowest-entropy steps replaced by ``[SKIP]`` (Li et al., ICLR 2026, arXiv 2508.03346).

    Departures: read were abstract and code. The code scores a step by the mean of -p log p of its tokens, not their sum
    of entropies, and by the model that wrote it. Reinforcement learning is missing. As there, no ``[SKIP]`` are merged.

    Args:
        share: Share of the steps that are replaced, rounded down to full steps.
        control: Replaces as many ``random`` steps, or those of ``highest`` entropy, instead.
        kwargs: See Distiller.
    """

    def __init__(self, share: float = 0.8, control: Literal["random", "highest"] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= share <= 1:
            raise UserError(f"Expected a share from 0 to 1, got model.share={share}. Set model.share: 0.5.")
        self.share, self.control, self.entropies = share, control, StepEntropies()

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: question -> rationale with [SKIP] for the replaced steps, answer."""
        assert self.codec is not None
        order = np.argsort(notes[self.entropies] * (-1 if self.control == "highest" else 1), kind="stable").tolist()
        if self.control == "random":
            random.Random(f"steps/{notes.seed}/{encoded.id}").shuffle(order)
        skip, skipped = self.codec.inline(" [SKIP]"), order[: int(self.share * len(order))]
        parts = [skip if step in skipped else encoded.tokens[slice(*span)] for step, span in enumerate(encoded.steps)]
        parts.append(encoded.tokens[encoded.steps[-1][1] :])
        return [instance(encoded.id, encoded.prompts[""], parts, range(len(parts)))]
