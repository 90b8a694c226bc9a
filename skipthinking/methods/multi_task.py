"""MultiTask: distilling step-by-step."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipthinking.annotate.annotator import Notes
from skipthinking.data.instances import instance
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance, UserError

__all__ = ["MultiTask"]

LABEL, RATIONALE = "[label] ", "[rationale] "


class MultiTask(Distiller):
    """Distilling step-by-step (Hsieh et al., arXiv 2305.02301): "[label] " x -> y and "[rationale] " x -> r.

    Loss = label + rationale_weight * rationale; each term is the mean over its tokens in the optimizer step. In
    evaluation, questions get the label prefix, so the student writes no rationale; the exported student does, by
    ``mode="rationale"`` of its chat template.

    Departures from the official code: there prefixes read "predict: " and "explain: " (the paper: "[label]" and
    "[rationale]"), and the loss is half of this one at weight 1 (0.5 and 0.5), which AdamW does not see but gradient
    clipping does; means are over the tokens of a step, there over those of a micro-batch.

    Args:
        rationale_weight: The paper's lambda.
        kwargs: See Distiller.
    """

    def __init__(self, rationale_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rationale_weight < 0:
            raise UserError(
                f"Expected a weight of at least 0, got model.rationale_weight={rationale_weight}. Set "
                "model.rationale_weight: 1.0, for example."
            )
        self.term_weights = (1.0, rationale_weight)
        self.choose_prompt("mode", {"label": LABEL, "rationale": RATIONALE}, "label")

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """Two instances: the answer sentence (term 0), and the steps with EOS (term 1)."""
        answer = encoded.tokens[slice(*encoded.answer)]
        rationale = np.append(encoded.tokens[: encoded.answer[0]], encoded.tokens[-1])
        return [
            instance(encoded.id, encoded.prompts[LABEL], [answer], {0}, term=0),
            instance(encoded.id, encoded.prompts[RATIONALE], [rationale], {0}, term=1),
        ]
