"""Rows of data files: JSON, JSONL, CSV, TSV (compressed or not), Parquet, Arrow and saved ``datasets`` folders.

Every row comes with its place, which later errors name. Nothing is written: no cache, no index.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from skipthinking.data.lines import read_lines, read_problems
from skipthinking.files import COMPRESSED, nonblank_lines, parse_json, read_jsonl, read_text
from skipthinking.records import DataError

__all__ = ["KINDS", "NAMED", "Located", "Rows", "is_saved", "kind_of", "kinds", "read_rows", "rows_of"]

_BATCH = 256  # rows of columns that are in memory at once

Located = tuple[dict[str, Any], str]
"""A row and its place: "file:line", or "file: row k" counted from 1."""


class Rows:
    """Rows that are read one after the other, each time that they are gone through.

    Args:
        count: Returns their number.
        read: Reads them.
    """

    def __init__(self, count: Callable[[], int], read: Callable[[], Iterator[Located]]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count()

    def __iter__(self) -> Iterator[Located]:
        return self._read()


def read_rows(path: Path) -> Sequence[Located] | Rows:
    """Opens a file or a saved ``datasets`` folder; rows of JSON lines, Parquet, Arrow and ``datasets`` are not kept.

    Raises:
        DataError: The file is empty, malformed, not UTF-8, of an unknown kind, or has contents other than rows.
    """
    rows: Sequence[Located] | Rows
    if path.is_dir():
        rows = _read_saved(path)
    else:
        read = (_READ | _NAMED).get(kind_of(path))
        if read is None:
            raise DataError(
                f"Expected a data file ({kinds()}), got {path.name!r} ({path}). Convert or rename the file."
            )
        content = read(path)
        rows = content if isinstance(content, Rows) else list(content)
    if next(iter(rows), None) is None:
        raise DataError(f"Expected at least one row, got an empty file ({path}). Replace the file or leave it out.")
    return rows


def is_saved(path: Path) -> bool:
    """Whether ``datasets`` saved one split in a folder."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds: ".jsonl" for train.jsonl.gz."""
    name = Path(path.name.lower())
    return name.with_suffix("").suffix if name.suffix in COMPRESSED else name.suffix


def kinds() -> str:
    """All suffixes, for errors."""
    return f"{', '.join(KINDS)}; text also with {', '.join(COMPRESSED)}"


def _checked(row: object, where: str) -> Located:
    if not isinstance(row, dict):
        raise DataError(f"Expected a row as a JSON object, got {type(row).__name__} ({where}). Fix the row.")
    return row, where


def _numbered(rows: Iterable[object], path: Path) -> Iterator[Located]:
    for number, row in enumerate(rows, 1):
        yield _checked(row, f"{path}: row {number}")


def _read_jsonl(path: Path) -> Rows:
    return Rows(
        lambda: sum(1 for _ in nonblank_lines(path)),
        lambda: (_checked(row, where) for where, row in read_jsonl(path)),
    )


def _read_json(path: Path) -> Iterable[Located]:
    text = read_text(path)
    if not text.strip():
        return iter(())
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _read_jsonl(path)  # JSON lines in a file called .json
        raise DataError(
            f"Expected JSON, got {error.msg} at column {error.colno} ({path}:{error.lineno}). Fix the file."
        ) from error
    if isinstance(content, dict):
        rows = content.get("data", content.get("examples"))  # BIG-Bench Hard: {"canary": "...", "examples": [...]}
        if isinstance(rows, dict):
            return _read_samples(rows, path)
        if isinstance(rows, list) or any(isinstance(value, str) for value in content.values()):
            content = rows if isinstance(rows, list) else [content]  # MATH has one row in a file
    if not isinstance(content, list):
        got = f"an object with the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else repr(content)
        raise DataError(
            f'Expected a list of rows, or {{"data": [...]}}, got {got} ({path}). '
            'Put the rows into a list (pandas writes one with orient="records").'
        )
    return _numbered(content, path)


