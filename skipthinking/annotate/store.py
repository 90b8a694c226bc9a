"""Annotations on disk, under the fingerprint of what they depend on.

They are written atomically, and computed again if damaged: JSON lines, or a mapped file for more than 64 MB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.columns import Column
from skipthinking.annotate.journal import values_path
from skipthinking.files import write_lines
from skipthinking.ranks import broadcast, rank, smallest

__all__ = ["remembered"]


def remembered(path: Path, key: str, dtype: str, rows: int, make: Callable[[], Column]) -> tuple[Column, bool]:
    """Reads annotations from a file if it is undamaged and has this key; else computes them and writes the file.

    All ranks call it together; rank 0 writes. Values of more than 64 MB have a file of their own, ``NAME.KEY.values``,
    which all ranks map, and which stays when there are new values, because checkpoints refer to it.

    Args:
        path: JSON lines: a header ``{"key": ..., "checksum": ...}``, then ``{"id": ..., "value": ...}`` per example.
        key: See :func:`skipthinking.annotate.fingerprints.fingerprint`.
        dtype: Numpy type of the values.
        rows: Number of examples.
        make: Computes the annotations; large ones map the file.

    Returns:
        The annotations, and whether they were read.
    """
    large = values_path(path, key)
    # Only rank 0 asks for the file: NFS remembers for a while that there was none.
    if broadcast(large.is_file() if rank() == 0 else None):
        column = Column.mapped(large, key, dtype)
        if smallest(len(column) == rows):
            return column, True
    known = broadcast(_read(path, key, dtype) if rank() == 0 else None)
    if known is not None:
        return Column.of(known), True
    column = make()
    if rank() == 0 and column.file is None:
        head = json.dumps({"key": key, "checksum": _checksum(_lines(column))}) + "\n"
        write_lines(path, chain([head], _lines(column)))  # made a second time: together they may fill the memory
    return column, False


def _lines(values: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    for id, value in values.items():
        yield json.dumps({"id": id, "value": value.tolist()}) + "\n"


def _read(path: Path, key: str, dtype: str) -> dict[str, NDArray[Any]] | None:
    hashed = hashlib.blake2b(digest_size=16)
    values = {}
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            header = json.loads(next(lines))
            if header["key"] != key:
                return None
            for line in lines:
                hashed.update(line.encode())
                row = json.loads(line)
                values[row["id"]] = np.asarray(row["value"], dtype=dtype)
        return values if hashed.hexdigest() == header["checksum"] else None
    except (OSError, StopIteration, ValueError, KeyError, TypeError):  # absent or damaged: computed again
        return None


def _checksum(texts: Iterable[str]) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for text in texts:
        hashed.update(text.encode())
    return hashed.hexdigest()
