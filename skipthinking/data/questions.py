"""Files of bare questions, for ``predict``."""

from __future__ import annotations

import json
from pathlib import Path

from skipthinking.records import DataError, UserError

__all__ = ["read_questions"]


def read_questions(path: Path) -> list[tuple[str, str]]:
    """Reads questions: plain text with one a line, or JSONL (``.jsonl``) with a "question" and maybe an "id" each.

    Returns:
        (id, question) pairs in the file's order; ids are line numbers where the file gives none.

    Raises:
        UserError: The file is missing.
        DataError: A line is malformed, or there is no question.
    """
    if not path.is_file():
        raise UserError(f"Expected a file of questions, got {str(path)!r}, which does not exist. Mend data.questions.")
    asked: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        id, question = f"line-{number}", line.strip()
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"Expected JSON, got {error.msg} at column {error.colno} ({path}:{number}).") from error
            if not isinstance(row, dict) or not str(row.get("question") or "").strip():
                raise DataError(f'Expected an object with a "question", got {line.strip()[:60]!r} ({path}:{number}).')
            id, question = str(row.get("id", id)), str(row["question"]).strip()
        asked.append((id, question))
    if not asked:
        raise DataError(f"Expected at least one question, got none ({path}).")
    if len({id for id, _ in asked}) < len(asked):
        raise DataError(f"Expected every id once, got duplicates ({path}). Rename them or leave ids out.")
    return asked
