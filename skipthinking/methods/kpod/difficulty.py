"""Step difficulty: how hard the student finds each step of a rationale before it is trained (KPOD, Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.data.instances import instance
from skipthinking.records import Encoded, Span
from skipthinking.students.scoring import score_tokens

__all__ = ["difficulties", "step_difficulty"]


def step_difficulty(nll: NDArray[Any], weights: NDArray[Any], steps: Sequence[Span]) -> NDArray[np.float64]:
    r"""The weighted loss of every step, :math:`d_k = \sum_{j \in k} \hat w_j nll_j` (Eq. 8).

    :math:`\hat w` is the softmax of the weights within the step; equal weights make it the mean NLL of its tokens.

    Args:
        nll: NLL of every rationale token, nats, shape (R,).
        weights: Weight of every rationale token, shape (R,).
        steps: Token span of every step.

    >>> step_difficulty(np.array([1.0, 3.0, 5.0]), np.zeros(3), [(0, 2), (2, 3)])
    array([2., 5.])
    """
    found = []
    for start, end in steps:
        shares = np.exp(np.asarray(weights[start:end], dtype=np.float64))
        found.append(float(shares @ np.asarray(nll[start:end], dtype=np.float64) / shares.sum()))
    return np.array(found)


def difficulties(
    student: Any, encoded: Sequence[Encoded], weights: Mapping[str, NDArray[Any]] | None, *, rank: int, ranks: int
) -> dict[str, list[float]]:
    """Difficulty of every step of every example under the student as it is, from one teacher-forced pass.

    Args:
        student: The student; its training state is untouched.
        encoded: The examples.
        weights: Weight of every rationale token, by example id; None weighs all alike.
        rank: This process.
        ranks: Number of processes; each scores its share, all get the whole.
    """
    whole = [instance(row.id, row.prompts[""], [row.tokens[: row.answer[0]]], {0}) for row in encoded]
    scores = score_tokens(student, whole, rank=rank, ranks=ranks, what="Step difficulty")
    found = {}
    for row in encoded:
        own = np.zeros(row.answer[0]) if weights is None else weights[row.id]
        found[row.id] = step_difficulty(scores[row.id].nll, own, row.steps).tolist()
    return found
