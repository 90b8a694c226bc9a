"""Teacher-forced scoring of training instances with a frozen student: one pass, all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from tqdm import tqdm

from skipthinking.data.batches import Batch, collate, instance_length
from skipthinking.records import Instance

__all__ = ["frozen", "gather", "score_tokens"]


@contextmanager
def frozen(student: Any) -> Iterator[None]:
    """The student in evaluation mode without gradients; its mode is put back afterwards."""
    modes = {module: module.training for module in student.modules()}
    student.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def gather(part: dict[str, Any]) -> dict[str, Any]:
    """Joins the parts of all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return part
    parts: list[dict[str, Any]] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, part)
    return {id: value for rank_part in parts for id, value in rank_part.items()}


def score_tokens(
    student: Any,
    instances: Sequence[Instance],
    *,
    rank: int = 0,
    ranks: int = 1,
    batch_tokens: int = 8192,
    what: str = "Scoring",
) -> dict[str, NDArray[np.float32]]:
    """NLL of the target tokens of every instance under the student.

    Args:
        student: The student; its training state is untouched.
        instances: At most one per example id.
        rank: This process.
        ranks: Number of processes; each scores its share, all get the whole.
        batch_tokens: Padded tokens per batch.
        what: Label of the progress bar.

    Returns:
        Per example id the NLL of its target tokens in order, nats.
    """
    order = sorted(range(len(instances)), key=lambda i: (-instance_length(instances[i]), instances[i].id))[rank::ranks]
    found: dict[str, NDArray[np.float32]] = {}
    with frozen(student), tqdm(total=len(order), desc=what, delay=2, leave=False, disable=rank > 0) as bar:
        at = 0
        while at < len(order):
            longest = instance_length(instances[order[at]])
            rows = [instances[i] for i in order[at : at + max(1, batch_tokens // longest)]]
            batch = collate(rows, pad_id=student.pad_id, encoder_decoder=student.encoder_decoder, terms=2)
            nll = student.token_nll(_to(batch, student.device)).cpu().numpy()
            ends = np.cumsum([np.count_nonzero(row.weights) for row in rows])
            found |= {row.id: part for row, part in zip(rows, np.split(nll, ends[:-1]), strict=True)}
            at += len(rows)
            bar.update(len(rows))
    return gather(found)


def _to(batch: Batch, device: torch.device) -> Batch:
    moved: dict[str, Any] = {k: v.to(device) for k, v in batch._asdict().items() if isinstance(v, torch.Tensor)}
    return batch._replace(**moved)
