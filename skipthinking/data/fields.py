"""What a format reads from a row, and how: values as text, and the errors that name key and place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skipthinking.records import DataError

__all__ = ["Fields", "Row", "UnreadableAnswer", "quoted", "shown", "text_of", "unreadable"]

Row = Mapping[str, Any]


class UnreadableAnswer(DataError):
    """A row that is sound otherwise, but whose answer cannot be found or read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """What a format reads from a row.

    Attributes:
        question: What is asked, without a prompt around it.
        rationale: The reasoning, without the final answer phrase; empty where the row has none.
        answer: The gold answer as the row has it.
        conclusion: What the teacher says behind its thinking and before the answer.
    """

    question: str
    rationale: str
    answer: str
    conclusion: str = ""


def quoted(keys: Iterable[str]) -> str:
    """Keys as they stand in an error."""
    return ", ".join(f'"{key}"' for key in keys) or "none"


def text_of(row: Row, key: str, where: str, empty: bool = False) -> str:
    """A value as text: numbers and truth values too, 51.0 as "51".

    Args:
        row: The row.
        key: Which value.
        where: File and line, named in errors.
        empty: Whether the value may be missing, null or blank.

    Raises:
        DataError: It is of another kind, not finite, or blank where it may not be.
    """
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None and empty:
        value = ""
    if not isinstance(value, (str, int, float)) or value != value or value in (math.inf, -math.inf):
        raise DataError(f'Expected text in "{key}", got {shown(value)} ({where}). Mend the row.')
    text = str(value)
    if not text.strip() and not empty:
        raise DataError(f'Expected text in "{key}", got an empty value ({where}). Fill it in or remove the row.')
    return text


def shown(value: object) -> str:
    """A value as it stands in an error, cut in the middle if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-15:]}"


def unreadable(key: str, expected: str, text: str, where: str) -> UnreadableAnswer:
    """The error for a text that should state an answer and does not."""
    return UnreadableAnswer(f'Expected {expected} in "{key}", got {shown(text)} ({where}). Mend or remove the row.')
