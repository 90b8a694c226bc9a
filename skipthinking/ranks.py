"""Work distribution among processes: rank, collectives for Python objects, and groups of rows of similar length."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import torch.distributed

__all__ = ["broadcast", "by_length", "gather", "rank", "ranks", "shared_by_length", "shares_files", "smallest", "total"]

_MANY = 8  # groups per rank, of which the largest share differs little from the mean without more ado


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


def rank() -> int:
    """Rank of this process, from 0."""
    return torch.distributed.get_rank() if _several() else 0


def ranks() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if _several() else 1


def gather(part: dict[str, Any]) -> dict[str, Any]:
    """Merges the dictionaries of all ranks, on every rank."""
    if not _several():
        return part
    parts: list[dict[str, Any]] = [{} for _ in range(ranks())]
    torch.distributed.all_gather_object(parts, part)
    return {id: value for rank_part in parts for id, value in rank_part.items()}


def smallest(number: int) -> int:
    """The smallest number of all ranks, on every rank."""
    return min(gather({str(rank()): number}).values())


def total(number: int) -> int:
    """The sum of a number over all ranks, on every rank."""
    return sum(gather({str(rank()): number}).values())


def shares_files(folder: Path) -> bool:
    """Whether all ranks see a file that rank 0 writes into a folder, on every rank."""
    probe = folder / f".seen-by-all-{broadcast(uuid4().hex)}"
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    broadcast(None)  # the file is there
    seen = smallest(probe.is_file())
    if rank() == 0:
        probe.unlink()
    return bool(seen)


def broadcast(value: Any) -> Any:
    """The value of rank 0, on every rank."""
    values = [value]
    if _several():
        torch.distributed.broadcast_object_list(values)
    return values[0]


def by_length(rows: Sequence[T], length: Callable[[T], int], tokens: int) -> list[list[T]]:
    """Groups rows of similar length, the longest first.

    Args:
        rows: Records with an id, which breaks ties.
        length: Returns the number of tokens of a row.
        tokens: Maximum number of padded tokens per group; a longer row forms a separate group.
    """
    groups: list[list[T]] = []
    for row in sorted(rows, key=lambda row: (-length(row), row.id)):
        if not groups or length(groups[-1][0]) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def shared_by_length(rows: Sequence[T], length: Callable[[T], int], tokens: int, ranks: int) -> list[list[list[T]]]:
    """Groups rows of similar length so that every rank has groups of as many padded tokens together.

    Few groups, which would leave ranks without work, become as many smaller ones as a multiple of the number of ranks.
    One rank has the groups of :func:`by_length`.

    Args:
        rows: As for :func:`by_length`.
        length: As for :func:`by_length`.
        tokens: As for :func:`by_length`.
        ranks: Number of ranks.

    Returns:
        The groups of every rank, the longest rows first.
    """
    groups = by_length(rows, length, tokens)
    tries = [groups]
    if ranks > 1 and rows and len(groups) < _MANY * ranks:
        each = -(-len(groups) // ranks)
        limits = range(length(groups[0][0]), tokens)
        for goal in range(each * ranks, (each + 3) * ranks, ranks):
            # The smallest limit that needs no more groups: these are of equal size, but for the length of a row.
            place = bisect_left(limits, True, key=lambda limit: len(by_length(rows, length, limit)) <= goal)
            tries.append(by_length(rows, length, limits[place]) if place < len(limits) else groups)
    spread = [_dealt(groups, length, ranks) for groups in tries]
    return min(spread, key=lambda shares: max(sum(_padded(group, length) for group in share) for share in shares))


def _dealt(groups: list[list[T]], length: Callable[[T], int], ranks: int) -> list[list[list[T]]]:
    """Shares groups among ranks: the largest first, each to the rank with the fewest tokens so far."""
    shares: list[list[list[T]]] = [[] for _ in range(ranks)]
    heap = [(0, rank) for rank in range(ranks)]
    for group in sorted(groups, key=lambda group: -_padded(group, length)):
        tokens, rank = heap[0]
        shares[rank].append(group)
        heapq.heapreplace(heap, (tokens + _padded(group, length), rank))
    return [sorted(share, key=lambda group: -length(group[0])) for share in shares]


def _padded(group: Sequence[T], length: Callable[[T], int]) -> int:
    return len(group) * length(group[0])


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
