"""Assignment of instances to micro-batches: a pure function of (lengths, seed, epoch), identical on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import UserError

__all__ = ["Plan", "Planning", "padding_share", "plan_epoch", "waiting_share"]

_WINDOW = 64  # number of steps per window that is sorted by length; larger windows pad less, but shuffle less


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The micro-batches of an epoch.

    Attributes:
        steps: ``steps[s][a][r]`` are the instance indices of rank r's a-th micro-batch in optimizer step s. An empty
            list is a micro-batch without instances, which the rank runs with zero weights.
    """

    steps: list[list[list[list[int]]]]

    def for_rank(self, rank: int) -> list[tuple[int, int]]:
        """The (step, accumulation index) of every micro-batch of a rank, in order; the same for all ranks."""
        return [(s, a) for s, rows in enumerate(self.steps) for a in range(len(rows))]

    def spread(self, size: int) -> Plan:
        """Converts a plan of groups to a plan of instances: group g has instances size * g to size * (g + 1) - 1.

        >>> Plan(steps=[[[[1, 0]]]]).spread(2).steps
        [[[[2, 3, 0, 1]]]]
        """
        steps = [
            [[[size * g + i for g in micro for i in range(size)] for micro in row] for row in step]
            for step in self.steps
        ]
        return Plan(steps=steps)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Plan:
        """Converts a plan of positions in ``indices`` to a plan of those indices.

        >>> Plan(steps=[[[[1, 0]]]]).select([5, 7]).steps
        [[[[7, 5]]]]
        """
        steps = [[[[int(indices[i]) for i in micro] for micro in row] for row in step] for step in self.steps]
        return Plan(steps=steps)

    def rows(self) -> int:
        """Number of micro-batches of every rank."""
        return sum(map(len, self.steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class Planning:
    """The settings that decide a plan, besides the lengths and the epoch; see :func:`plan_epoch`."""

    seed: int
    batch_size: int
    batch_tokens: int | None = None
    ranks: int = 1
    accumulate: int = 1
    bucket: bool = True

    def plan(self, lengths: NDArray[np.int64], epoch: int) -> Plan:
        """The plan of an epoch."""
        return plan_epoch(lengths, epoch=epoch, **asdict(self))

    def same_steps(self, other: Planning) -> bool:
        """Whether both settings put the same instances into every optimizer step, if not into every micro-batch."""
        if self.batch_tokens is not None or other.batch_tokens is not None:
            return self == other
        mine, theirs = (each.batch_size * each.ranks * each.accumulate for each in (self, other))
        return (self.seed, self.bucket, mine) == (other.seed, other.bucket, theirs)


def plan_epoch(
    lengths: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    batch_tokens: int | None = None,
    ranks: int = 1,
    accumulate: int = 1,
    bucket: bool = True,
) -> Plan:
    """Assigns every instance to exactly one micro-batch.

    Without ``batch_tokens``, the instances of an optimizer step depend only on ``batch_size * ranks * accumulate``, so
    that one process with 2B, two processes with B, and two accumulated micro-batches of B take the same step. Lengths
    are bucketed: within a window of steps, instances are sorted by length before they are split into steps, and then
    the steps are shuffled.

    Args:
        lengths: Token length of every instance, shape (N,).
        seed: Seed of the order.
        epoch: Epoch, part of the seed.
        batch_size: Instances per micro-batch; with ``batch_tokens``, their maximum number.
        batch_tokens: Maximum number of padded tokens per micro-batch; a longer instance gets a separate micro-batch.
        ranks: Number of processes.
        accumulate: Micro-batches per optimizer step and rank.
        bucket: Whether to sort by length.
    """
    if batch_size < 1 or (batch_tokens is not None and batch_tokens < 1):
        raise UserError(
            f"Expected a batch of at least 1, got batch_size={batch_size}, batch_tokens={batch_tokens}. Raise each to "
            "1 or more."
        )
    rng = np.random.default_rng([seed & 0xFFFFFFFF, epoch])
    order = rng.permutation(len(lengths))
    per_step = batch_size * ranks * accumulate
    window = per_step * _WINDOW
    full: list[list[list[list[int]]]] = []
    rest: list[list[list[int]]] = []
    for at in range(0, len(order), window):
        part = order[at : at + window]
        if bucket:
            part = part[np.argsort(lengths[part], kind="stable")]
        if batch_tokens is None:
            groups = [part[i : i + per_step].tolist() for i in range(0, len(part), per_step)]
            full.extend(_split(group, batch_size, ranks) for group in groups if len(group) == per_step)
            rest.extend(row for group in groups if len(group) < per_step for row in _split(group, batch_size, ranks))
        else:
            dealt = _deal(_fill(part, lengths, batch_size, batch_tokens), ranks, accumulate)
            full.extend(step for step in dealt if len(step) == accumulate)
            rest.extend(row for step in dealt if len(step) < accumulate for row in step)
    # Incomplete steps come last: Lightning counts micro-batches, so after a step with fewer than ``accumulate`` rows it
    # would add rows of the following step.
    rng.shuffle(full)
    return Plan(steps=full + [rest[at : at + accumulate] for at in range(0, len(rest), accumulate)])


def _split(group: list[int], batch_size: int, ranks: int) -> list[list[list[int]]]:
    """Splits a step's instances into rows with one micro-batch per rank, with sizes as equal as possible."""
    rows = -(-len(group) // (batch_size * ranks))
    parts = [part.tolist() for part in np.array_split(np.asarray(group), rows * ranks)]
    return [parts[row * ranks : (row + 1) * ranks] for row in range(rows)]


def _fill(part: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int, batch_tokens: int) -> list[list[int]]:
    """Fills micro-batches up to the token budget, in the order given."""
    batches: list[list[int]] = []
    longest = 0
    for index in part.tolist():
        longest = max(longest, int(lengths[index])) if batches else int(lengths[index])
        if not batches or len(batches[-1]) == batch_size or longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = int(lengths[index])
        batches[-1].append(index)
    return batches


def _deal(batches: list[list[int]], ranks: int, accumulate: int) -> list[list[list[list[int]]]]:
    """Distributes micro-batches to ranks and optimizer steps; the last row may contain empty ones."""
    rows = [batches[at : at + ranks] for at in range(0, len(batches), ranks)]
    rows[-1] = rows[-1] + [[]] * (ranks - len(rows[-1]))
    return [rows[at : at + accumulate] for at in range(0, len(rows), accumulate)]


def padding_share(batches: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> float:
    """Share of the positions in padded micro-batches that hold no token.

    >>> padding_share([[0, 1]], np.array([4, 2]))
    0.25
    """
    padded = sum(len(batch) * int(lengths[list(batch)].max()) for batch in batches if batch)
    used = sum(int(lengths[list(batch)].sum()) for batch in batches if batch)
    return 1 - used / padded if padded else 0.0


def waiting_share(plan: Plan, lengths: NDArray[np.int64]) -> float:
    """Share of the processes' time that the slowest of each row makes the others wait, if time is padded tokens.

    >>> waiting_share(Plan(steps=[[[[0], [1]]]]), np.array([4, 2]))
    0.25
    """
    rows = [[len(own) * int(lengths[own].max()) if own else 0 for own in row] for step in plan.steps for row in step]
    slowest = sum(len(row) * max(row) for row in rows)
    return 1 - sum(map(sum, rows)) / slowest if slowest else 0.0
