"""Rows of data files: finds files, and reads JSON, JSONL, CSV, TSV, Parquet, Arrow and saved ``datasets`` folders.

Every row comes with its place, which later errors name. Nothing is written: no cache, no index.
"""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from skipthinking.data.lines import read_lines, read_problems
from skipthinking.files import parse_json, read_jsonl, read_text
from skipthinking.records import DataError, UserError, did_you_mean

__all__ = ["Located", "find_files", "read_rows"]

Located = tuple[dict[str, Any], str]
"""A row and its place: "file:line", or "file: row k" counted from 1."""


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Returns the files and saved ``datasets`` folders that match paths, globs and folders, each once.

    A folder matches the data files directly in it, in alphabetical order; its other files are ignored.

    Raises:
        UserError: A pattern matches nothing.
    """
    paths = [path for pattern in patterns for path in _find(pattern)]
    if not paths:
        raise UserError("Expected at least one path, got none (path). Name a file, a folder or a glob.")
    return list(dict.fromkeys(paths))


def _find(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.exists():
        return _expand(path)
    matches = sorted(glob.glob(str(path), recursive=True))
    files = [file for match in matches for file in _expand(Path(match), strict=False)]
    if files:
        return files
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    if not path.parent.is_dir():
        hint = f" There is no folder {path.parent}."
    else:
        hint = did_you_mean(path.name, beside) or f" {path.parent} holds {', '.join(beside[:3]) or 'nothing'}."
    raise UserError(f"Expected a file, a folder or a glob, got {pattern!r}, which matches nothing.{hint}")


def _expand(path: Path, strict: bool = True) -> list[Path]:
    if path.is_file() or _is_saved(path):
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(str(entry) for entry in sorted(path.iterdir()) if entry.is_dir())
        raise UserError(f"Expected one split, got a saved DatasetDict ({path}). Name one of {splits}.")
    files = [entry for entry in sorted(path.iterdir()) if entry.suffix.lower() in _READ]
    if not files and strict:
        raise UserError(f"Expected data files ({', '.join(_READ)}), got a folder without any ({path}). Name a file.")
    return files


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def read_rows(path: Path) -> list[Located]:
    """Reads all rows of a file or a saved ``datasets`` folder.

    Raises:
        DataError: The file is empty, malformed, not UTF-8, of an unknown kind, or has contents other than rows.
    """
    if path.is_dir():
        rows = list(_numbered(_read_saved(path), path))
    else:
        read = (_READ | _NAMED).get(path.suffix.lower())
        if read is None:
            raise DataError(
                f"Expected a file of {', '.join(_READ)}, got {path.name!r} ({path}). Convert or rename the file."
            )
        rows = list(read(path))
    if not rows:
        raise DataError(f"Expected at least one row, got an empty file ({path}). Replace the file or leave it out.")
    return rows


def _checked(row: object, where: str) -> Located:
    if not isinstance(row, dict):
        raise DataError(f"Expected a row as a JSON object, got {type(row).__name__} ({where}). Fix the row.")
    return row, where


def _numbered(rows: Sequence[object], path: Path) -> Iterator[Located]:
    for number, row in enumerate(rows, 1):
        yield _checked(row, f"{path}: row {number}")


def _read_jsonl(path: Path) -> Iterator[Located]:
    for where, row in read_jsonl(path):
        yield _checked(row, where)


def _read_json(path: Path) -> Iterator[Located]:
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
    if isinstance(content, dict) and isinstance(content.get("data"), (list, dict)):
        content = content["data"]
        if isinstance(content, dict):
            return _read_samples(content, path)
    if not isinstance(content, list):
        got = f"an object with the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else repr(content)
        raise DataError(f'Expected a list of rows, or {{"data": [...]}}, got {got} ({path}). Put the rows into a list.')
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
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if not cells:
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


def _read_columns(path: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.ParquetFile(path).read()
        else:
            data = path.read_bytes()
            # The file format starts with these bytes, the stream format (written by datasets) does not.
            read = pyarrow.ipc.open_file if data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
            table = read(data).read_all()
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"Expected a {path.suffix} file, got {error} ({path}). Replace the file.") from error
    return _numbered(rows, path)


def _read_saved(path: Path) -> list[dict[str, Any]]:
    import datasets
    import pyarrow

    try:
        return datasets.Dataset.load_from_disk(str(path), keep_in_memory=True).to_list()
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"Expected a saved data set, got {error} ({path}). Save it again.") from error


_READ: dict[str, Callable[[Path], Iterator[Located]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": partial(_read_table, delimiter=","),
    ".tsv": partial(_read_table, delimiter="\t"),
    ".parquet": _read_columns,
    ".arrow": _read_columns,
}

# Read only if named: a folder may hold notes of these kinds.
_NAMED: dict[str, Callable[[Path], Iterator[Located]]] = {".txt": read_lines, ".xml": read_problems}
