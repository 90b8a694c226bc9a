"""Encoded values by example id: in memory, or in a memory-mapped file that all processes share.

A file of values is a sequence of frames, the format of journals as well. A frame holds the values of some examples: a
line of JSON, padded so that the numbers after it are aligned, the numbers end to end, and a digest of both::

    {"key": "5f0c...", "ids": ["a", "b"], "lengths": [2, 1], "dtype": "float32"}\n
    <12 bytes><16 bytes>
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skipthinking.files import replacing
from skipthinking.records import UserError

__all__ = ["Column", "append_frame", "frames", "is_large", "pack_ids", "unpack_ids"]

_IN_MEMORY = 2**26  # bytes: values of more, together, are kept in a file, and checkpoints refer to it
_ALIGNED = 8  # bytes, of the largest number
_DIGEST = 16  # bytes
_ROWS = 256  # examples per frame of a file of values
_READ = 2**20  # bytes that are hashed at once


def is_large(size: int) -> bool:
    """Whether values of this many bytes are kept in a file."""
    return size > _IN_MEMORY


def pack_ids(ids: Sequence[str]) -> torch.Tensor:
    """Ids as one tensor, because torch's safe unpickler takes a second for a list of 100,000 strings."""
    return torch.frombuffer(bytearray(json.dumps(list(ids)).encode()), dtype=torch.uint8)


def unpack_ids(packed: torch.Tensor) -> list[str]:
    """The inverse of :func:`pack_ids`."""
    ids: list[str] = json.loads(packed.numpy().tobytes())
    return ids


class Frame(NamedTuple):
    """Values of some examples in a file.

    Attributes:
        key: Key of the values.
        dtype: Their numpy type.
        ids: Example ids.
        lengths: Number of numbers of every value.
        start: Byte of the file at which the numbers begin.
        end: Byte at which the frame ends.
        undamaged: Whether its bytes are those that were written.
    """

    key: str
    dtype: str
    ids: list[str]
    lengths: list[int]
    start: int
    end: int = 0
    undamaged: bool = False


def append_frame(file: BinaryIO, key: str, arrays: Mapping[str, NDArray[Any]], dtype: str) -> None:
    """Writes values, one-dimensional arrays by example id, at the end of a file.

    Args:
        file: The file, opened for writing or appending.
        key: Key of the values.
        arrays: The values.
        dtype: Their numpy type.
    """
    values = [np.ascontiguousarray(array, dtype=dtype) for array in arrays.values()]
    head = json.dumps({"key": key, "ids": list(arrays), "lengths": list(map(len, values)), "dtype": dtype}).encode()
    head += b" " * (-(file.tell() + len(head) + 1) % _ALIGNED) + b"\n"
    hashed = hashlib.blake2b(head, digest_size=_DIGEST)
    file.write(head)
    for value in values:
        hashed.update(value.data)
        file.write(value.data)
    file.write(hashed.digest())


def frames(path: Path) -> Iterator[Frame]:
    """The complete frames of a file, in order; what follows them was left incomplete by a kill."""
    size, end = path.stat().st_size, 0
    with path.open("rb") as file:
        while end < size:
            head = file.readline()
            try:
                header = json.loads(head)
                frame = Frame(header["key"], header["dtype"], header["ids"], header["lengths"], end + len(head))
                numbers = np.dtype(frame.dtype).itemsize * sum(frame.lengths)
            except (ValueError, KeyError, TypeError):
                return
            end = frame.start + numbers + _DIGEST
            if end > size:
                return
            hashed = hashlib.blake2b(head, digest_size=_DIGEST)
            for at in range(0, numbers, _READ):
                hashed.update(file.read(min(_READ, numbers - at)))
            yield frame._replace(end=end, undamaged=file.read(_DIGEST) == hashed.digest())


