"""Files of rows: finds them and reads JSON, JSONL, CSV, TSV, Parquet, Arrow and saved ``datasets`` folders.

A row comes with where it stands, so that every later error can name the place. Nothing is written anywhere: no cache,
no index.
"""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from skipthinking.records import DataError, UserError, did_you_mean

__all__ = ["Located", "find_files", "from_json", "read_rows"]

Located = tuple[dict[str, Any], str]
"""A row, and where it stands: "file:line", or "file: row k" counted from 1."""

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Files and saved ``datasets`` folders that paths, globs and folders stand for.

    A folder stands for the data files directly in it, in alphabetical order; its other files are left alone.

    Raises:
        UserError: A pattern stands for nothing.
    """
    found = [path for pattern in patterns for path in _find(pattern)]
    if not found:
        raise UserError("Expected at least one path, got none (path). Name a file, a folder or a glob.")
    return list(dict.fromkeys(found))


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
    files = [entry for entry in sorted(path.iterdir()) if entry.suffix.lower() in _SUFFIXES]
    if not files and strict:
        raise UserError(
            f"Expected data files ({', '.join(_SUFFIXES)}), got a folder without any ({path}). Name a file."
        )
    return files


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def read_rows(path: Path) -> list[Located]:
    """Reads all rows of a file or a saved ``datasets`` folder.

    Raises:
        DataError: It is empty, malformed, not UTF-8, of an unknown kind, or holds something other than rows.
    """
    if path.is_dir():
        rows = list(_numbered(_read_saved(path), path))
    else:
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(
                f"Expected a file of {', '.join(_SUFFIXES)}, got {path.name!r} ({path}). Convert or rename it."
            )
        rows = list(reader(path))
    if not rows:
        raise DataError(f"Expected at least one row, got an empty file ({path}). Write it again or leave it out.")
    return rows


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"Expected UTF-8 text, got byte 0x{error.object[error.start]:02x} ({path}:{line}). Convert it to UTF-8."
        ) from error


def _checked(row: object, where: str) -> Located:
    if not isinstance(row, dict):
        raise DataError(f"Expected a row as a JSON object, got {type(row).__name__} ({where}). Mend the row.")
    return row, where


def _numbered(rows: Sequence[object], path: Path) -> Iterator[Located]:
    for number, row in enumerate(rows, 1):
        yield _checked(row, f"{path}: row {number}")


def from_json(text: str) -> Any:
    """What a text in JSON says.

    Raises:
        json.JSONDecodeError: For all that cannot be read: thousands of digits or of brackets too.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(str(error), text, 0) from error


def _read_jsonl(path: Path) -> Iterator[Located]:
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a text.
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = from_json(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"Expected a JSON object, got {error.msg} at column {error.colno} ({path}:{number}). Mend the line."
            ) from error
        yield _checked(row, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[Located]:
    text = _decoded(path)
    if not text.strip():
        return iter(())
    try:
        content = from_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _read_jsonl(path)  # one object a line under the name of .json
        raise DataError(
            f"Expected JSON, got {error.msg} at column {error.colno} ({path}:{error.lineno}). Mend the file."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("data"), (list, dict)):
        content = content["data"]
        if isinstance(content, dict):
            return _read_samples(content, path)
    if not isinstance(content, list):
        kind = (
            f"an object with the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else repr(content)
        )
        raise DataError(
            f'Expected a list of rows, or {{"data": [...]}}, got {kind} ({path}). Put the rows into a list.'
        )
    return _numbered(content, path)


def _read_samples(content: dict[str, Any], path: Path) -> Iterator[Located]:
    """Rows of {"data": {sample: [completion, ...]}}, Fine-tune-CoT's completion files."""
    for sample, completions in content.items():
        if not isinstance(completions, list):
            raise DataError(
                f"Expected a list of completions per sample, got {type(completions).__name__} "
                f"({path}: sample {sample}). Mend the file."
            )
        for number, row in enumerate(completions, 1):
            yield _checked(row, f"{path}: sample {sample}, completion {number}")


def _read_table(path: Path, delimiter: str) -> Iterator[Located]:
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            where = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                raise DataError(
                    f"Expected {len(header)} cells as in the header, got {len(cells)} ({where}). "
                    "Mend the line or its quotes."
                )
            yield dict(zip(header, cells, strict=True)), where
    except csv.Error as error:
        raise DataError(
            f"Expected a table, got {error} ({path}:{reader.line_num}). Mend the line or its quotes."
        ) from error


def _read_csv(path: Path) -> Iterator[Located]:
    return _read_table(path, ",")


def _read_tsv(path: Path) -> Iterator[Located]:
    return _read_table(path, "\t")


def _read_columns(path: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.ParquetFile(path).read()
        else:
            data = path.read_bytes()
            # The file format starts with its name, the stream format (what datasets writes) does not.
            opened = pyarrow.ipc.open_file if data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
            table = opened(data).read_all()
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"Expected a {path.suffix} file, got {error} ({path}). Write it again.") from error
    return _numbered(rows, path)


def _read_saved(path: Path) -> list[dict[str, Any]]:
    import datasets
    import pyarrow

    try:
        return datasets.Dataset.load_from_disk(str(path), keep_in_memory=True).to_list()
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"Expected a saved data set, got {error} ({path}). Save it again.") from error


_READERS: dict[str, Callable[[Path], Iterator[Located]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_columns,
    ".arrow": _read_columns,
}
