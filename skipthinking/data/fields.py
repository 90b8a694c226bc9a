"""The keys of rows by role, the result of parsing a row, and helpers for parsers that name the key and the place."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from skipthinking.records import DataError

__all__ = [
    "ID_KEYS", "KEYS", "Ambiguous", "Fields", "NoAnswer", "Row", "RowError", "Tracked", "UnreadableAnswer",
    "answer_of", "has", "is_blank", "is_tag", "key_of", "peek", "quoted", "shown", "structured", "text_of",
    "unreadable",
]  # fmt: skip

Row = Mapping[str, Any]

KEYS: dict[str, tuple[str, ...]] = {
    "question": ("question", "problem", "query", "instruction", "prompt", "input", "sQuestion", "original_text"),
    "rationale": (
        "rationale", "reasoning", "reasoning_content", "reasoning_trace", "thinking", "think", "thoughts", "thought",
        "cot", "chain_of_thought", "cot_content", "explanation", "steps", "thinking_trajectories",
        "deepseek_thinking_trajectory", "gemini_thinking_trajectory", "deepseek_reasoning", "generated_solution",
        "solution",
    ),
    "answer": (
        "answer", "final_answer", "expected_answer", "correct_answer", "gold_answer", "ground_truth",
        "reference_answer", "final_ans", "gold", "answerKey", "label", "target", "ans",
    ),
    "completion": ("completion", "response", "output", "generation", "content"),
    "conversation": ("messages", "conversations"),
}  # fmt: skip
"""Keys that mean the same, by role, in order of preference; a blank value counts as absent."""


ID_KEYS = ("id", "ID", "qid", "idx", "unique_id")


class RowError(DataError):
    """A fault of one row, which the setting ``bad_rows`` makes an error or leaves out.

    Attributes:
        reason: The fault after "rows", for the count in the start report: "with an empty question".
        used: The keys that were read before the fault was found.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.used: frozenset[str] = frozenset()


class UnreadableAnswer(RowError):
    """A valid row whose answer is not stated or cannot be read by the grader."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "without a readable answer")


class NoAnswer(RowError):
    """A row whose gold answer is missing or empty, as in test sets that are published without gold answers."""


class Ambiguous(DataError):
    """A row that can be read in two ways; a setting must choose, so ``bad_rows`` does not apply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """A parsed row.

    Attributes:
        question: The question, without a prompt around it.
        rationale: The reasoning, without the final answer phrase; empty if the row has none.
        answer: The gold answer as written in the row.
        conclusion: The teacher's text between its thoughts and the answer.
        stated: The answer that a completion states beside the gold answer.
        used: The keys that were read.
    """

    question: str
    rationale: str
    answer: str
    conclusion: str = ""
    stated: str = field(default="", compare=False)
    used: frozenset[str] = field(default=frozenset(), compare=False)


class Tracked(Mapping[str, Any]):
    """A row that records which keys were read.

    Args:
        row: The row.
        rationale_key: Key of the rationale, given by the user; None for the table.
    """

    def __init__(self, row: Row, rationale_key: str | None = None) -> None:
        self.row, self.rationale_key = row, rationale_key
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return self.row[key]

    def __contains__(self, key: object) -> bool:
        return key in self.row

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)


def is_blank(value: object) -> bool:
    """Whether a value holds nothing: null, NaN, white space, or an empty list or object."""
    return value is None or value != value or value in ([], {}) or (isinstance(value, str) and not value.strip())


def peek(row: Row, key: str) -> Any:
    """Returns a value, None if the row has none; looking does not count as reading."""
    return (row.row if isinstance(row, Tracked) else row).get(key)


def key_of(row: Row, role: str) -> str | None:
    """Returns the key that a row has for a role: the first one with a value, or else the first one."""
    given = row.rationale_key if isinstance(row, Tracked) else None
    if role == "rationale" and given is not None:
        return given
    present = [key for key in KEYS.get(role, (role,)) if key in row]
    present = [key for key in present if key != given] or present
    if role == "rationale":
        present = [key for key in present if key == role or not is_tag(peek(row, key))]
    return next((key for key in present if not is_blank(peek(row, key))), present[0] if present else None)


def is_tag(value: object) -> bool:
    """Whether a value is a number or a word, and no rationale: "steps": 3, "reasoning": "on"."""
    return isinstance(value, (int, float)) or (isinstance(value, str) and value.strip().isalpha())


def has(row: Row, role: str) -> bool:
    """Whether a row has a key of a role."""
    key = key_of(row, role)
    return key is not None and key in row


def quoted(keys: Iterable[str]) -> str:
    """Returns keys for an error message; long ones are cut, and of many the first are named."""
    names = [f'"{key if len(key) <= 60 else f"{key[:50]} ..."}"' for key in keys]
    if len(names) > 20:
        names[20:] = [f"and {len(names) - 20} more"]
    return ", ".join(names) or "none"


def text_of(row: Row, key: str, where: str, empty: bool = False) -> str:
    """Returns a value of a row as text; it may be a number or a Boolean; 51.0 gives "51".

    Args:
        row: The row.
        key: Key of the value.
        where: File and line, for errors.
        empty: Whether the value may be missing, null, NaN or blank.

    Raises:
        RowError: The value has another type, is not finite, or is blank although ``empty`` is false.
    """
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif isinstance(value, float) and len(short := f"{value:.15g}") + 3 < len(repr(value)):
        value = short  # 0.1 + 0.2 in binary is 0.30000000000000004
    if empty and (value is None or value != value):
        value = ""
    if not isinstance(value, (str, int, float)) or value != value or value in (math.inf, -math.inf):
        reason = f'without "{key}"' if value is None or value != value else f'with another type than text in "{key}"'
        raise RowError(f'Expected text in "{key}", got {shown(value)} ({where}). Fix the row.', reason)
    text = str(value)
    if not text.strip() and not empty:
        raise RowError(
            f'Expected text in "{key}", got an empty value ({where}). Fill it in or remove the row.',
            f'with an empty "{key}"',
        )
    return text


def answer_of(row: Row, key: str, where: str) -> str:
    """Returns the gold answer under a key: a text, number or Boolean; "lSolutions" has it in a list.

    Raises:
        NoAnswer: The answer is missing or empty.
        RowError: The answer has another type, or the list has several.
    """
    value = row.get(key)
    if key == "lSolutions" and isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        return text_of({key: value}, key, where).strip()
    except RowError as error:
        if is_blank(value) or value != value:
            raise NoAnswer(str(error), error.reason) from error
        raise


def structured(value: object) -> object:
    """Returns a list or object that a table holds as text, in JSON or Python's notation; others as they are."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return parsed if isinstance(parsed, (list, dict)) else value
    return value


def shown(value: object) -> str:
    """Returns a value for an error message; the middle of a long one is left out."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-15:]}"


def unreadable(key: str, expected: str, text: str, where: str) -> UnreadableAnswer:
    """Returns the error for a text that should state an answer and does not."""
    return UnreadableAnswer(f'Expected {expected} in "{key}", got {shown(text)} ({where}). Fix or remove the row.')
