"""Turns rows into examples: format, check of the gold answer, ids, duplicates, and a line for the start report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from skipthinking.data.fields import UnreadableAnswer
from skipthinking.data.formats import Format, detect_format, get_format
from skipthinking.data.rows import Located
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import Task

__all__ = ["Importer", "Loaded", "Unreadable", "count"]

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


class Importer:
    """Turns the rows of a source into examples.

    Args:
        task: The task, whose grader must be able to read the answers.
        format: Name of the rows' format, or "auto".
        limit: Number of rows to import; None imports all.
        unreadable: Whether a row without a readable answer is an error, or left out.
    """

    def __init__(self, task: Task, format: str, limit: int | None, unreadable: Unreadable) -> None:
        if limit is not None and limit < 1:
            raise UserError(f"Expected a limit of at least 1, got {limit} (limit). Leave it out to take all rows.")
        if unreadable not in ("error", "leave_out"):
            raise UserError(f"Expected error or leave_out, got {unreadable!r} (unreadable). Choose one of them.")
        self._task, self._limit, self._unreadable = task, limit, unreadable
        self._format = None if format == "auto" else get_format(format)
        self._examples: dict[str, tuple[Example, str]] = {}  # with the place of the row, by id
        self._formats: set[str] = set()
        self._rows = self._used = self._left_out = 0

    def add(self, rows: Sequence[Located]) -> None:
        """Imports the rows of one file; "auto" detects their format from the first one."""
        self._rows += len(rows)
        remaining = len(rows) if self._limit is None else self._limit - self._used
        format = self._format or (detect_format(*rows[0]) if rows else None)
        for row, where in rows[: max(remaining, 0)]:
            assert format is not None
            self._used += 1
            self._formats.add(format.name)
            try:
                example = self._example(format, row, where)
            except UnreadableAnswer as error:
                if self._unreadable == "error":
                    raise DataError(f"{error} To leave such rows out, set unreadable: leave_out.") from error
                self._left_out += 1
                continue
            self._examples.setdefault(example.id, (example, where))

    def _example(self, format: Format, row: dict[str, Any], where: str) -> Example:
        fields = format.read(row, where)
        _check_unicode((fields.question, fields.rationale, fields.answer, fields.conclusion), where)
        if row.get("task", self._task.name) != self._task.name and "task" in format.optional:
            raise DataError(f"Expected task {self._task.name}, got {row['task']!r} ({where}). Change the setting task.")
        try:
            self._task.check_gold(fields.answer, where)
        except DataError as error:
            raise UnreadableAnswer(str(error)) from error
        known = {*format.keys, *format.optional, *_ID_KEYS}
        nested = row.get("meta") if "meta" in format.optional else None
        meta = {**(nested if isinstance(nested, dict) else {}), **{k: v for k, v in row.items() if k not in known}}
        digest = hashlib.sha1((fields.question + fields.rationale + fields.answer).encode()).hexdigest()[:12]
        return Example(
            id=self._id(row, where) or f"{self._task.name}-{digest}",
            question=fields.question,
            rationale=fields.rationale,
            answer=fields.answer,
            task=self._task.name,
            meta=meta,
            conclusion=fields.conclusion,
        )

    def _id(self, row: dict[str, Any], where: str) -> str | None:
        key = next((key for key in _ID_KEYS if key in row), None)
        if key is None:
            return None
        value = row[key]
        if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value).strip():
            raise DataError(
                f'Expected an id in "{key}", got {value!r} ({where}). Fill it in, or remove the key from all rows.'
            )
        if str(value) in self._examples:
            raise DataError(
                f'Expected unique ids, got "{key}" {value!r} twice ({self._examples[str(value)][1]} and {where}). '
                "Rename one, or remove the key from all rows."
            )
        return str(value)

    def loaded(self, shown: str) -> Loaded:
        """Returns the examples of all rows so far; ``shown`` names the source."""
        if not self._examples:
            raise DataError(f"Expected at least one usable row, got none of {self._rows} ({shown}). Fix the answers.")
        duplicates = self._used - self._left_out - len(self._examples)
        rows = count(self._rows, "row")
        parts = [rows if self._used == self._rows else f"first {self._used} of {rows}"]
        origin = "detected" if self._format is None else "given"
        parts.append(f"format {' and '.join(sorted(self._formats))} ({origin})")
        if duplicates:
            parts.append(f"{count(duplicates, 'exact duplicate')} left out")
        if self._left_out:
            parts.append(f"{count(self._left_out, 'row')} without a readable answer left out")
        return Loaded(
            examples=[example for example, _ in self._examples.values()],
            description=f"{shown}: {', '.join(parts)}",
            duplicates=duplicates,
            unreadable=self._left_out,
        )


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
