"""Work that is shared by several processes: who does which rows, and how their parts are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch.distributed

__all__ = ["by_length", "gather"]


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


def gather(part: dict[str, Any]) -> dict[str, Any]:
    """Joins the parts of all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return part
    parts: list[dict[str, Any]] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, part)
    return {id: value for rank_part in parts for id, value in rank_part.items()}


def by_length(rows: Sequence[T], length: Callable[[T], int], tokens: int) -> list[list[T]]:
    """Groups rows of like length, the longest first.

    Args:
        rows: What has an id.
        length: Tokens of a row.
        tokens: Padded tokens per group at most; a single longer row gets a group of its own.
    """
    groups: list[list[T]] = []
    for row in sorted(rows, key=lambda row: (-length(row), row.id)):
        if not groups or length(groups[-1][0]) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(row)
    return groups
