"""The question of a row, with its choices: the same one in training, in tests and in ``predict``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipthinking.data.conversations import content_of, last_question, turns_of
from skipthinking.data.fields import ID_KEYS, Row, RowError, is_blank, key_of, peek, shown, structured, text_of
from skipthinking.data.phrases import plain_question, question_key, split_choices, with_choices
from skipthinking.data.rows import read_rows
from skipthinking.files import read_text
from skipthinking.records import DataError, UserError

__all__ = ["check_alone", "question_of", "read_questions"]

_OPTION = re.compile(r"\(?([A-Z])\s*[).:]\s*(.*)", re.DOTALL)
_BODIES = (("body", "question"), ("Body", "Question"))
# MAWPS and its descendants replace the numbers of a question: "Ann has number0 pens", Numbers "5 3".
_PLACEHOLDER = re.compile(r"(?<!\w)(?:(number)|N_|NUM_?|num_)(\d{1,2})(?!\w)|[\[<](?:NUM|num)_?(\d{1,2})[\]>]")
_TEXT = ("", ".txt", ".text", ".md")  # kinds of files with one question per line
_VALUES = ("Numbers", "numbers", "nums", "num_list")
# Under these keys stands the question; under the others a prompt, whose frame ("Q: ...", "A:") is removed.
_VERBATIM = ("question", "problem", "query", "sQuestion", "original_text", "Question")


def question_of(row: Row, where: str) -> str:
    """Returns the question of a row: a text, a problem's body and question, a conversation's, or one with choices.

    Raises:
        RowError: There is no question, or it needs what cannot be shown: earlier turns, values of placeholders.
    """
    check_alone(row, where)
    text = _filled(_stem(row, where), row, where)
    for key in ("choices", "options"):
        if not is_blank(peek(row, key)) and "\nAnswer Choices:\n" not in plain_question(text):
            return with_choices(text, *_choices(row[key], key, where))
    return text.strip()


def check_alone(row: Row, where: str) -> None:
    """Raises RowError if a row has earlier turns in Alpaca's "history", which its question may need."""
    if not is_blank(peek(row, "history")):
        raise RowError(
            f'Expected a question that stands alone, got earlier turns in "history" ({where}). Remove the row, or '
            "empty the history if the question does not need it.",
            "with earlier turns",
        )


def _stem(row: Row, where: str) -> str:
    for body, question in _BODIES:
        if body in row and question in row:
            return _joined(text_of(row, body, where, empty=True), text_of(row, question, where))
    key = key_of(row, "question") or ("Question" if any(name in row for name in _VALUES) else None)
    conversation = key_of(row, "conversation")
    if key is None or (conversation is not None and key not in ("question", "problem")):
        key = conversation or "question"
    if key == conversation or isinstance(peek(row, key), list):  # the list is TRL's prompt
        return plain_question(content_of(last_question(turns_of(row[key], key, where), where), where)[0])
    if isinstance(peek(row, key), Mapping) and "stem" in row[key]:  # CommonsenseQA's own files
        return with_choices(text_of(row[key], "stem", where), *_choices(row[key].get("choices"), "choices", where))
    if isinstance(peek(row, key), bool):
        raise RowError(f'Expected text in "{key}", got {row[key]} ({where}). Fix the row.', f'without text in "{key}"')
    text = text_of(row, key, where)
    names = ("input", "context", "passage") if key == "instruction" else ("context", "passage")
    if context := next((name for name in names if not is_blank(peek(row, name))), None):
        around = text_of(row, context, where)
        text = f"{text}\n{around}" if key == "instruction" else _joined(around, text, "\n")
    return text.strip() if key in _VERBATIM and "reasoning_completion" not in row else plain_question(text)


def _joined(body: str, question: str, between: str = " ") -> str:
    """A problem's body or passage and its question, the body only once."""
    if question_key(body) in question_key(question):
        return question.strip()
    return f"{body.strip()}{between}{question.strip()}"


