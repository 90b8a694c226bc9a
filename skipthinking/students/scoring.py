"""Teacher-forced scoring of training instances with a frozen student: one pass each.

Shape suffixes: N target tokens, K numbers per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from skipthinking.data.batches import collate, instance_length
from skipthinking.data.instances import instance
from skipthinking.ranks import by_length, gather
from skipthinking.records import Encoded, Instance
from skipthinking.students.base import Student
from skipthinking.students.measures import Measure, nll_and_hit
from skipthinking.students.sharding import gathered

__all__ = ["Measured", "Scores", "frozen", "score", "score_rationales", "score_tokens"]

Measured = NDArray[np.float32]


@contextmanager
def frozen(student: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, unsharded weights; the modes of all modules are restored afterwards."""
    modes = {module: module.training for module in student.modules()}
    student.eval()
    try:
        with torch.no_grad(), gathered(student):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def score(
    student: Student, instances: Sequence[Instance], measure: Measure = nll_and_hit, *, batch_tokens: int = 8192
) -> dict[str, Measured]:
    """Measures the target tokens of every instance, given all tokens before them.

    Args:
        student: The student, built; its training state is untouched.
        instances: At most one per example id.
        measure: What is measured.
        batch_tokens: Padded tokens per pass; a single longer instance has a pass of its own.

    Returns:
        Per example id the measures of its target tokens in order, shape (N, K).
    """
    measured: dict[str, Measured] = {}
    with frozen(student):
        for rows in by_length(instances, instance_length, batch_tokens):
            terms = 1 + max(row.term for row in rows)
            batch = collate(rows, pad_id=student.pad_id, encoder_decoder=student.encoder_decoder, terms=terms)
            found = student.measure(batch.to(student.device), measure).cpu().numpy()
            ends = np.cumsum([np.count_nonzero(row.weights) for row in rows])
            measured |= zip((row.id for row in rows), np.split(found, ends[:-1]), strict=True)
    return measured


def score_rationales(student: Student, rows: Sequence[Encoded], measure: Measure = nll_and_hit) -> dict[str, Measured]:
    """Measures all rationale tokens of every example, given the question and the tokens before them; shape (R, K)."""
    instances = [instance(row.id, row.prompts[""], [row.tokens[: row.answer[0]]], {0}) for row in rows]
    return score(student, instances, measure)


class Scores(NamedTuple):
    """What the student says of N target tokens.

    Attributes:
        nll: Negative log-likelihood in nats, shape (N,).
        hit: Whether greedy decoding would choose the token, shape (N,).
    """

    nll: NDArray[np.float32]
    hit: NDArray[np.bool_]


def score_tokens(
    student: Student,
    instances: Sequence[Instance],
    *,
    rank: int = 0,
    ranks: int = 1,
    batch_tokens: int = 8192,
    what: str | None = "Scoring",
) -> dict[str, Scores]:
    """:func:`score` of NLL and greedy hit, shared by several processes, with a progress bar.

    Args:
        student: The student, built; its training state is untouched.
        instances: At most one per example id.
        rank: This process.
        ranks: Number of processes; each scores its share of the batches, all get everything. The batches do not depend
            on the number of processes, so that any number gives the same bits.
        batch_tokens: Padded tokens per batch.
        what: Label of the progress bar; None for no bar.
    """
    scores: dict[str, Scores] = {}
    batches = by_length(instances, instance_length, batch_tokens)[rank::ranks]
    hidden = rank > 0 or what is None
    with frozen(student), tqdm(total=sum(map(len, batches)), desc=what, delay=2, leave=False, disable=hidden) as bar:
        for rows in batches:
            for id, part in score(student, rows, batch_tokens=batch_tokens).items():
                scores[id] = Scores(part[:, 0], part[:, 1] > 0)
            bar.update(len(rows))
    return gather(scores) if ranks > 1 else scores
