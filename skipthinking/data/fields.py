"""The result of parsing a row, and helpers for parsers: values as text, errors that name the key and the place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skipthinking.records import DataError

__all__ = ["Fields", "Row", "UnreadableAnswer", "quoted", "shown", "text_of", "unreadable"]

Row = Mapping[str, Any]


class UnreadableAnswer(DataError):
    """A valid row whose answer is not stated or cannot be read by the grader."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """A parsed row.

    Attributes:
        question: The question, without a prompt around it.
        rationale: The reasoning, without the final answer phrase; empty if the row has none.
        answer: The gold answer as written in the row.
        conclusion: The teacher's text between its thoughts and the answer.
    """

    question: str
    rationale: str
    answer: str
    conclusion: str = ""


def quoted(keys: Iterable[str]) -> str:
    """Returns keys for an error message."""
    return ", ".join(f'"{key}"' for key in keys) or "none"


def text_of(row: Row, key: str, where: str, empty: bool = False) -> str:
    """Returns a value of a row as text; it may be a number or a Boolean, and 51.0 gives "51".

    Args:
        row: The row.
        key: Key of the value.
        where: File and line, for errors.
        empty: Whether the value may be missing, null or blank.

    Raises:
        DataError: The value has another type, is not finite, or is blank although ``empty`` is false.
    """
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None and empty:
        value = ""
    if not isinstance(value, (str, int, float)) or value != value or value in (math.inf, -math.inf):
        raise DataError(f'Expected text in "{key}", got {shown(value)} ({where}). Fix the row.')
    text = str(value)
    if not text.strip() and not empty:
        raise DataError(f'Expected text in "{key}", got an empty value ({where}). Fill it in or remove the row.')
    return text


def shown(value: object) -> str:
    """Returns a value for an error message; the middle of a long one is left out."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-15:]}"


def unreadable(key: str, expected: str, text: str, where: str) -> UnreadableAnswer:
    """Returns the error for a text that should state an answer and does not."""
    return UnreadableAnswer(f'Expected {expected} in "{key}", got {shown(text)} ({where}). Fix or remove the row.')
