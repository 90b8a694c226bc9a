"""TokenSkip: unimportant tokens of the rationale are left out, at a ratio that the prompt states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate import Annotator, Context, Notes
from skipthinking.data.instances import instance
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students.measures import nll
from skipthinking.students.scoring import score_rationales

__all__ = ["Surprisal", "TokenSkip"]

PREFIXES = {tenths / 10: f"[{tenths}0%] " if tenths < 10 else "" for tenths in range(5, 11)}  # by ratio


class Surprisal(Annotator[NDArray[np.float32]]):
    """NLL of every rationale token in nats under the student before it is trained, shape (R,)."""

    name, dtype = "surprisal", "float32"

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float32]]:
        """One pass of the student over the rationales."""
        return {id: found[:, 0] for id, found in score_rationales(context.student, rows, nll).items()}


class TokenSkip(Distiller):
    """SFT on rationales without their least important tokens (Xia et al., EMNLP 2025, arXiv 2502.12067).

    Per instance and epoch a ratio is drawn; rationale tokens below the (1 - ratio) quantile of importance are left out.
    A prefix of the question states the ratio; the full rationale has none.

    Departures: the student's own surprisal is the default importance (the paper: LLMLingua-2), and ratios are drawn
    again every epoch.

    Args:
        ratio: Ratio that answers are asked for in evaluation.
        importance: Annotator of one number per rationale token, by class path, such as KPOD's TokenWeights.
        kwargs: See Distiller.
    """

    def __init__(self, ratio: float = 0.5, importance: Annotator | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ratio not in PREFIXES:
            raise UserError(f"Expected a ratio of {', '.join(map(str, PREFIXES))}, got model.ratio={ratio}.")
        self.importance = importance or Surprisal()
        self.prompt_prefixes = (PREFIXES[ratio], *(prefix for other, prefix in PREFIXES.items() if other != ratio))

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: question with the ratio -> what is left of the rationale, answer."""
        ratio, end = notes.random("ratio", encoded.id).choice(list(PREFIXES)), encoded.answer[0]
        importance = notes[self.importance]
        kept = encoded.tokens[:end][importance >= np.quantile(importance, 1 - ratio)]
        return [instance(encoded.id, encoded.prompts[PREFIXES[ratio]], [kept, encoded.tokens[end:]], {0, 1})]
