"""What formats share: the record of a format, and parsers for plain rows, completions and conversations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from skipthinking.data.conversations import Turn, content_of, last_question, reply_of
from skipthinking.data.fields import (
    Fields,
    Row,
    RowError,
    Tracked,
    answer_of,
    has,
    is_blank,
    key_of,
    peek,
    quoted,
    text_of,
    unreadable,
)  # fmt: skip
from skipthinking.data.phrases import closing, plain_question, strip_closing
from skipthinking.data.questions import check_alone, question_of
from skipthinking.data.thoughts import BadTags, Stated, split_tags, split_thoughts
from skipthinking.tasks.graders import boxed, unwrap

__all__ = [
    "GOLD", "Format", "Parser", "completion_row", "conversation_row", "lettered_row", "plain_row", "rationale_of",
    "registry", "stated_answer", "without_unit", "worked_row",
]  # fmt: skip

_CALCULATOR_MARK = re.compile(r"<<([^<>\n]*)>>")
# A teacher's text after its thoughts, in columns beside them.
_CONCLUSIONS = {
    "thinking_trajectories": "attempt",
    "deepseek_thinking_trajectory": "deepseek_attempt",
    "gemini_thinking_trajectory": "gemini_attempt",
    "deepseek_reasoning": "deepseek_solution",
}
# Gold answers beside a completion; TRL's "label" is a verdict on the completion.
GOLD = (
    "answer",
    "final_answer",
    "expected_answer",
    "correct_answer",
    "gold_answer",
    "ground_truth",
    "reference_answer",
)

Parser = Callable[[Tracked, str], Fields]
"""Parses a row that has the keys of the format; the second argument is the place of the row, for errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One way to write rationale data.

    Attributes:
        name: Name in the setting ``format``.
        keys: Keys that a row must have; a key of :data:`KEYS` stands for all keys of that role.
        parse: The parser.
        optional: Other keys that belong to the format and are not reported as unread.
        fits: Distinguishes formats with the same keys, by the contents of a row.
    """

    name: str
    keys: tuple[str, ...]
    parse: Parser
    optional: tuple[str, ...]
    fits: Callable[[Row], bool]

    def matches(self, row: Row) -> bool:
        """Whether the row has this format."""
        return all(has(row, key) for key in self.keys) and self.fits(row)

    def read(self, row: Row, where: str, rationale_key: str | None = None) -> Fields:
        """Parses a row.

        Args:
            row: The row.
            where: File and line, for errors.
            rationale_key: Key of the rationale; that of the format by default.

        Raises:
            RowError: A key is missing, or its value is empty or of the wrong type.
            UnreadableAnswer: The text that should state the answer does not.
        """
        tracked = Tracked(row, rationale_key)
        missing = [key for key in self.keys if not has(tracked, key)]
        if rationale_key is not None and rationale_key not in row:
            missing.append(rationale_key)
        if missing:
            raise RowError(
                f"Expected {quoted(self.keys)} for format {self.name}, got a row without {quoted(missing)}; its keys "
                f"are {quoted(row)} ({where}). Fix the row or choose another format.",
                f"without {quoted(missing)}",
            )
        try:
            fields = self.parse(tracked, where)
            if rationale_key is not None and rationale_key not in tracked.used:
                given = rationale_of(tracked, where)
                fields = replace(fields, rationale=given.reasoning, conclusion=given.conclusion)
        except RowError as error:
            error.used = frozenset(tracked.used)
            raise
        bare = unwrap(fields.rationale) == unwrap(fields.answer)  # the answer alone, "$\\boxed{5}$"
        rationale = "" if bare else fields.rationale
        return replace(fields, rationale=rationale, used=frozenset(tracked.used & row.keys()))


def registry(formats: list[Format]) -> Callable[..., Callable[[Parser], Parser]]:
    """Returns a decorator that adds parsers to a list of formats: name and keys, then ``optional`` and ``fits``."""

    def format(
        name: str, *keys: str, optional: tuple[str, ...] = (), fits: Callable[[Row], bool] = lambda row: True
    ) -> Callable[[Parser], Parser]:
        def add(parse: Parser) -> Parser:
            formats.append(Format(name=name, keys=keys, parse=parse, optional=optional, fits=fits))
            return parse

        return add

    return format


def rationale_of(row: Row, where: str) -> Stated:
    """Returns the rationale under any of its keys, the answer that it states, and the conclusion after it."""
    key = key_of(row, "rationale")
    if key is None:
        return Stated("", "")
    value = row[key]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = _unmarked("\n".join(value))
    text = text_of({key: value}, key, where, empty=True)
    try:
        tagged = split_tags(text)
    except BadTags as error:
        raise unreadable(key, error.expected, text, where) from error
    beside = next((name for name in (_CONCLUSIONS.get(key), "conclusion") if name in row), None)
    conclusion = strip_closing(text_of(row, beside, where, empty=True)) if beside else ""
    if tagged.thoughts is None:
        statement = closing(tagged.text)
        return Stated(strip_closing(tagged.text), statement[1] if statement else tagged.answer or "", conclusion)
    stated = split_thoughts(text)
    return stated._replace(conclusion=stated.conclusion or conclusion)


def _unmarked(text: str) -> str:
    """Removes calculator marks; a text of nothing but marks ("<<2+3=5>> <<5*2=10>>") keeps their contents."""
    without = _CALCULATOR_MARK.sub("", text)
    return without if without.strip() else _CALCULATOR_MARK.sub(r"\1", text)


def plain_row(row: Tracked, where: str, key: str | None = None) -> Fields:
    """The fields of a row with a key for the answer, by default that of the table, and maybe one for the rationale."""
    stated = rationale_of(row, where)
    return Fields(
        question=question_of(row, where),
        rationale=stated.reasoning,
        answer=answer_of(row, key or str(key_of(row, "answer")), where),
        conclusion=stated.conclusion,
        stated=unwrap(stated.answer),
    )


def lettered_row(row: Tracked, where: str, answer: str, choices: str) -> Fields:
    """The fields of a row whose answer is the letter of a choice."""
    fields = plain_row(row, where, answer)
    if is_blank(peek(row, choices)):
        raise RowError(
            f'Expected options such as "A)21" in "{choices}", got none ({where}). Fix the row.', "without options"
        )
    return fields


def without_unit(fields: Fields) -> Fields:
    """Removes a unit in parentheses and a decimal point without digits that count: "2 (apples)", "2.0"."""
    answer = re.sub(r"\s*\([^()]*\)\s*$", "", fields.answer)
    return replace(fields, answer=re.sub(r"\.0+$", "", answer).strip())


def completion_row(
    question: str, row: Tracked, key: str, where: str, gold_keys: Sequence[str] = GOLD, text: str | None = None
) -> Fields:
    """The fields of a completion, with the answer that it states, or that of a column beside it."""
    text = text_of(row, key, where) if text is None else text
    if not is_blank(peek(row, "reasoning_content")):  # as in a message: the API's name for thoughts
        text = f"<think>{text_of(row, 'reasoning_content', where)}</think>{text}"
    gold_key = next((name for name in gold_keys if not is_blank(peek(row, name))), None)
    gold = answer_of(row, gold_key, where).rpartition("####")[2].strip() if gold_key else ""
    try:
        stated = split_thoughts(text, gold)
    except BadTags as error:
        raise unreadable(key, error.expected, text, where) from error
    if not stated.answer and not gold:
        expected = 'a text that ends in "The answer is X", or "rationale --> X", or "<think>rationale</think>X"'
        raise unreadable(key, expected, text, where)
    thoughts = stated
    if not stated.reasoning and has(row, "rationale"):  # the completion states only the answer
        thoughts = rationale_of(row, where)
    return Fields(
        question=question,
        rationale=thoughts.reasoning,
        answer=gold or stated.answer,
        conclusion=thoughts.conclusion,
        stated=unwrap(stated.answer),
    )


def conversation_row(turns: list[Turn], row: Tracked, key: str, where: str) -> Fields:
    """The fields of a conversation of one question and one reply."""
    check_alone(row, where)
    question = plain_question(content_of(last_question(turns, where), where)[0])
    return completion_row(question, row, key, where, text=reply_of(turns, where))


def worked_row(question: str, solution: str, key: str, where: str) -> Fields:
    """The fields of a solution with its answer after ####."""
    rationale, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise unreadable(key, "the answer after ####", solution, where)
    return Fields(question=question, rationale=strip_closing(_unmarked(rationale)), answer=answer.strip())


def stated_answer(text: str) -> str:
    """Returns the answer that a text states in a closing phrase or a box; empty without one."""
    stated = closing(text)
    return (stated[1] if stated else "") or boxed(text) or ""
