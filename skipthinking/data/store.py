"""Examples and their tokens in memory-mapped Arrow files, for training sets that should not fill the memory.

A source with more than 64 million characters is kept in files, a smaller one in memory as lists, without any file. The
files are in the cache folder of ``datasets`` (``HF_DATASETS_CACHE``), in a folder per key. A key says all that the
content depends on, so another start with the same data and settings maps the files and reads no source. A folder is
renamed when it is complete, and only one process of a machine makes it: the others wait, then map the same files.
Nothing removes a folder; all of them may be removed while no run uses them. The start report names the cache and its
size, and the time stamp of a folder is that of its last use.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.files import replacing_folder
from skipthinking.records import Example, Lazy

__all__ = [
    "ExampleStore", "ExampleWriter", "MappedTable", "cache_folder", "cache_report", "characters", "complete", "ids_of",
    "is_large", "joined", "key_of", "questions_of", "select",
]  # fmt: skip

_IN_MEMORY = 2**26  # characters or bytes: about 200 MB of tokens and text as Python objects
_ROWS = 256  # rows of a record batch, the unit that is built in memory
_FIELDS = ("id", "question", "rationale", "answer", "task", "conclusion")


def is_large(size: int) -> bool:
    """Whether examples of this many characters or bytes are kept in files."""
    return size > _IN_MEMORY


def characters(example: Example) -> int:
    """Characters of the long texts of an example."""
    return len(example.question) + len(example.rationale) + len(example.conclusion)


def cache_folder() -> Path:
    """The folder of all keys."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "skipthinking"


@cache
def _code() -> str:
    """Hash of the code that decides what is read and how it is encoded: a new version reads its data again."""
    package = Path(__file__).parents[1]
    hashed = hashlib.blake2b(digest_size=16)
    for path in sorted([*package.glob("data/*.py"), *package.glob("tasks/*.py"), package / "records.py"]):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def key_of(settings: Mapping[str, Any], *objects: Any) -> str:
    """A key for settings as JSON has them, and for objects: their class, its code and their attributes."""
    hashed = hashlib.blake2b(_code().encode(), digest_size=16)
    hashed.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for one in objects:
        from datasets.fingerprint import Hasher

        kind = type(one)
        with suppress(OSError, TypeError):  # a class that was typed into an interpreter
            hashed.update(inspect.getsource(kind).encode())
        hashed.update(f"{kind.__module__}.{kind.__qualname__}\0".encode())
        hashed.update(Hasher.hash(one).encode())
    return hashed.hexdigest()


def complete(key: str, make: Callable[[Path], None]) -> Path:
    """The folder of a key; made by ``make`` unless it is there, by one process while others wait."""
    from filelock import FileLock

    folder = cache_folder() / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                with replacing_folder(folder) as partial:
                    partial.mkdir()
                    make(partial)
    with suppress(OSError):  # a cache of someone else
        os.utime(folder)  # the time of the last use
    return folder


def cache_report() -> str:
    """One line for the start report: where mapped data are, and how much there is of all runs."""
    folders = [path for path in cache_folder().iterdir() if path.is_dir() and path.name[0] != "."]  # complete ones
    size = 0
    for folder in folders:
        with suppress(OSError):  # removed by now
            size += sum(file.stat().st_size for file in folder.iterdir())
    return (
        f"mapped data: {cache_folder()} has {len(folders)} folders of all runs, {size / 2**30:,.2f} GiB; remove those "
        "that no run uses"
    )


class MappedTable:
    """Columns of memory-mapped Arrow files, one after the other; pickled and forked without its content.

    Args:
        paths: Arrow stream files with the same columns.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedTable, (self.paths,)

    @cached_property
    def columns(self) -> dict[str, Any]:
        """Arrow's chunked arrays by name; nothing is read before it is used."""
        import pyarrow

        tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all() for path in self.paths]
        table = pyarrow.concat_tables(tables)
        return dict(zip(table.column_names, table.columns, strict=True))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def text(self, column: str, row: int) -> str:
        """A cell of text."""
        value: str = self.columns[column][row].as_py()
        return value

    def array(self, column: str, row: int) -> NDArray[np.int64]:
        """A cell of integers, shape (length,): int32 in the file."""
        return self.columns[column][row].values.to_numpy().astype(np.int64)

    def numbers(self, column: str) -> NDArray[Any]:
        """A column of numbers."""
        numbers: NDArray[Any] = self.columns[column].to_numpy()
        return numbers


