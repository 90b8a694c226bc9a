"""Examples by place and by id, whether they are in memory or in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Encoded, Lazy

__all__ = ["ById", "Joined", "Made", "Rows"]

T = TypeVar("T")


class Rows(Lazy[Encoded]):
    """Encoded examples, or some of them; those in files are made when they are asked for.

    Args:
        rows: All examples.
        places: The places that belong to the sequence, in order; all by default.
    """

    def __init__(self, rows: Sequence[Encoded], places: Sequence[int] | None = None) -> None:
        self._rows = rows
        self._places = np.arange(len(rows)) if places is None else np.asarray(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> Encoded:
        """The example at a place."""
        return self._rows[int(self._places[place])]

    def select(self, places: Sequence[int]) -> Rows:
        """The examples at some places."""
        return Rows(self._rows, self._places[np.asarray(places, dtype=np.int64)].tolist())

    @cached_property
    def ids(self) -> list[str]:
        """Id of every example."""
        known: list[str] | None = getattr(self._rows, "ids", None)  # of examples in files, without the examples
        return [row.id for row in self] if known is None else [known[place] for place in self._places.tolist()]

    @property
    def digests(self) -> NDArray[np.uint8] | None:
        """Digests of examples in files, shape (N, 8); None for examples in memory."""
        known: NDArray[np.uint8] | None = getattr(self._rows, "digests", None)
        return None if known is None else known[self._places]


class ById(Mapping[str, T], Generic[T]):
    """Values of examples by id, each made from its example when it is asked for.

    Args:
        rows: The examples.
        make: Makes the value of an example.
    """

    def __init__(self, rows: Sequence[Encoded], make: Callable[[Encoded], T]) -> None:
        self._rows = rows if isinstance(rows, Rows) else Rows(rows)
        self._make = make

    @cached_property
    def _place(self) -> dict[str, int]:
        return {id: place for place, id in enumerate(self._rows.ids)}

    def __getitem__(self, id: str) -> T:
        return self._make(self._rows[self._place[id]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._rows)


class Made(Lazy[T]):
    """Values of examples, in their order, each made from its example when it is asked for.

    Args:
        rows: The examples.
        make: Makes the value of an example.
    """

    def __init__(self, rows: Sequence[Encoded], make: Callable[[Encoded], T]) -> None:
        self._rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, place: int) -> T:
        """The value of the example at a place."""
        return self._make(self._rows[place])


class Joined(Lazy[Encoded]):
    """Examples of a sequence, which may be in files, and others after them.

    Args:
        first: The examples of the sequence.
        others: The others.
    """

    def __init__(self, first: Sequence[Encoded], others: Sequence[Encoded]) -> None:
        self._first, self._others = first, others

    def __len__(self) -> int:
        return len(self._first) + len(self._others)

    def at(self, place: int) -> Encoded:
        """The example at a place."""
        after = place - len(self._first)
        return self._first[place] if after < 0 else self._others[after]
