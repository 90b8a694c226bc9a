"""``fit --plan``: the memory that a run needs and the batches that fit, before the weights are loaded."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch

from skipthinking.data.batches import Batch, collate
from skipthinking.data.instances import instance
from skipthinking.data.module import RationaleDataModule
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance
from skipthinking.runs.throughput import compute_dtype
from skipthinking.students.footprint import LOGITS_MOST, Footprint, footprint

__all__ = ["plan", "write_plan"]

_GPUS = (16, 24, 40, 48, 80, 141)  # GB
_USABLE = 0.92  # of a GPU's memory: the rest is for the CUDA context, kernels, and fragments


def plan(trainer: L.Trainer, method: Distiller, data: RationaleDataModule) -> str:
    """What ``fit`` would need, as text; trains nothing and writes nothing.

    Args:
        trainer: The trainer, which has not run.
        method: The method.
        data: The data module.
    """
    trainer.strategy.connect(method)
    method.trainer = data.trainer = trainer
    data.setup("fit")
    batch = longest_batch(data)
    precision, dtype = str(trainer.precision), compute_dtype(trainer)
    memory = footprint(
        method.student,
        batch,
        optimizer=method.optimizer,
        compute=dtype if precision.endswith("-mixed") else torch.float32,
        weights=dtype if precision in ("bf16-true", "16-true") else None,
    )
    shards = trainer.world_size if type(trainer.strategy).__name__ in ("Sharded", "FSDPStrategy") else 1
    return write_plan(memory, rows=len(batch.ids), width=int(batch.lengths_B.max()), precision=precision, shards=shards)


def longest_batch(data: RationaleDataModule) -> Batch:
    """The micro-batch with the most padded tokens of examples within the limit, all completion tokens as targets."""
    student, limit = data.method.student, data.limit
    lengths = np.array([row.length for row in data.encoded])
    if not (lengths <= limit).any():
        raise data.all_too_long(lengths.tolist())
    order = np.argsort(-np.where(lengths <= limit, lengths, 0), kind="stable")  # the longest first
    counts = np.full(len(order), data.batch_size)
    if data.batch_tokens is not None:
        counts = np.clip(data.batch_tokens // np.maximum(lengths[order], 1), 1, data.batch_size)
    first = int((counts * np.where(lengths[order] <= limit, lengths[order], 0)).argmax())
    rows = order[first : first + counts[first]].tolist()
    return collate(
        [_full(data.encoded[row]) for row in rows for _ in range(data.method.rows_per_place)],
        pad_id=student.pad_id,
        encoder_decoder=student.encoder_decoder,
        terms=len(data.method.term_weights),
    )


def _full(row: Encoded) -> Instance:
    return instance(row.id, max(row.prompts.values(), key=len), [row.tokens], targets={0})


def write_plan(memory: Footprint, *, rows: int, width: int, precision: str, shards: int) -> str:
    """The plan as text.

    Args:
        memory: The memory of a step.
        rows: Instances of the micro-batch.
        width: Tokens of the longest one.
        precision: Lightning's name of the precision.
        shards: Processes that weights, gradients and optimizer are split over.
    """
    fixed = memory.fixed // shards
    lines = [
        f"{memory.parameters:,} parameters, {memory.trained:,} trained, {precision}",
        f"  weights      {_gib(memory.weights // shards)}",
        f"  gradients    {_gib(memory.gradients // shards)}",
        f"  optimizer    {_gib(memory.optimizer // shards)}",
        f"  activations  {_gib(memory.activations)}   "
        f"the longest micro-batch: {rows} instances of up to {width} tokens",
        f"  logits etc.  {_gib(memory.work + memory.recomputed)}   at the most",
        f"  a step       {_gib(fixed + memory.activations + memory.work + memory.recomputed)}",
    ]
    if shards > 1:
        lines.append(f"on each of {shards} processes, which split weights and optimizer; gathered layers come on top")
    for size in _GPUS:
        room, grows = size * 2**30 * _USABLE - fixed, memory.activations + memory.recomputed
        # Logits grow with the instances up to a chunk.
        most = max(0, math.floor(max(room * rows / (grows + memory.work), (room - LOGITS_MOST) * rows / grows)))
        lines.append(f"  a GPU of {size:>3} GB holds {most} such instances{'' if most >= rows else f', not {rows}'}")
    return "\n".join(lines)


def _gib(size: Any) -> str:
    return f"{size / 2**30:7.2f} GiB"
