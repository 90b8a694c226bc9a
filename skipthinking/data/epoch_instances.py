"""The instances of an epoch: their sizes in one array, and the instances themselves only when a batch needs them.

Plans and normalizers depend on sizes alone. So an epoch of N instances takes 29 N bytes in every process, whatever the
length of its rationales: 6 MB for 220,000 of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from skipthinking.ranks import gather, rank, ranks
from skipthinking.records import Instance, UserError

__all__ = ["SIZES", "EpochInstances", "Survey", "contexts_needed", "loader_workers", "sizes", "survey"]

SIZES = np.dtype([
    ("example", "i4"),  # index of the example
    ("place", "i2"),  # place among the instances of the example
    ("prompt", "i4"),  # prompt tokens
    ("tokens", "i4"),  # completion tokens
    ("targets", "i4"),  # target tokens
    ("weight", "f8"),  # sum of the loss weights
    ("term", "i2"),  # loss term
    ("pair", "?"),  # whether it is one side of a preference pair
])  # fmt: skip
"""One record per instance: all that plans and losses need to know before the instance is made."""

Sizes = NDArray[Any]
Make = Callable[[int], Sequence[Instance] | None]

_BLOCK = 512  # examples per item of a survey: a second of work at most, so that processes share it evenly


def sizes(example: int, instances: Sequence[Instance]) -> Sizes:
    """The sizes of all instances of an example, as :data:`SIZES`."""
    return np.array(
        [
            (
                example, place, len(row.prompt), len(row.tokens), np.count_nonzero(row.weights),
                row.weights.sum(dtype=np.float64), row.term, row.reference is not None,
            )
            for place, row in enumerate(instances)
        ],
        dtype=SIZES,
    )  # fmt: skip


def contexts_needed(sizes: Sizes, *, encoder_decoder: bool) -> NDArray[np.int64]:
    """Context length that instances need: the sum of prompt and completion for causal students, else the maximum."""
    sides = sizes["prompt"].astype(np.int64), sizes["tokens"].astype(np.int64)
    return np.maximum(*sides) if encoder_decoder else np.add(*sides)


class EpochInstances:
    """The instances of an epoch, in the order of the examples; indexed by the plan.

    Args:
        make: Makes all instances of an example, by its index; a pure function, because each instance is made twice: to
            learn its size, and when its batch is due.
        ids: Id of every example.
        sizes: Sizes of the instances, as :data:`SIZES`; an example may have none, or only some of those it makes.
    """

    def __init__(self, make: Make, ids: Sequence[str], sizes: Sizes) -> None:
        self.make, self.ids, self.sizes = make, ids, sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, indices: Sequence[int]) -> list[Instance]:
        """Makes instances; an example with several of them makes them together."""
        rows = self.sizes[list(indices)]
        by_example = {example: self.make(example) for example in dict.fromkeys(rows["example"].tolist())}
        instances = []
        for example, place in zip(rows["example"].tolist(), rows["place"].tolist(), strict=True):
            of_example = by_example[example]
            assert of_example is not None
            instances.append(of_example[place])
        return instances

    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of every instance, prompt included, shape (N,)."""
        return contexts_needed(self.sizes, encoder_decoder=False)

    def identities(self) -> Iterator[tuple[str, int, int, int]]:
        """Example id, loss term, prompt tokens and completion tokens of every instance."""
        columns = (self.sizes[name].tolist() for name in ("example", "term", "prompt", "tokens"))
        for example, term, prompt, tokens in zip(*columns, strict=True):
            yield self.ids[example], term, prompt, tokens


class Survey(NamedTuple):
    """What is known of the instances of some examples.

    Attributes:
        sizes: Sizes of the instances that fit the student, as :data:`SIZES`.
        left_out: Index of every example of which an instance does not fit.
        needed: Context that these examples need in tokens; 0 where an annotator left the example out.
    """

    sizes: Sizes
    left_out: NDArray[np.int64]
    needed: NDArray[np.int64]


class _Surveys(Dataset["Survey | UserError"]):
    """Surveys of the blocks of examples that fall to this rank, made in any worker."""

    def __init__(self, make: Make, blocks: Sequence[range], limit: int, encoder_decoder: bool) -> None:
        self.make, self.blocks, self.limit, self.encoder_decoder = make, blocks, limit, encoder_decoder

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> Survey | UserError:
        blocks = [np.empty(0, SIZES)]
        left_out: list[int] = []
        needed: list[int] = []
        try:
            for example in self.blocks[index]:
                instances = self.make(example)
                if instances is None:
                    left_out.append(example)
                    needed.append(0)
                    continue
                rows = sizes(example, instances)
                contexts = contexts_needed(rows, encoder_decoder=self.encoder_decoder)
                if (contexts > self.limit).any():
                    left_out.append(example)
                    needed.append(int(contexts.max()))
                    # A preference pair needs both sides.
                    rows = rows[:0] if rows["pair"].any() else rows[contexts <= self.limit]
                blocks.append(rows)
        except UserError as error:  # a value: a worker would raise it with its traceback for a message
            return error
        return Survey(np.concatenate(blocks), np.array(left_out, dtype=np.int64), np.array(needed, dtype=np.int64))


def survey(make: Make, examples: int, *, limit: int, encoder_decoder: bool, workers: int = 0) -> Survey:
    """Learns the sizes of all instances, which are made one example after the other and not kept.

    Ranks share the examples, and all of them get the result.

    Args:
        make: See :class:`EpochInstances`; None for an example that is left out.
        examples: Number of examples.
        limit: Maximum number of tokens of an instance.
        encoder_decoder: Whether the limit applies to prompt and completion separately.
        workers: Number of processes of this rank that may help.

    Raises:
        UserError: From ``make``, on every rank.
    """
    blocks = [range(at, min(at + _BLOCK, examples)) for at in range(0, examples, _BLOCK)]
    mine = list(range(len(blocks)))[rank() :: ranks()]
    data = _Surveys(make, [blocks[block] for block in mine], limit, encoder_decoder)
    helpers = loader_workers(min(workers, len(mine) // 8))  # a process that starts costs as much as a block
    items = DataLoader(data, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator(), **helpers)
    bar = tqdm(items, desc="Planning", unit_scale=_BLOCK, unit=" examples", delay=3, leave=False, disable=rank() > 0)
    surveys = gather({str(block): part for block, part in zip(mine, bar, strict=True)})
    for part in surveys.values():
        if isinstance(part, UserError):
            raise part
    nothing = Survey(np.empty(0, SIZES), *np.empty((2, 0), dtype=np.int64))
    parts = [nothing, *(surveys[str(block)] for block in range(len(blocks)))]
    return Survey(*map(np.concatenate, zip(*parts, strict=True)))


def _as_it_is(item: Any) -> Any:
    return item


def loader_workers(workers: int) -> dict[str, Any]:
    """Settings of a DataLoader with worker processes that make instances.

    Workers are forked: they share the method, its annotations and the mapped examples with this process.
    """
    if not workers:
        return {}
    return {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": _begin_worker}


def _begin_worker(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else tokenizers print a warning in every forked process
