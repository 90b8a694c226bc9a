"""Text and JSON files: errors name the line that was read, and a file is written completely or not at all."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skipthinking.records import DataError

__all__ = [
    "COMPRESSED", "lines_of", "nonblank_lines", "parse_json", "read_jsonl", "read_text", "replacing",
    "replacing_folder", "write_json", "write_jsonl", "write_lines", "write_text",
]  # fmt: skip

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
"""Suffixes of compressed files; the content decides how a file is read, because some downloads are already expanded."""


def _open_zstd(file: Any) -> Any:
    import pyarrow  # comes with datasets; Python has zstd from version 3.14 on

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"))


# How compressed data begins, and how it is expanded.
_OPEN: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\x28\xb5\x2f\xfd": _open_zstd,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


@contextmanager
def _expanded(path: Path) -> Iterator[Any]:
    """Opens a file for reading bytes, compressed or not; a damaged one is a DataError, also while it is read."""
    with path.open("rb") as file:
        begin = file.read(6)
        file.seek(0)
        expand = next((expand for start, expand in _OPEN.items() if begin.startswith(start)), None)
        if expand is None:
            yield file
            return
        try:
            with expand(file) as content:
                yield content
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"Expected a complete compressed file, got {str(error).rstrip('.')} ({path}). Download or write it "
                "again."
            ) from error


def lines_of(text: str) -> list[str]:
    """Splits JSON lines: only a line feed ends a line.

    >>> lines_of("a\\u2028b\\nc\\n"), lines_of("a"), lines_of("")
    (['a\\u2028b', 'c'], ['a'], [])
    """
    return text.removesuffix("\n").split("\n") if text else []


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, compressed or not, and removes a byte order mark.

    Raises:
        DataError: The file is not UTF-8, or is compressed and damaged.
    """
    with _expanded(path) as file:
        data = file.read()
    return _decoded(data, path)


def _decoded(data: bytes, path: Path, line: int = 1) -> str:
    """Text of a file, or of one line."""
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise DataError(
            f"Expected UTF-8 text, got byte 0x{error.object[error.start]:02x} ({path}:{line}). Convert it to UTF-8."
        ) from error


def nonblank_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of every line that is not blank, one after the other: no file is in memory as a whole.

    Raises:
        DataError: As :func:`read_text`.
    """
    with _expanded(path) as file:
        for number, raw in enumerate(file, 1):  # bytes: only a line feed ends a line
            line = _decoded(raw.removesuffix(b"\n"), path, number)
            if line.strip():
                yield number, line


def parse_json(text: str) -> Any:
    """Parses JSON.

    Raises:
        json.JSONDecodeError: The text is not JSON, or has a number of thousands of digits or too many nested brackets,
            for which ``json.loads`` raises other errors.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(str(error), text, 0) from error


def read_jsonl(path: Path, remedy: str = "Fix the line.") -> Iterator[tuple[str, Any]]:
    """Yields ("file:line", value) for every line that is not blank.

    Raises:
        DataError: The file is not UTF-8, or a line is not JSON; then the message ends with ``remedy``.
    """
    for number, line in nonblank_lines(path):
        try:
            value = parse_json(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"Expected a JSON object, got {error.msg} at column {error.colno} ({path}:{number}). {remedy}"
            ) from error
        yield f"{path}:{number}", value


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path next to ``path`` to write to; that file is synced and replaces ``path`` if the block succeeds.

    The rename is atomic only within a file system, and only a synced file survives a power failure after it. Parents
    are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a path next to ``folder`` to make a folder at, which replaces ``folder`` if the block succeeds.

    No system call replaces a folder that has files in it: the old one is set aside, and removed after the rename.
    """
    partial, aside = (folder.with_name(f".{folder.name}.{part}") for part in ("partial", "old"))
    if aside.exists() and not folder.exists():  # killed between the two renames
        os.replace(aside, folder)
    for leftover in (partial, aside):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    mask = os.umask(0)
    os.umask(mask)
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(0o666 & ~mask)  # safetensors lets only the owner read
            _sync(path)
        if folder.exists():
            os.replace(folder, aside)
        os.replace(partial, folder)
    except Exception as error:  # safetensors and tokenizers raise errors of their own if a disk is full
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one piece."""
    write_lines(path, [text])


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON in one piece."""
    write_lines(path, [json.dumps(value, indent=2, ensure_ascii=False), "\n"])


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value per line in one piece; the rows may come from an iterator."""
    write_lines(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_lines(path: Path, parts: Iterable[str]) -> None:
    """Writes texts one after the other in one piece; they may come from an iterator."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(parts)
