"""Formats of rationale data: parse a row into question, rationale and answer.

A parser is a pure function of one row, with a sample row in its docstring. :func:`detect_format` chooses the format by
the keys and contents of a row. Every parser removes phrases that state the answer ("The answer is 5", "#### 5"), but
only from the end of the rationale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from skipthinking.data.fields import Fields, Row, quoted, shown, text_of, unreadable
from skipthinking.data.phrases import closing, plain_question, strip_closing, with_choices
from skipthinking.data.thoughts import split_thoughts, unended
from skipthinking.records import DataError, UserError
from skipthinking.tasks.graders import boxed

__all__ = ["FORMATS", "Format", "detect_format", "get_format"]

_CALCULATOR_MARK = re.compile(r"<<[^<>\n]*>>")
_OPTION = re.compile(r"\(?([A-Z])\s*[).:]\s*(.*)", re.DOTALL)

Parser = Callable[[Row, str], Fields]
"""Parses a row that has the keys of the format; the second argument is the place of the row, for errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One way to write rationale data.

    Attributes:
        name: Name in the setting ``format``.
        keys: Keys that a row must have.
        parse: The parser.
        optional: Other keys that belong to the format. The remaining keys of a row go to the example's meta.
        fits: Distinguishes formats with the same keys, by the contents of a row.
    """

    name: str
    keys: tuple[str, ...]
    parse: Parser
    optional: tuple[str, ...]
    fits: Callable[[Row], bool]

    def matches(self, row: Row) -> bool:
        """Whether the row has this format."""
        return all(key in row for key in self.keys) and self.fits(row)

    def read(self, row: Row, where: str) -> Fields:
        """Parses a row.

        Args:
            row: The row.
            where: File and line, for errors.

        Raises:
            DataError: A key is missing, or its value is empty or of the wrong type.
            UnreadableAnswer: The text that should state the answer does not.
        """
        missing = [key for key in self.keys if key not in row]
        if missing:
            raise DataError(
                f"Expected {quoted(self.keys)} for format {self.name}, got a row without {quoted(missing)}; its keys "
                f"are {quoted(row)} ({where}). Fix the row or choose another format."
            )
        return self.parse(row, where)


FORMATS: list[Format] = []
"""All formats in order of detection, which is their order in this file: a format comes before less specific ones."""


def _format(
    name: str, *keys: str, optional: tuple[str, ...] = (), fits: Callable[[Row], bool] = lambda row: True
) -> Callable[[Parser], Parser]:
    """Adds a parser to the formats."""

    def add(parse: Parser) -> Parser:
        FORMATS.append(Format(name=name, keys=keys, parse=parse, optional=optional, fits=fits))
        return parse

    return add


@_format("fine_tune_cot", "question", "reasoning_completion", "answer")
def _fine_tune_cot(row: Row, where: str) -> Fields:
    """Sample row: {"question": "2+3?", "reasoning_completion": "2+3=5.", "completion": " 5", "answer": "5"}"""
    return Fields(
        question=plain_question(text_of(row, "question", where)),
        rationale=strip_closing(text_of(row, "reasoning_completion", where, empty=True)),
        answer=text_of(row, "answer", where).strip(),
    )


@_format("aqua", "question", "options", "rationale", "correct")
def _aqua(row: Row, where: str) -> Fields:
    r"""Sample row: {"question": "2+3?", "options": ["A)5", "B)6"], "rationale": "2+3=5.\nAnswer: A", "correct": "A"}"""
    options = row["options"]
    marked = [_OPTION.fullmatch(str(option).strip()) for option in options] if isinstance(options, list) else [None]
    if not marked or None in marked:
        raise DataError(f'Expected options such as "A)21" in "options", got {shown(options)} ({where}). Fix the row.')
    labels = [match.group(1) for match in marked if match]
    texts = [match.group(2) for match in marked if match]
    return Fields(
        question=with_choices(text_of(row, "question", where), labels, texts),
        rationale=strip_closing(text_of(row, "rationale", where, empty=True)),
        answer=text_of(row, "correct", where).strip(),
    )


@_format("qra", "question", "rationale", "answer", optional=("task", "meta", "conclusion"))
def _qra(row: Row, where: str) -> Fields:
    """The project's format, with or without a rationale.

    Sample row: {"id": "a", "question": "2+3?", "rationale": "2+3=5.", "answer": "5"}
    Sample row: {"question": "2+3?", "answer": 5}
    """
    return Fields(
        question=text_of(row, "question", where).strip(),
        rationale=strip_closing(text_of(row, "rationale", where, empty=True)),
        answer=text_of(row, "answer", where).strip(),
        conclusion=text_of(row, "conclusion", where, empty=True).strip(),
    )


@_format("commonsense_qa", "question", "choices", "answerKey")
def _commonsense_qa(row: Row, where: str) -> Fields:
    """Sample row: {"question": "2+3?", "choices": {"label": ["A", "B"], "text": ["5", "6"]}, "answerKey": "A"}"""
    choices = row["choices"]
    lists = [choices.get(key) for key in ("label", "text")] if isinstance(choices, Mapping) else [None]
    sizes = {len(part) if isinstance(part, list) else None for part in lists}
    if len(sizes) != 1 or None in sizes:
        raise DataError(f'Expected labels and texts in "choices", got {shown(choices)} ({where}). Fix the row.')
    question = with_choices(text_of(row, "question", where), choices["label"], choices["text"])
    return Fields(question=question, rationale="", answer=text_of(row, "answerKey", where).strip())


@_format("asdiv", "body", "question", "answer")
def _asdiv(row: Row, where: str) -> Fields:
    """Sample row: {"body": "He has 2 apples.", "question": "How many?", "answer": "2 (apples)"}"""
    body, question = text_of(row, "body", where), text_of(row, "question", where)
    answer = re.sub(r"\s*\([^()]*\)\s*$", "", text_of(row, "answer", where))  # without the unit
    return Fields(question=f"{body.strip()} {question.strip()}", rationale="", answer=answer.strip())


@_format("gsm8k", "question", "answer", fits=lambda row: isinstance(row["answer"], str) and "####" in row["answer"])
def _gsm8k(row: Row, where: str) -> Fields:
    r"""Sample row: {"question": "2+3?", "answer": "She has 2+3 = $<<2+3=5>>5.\n#### 5"}"""
    solution = text_of(row, "answer", where)
    rationale, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise unreadable("answer", "the answer after ####", solution, where)
    rationale = strip_closing(_CALCULATOR_MARK.sub("", rationale))
    return Fields(question=text_of(row, "question", where).strip(), rationale=rationale, answer=answer.strip())


@_format("strategy_qa", "question", "answer", optional=("facts",), fits=lambda row: isinstance(row["answer"], bool))
def _strategy_qa(row: Row, where: str) -> Fields:
    """Sample row: {"question": "Is 2+3 even?", "answer": false, "facts": ["2+3 is 5.", "5 is odd."]}"""
    facts = row.get("facts")
    if isinstance(facts, list):
        facts = " ".join(str(fact).strip() for fact in facts)
    rationale = text_of({"facts": facts}, "facts", where, empty=True)
    answer = text_of(row, "answer", where).strip()
    return Fields(question=text_of(row, "question", where).strip(), rationale=rationale.strip(), answer=answer)


@_format("multiarith", "question", "final_ans")
def _multiarith(row: Row, where: str) -> Fields:
    """Sample row: {"question": "2+3?", "final_ans": "5"}"""
    answer = text_of(row, "final_ans", where).strip()
    return Fields(question=text_of(row, "question", where).strip(), rationale="", answer=answer)


# After gsm8k and strategy_qa, which have these keys too.
_format("qa", "question", "answer", optional=("rationale", "task", "meta", "conclusion"))(_qra)

_VERDICTS = ("correctness_math_verify", "correctness_llama")


@_format(
    "open_r1", "problem", "generations",
    optional=("answer", "solution", "messages", "is_reasoning_complete", *_VERDICTS, "finish_reasons"),
)  # fmt: skip
def _open_r1(row: Row, where: str) -> Fields:
    """Takes the first generation that is complete and correct according to Math-Verify or to the LLM judge.

    Sample row: {"problem": "2+3?", "answer": "5", "generations": ["<think>2+3=5</think>It is 5."],
        "is_reasoning_complete": [true], "correctness_math_verify": [true], "correctness_llama": null}
    """
    generations = row["generations"]
    if not isinstance(generations, list) or not all(isinstance(text, str) for text in generations):
        raise DataError(f'Expected a list of texts in "generations", got {shown(generations)} ({where}). Fix the row.')
    size = len(generations)
    verdicts = [[] if row.get(key) is None else row[key] for key in _VERDICTS]
    complete = [True] * size if row.get("is_reasoning_complete") is None else row["is_reasoning_complete"]
    for column in (*verdicts, complete):
        if not isinstance(column, list) or not all(verdict in (True, False, None) for verdict in column):
            raise DataError(
                f"Expected a verdict for each of {size} generations, got {shown(column)} ({where}). Fix the row."
            )
    for i, text in enumerate(generations[: len(complete)]):
        judged = [column[i] for column in verdicts if i < len(column)]
        if complete[i] and (any(judged) or not judged) and not unended(text):
            stated = split_thoughts(text)
            answer = text_of(row, "answer", where, empty=True).strip() or (stated.answer if stated else "")
            if stated and answer:
                question = text_of(row, "problem", where).strip()
                return Fields(
                    question=question, rationale=stated.reasoning, answer=answer, conclusion=stated.conclusion
                )
    raise unreadable("generations", "a complete and correct generation", " | ".join(generations), where)


@_format("math", "problem", "solution", optional=("answer",))
def _math(row: Row, where: str) -> Fields:
    r"""Sample row: {"problem": "2+3?", "solution": "It is $\\boxed{5}$.", "level": "Level 1"}"""
    solution = text_of(row, "solution", where)
    answer = text_of(row, "answer", where, empty=True).strip() or boxed(solution)
    if not answer:
        raise unreadable("solution", r"a \boxed{} answer", solution, where)
    return Fields(question=text_of(row, "problem", where).strip(), rationale=strip_closing(solution), answer=answer)


@_format("svamp", "Body", "Question", "Answer")
def _svamp(row: Row, where: str) -> Fields:
    """Sample row: {"Body": "He has 2 apples.", "Question": "How many?", "Answer": 2.0}"""
    body, question = text_of(row, "Body", where), text_of(row, "Question", where)
    answer = re.sub(r"\.0+$", "", text_of(row, "Answer", where).strip())
    return Fields(question=f"{body.strip()} {question.strip()}", rationale="", answer=answer)


@_format("dss", "input", "label", "rationale")
def _dss(row: Row, where: str) -> Fields:
    r"""Sample row: {"input": "2+3?\nAnswer Choices:\n(a) 5\n(b) 6", "label": "5", "rationale": "2+3=5."}"""
    question = plain_question(text_of(row, "input", where))
    label = text_of(row, "label", where).strip()
    _, _, choices = question.partition("\nAnswer Choices:\n")
    for line in choices.splitlines():
        letter, _, text = line.partition(". ")
        if text.casefold() == label.casefold():  # the label is the text of a choice, the task's answer its letter
            label = letter
            break
    rationale = strip_closing(text_of(row, "rationale", where, empty=True))
    return Fields(question=question, rationale=rationale, answer=label)


@_format(
    "instruction", "instruction",
    optional=("input", "output", "label"), fits=lambda row: "output" in row or "label" in row,
)  # fmt: skip
def _instruction(row: Row, where: str) -> Fields:
    """Sample row: {"instruction": "Add.", "input": "2 and 3", "output": "2+3=5. The answer is 5"}"""
    question = text_of(row, "instruction", where)
    context = text_of(row, "input", where, empty=True)
    question = plain_question(f"{question}\n{context}" if context.strip() else question)
    output = text_of(row, "output", where, empty="label" in row)
    if "label" in row:
        return Fields(question=question, rationale=strip_closing(output), answer=text_of(row, "label", where).strip())
    stated = closing(output)
    if stated is None or not stated[1]:
        raise unreadable("output", 'a text that ends in "The answer is X"', output, where)
    return Fields(question=question, rationale=stated[0], answer=stated[1])


@_format("prompt_completion", "prompt", "completion")
def _prompt_completion(row: Row, where: str) -> Fields:
    """Sample row: {"prompt": "2+3?", "completion": "<think>2+3=5</think>It is 5. The answer is 5."}"""
    return _completion(text_of(row, "prompt", where), text_of(row, "completion", where), "completion", where)


@_format("messages", "messages")
def _messages(row: Row, where: str) -> Fields:
    """Sample row: {"messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "2+3 --> 5"}]}"""
    turns = row["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f'Expected a list of messages in "messages", got {shown(turns)} ({where}). Fix the row.')
    roles = [turn.get("role") for turn in turns]
    if [role for role in roles if role != "system"] != ["user", "assistant"]:
        raise DataError(
            f"Expected one question and one reply (roles user, assistant; system is ignored), got roles {roles} "
            f"({where}). Split longer conversations, one row per question."
        )
    question, reply = (turns[roles.index(role)] for role in ("user", "assistant"))
    content = text_of(reply, "content", where)
    # DeepSeek's API and the chat templates of reasoning models store the thoughts separately.
    thoughts = next((key for key in ("reasoning_content", "reasoning") if reply.get(key) is not None), None)
    if thoughts is not None:
        content = f"<think>{text_of(reply, thoughts, where, empty=True)}</think>{content}"
    return _completion(text_of(question, "content", where), content, "content", where)


def _completion(question: str, completion: str, key: str, where: str) -> Fields:
    if tag := unended(completion):
        raise unreadable(key, f"thoughts that end in </{tag}>", completion, where)
    stated = split_thoughts(completion)
    if stated is None or not stated.answer:
        expected = 'a text that ends in "The answer is X", or "rationale --> X", or "<think>rationale</think>X"'
        raise unreadable(key, expected, completion, where)
    return Fields(
        question=plain_question(question),
        rationale=stated.reasoning,
        answer=stated.answer,
        conclusion=stated.conclusion,
    )


def get_format(name: str) -> Format:
    """Returns the format of that name.

    Raises:
        UserError: No format has this name.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise UserError(f"Expected a format, got {name!r} (format). Choose one of auto, {names}.")


def detect_format(row: Row, where: str) -> Format:
    """Returns the first format that a row matches.

    Raises:
        DataError: The row matches no format.
    """
    for known in FORMATS:
        if known.matches(row):
            return known
    listed = "; ".join(f"{known.name}: {', '.join(known.keys)}" for known in FORMATS)
    raise DataError(
        f"Expected a row in a known format, got the keys {quoted(row)} ({where}). Rename them to those of a format: "
        f"{listed} (gsm8k needs #### in the answer, strategy_qa true or false, instruction an output or a label)."
    )
