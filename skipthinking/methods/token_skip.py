"""TokenSkip: leaves out unimportant tokens of the rationale, at a ratio stated in the prompt."""

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

PREFIXES = {tenths / 10: f"[{tenths}0%] " if tenths < 10 else "" for tenths in range(5, 11)}  # 1.0: ""


class Surprisal(Annotator[NDArray[np.float32]]):
    """NLL of every rationale token in nats under the student before it is trained, shape (R,)."""

    name, dtype = "surprisal", "float32"

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float32]]:
        """One pass of the student over the rationales."""
        return {id: scores[:, 0] for id, scores in score_rationales(context.student, rows, nll).items()}


class TokenSkip(Distiller):
    """SFT on rationales without their least important tokens (Xia et al., EMNLP 2025, arXiv 2502.12067).

    Each instance draws a ratio in every epoch; rationale tokens below the (1 - ratio) quantile of importance are left
    out. A prefix of the question states the ratio; there is no prefix at ratio 1, the full rationale.

    Departures: importance is by default the student's own surprisal (the paper: LLMLingua-2, here Classifier); ratios
    are drawn in every epoch, not once; they stand before the question, not after it; rationales are the teacher's.

    Args:
        ratio: Ratio stated in the prompt in evaluation.
        importance: Annotator of a number per rationale token, by class path: Surprisal, Classifier, TokenWeights.
        kwargs: See Distiller.
    """

    def __init__(self, ratio: float = 0.5, importance: Annotator | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ratio not in PREFIXES:
            raise UserError(f"Expected a ratio of {[*PREFIXES]}, got model.ratio={ratio}. Choose one of them.")
        self.importance, self.answer_settings = importance or Surprisal(), ("ratio",)
        self.choose_prompt("ratio", PREFIXES, ratio)

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: question with the ratio -> the remaining rationale tokens, answer."""
        ratio, end = notes.random("ratio", encoded.id).choice(list(PREFIXES)), encoded.answer[0]
        importance = notes[self.importance]
        kept = encoded.tokens[:end][importance >= np.quantile(importance, 1 - ratio)]
        return [instance(encoded.id, encoded.prompts[PREFIXES[ratio]], [kept, encoded.tokens[end:]], {0, 1})]
