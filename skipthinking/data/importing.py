"""Turns rows into examples: format, check of the gold answer, ids, duplicates, and a line for the start report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from skipthinking.data.fields import UnreadableAnswer
from skipthinking.data.formats import Format, detect_format, get_format
from skipthinking.data.rows import Located
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import Task

__all__ = ["Loaded", "Unreadable", "count", "import_rows"]

Unreadable = Literal["error", "leave_out"]

_ID_KEYS = ("id", "ID", "qid", "idx", "unique_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The contents of a source.

    Attributes:
        examples: The examples in the order of the source; ids are unique.
        description: One line for the start report: the source, the number of rows, their format, and what was left out.
        duplicates: Number of exact duplicates, which were left out.
        unreadable: Number of rows without a readable answer, which were left out.
    """

    examples: list[Example]
    description: str
    duplicates: int = 0
    unreadable: int = 0


def import_rows(
    files: Iterable[Sequence[Located]], *, name: str, task: Task, format: str, limit: int | None, unreadable: Unreadable
) -> Loaded:
    """Turns rows into examples.

    Args:
        files: The rows of every file of the source.
        name: Name of the source for the start report.
        task: The task, whose grader must be able to read the answers.
        format: Name of the rows' format; "auto" detects it from the first row of a file.
        limit: Number of rows to import, from the first; None imports all.
        unreadable: Whether a row without a readable answer is an error, or left out.

    Raises:
        UserError: A setting is invalid.
        DataError: A row cannot be used, or no usable row is left.
    """
    if limit is not None and limit < 1:
        raise UserError(f"Expected a limit of at least 1, got {limit} (limit). Leave it out to take all rows.")
    if unreadable not in ("error", "leave_out"):
        raise UserError(f"Expected error or leave_out, got {unreadable!r} (unreadable). Choose one of them.")
    given = None if format == "auto" else get_format(format)
    examples: dict[str, tuple[Example, str]] = {}  # with the place of the row, by id
    formats: set[str] = set()
    total = used = left_out = 0
    for rows in files:
        total += len(rows)
        known = given or (detect_format(*rows[0]) if rows else None)
        for row, where in rows if limit is None else rows[: limit - used]:
            assert known is not None
            used += 1
            formats.add(known.name)
            try:
                example = _example(task, known, row, where)
            except UnreadableAnswer as error:
                if unreadable == "error":
                    raise DataError(f"{error} To leave such rows out, set unreadable: leave_out.") from error
                left_out += 1
                continue
            first, place = examples.setdefault(example.id, (example, where))
            if first is not example and (key := _id_key(row)) is not None:
                raise DataError(
                    f'Expected unique ids, got "{key}" {row[key]!r} twice ({place} and {where}). Rename one, or remove '
                    "the key from all rows."
                )
    if not examples:
        raise DataError(f"Expected at least one usable row, got none of {total} ({name}). Fix the answers.")
    duplicates = used - left_out - len(examples)
    parts = [count(total, "row") if used == total else f"first {used} of {count(total, 'row')}"]
    parts.append(f"format {' and '.join(sorted(formats))} ({'detected' if given is None else 'given'})")
    if duplicates:
        parts.append(f"{count(duplicates, 'exact duplicate')} left out")
    if left_out:
        parts.append(f"{count(left_out, 'row')} without a readable answer left out")
    return Loaded(
        examples=[example for example, _ in examples.values()],
        description=f"{name}: {', '.join([*parts, *task.read_in_part(row.answer for row, _ in examples.values())])}",
        duplicates=duplicates,
        unreadable=left_out,
    )


def _example(task: Task, format: Format, row: dict[str, Any], where: str) -> Example:
    fields = format.read(row, where)
    _check_unicode((fields.question, fields.rationale, fields.answer, fields.conclusion), where)
    if row.get("task", task.name) != task.name and "task" in format.optional:
        raise DataError(f"Expected task {task.name}, got {row['task']!r} ({where}). Change the setting task.")
    try:
        task.check_gold(fields.answer, where)
    except DataError as error:
        raise UnreadableAnswer(str(error)) from error
    known = {*format.keys, *format.optional, *_ID_KEYS}
    nested = row.get("meta") if "meta" in format.optional else None
    meta = {**(nested if isinstance(nested, dict) else {}), **{k: v for k, v in row.items() if k not in known}}
    digest = hashlib.sha1((fields.question + fields.rationale + fields.answer).encode()).hexdigest()[:12]
    key = _id_key(row)
    id = f"{task.name}-{digest}" if key is None else row[key]
    if not isinstance(id, (str, int)) or isinstance(id, bool) or not str(id).strip():
        raise DataError(
            f'Expected an id in "{key}", got {id!r} ({where}). Fill it in, or remove the key from all rows.'
        )
    return Example(
        id=str(id),
        question=fields.question,
        rationale=fields.rationale,
        answer=fields.answer,
        task=task.name,
        meta=meta,
        conclusion=fields.conclusion,
    )


def _id_key(row: dict[str, Any]) -> str | None:
    return next((key for key in _ID_KEYS if key in row), None)


def _check_unicode(texts: Sequence[str], where: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"Expected text, got half of a character, {text[error.start]!r}, at position {error.start} ({where}). "
                "Fix the row."
            ) from error


def count(number: int, noun: str) -> str:
    """Returns a number with its noun in the singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