def _filled(text: str, row: Row, where: str) -> str:
    """Replaces placeholders of numbers by their values."""
    matches = list(_PLACEHOLDER.finditer(text))
    indices = [int(match[2] or match[3]) for match in matches]
    if not indices or (all(match[1] for match in matches) and 0 not in indices):  # "the number1 song"
        return text
    key = next((name for name in _VALUES if name in row), None)
    values: Any = row[key] if key else []
    values = values.split() if isinstance(values, str) else values
    first = min(indices)  # counted from 0 or from 1
    surplus = len(values) - (max(indices) - first + 1) if isinstance(values, list) else -1
    if first > 1 or surplus < 0 or (first == 1 and surplus > 0):
        raise RowError(
            f"Expected numbers in the question, got placeholders up to {max(indices)} and {shown(values)} in "
            f'"{key or _VALUES[0]}" ({where}). Write the numbers into the question.',
            "with placeholders in place of numbers",
        )
    numbers = [re.sub(r"\.0+\Z", "", str(value)) for value in values]
    return _PLACEHOLDER.sub(lambda match: numbers[int(match[2] or match[3]) - first], text)


def _choices(value: object, key: str, where: str) -> tuple[list[str], list[str]]:
    """Returns labels and texts of choices in the forms of CommonsenseQA, ARC, AQuA, MedQA and MathQA.

    Sample values: {"label": ["A", "B"], "text": ["5", "6"]}, [{"label": "A", "text": "5"}], ["A)5", "B)6"],
        {"A": "5", "B": "6"}, "a ) 5 , b ) 6"
    """
    value = structured(value)
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, str):
        pairs = list(zip(*split_choices(value), strict=True))
    if isinstance(value, Mapping) and {"label", "text"} <= set(value):
        lists = value["label"], value["text"]
        if all(isinstance(part, list) for part in lists) and len(lists[0]) == len(lists[1]):
            pairs = list(zip(*lists, strict=True))
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        pairs = [(part.get("label"), part.get("text")) for part in value]
    elif isinstance(value, list):
        marked = [_OPTION.fullmatch(str(option).strip()) for option in value]
        pairs = [(match[1], match[2]) if match else (None, None) for match in marked]
    if not pairs or not all(isinstance(label, str) and isinstance(text, (str, int, float)) for label, text in pairs):
        raise RowError(
            f'Expected options such as "A)21", or labels and texts, in "{key}", got {shown(value)} ({where}). Fix the '
            "row.",
            f'without labels and texts in "{key}"',
        )
    return [label for label, _ in pairs], [str(text) for _, text in pairs]


def read_questions(path: Path) -> list[tuple[str, str]]:
    """Reads questions, with or without answers: text with one per line, or rows in any form that training reads.

    A row is an object such as {"id": "q7", "question": "2+3?"}; the id may be missing.

    Returns:
        (id, question) pairs in file order; a missing id is "line-" or "row-" and the number.

    Raises:
        UserError: The file is missing.
        DataError: The file has a malformed line, an id twice, or no question.
    """
    if not path.exists():
        raise UserError(
            f"Expected a file of questions, got {str(path)!r}, which does not exist. Fix --questions (in a file: "
            "data.questions)."
        )
    if path.is_file() and not path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip():
        questions = []
    elif path.is_file() and path.suffix.lower() in _TEXT:
        lines = enumerate(re.split(r"\r\n?|\n", read_text(path)), 1)
        questions = [(f"line-{number}", line.strip()) for number, line in lines if line.strip()]
    else:
        questions = _from_rows(path)
    if not questions:
        raise DataError(f"Expected at least one question, got none ({path}).")
    if len({id for id, _ in questions}) < len(questions):
        raise DataError(f"Expected every id once, got duplicates ({path}). Rename them or leave ids out.")
    return questions


def _from_rows(path: Path) -> list[tuple[str, str]]:
    questions = []
    try:
        for row, where in read_rows(path):
            id = next((row[key] for key in ID_KEYS if not is_blank(row.get(key))), None)
            name = re.sub(r".*[: ](?=\d+\Z)", "row-" if ": row " in where else "line-", where)
            questions.append((name if id is None else str(id), question_of(row, where)))
    except DataError as error:
        raise DataError(f'Expected rows such as an object with a "question", one for each question. {error}') from error
    return questions