class ExampleStore(Lazy[Example]):
    """Examples in memory-mapped files; each is made when it is asked for.

    Args:
        table: All examples.
        key: Key of the examples and their order.
        places: The rows that belong to the sequence, in order; all by default.
    """

    def __init__(self, table: MappedTable, key: str, places: NDArray[np.int64] | None = None) -> None:
        self.table, self.key = table, key
        self.places = np.arange(len(table)) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    def at(self, place: int) -> Example:
        """The example at a place."""
        row = int(self.places[place])
        texts = {name: self.table.text(name, row) for name in _FIELDS}
        return Example(**texts, meta=json.loads(self.table.text("meta", row)))

    def texts(self, column: str) -> Iterator[str]:
        """One field of every example, without the others."""
        return (self.table.text(column, row) for row in self.places.tolist())

    def select(self, places: Sequence[int] | NDArray[np.int64]) -> ExampleStore:
        """The examples at some places, from the same files."""
        rows = self.places[np.asarray(places, dtype=np.int64)]
        return ExampleStore(self.table, key_of({"of": self.key, "rows": _digest(rows)}), rows)

    @classmethod
    def of(cls, examples: Sequence[Example]) -> ExampleStore:
        """Moves examples to files, under a key of their content."""
        hashed = hashlib.blake2b(digest_size=16)
        for example in examples:
            hashed.update("\0".join(_row(example).values()).encode())

        def write(folder: Path) -> None:
            with ExampleWriter(folder) as writer:
                for example in examples:
                    writer.add(example)

        key = key_of({"content": hashed.hexdigest()})
        return cls(MappedTable([complete(key, write) / ExampleWriter.NAME]), key)


def select(examples: Sequence[Example], places: Sequence[int]) -> Sequence[Example]:
    """The examples at some places: from the same files, or in a list."""
    return examples.select(places) if isinstance(examples, ExampleStore) else [examples[place] for place in places]


def joined(parts: Sequence[Sequence[Example]]) -> Sequence[Example]:
    """Examples one after the other: in their files if any of them are in files, else in a list."""
    if len(parts) == 1:
        return parts[0]
    if not any(isinstance(part, ExampleStore) for part in parts):
        return [example for part in parts for example in part]
    stores = [part if isinstance(part, ExampleStore) else ExampleStore.of(part) for part in parts]
    sizes = np.cumsum([0, *(len(store.table) for store in stores)])
    places = np.concatenate([store.places + size for store, size in zip(stores, sizes, strict=False)])
    table = MappedTable([path for store in stores for path in store.table.paths])
    return ExampleStore(table, key_of({"of": [store.key for store in stores]}), places)


def ids_of(examples: Sequence[Example]) -> Iterator[str]:
    """The ids, without the other texts of examples in files."""
    return examples.texts("id") if isinstance(examples, ExampleStore) else (example.id for example in examples)


def questions_of(examples: Sequence[Example]) -> Iterator[str]:
    """The questions, without the other texts of examples in files."""
    return (
        examples.texts("question") if isinstance(examples, ExampleStore) else (example.question for example in examples)
    )


def _digest(array: NDArray[Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def _row(example: Example) -> dict[str, str]:
    meta = json.dumps(dict(example.meta), ensure_ascii=False, default=str)
    return {**{name: getattr(example, name) for name in _FIELDS}, "meta": meta}


class ExampleWriter:
    """Writes examples to a file of a folder, a block at a time.

    Args:
        folder: The folder.
    """

    NAME = "examples.arrow"

    def __init__(self, folder: Path) -> None:
        import pyarrow

        self._schema = pyarrow.schema([(name, pyarrow.large_string()) for name in (*_FIELDS, "meta")])
        self._file = pyarrow.ipc.new_stream(str(folder / self.NAME), self._schema)
        self._waiting: list[dict[str, str]] = []

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._file.close()

    def add(self, example: Example) -> None:
        """Adds an example."""
        self._waiting.append(_row(example))
        if len(self._waiting) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        self._file.write_batch(pyarrow.RecordBatch.from_pylist(self._waiting, schema=self._schema))
        self._waiting.clear()