def _read_samples(content: dict[str, Any], path: Path) -> Iterator[Located]:
    """Yields the rows of a completion file of Fine-tune-CoT: {"data": {sample: [completion, ...]}}."""
    for sample, completions in content.items():
        if not isinstance(completions, list):
            raise DataError(
                f"Expected a list of completions per sample, got {type(completions).__name__} "
                f"({path}: sample {sample}). Fix the file."
            )
        for number, row in enumerate(completions, 1):
            yield _checked(row, f"{path}: sample {sample}, completion {number}")


def _read_table(path: Path, delimiter: str) -> Iterator[Located]:
    csv.field_size_limit(sys.maxsize)  # a long trace has more than the 131,072 characters that Python allows in a cell
    text = read_text(path)
    names = re.split(r"[\r\n]", text, maxsplit=1)[0]
    if delimiter not in names:  # where the comma is the decimal mark, Excel separates cells with semicolons
        delimiter = next((mark for mark in ";\t," if mark in names), delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise DataError(f"Expected each column once, got {twice[0]!r} twice ({path}:1). Rename one.")
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            where = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                raise DataError(
                    f"Expected {len(header)} cells as in the header, got {len(cells)} ({where}). "
                    "Fix the line or its quotes."
                )
            yield dict(zip(header, cells, strict=True)), where
    except csv.Error as error:
        raise DataError(
            f"Expected a table, got {error} ({path}:{reader.line_num}). Fix the line or its quotes."
        ) from error


def _read_columns(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    def batches() -> Iterator[Any]:
        try:
            if path.suffix.lower() == ".parquet":
                with pyarrow.parquet.ParquetFile(path) as file:
                    yield from file.iter_batches(_BATCH)
            else:
                yield from _mapped(path).to_batches(_BATCH)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"Expected a {path.suffix} file, got {error} ({path}). Replace the file.") from error

    return Rows(
        lambda: sum(batch.num_rows for batch in batches()),
        lambda: _numbered((row for batch in batches() for row in batch.to_pylist()), path),
    )


def _mapped(path: Path) -> Any:
    import pyarrow

    data = pyarrow.memory_map(str(path))
    begin = data.read(6)
    data.seek(0)
    # The file format starts with these bytes, the stream format (written by datasets) does not.
    read = pyarrow.ipc.open_file if begin == b"ARROW1" else pyarrow.ipc.open_stream
    return read(data).read_all()


def _read_saved(path: Path) -> Rows:
    import datasets
    import pyarrow

    try:
        saved = datasets.Dataset.load_from_disk(str(path))
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"Expected a saved data set, got {error} ({path}). Save it again.") from error
    return rows_of(saved, str(path))


def rows_of(data: Any, name: str, limit: int | None = None) -> Rows:
    """The rows of a ``datasets.Dataset`` as they are stored: images and sounds are not decoded.

    Args:
        data: The data set; no row after the first ``limit`` is read, but they all count.
        name: Its name.
        limit: Number of rows; all by default.
    """

    def read() -> Iterator[Located]:
        first = data if limit is None else data.select(range(min(limit, len(data))))
        tables = first.with_format("arrow").iter(_BATCH)
        for number, row in enumerate((row for table in tables for row in table.to_pylist()), 1):
            yield row, f"{name}: row {number}"

    return Rows(lambda: len(data), read)


_READ: dict[str, Callable[[Path], Iterable[Located] | Rows]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": partial(_read_table, delimiter=","),
    ".tsv": partial(_read_table, delimiter="\t"),
    ".parquet": _read_columns,
    ".arrow": _read_columns,
}
KINDS = tuple(_READ)
"""Suffixes of data files."""
_NAMED: dict[str, Callable[[Path], Iterator[Located]]] = {".txt": read_lines, ".xml": read_problems}
NAMED = tuple(_NAMED)
"""Suffixes of files that are read only if they are named: a folder may hold notes of these kinds."""
