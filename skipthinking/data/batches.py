"""Batches: conversion of instances to tensors, and a loader that resumes within an epoch.

Shape suffixes: B instances, L tokens (right-padded), P prompt tokens (right-padded), N target tokens, K loss terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from skipthinking.data.epoch_instances import EpochInstances, Sizes, loader_workers
from skipthinking.data.packing import Layout, Packed, pack
from skipthinking.data.planning import Plan
from skipthinking.records import Instance

__all__ = [
    "Batch",
    "Counts",
    "EvalBatch",
    "PlannedBatches",
    "ResumableLoader",
    "TargetIndex",
    "collate",
    "count",
    "count_sizes",
    "instance_length",
]


class Counts(NamedTuple):
    """Tokens and loss weights of a group of instances.

    Attributes:
        weights: Sum of loss weights per term, K floats.
        targets: Number of target tokens.
        contexts: Number of context tokens, prompts included.
    """

    weights: list[float]
    targets: int
    contexts: int


class TargetIndex(NamedTuple):
    """The target tokens of a micro-batch, instance by instance.

    The host makes the index: a mask on a device would have to be read back before the size of a result is known.

    Attributes:
        places_N: Position that predicts each target, in the flattened input of the student (of its decoder).
        ids_N: Token ids.
        rows_N: Instance of each target.
        weights_N: Loss weights, > 0.
    """

    places_N: Tensor
    ids_N: Tensor
    rows_N: Tensor
    weights_N: Tensor


class Batch(NamedTuple):
    """A micro-batch. ``lengths_B`` marks the padding, not a token id: many tokenizers pad with EOS, which is a target.

    Attributes:
        ids: Example id of every instance.
        tokens_BL: Causal students: prompt and completion; encoder-decoder students: completion.
        lengths_B: Number of tokens in every row.
        where: The target tokens.
        packed: Rows that instances share in the student's input; None for one row each.
        terms_B: Loss term of every instance.
        prompts_BP: Encoder input; None for causal students.
        prompt_lengths_B: Number of encoder tokens in every row; None for causal students.
        totals_K: Sum of loss weights per term over the full optimizer step, all ranks and micro-batches.
        targets: Target tokens of this micro-batch, summed over ranks.
        contexts: Context tokens of this micro-batch, summed over ranks.
        references_B: Log-probability of every row's targets under the reference, nats; 0 for rows outside of pairs.
        pairs: Number of preference pairs in the full optimizer step.
    """

    ids: list[str]
    tokens_BL: Tensor
    lengths_B: Tensor
    where: TargetIndex
    packed: Packed | None
    terms_B: Tensor
    prompts_BP: Tensor | None
    prompt_lengths_B: Tensor | None
    totals_K: Tensor
    targets: int
    contexts: int
    references_B: Tensor
    pairs: int

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        return Batch(*(_moved(value, device) for value in self))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, (TargetIndex, Packed)):
        return type(value)(*(_moved(part, device) for part in value))
    # Copies from pinned memory can be asynchronous.
    return value.to(device, non_blocking=device.type == "cuda") if isinstance(value, Tensor) else value


class EvalBatch(NamedTuple):
    """Prompts to answer.

    Attributes:
        ids: Example id of every prompt.
        prompts: Prompt ids, one tensor of shape (P,) each.
    """

    ids: list[str]
    prompts: list[Tensor]


def instance_length(instance: Instance) -> int:
    """Number of tokens of an instance, prompt included."""
    return len(instance.prompt) + len(instance.tokens)


def _pad(rows: Sequence[NDArray[Any]], fill: float, dtype: torch.dtype) -> Tensor:
    out = torch.full((len(rows), max(map(len, rows), default=0)), fill, dtype=dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(row)
    return out


def collate(
    instances: Sequence[Instance],
    *,
    pad_id: int,
    encoder_decoder: bool,
    terms: int = 1,
    step: Counts | None = None,
    packing: Layout | None = None,
) -> Batch:
    """Pads instances into a batch.

    Args:
        instances: At least one instance.
        pad_id: Id of padding tokens; any valid id.
        encoder_decoder: Whether prompts go to an encoder.
        terms: Number of loss terms K.
        step: Counts of the optimizer step, for normalization; by default those of ``instances``.
        packing: How instances share rows in the input of a causal student; None for one row each.
    """
    own = count(instances, terms)
    step = step or own
    prompts = [instance.prompt for instance in instances] if encoder_decoder else None
    tokens = [i.tokens if encoder_decoder else np.concatenate([i.prompt, i.tokens]) for i in instances]
    tokens_BL = _pad(tokens, pad_id, torch.long)
    # The decoder of an encoder-decoder student begins with a start token, so that position t predicts token t. The last
    # token of an instance is no input of either.
    shift = 0 if encoder_decoder else 1
    width = tokens_BL.shape[1] - shift
    assert encoder_decoder or all(len(i.prompt) for i in instances), "nothing predicts the first token"
    packed, first_B = None, width * np.arange(len(instances))
    if packing is not None:
        assert not encoder_decoder
        tried, first_packed_B = pack([len(row) - 1 for row in tokens], width, packing)
        if packing == "flat" or len(tried.places_RW) < len(instances):  # else no row is shared, and no mask is needed
            packed, first_B = tried, first_packed_B
    return Batch(
        ids=[instance.id for instance in instances],
        tokens_BL=tokens_BL,
        lengths_B=torch.tensor([len(row) for row in tokens]),
        where=_index(instances, tokens, first_B - shift),
        packed=packed,
        terms_B=torch.tensor([instance.term for instance in instances]),
        prompts_BP=_pad(prompts, pad_id, torch.long) if prompts is not None else None,
        prompt_lengths_B=torch.tensor([len(row) for row in prompts]) if prompts is not None else None,
        totals_K=torch.tensor(step.weights, dtype=torch.float64).to(torch.float32),
        targets=own.targets,
        contexts=own.contexts,
        references_B=torch.tensor([instance.reference or 0.0 for instance in instances]),
        pairs=count_pairs(instances),
    )


def _index(
    instances: Sequence[Instance], tokens: Sequence[NDArray[np.int64]], first_B: NDArray[np.int64]
) -> TargetIndex:
    """The index of the targets, given all tokens of every row and the place that predicts its first one."""
    chosen = [np.flatnonzero(instance.weights) for instance in instances]
    columns = [len(row) - len(i.tokens) + own for i, row, own in zip(instances, tokens, chosen, strict=True)]
    return TargetIndex(
        places_N=torch.from_numpy(np.concatenate([at + own for at, own in zip(first_B, columns, strict=True)])),
        ids_N=torch.from_numpy(np.concatenate([row[own] for row, own in zip(tokens, columns, strict=True)])),
        rows_N=torch.from_numpy(np.repeat(np.arange(len(instances)), [len(own) for own in chosen])),
        weights_N=torch.from_numpy(np.concatenate([i.weights[own] for i, own in zip(instances, chosen, strict=True)])),
    )


def count_pairs(instances: Sequence[Instance]) -> int:
    """Number of preference pairs; each has two instances with a reference."""
    return sum(instance.reference is not None for instance in instances) // 2


def count(instances: Sequence[Instance], terms: int = 1) -> Counts:
    """Counts tokens and loss weights."""
    weights = [0.0] * terms
    targets = contexts = 0
    for instance in instances:
        weights[instance.term] += float(instance.weights.sum(dtype=np.float64))
        chosen = int(np.count_nonzero(instance.weights))
        targets += chosen
        contexts += instance_length(instance) - chosen
    return Counts(weights, targets, contexts)


def count_sizes(sizes: Sizes, terms: int = 1) -> Counts:
    """Counts tokens and loss weights of instances that are not made, in the order and to the bit of :func:`count`."""
    targets = int(sizes["targets"].sum())
    return Counts(
        weights=np.bincount(sizes["term"], sizes["weight"], minlength=terms).tolist(),
        targets=targets,
        contexts=int(sizes["prompt"].sum() + sizes["tokens"].sum()) - targets,
    )


class PlannedBatches(Dataset[Batch]):
    """The micro-batches of one rank in one epoch; their instances are made on demand in any worker.

    Args:
        instances: All instances of the epoch, on every rank.
        plan: The epoch's plan.
        rank: This process.
        pad_id: Padding id.
        encoder_decoder: Whether prompts go to an encoder.
        terms: Number of loss terms.
        packing: How instances share rows.
    """

    def __init__(
        self,
        instances: EpochInstances,
        plan: Plan,
        *,
        rank: int,
        pad_id: int,
        encoder_decoder: bool,
        terms: int,
        packing: Layout | None = None,
    ) -> None:
        self.instances, self.plan, self.rank = instances, plan, rank
        self.pad_id, self.encoder_decoder, self.terms, self.packing = pad_id, encoder_decoder, terms, packing
        self._rows = plan.for_rank(rank)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        step, row = self._rows[index]
        rows = self.plan.steps[step]
        everyone = [i for ranks in rows for micro in ranks for i in micro]
        mine = self.instances.take(rows[row][self.rank])
        if not mine:  # the rank must take part in the step's collectives: it gets any instance, with weight 0
            mine = [replace(one, weights=np.zeros_like(one.weights)) for one in self.instances.take(everyone[:1])]
        sizes = self.instances.sizes
        batch = collate(
            mine,
            pad_id=self.pad_id,
            encoder_decoder=self.encoder_decoder,
            terms=self.terms,
            step=count_sizes(sizes[everyone], self.terms),
            packing=self.packing,
        )
        row_counts = count_sizes(sizes[[i for micro in rows[row] for i in micro]], self.terms)
        pairs = int(np.count_nonzero(sizes["pair"][everyone])) // 2
        return batch._replace(targets=row_counts.targets, contexts=row_counts.contexts, pairs=pairs)


class _From(Sampler[int]):
    """Yields all indices of a plan that follows ``offset`` other batches, which count for the length."""

    def __init__(self, count: int, offset: int) -> None:
        self.count, self.offset = count, offset

    def __len__(self) -> int:
        return self.offset + self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


def _only(items: list[Any]) -> Any:
    return items[0]


class ResumableLoader(DataLoader[Any]):
    """A loader of the micro-batches that are left of an epoch; its length is that of the full epoch.

    Args:
        batches: The batches that are left.
        offset: Number of batches before them.
        num_workers: Worker processes that build batches ahead.
    """

    def __init__(self, batches: PlannedBatches, offset: int = 0, num_workers: int = 0) -> None:
        super().__init__(
            batches,
            batch_size=1,
            sampler=_From(len(batches), offset),
            collate_fn=_only,
            **loader_workers(num_workers),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # a base seed from the global generator would differ after a resume
        )

    def state_dict(self) -> dict[str, int]:
        """Nothing: the data module saves the position. Lightning warns of loaders without this method."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing."""
