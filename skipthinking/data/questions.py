"""Files of bare questions, for ``predict``."""

from __future__ import annotations

import json
from pathlib import Path

from skipthinking.data.readers import from_json
from skipthinking.records import DataError, UserError

__all__ = ["read_questions"]


def read_questions(path: Path) -> list[tuple[str, str]]:
    """Reads questions: plain text with one a line, or JSONL (``.jsonl``, ``.ndjson``) of objects with a "question".

    Returns:
        (id, question) pairs in the file's order; ids are line numbers where the file gives none.

    Raises:
        UserError: The file is missing.
        DataError: A line is malformed, or there is no question.
    """
    if not path.is_file():
        raise UserError(f"Expected a file of questions, got {str(path)!r}, which does not exist. Mend data.questions.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"Expected UTF-8, got {error.reason} at byte {error.start} ({path}). Convert it.") from error
    asked: list[tuple[str, str]] = []
    # Only real line ends: str.splitlines would also cut at U+2028 and the like, inside texts.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        if path.suffix.lower() in {".jsonl", ".ndjson"}:
            asked.append(_from_json(line, number, path))
        else:
            asked.append((f"line-{number}", line.strip()))
    if not asked:
        raise DataError(f"Expected at least one question, got none ({path}).")
    if len({id for id, _ in asked}) < len(asked):
        raise DataError(f"Expected every id once, got duplicates ({path}). Rename them or leave ids out.")
    return asked


def _from_json(line: str, number: int, path: Path) -> tuple[str, str]:
    try:
        row = from_json(line)
    except json.JSONDecodeError as error:
        raise DataError(f"Expected JSON, got {error.msg} at column {error.colno} ({path}:{number}).") from error
    question = row.get("question") if isinstance(row, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise DataError(f'Expected an object with a "question" text, got {line.strip()[:60]!r} ({path}:{number}).')
    return str(row["id"]) if row.get("id") is not None else f"line-{number}", question.strip()
