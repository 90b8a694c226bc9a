"""Teacher-forced scoring of training instances with a frozen student: one pass each.

Shape suffixes: N target tokens, K numbers per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skipthinking.data.batches import collate, instance_length
from skipthinking.data.instances import instance
from skipthinking.ranks import by_length
from skipthinking.records import Encoded, Instance
from skipthinking.students.base import Student
from skipthinking.students.measures import Measure, nll_and_hit
from skipthinking.students.memory import pass_tokens

__all__ = ["Measured", "score", "score_rationales"]

Measured = NDArray[np.float32]


def score(
    student: Student, instances: Sequence[Instance], measure: Measure = nll_and_hit, *, batch_tokens: int | None = None
) -> dict[str, Measured]:
    """Measures the target tokens of every instance, given all tokens before them.

    Args:
        student: The student, built; its training state is untouched.
        instances: At most one per example id.
        measure: What is measured.
        batch_tokens: Padded tokens per pass, by default as memory allows; a single longer instance is a separate pass.

    Returns:
        Per example id the measures of its target tokens in order, shape (N, K).
    """
    batch_tokens = pass_tokens(student) if batch_tokens is None else batch_tokens
    measured: dict[str, Measured] = {}
    with student.frozen():
        for rows in by_length(instances, instance_length, batch_tokens):
            terms = 1 + max(row.term for row in rows)
            batch = collate(rows, pad_id=student.pad_id, encoder_decoder=student.encoder_decoder, terms=terms)
            scores = student.measure(batch.to(student.device), measure).cpu().numpy()
            ends = np.cumsum([np.count_nonzero(row.weights) for row in rows])
            measured |= zip((row.id for row in rows), np.split(scores, ends[:-1]), strict=True)
    return measured


def score_rationales(student: Student, rows: Sequence[Encoded], measure: Measure = nll_and_hit) -> dict[str, Measured]:
    """Measures all rationale tokens of every example, given the question and the tokens before them; shape (R, K)."""
    instances = [instance(row.id, row.prompts[""], [row.tokens[: row.answer[0]]], {0}) for row in rows]
    return score(student, instances, measure)
