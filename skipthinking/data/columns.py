"""Columns that a format did not read: a second rationale is an error, all other text is named in the start report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from skipthinking.data.fields import KEYS, Ambiguous, Fields, Row, is_blank, is_tag, quoted
from skipthinking.data.parsers import GOLD
from skipthinking.data.phrases import bare, question_key, strip_closing
from skipthinking.data.thoughts import BadTags, split_thoughts

__all__ = ["Unread", "check_rivals", "differ"]

# Words in the name of a column that may be the rationale.
_WORDS = {"rationale", "reasoning", "reason", "think", "thinking", "thought", "thoughts", "cot", "chain", "explanation",
          "solution", "trace", "response", "completion", "output", "generation"}  # fmt: skip
_SHORT = 20  # characters; a shorter text occurs in another one by chance


def texts_in(value: object) -> Iterable[str]:
    """Yields the texts in a value; of a message only its content."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        spoken = [key for key in ("content", "value", "text") if key in value]
        for key in spoken or value:
            yield from texts_in(value[key])
    elif isinstance(value, list):
        for part in value:
            yield from texts_in(part)


def check_rivals(row: Row, fields: Fields, where: str, optional: Iterable[str]) -> None:
    """Raises Ambiguous if a row has a rationale under another key than the one that was read, with another text.

    Args:
        row: The row.
        fields: What was read.
        where: File and line, for the error.
        optional: Keys that the format leaves aside on purpose.
    """
    read = {question_key(text) for text in (fields.question, fields.rationale, fields.conclusion, fields.answer)}
    read |= {question_key(f"{fields.rationale}\n\n{fields.conclusion}"), ""}
    for key in (*KEYS["rationale"], *KEYS["completion"], *KEYS["conversation"]):
        if key not in row or key in fields.used or key in optional or is_blank(row[key]) or is_tag(row[key]):
            continue
        texts = list(texts_in(row[key]))
        if isinstance(row[key], list) and all(isinstance(part, str) for part in row[key]):  # the steps of one text
            texts = ["\n".join(texts)]
        if any(not _readings(text) & read for text in texts):
            own = _source(row, fields)
            two = quoted([own, key] if own else [key])
            choice = " or ".join(f"rationale_key: {name}" for name in (own, key) if name)
            raise Ambiguous(
                f"Expected one rationale, got different texts, {'' if own else 'another one '}in {two} ({where}). Set "
                f"{choice}, or remove {quoted([key])}."
            )
    for key in GOLD:
        other_answer = row.get(key)
        if key not in fields.used and key not in optional and differ(str(other_answer), fields.answer):
            raise Ambiguous(
                f'Expected one answer, got {fields.answer!r} and {other_answer!r} in "{key}" ({where}). Remove or '
                "rename one of the columns."
            )


def _source(row: Row, fields: Fields) -> str | None:
    """The key that the rationale was read from."""
    start = question_key(fields.rationale)[:_SHORT]
    keys = sorted(fields.used, key=lambda key: key not in KEYS["rationale"])
    return next((key for key in keys if start and start in question_key(" ".join(texts_in(row[key])))), None)


def differ(a: str, b: str) -> bool:
    """Whether both are plain numbers, and not the same."""
    try:
        return float(a.replace(",", "")) != float(b.replace(",", ""))
    except ValueError:
        return False


def _readings(text: str) -> set[str]:
    """The forms in which a text may have been read: all of it, its reasoning, or its answer alone."""
    try:
        stated = split_thoughts(text)
    except BadTags:
        return {question_key(text)}
    readings = (text, strip_closing(text), bare(text), stated.reasoning, stated.conclusion)
    return {question_key(reading) for reading in readings if reading.strip()}


class Unread:
    """Collects the columns with text that no format read.

    Args:
        ignored: Keys that are no text of the example, such as its id.
        chosen: Whether the user chose the rationale, so that no other column is suggested.
    """

    def __init__(self, ignored: Iterable[str], chosen: bool) -> None:
        self.ignored, self.chosen = set(ignored), chosen
        self.longest: dict[str, int] = {}
        self.rationales = 0

    def add(self, row: Row, fields: Fields) -> None:
        """Adds a row and what was read of it."""
        self.rationales += bool(fields.rationale)
        for key, value in row.items():
            if key in self.longest or key in fields.used or key in self.ignored:
                continue
            text = "\n".join(texts_in(value))
            if text.strip() and not _is_repeated(text, fields):
                self.longest[key] = len(text) if " " in text.strip() else 0  # a URL is no rationale

    def add_fault(self, row: Row, used: Iterable[str]) -> None:
        """Adds a row with a fault; used are the keys up to the fault, so that keys of a role may come later."""
        self.rationales = 1  # so that no column is taken for the rationale by its length
        roles = (key for keys in KEYS.values() for key in keys)
        self.add(row, Fields(question="", rationale="", answer="", used=frozenset({*used, *roles, "history"})))

    @property
    def report(self) -> str:
        """The columns in one phrase, with those that may be the rationale; empty without any."""
        if not self.longest:
            return ""
        long = [key for key, size in self.longest.items() if size >= _SHORT and not self.chosen]
        meant = [key for key in long if _WORDS & set(re.split(r"[^a-z]+", _snake(key)))]
        if not meant and not self.rationales and long:
            meant = [max(long, key=lambda key: self.longest[key])]
        hint = f" (if the rationale is in {quoted(meant)}, set rationale_key: {meant[0]})" if meant else ""
        return f"columns not read: {quoted(self.longest)}{hint}"


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()


def _is_repeated(text: str, fields: Fields) -> bool:
    """Whether a text is also in what was read."""
    folded = question_key(text)
    read = [question_key(part) for part in (fields.question, fields.rationale, fields.conclusion, fields.answer)]
    if _readings(text) & set(read):
        return True
    return len(folded) >= _SHORT and any(folded in part for part in read)
