"""Files of a run folder, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["lines_of", "write_json", "write_jsonl", "write_text"]


def lines_of(text: str) -> list[str]:
    """Lines as JSON lines have them: nothing but a line feed ends one.

    >>> lines_of("a\\u2028b\\nc\\n"), lines_of("a"), lines_of("")
    (['a\\u2028b', 'c'], ['a'], [])
    """
    return text.removesuffix("\n").split("\n") if text else []


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically; parents are created."""
    _write(path, [text])


def _write(path: Path, parts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value a line, as they come."""
    _write(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
