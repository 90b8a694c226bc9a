"""Step difficulty: how hard the student finds each step of a rationale before it is trained (KPOD, Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.annotator import Annotator, Context, Drawing
from skipthinking.methods.kpod.weights import TokenWeights, weight_drawing
from skipthinking.records import Encoded, Span
from skipthinking.students.measures import nll
from skipthinking.students.scoring import score_rationales

__all__ = ["Difficulty", "step_difficulty"]


def step_difficulty(nll: NDArray[Any], weights: NDArray[Any], steps: Sequence[Span]) -> NDArray[np.float64]:
    r"""Weighted loss of every step, :math:`d_k = \sum_{j \in k} \hat w_j nll_j` (Eq. 8).

    :math:`\hat w` is the softmax of the weights within the step; with equal weights, :math:`d_k` is the mean token NLL.

    Args:
        nll: NLL of every rationale token, nats, shape (R,).
        weights: Weight of every rationale token, shape (R,).
        steps: Token span of every step.

    >>> step_difficulty(np.array([1.0, 3.0, 5.0]), np.zeros(3), [(0, 2), (2, 3)])
    array([2., 5.])
    """
    result = []
    for start, end in steps:
        shares = np.exp(np.asarray(weights[start:end], dtype=np.float64))
        result.append(float(shares @ np.asarray(nll[start:end], dtype=np.float64) / shares.sum()))
    return np.array(result)


class Difficulty(Annotator[NDArray[np.float64]]):
    """Difficulty of every step under the student before it is trained (Eq. 8), from one teacher-forced pass.

    Args:
        weights: Annotator of the token weights; None for equal weights.
    """

    name = "difficulty"
    title = "Step difficulty"

    def __init__(self, weights: TokenWeights | None) -> None:
        self.weights = weights
        self.needs = (weights.name,) if weights else ()

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float64]]:
        """One pass of the student over the rationales."""
        losses = score_rationales(context.student, rows, nll)
        result = {}
        for row in rows:
            weights = context.notes[row.id][self.weights] if self.weights else np.zeros(row.answer[0])
            result[row.id] = step_difficulty(losses[row.id][:, 0], weights, row.steps)
        return result

    def draw(self, value: NDArray[np.float64], encoded: Encoded, codec: Any) -> Drawing:
        """One number per step; without token weights, all tokens are drawn with weight 1."""
        numbers: Drawing = {"difficulty": [round(float(step), 4) for step in value]}
        if self.weights is None:
            return {**weight_drawing(encoded, np.ones(encoded.answer[0], dtype=np.float32), codec), **numbers}
        return numbers
