"""Teacher-forced scoring of training instances with a frozen student: one pass, all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from tqdm import tqdm

from skipthinking.data.batches import collate, instance_length
from skipthinking.ranks import by_length, gather
from skipthinking.records import Instance
from skipthinking.students.sharding import gathered

__all__ = ["Scores", "frozen", "score_tokens"]


class Scores(NamedTuple):
    """What the student says of N target tokens.

    Attributes:
        nll: Negative log-likelihood, nats, shape (N,).
        hit: Whether greedy decoding would choose the token, shape (N,).
    """

    nll: NDArray[np.float32]
    hit: NDArray[np.bool_]


@contextmanager
def frozen(student: Any) -> Iterator[None]:
    """The student in evaluation mode without gradients; its mode is put back afterwards."""
    modes = {module: module.training for module in student.modules()}
    student.eval()
    try:
        with torch.no_grad(), gathered(student):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def score_tokens(
    student: Any,
    instances: Sequence[Instance],
    *,
    rank: int = 0,
    ranks: int = 1,
    batch_tokens: int = 8192,
    what: str | None = "Scoring",
) -> dict[str, Scores]:
    """NLL of the target tokens of every instance under the student, and whether greedy decoding would choose them.

    Args:
        student: The student; its training state is untouched.
        instances: At most one per example id.
        rank: This process.
        ranks: Number of processes; each scores its share of the batches, all get the whole. The batches do not depend
            on it, so that any number of processes gives the same bits.
        batch_tokens: Padded tokens per batch.
        what: Label of the progress bar; None for no bar.

    Returns:
        Per example id the scores of its target tokens in order.
    """
    found: dict[str, Scores] = {}
    batches = by_length(instances, instance_length, batch_tokens)[rank::ranks]
    hidden = rank > 0 or what is None
    with frozen(student), tqdm(total=sum(map(len, batches)), desc=what, delay=2, leave=False, disable=hidden) as bar:
        for rows in batches:
            batch = collate(rows, pad_id=student.pad_id, encoder_decoder=student.encoder_decoder, terms=2)
            scores = student.token_scores(batch.to(student.device)).cpu().numpy()
            ends = np.cumsum([np.count_nonzero(row.weights) for row in rows])
            for row, part in zip(rows, np.split(scores, ends[:-1]), strict=True):
                found[row.id] = Scores(part[:, 0], part[:, 1] > 0)
            bar.update(len(rows))
    return gather(found) if ranks > 1 else found
