"""Work distribution among processes: rank, collectives for Python objects, and groups of rows of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch.distributed

__all__ = ["broadcast", "by_length", "gather", "rank", "ranks", "smallest"]


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


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
