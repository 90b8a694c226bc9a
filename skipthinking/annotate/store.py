"""Annotations on disk and in checkpoints.

On disk: JSON lines with a fingerprint of data, settings and weights, written atomically, and computed again if damaged.
In checkpoints: compact arrays; 100,000 examples load in well under a second.
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

from skipthinking.files import write_lines
from skipthinking.ranks import broadcast, rank
from skipthinking.records import Encoded

__all__ = ["Column", "Journal", "digest_of", "digests", "fingerprint", "recalled", "remembered"]

_PARTS = "{}.{}.part"
_DIGEST = 8  # bytes
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per number
# Version, address and sum of frozen weights; a changed weight has another version, or another address.
_SUMS: Any = WeakTensorKeyDictionary()


class Column(Mapping[str, NDArray[Any]]):
    """One-dimensional arrays by example id, stored end to end.

    Args:
        ids: Example ids.
        lengths: Length of every array, shape (N,).
        flat: All arrays end to end.

    >>> column = Column.of({"a": np.array([1, 2]), "b": np.array([], dtype=np.int64)})
    >>> Column.from_state(column.state())["a"]
    array([1, 2])
    """

    def __init__(self, ids: Sequence[str], lengths: NDArray[np.int64], flat: NDArray[Any]) -> None:
        self.ids, self.lengths, self.flat = list(ids), lengths, flat
        self._place = {id: place for place, id in enumerate(self.ids)}
        self._ends = np.cumsum(lengths)

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Column:
        """The column of the given arrays, which have the same type."""
        values = list(arrays.values())
        flat = np.concatenate(values) if values else np.empty(0)
        return cls(list(arrays), np.array([len(value) for value in values], dtype=np.int64), flat)

    def __getitem__(self, id: str) -> NDArray[Any]:
        place = self._place[id]
        end = int(self._ends[place])
        return self.flat[end - int(self.lengths[place]) : end]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """Hash of all ids and values."""
        hashed = hashlib.blake2b("\0".join(self.ids).encode(), digest_size=16)
        hashed.update(np.ascontiguousarray(self.lengths).tobytes())
        hashed.update(np.ascontiguousarray(self.flat).tobytes())
        return hashed.hexdigest()

    def state(self) -> dict[str, Any]:
        """The column as tensors."""
        return {
            "ids": self.pack_ids(self.ids),
            "lengths": torch.from_numpy(self.lengths),
            "flat": torch.from_numpy(np.ascontiguousarray(self.flat)),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Column:
        """The column of a :meth:`state`."""
        return cls(cls.unpack_ids(state["ids"]), state["lengths"].numpy(), state["flat"].numpy())

    @staticmethod
    def pack_ids(ids: Sequence[str]) -> torch.Tensor:
        """Ids as one tensor, because torch's safe unpickler takes a second for a list of 100,000 strings."""
        return torch.frombuffer(bytearray(json.dumps(list(ids)).encode()), dtype=torch.uint8)

    @staticmethod
    def unpack_ids(packed: torch.Tensor) -> list[str]:
        """The inverse of :meth:`pack_ids`."""
        ids: list[str] = json.loads(packed.numpy().tobytes())
        return ids


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


def remembered(path: Path, key: str, make: Callable[[], dict[str, Any]], dtype: str | None = None) -> dict[str, Any]:
    """Reads annotations from a file if it is undamaged and has this key; else computes them and writes the file.

    All ranks call it together; rank 0 reads and writes.

    Args:
        path: JSON lines: a header ``{"key": ..., "checksum": ...}``, then ``{"id": ..., "value": ...}`` per example.
        key: See :func:`fingerprint`.
        make: Computes the annotations: by example id, values of lists, numbers and strings, or arrays.
        dtype: Type of arrays; by default values are as JSON has them.
    """
    known = broadcast(_read(path, key, dtype) if rank() == 0 else None)
    if known is not None:
        return known
    values = make()
    if rank() == 0:
        head = json.dumps({"key": key, "checksum": _checksum(_lines(values))}) + "\n"
        write_lines(path, chain([head], _lines(values)))  # made a second time: together they may fill the memory
        for part in path.parent.glob(_PARTS.format(path.stem, "*")):  # only now: a full disk must not lose a search
            part.unlink()
    return values


class Journal:
    """Partial results of an annotator, from which a killed run continues. :func:`remembered` deletes it at the end.

    Each process writes a separate file next to the annotations and reads the files of all processes, so that the number
    of processes may change.

    Args:
        path: File of the annotations.
        key: Key of the annotations, see :func:`fingerprint`.
        rank: Rank of this process.
    """

    def __init__(self, path: Path, key: str, rank: int = 0) -> None:
        self.path, self.key = path.with_name(_PARTS.format(path.stem, rank)), key
        self.found: dict[str, Any] = {}
        for part in path.parent.glob(_PARTS.format(path.stem, "*")):
            self.found |= {row["id"]: row["value"] for row in _rows(part) if row.get("key") == key}

    def keep(self, values: Mapping[str, Any]) -> None:
        """Appends values by example id to the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [_sealed({"key": self.key, "id": id, "value": value}) for id, value in values.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *rows, ""]))  # starts a new line, because the last one may be incomplete


def recalled(journal: Journal | None, block: Sequence[Any], search: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Results of a block of rows, which have ids: from the journal if it has all of them, else from the search."""
    known = journal.found if journal else {}
    if all(row.id in known for row in block):
        return {row.id: known[row.id] for row in block}
    result = search(block)
    if journal:
        journal.keep(result)
    return result


def _sealed(row: dict[str, Any]) -> str:
    """A line of the journal: checksum, space, JSON."""
    text = json.dumps(row)
    return f"{_checksum([text])} {text}"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        checksum, _, text = line.partition(" ")
        if text and checksum == _checksum([text]):  # else incomplete after a kill, or damaged
            yield json.loads(text)


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for id, value in values.items():
        yield json.dumps({"id": id, "value": value.tolist() if isinstance(value, np.ndarray) else value}) + "\n"


def _read(path: Path, key: str, dtype: str | None) -> dict[str, Any] | None:
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
                values[row["id"]] = row["value"] if dtype is None else np.asarray(row["value"], dtype=dtype)
        return values if hashed.hexdigest() == header["checksum"] else None
    except (OSError, StopIteration, ValueError, KeyError, TypeError):  # absent or damaged: computed again
        return None


def _checksum(texts: Iterable[str]) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for text in texts:
        hashed.update(text.encode())
    return hashed.hexdigest()
