"""Partial results of annotators on disk, from which a killed run continues."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skipthinking.annotate.columns import Column, append_frame, frames

__all__ = ["Journal", "recalled", "values_path"]

_PARTS = "{}.{}.part"


def values_path(annotations: Path, key: str) -> Path:
    """The file for values that are too large for the file of the annotations."""
    return annotations.with_name(f"{annotations.stem}.{key}.values")


class Journal:
    """Partial results of an annotator, from which a killed run continues.

    Each process writes a separate file next to the annotations and reads the files of all processes, so that the number
    of processes may change. Values are read from the files when they are used.

    Args:
        path: File of the annotations.
        key: Key of the annotations, see :func:`skipthinking.annotate.fingerprints.fingerprint`.
        dtype: Numpy type of the values.
        rank: Rank of this process.
    """

    def __init__(self, path: Path, key: str, dtype: str, rank: int = 0) -> None:
        self.path = path.with_name(_PARTS.format(path.stem, rank))
        self._annotations, self.key, self._dtype = path, key, dtype
        self._ready = False
        self.values = self.read()

    @property
    def values_path(self) -> Path:
        """The file for values that are too large for ``path``."""
        return values_path(self._annotations, self.key)

    def read(self, ranks: int = 0) -> dict[str, NDArray[Any]]:
        """The values that all processes have kept, by example id.

        Args:
            ranks: Number of processes whose files are looked up by name: NFS may list a folder as it was.
        """
        listed = self._annotations.parent.glob(_PARTS.format(self._annotations.stem, "*"))
        named = (self._annotations.with_name(_PARTS.format(self._annotations.stem, rank)) for rank in range(ranks))
        parts = {*listed, *filter(Path.is_file, named)}
        columns = [Column.mapped(part, self.key, self._dtype) for part in sorted(parts)]
        return {id: column[id] for column in columns for id in column}

    def keep(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Appends values by example id to the file of this process."""
        if not self._ready and self.path.exists():  # a kill may have left an incomplete frame
            os.truncate(self.path, max((frame.end for frame in frames(self.path)), default=0))
        self._ready = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            append_frame(file, self.key, values, self._dtype)

    def remove(self) -> None:
        """Removes the files of all processes, once the annotations are complete."""
        for part in self._annotations.parent.glob(_PARTS.format(self._annotations.stem, "*")):
            part.unlink()


def recalled(
    journal: Journal | None,
    block: Sequence[Any],
    search: Callable[[Sequence[Any]], dict[str, NDArray[Any]]],
) -> dict[str, NDArray[Any]]:
    """Values of a block of rows, which have ids: from the journal where it has them, else from the search."""
    known = journal.values if journal else {}
    missing = [row for row in block if row.id not in known]
    new = search(missing) if missing else {}
    if journal and new:
        journal.keep(new)
    return {row.id: new[row.id] if row.id in new else known[row.id] for row in block}