class Column(Mapping[str, NDArray[Any]]):
    """One-dimensional arrays by example id, in one array of numbers.

    Args:
        ids: Example ids.
        lengths: Length of every value, shape (N,).
        flat: All numbers.
        starts: Where each value begins in ``flat``, shape (N,); by default they are end to end.
        file: The file that ``flat`` maps, and its key; None for values in memory.

    >>> column = Column.of({"a": np.array([1, 2]), "b": np.array([], dtype=np.int64)})
    >>> Column.from_state(column.state())["a"]
    array([1, 2])
    """

    def __init__(
        self,
        ids: Sequence[str],
        lengths: NDArray[np.int64],
        flat: NDArray[Any],
        starts: NDArray[np.int64] | None = None,
        file: tuple[Path, str] | None = None,
    ) -> None:
        self.ids, self.lengths, self.flat, self.file = list(ids), lengths, flat, file
        self._starts = np.cumsum(lengths) - lengths if starts is None else starts
        self._place = {id: place for place, id in enumerate(self.ids)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Column:
        """The column of the given arrays, which have the same type."""
        values = list(arrays.values())
        flat = np.concatenate(values) if values else np.empty(0)
        return cls(list(arrays), np.array([len(value) for value in values], dtype=np.int64), flat)

    @staticmethod
    def write(path: Path, key: str, arrays: Mapping[str, NDArray[Any]], dtype: str) -> None:
        """Writes values to a file that :meth:`mapped` reads; only some are in memory at once."""
        ids = iter(arrays)
        with replacing(path) as partial, partial.open("wb") as file:
            while some := list(islice(ids, _ROWS)):
                append_frame(file, key, {id: arrays[id] for id in some}, dtype)

    @classmethod
    def mapped(cls, path: Path, key: str, dtype: str) -> Column:
        """The undamaged values of a key in a file; the last one if an example has several."""
        parts = [part for part in frames(path) if part.undamaged and (part.key, part.dtype) == (key, dtype)]
        size = np.dtype(dtype).itemsize
        flat = np.memmap(path, dtype=dtype, mode="r", shape=(path.stat().st_size // size,)) if parts else np.empty(0)
        lengths = np.array([length for part in parts for length in part.lengths], dtype=np.int64)
        starts = np.concatenate(
            [np.empty(0, np.int64), *(part.start // size + np.cumsum([0, *part.lengths[:-1]]) for part in parts)]
        )
        return cls([id for part in parts for id in part.ids], lengths, flat, starts, (path, key))

    def __getitem__(self, id: str) -> NDArray[Any]:
        place = self._place[id]
        start = int(self._starts[place])
        return np.asarray(self.flat[start : start + int(self.lengths[place])])

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    @cached_property
    def digest(self) -> str:
        """Hash of all ids and values."""
        hashed = hashlib.blake2b("\0".join(self.ids).encode(), digest_size=16)
        hashed.update(np.ascontiguousarray(self.lengths).tobytes())
        for value in self.values():
            hashed.update(np.ascontiguousarray(value).data)
        return hashed.hexdigest()

    def state(self) -> dict[str, Any]:
        """The column as tensors; for a file, what :meth:`from_state` needs to find it."""
        if self.file is not None:
            path, key = self.file
            folder = str(path.parent.absolute())
            return {"file": path.name, "folder": folder, "key": key, "dtype": self.flat.dtype.name, "count": len(self)}
        return {
            "ids": pack_ids(self.ids),
            "lengths": torch.from_numpy(self.lengths),
            "flat": torch.from_numpy(np.ascontiguousarray(self.flat)),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], folder: Path | None = None) -> Column:
        """The column of a :meth:`state`.

        Args:
            state: The state.
            folder: Where its file may be; else it is where it was written.

        Raises:
            UserError: There is no such file, or it is damaged.
        """
        if "file" not in state:
            return cls(unpack_ids(state["ids"]), state["lengths"].numpy(), state["flat"].numpy())
        paths = [Path(place, state["file"]) for place in (folder, state["folder"]) if place is not None]
        for path in filter(Path.is_file, paths):
            column = cls.mapped(path, state["key"], state["dtype"])
            if len(column) == state["count"]:
                return column
        raise UserError(
            f"Expected the annotations that the checkpoint refers to, got no undamaged file {paths[0]}. Copy it from "
            "the annotations folder of the run that wrote the checkpoint, or start without that checkpoint."
        )
