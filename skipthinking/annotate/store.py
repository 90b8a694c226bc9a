"""Annotations on disk, under a fingerprint of data, settings and weights.

They are written atomically, and computed again if damaged: JSON lines, or a mapped file for more than 64 MB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.weak import WeakTensorKeyDictionary

from skipthinking.annotate.columns import Column
from skipthinking.annotate.journal import values_path
from skipthinking.files import write_lines
from skipthinking.ranks import broadcast, rank, smallest
from skipthinking.records import Encoded

__all__ = ["digest_of", "digests", "fingerprint", "remembered"]

_DIGEST = 8  # bytes
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per number
# Version, address and sum of frozen weights; a changed weight has another version, or another address.
_SUMS: Any = WeakTensorKeyDictionary()


def fingerprint(encoded: Sequence[Encoded], settings: Mapping[str, Any], student: torch.nn.Module) -> str:
    """Hash of the data, the settings and the student's weights.

    Of frozen weights, such as the base of an adapter, only sums are hashed, which are computed on their device and once
    per run, so that a large base costs little.
    """
    hashed = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    known: Any = getattr(encoded, "digests", None)  # of examples in files
    if known is not None:
        hashed.update("\0".join(encoded.ids).encode() + known.tobytes())  # type: ignore[attr-defined]
    for row in encoded if known is None else ():
        hashed.update(f"{row.id}\0{row.steps}\0{row.answer}".encode())
        hashed.update(row.tokens.tobytes())
        for prompt in row.prompts.values():
            hashed.update(prompt.tobytes())
    frozen = _sums([weight for weight in student.parameters() if not weight.requires_grad])
    for name, weight in student.named_parameters():
        hashed.update(name.encode())
        if weight.requires_grad:
            copied = weight.detach().to("cpu", copy=True).contiguous()  # a copy: numpy would pin the storage
            hashed.update(copied.view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(f"{next(frozen)}".encode())
    return hashed.hexdigest()


def _sums(weights: Sequence[torch.Tensor]) -> Iterator[int]:
    """Sum of the bits of every weight, read as integers: exact, so equal on every device and in any order."""
    fresh = []
    for weight in weights:
        known = _SUMS.get(weight)
        if known is None or known[:2] != (weight._version, weight.data_ptr()):
            fresh.append(weight)
    if fresh:
        bits = [weight.detach().view(_INTEGERS[weight.element_size()]) for weight in fresh]
        totals = torch.stack([part.sum(dtype=torch.int64).to(bits[0].device) for part in bits]).tolist()  # one copy
        for weight, total in zip(fresh, totals, strict=True):
            _SUMS[weight] = weight._version, weight.data_ptr(), total
    return iter([_SUMS[weight][2] for weight in weights])


def digest_of(row: Encoded) -> bytes:
    """Hash of an example's tokens and steps, 8 bytes."""
    hashed = hashlib.blake2b(f"{row.steps}".encode(), digest_size=_DIGEST)
    hashed.update(np.concatenate([*row.prompts.values(), row.tokens]).tobytes())
    return hashed.digest()


def digests(rows: Sequence[Encoded]) -> NDArray[np.uint8]:
    """Hash of each example's tokens and steps, shape (N, 8)."""
    known: NDArray[np.uint8] | None = getattr(rows, "digests", None)  # of examples in files
    if known is not None:
        return known
    return np.frombuffer(b"".join(map(digest_of, rows)), dtype=np.uint8).reshape(-1, _DIGEST).copy()


def remembered(path: Path, key: str, dtype: str, rows: int, make: Callable[[], Column]) -> tuple[Column, bool]:
    """Reads annotations from a file if it is undamaged and has this key; else computes them and writes the file.

    All ranks call it together; rank 0 writes. Values of more than 64 MB have a file of their own, ``NAME.KEY.values``,
    which all ranks map, and which stays when there are new values, because checkpoints refer to it.

    Args:
        path: JSON lines: a header ``{"key": ..., "checksum": ...}``, then ``{"id": ..., "value": ...}`` per example.
        key: See :func:`fingerprint`.
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
