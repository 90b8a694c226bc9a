"""Formats of rationale data: from a row, as people have it, to question, rationale and answer.

Every format is a pure function of one row. :func:`detect_format` finds the format by the row's keys and contents. In
all of them the phrases that state the answer ("The answer is 5", "#### 5") are taken off the rationale's end, and only
there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from skipthinking.data.fields import Fields, Row, UnreadableAnswer, quoted, shown, text_of, unreadable
from skipthinking.data.phrases import (
    Stated,
    boxed,
    closing,
    plain_question,
    split_thoughts,
    strip_closing,
    unended,
    with_choices,
)
from skipthinking.records import DataError, UserError

__all__ = ["FORMATS", "Fields", "Format", "UnreadableAnswer", "detect_format", "get_format"]

_CALCULATOR_MARK = re.compile(r"<<[^<>\n]*>>")
_OPTION = re.compile(r"\(?([A-Z])\s*[).:]\s*(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One way to write rationale data.

    Attributes:
        name: What the user calls it.
        keys: Keys that a row must have.
        parse: Reads a row that has the keys; the second argument says where the row is, for errors.
        optional: Keys that are read if they are there. All others go to the example's meta.
        fits: Tells apart formats with the same keys, by the row's contents.
    """

    name: str
    keys: tuple[str, ...]
    parse: Callable[[Row, str], Fields]
    optional: tuple[str, ...] = ()
    fits: Callable[[Row], bool] = lambda row: True

    def matches(self, row: Row) -> bool:
        """Whether the row looks like this format."""
        return all(key in row for key in self.keys) and self.fits(row)

    def read(self, row: Row, where: str) -> Fields:
        """Reads a row.

        Args:
            row: The row.
            where: File and line, named in errors.

        Raises:
            DataError: A key is missing, or its value is empty or of the wrong kind.
            UnreadableAnswer: The text that should state the answer does not.
        """
        missing = [key for key in self.keys if key not in row]
        if missing:
            raise DataError(
                f"Expected {quoted(self.keys)} for format {self.name}, got a row without {quoted(missing)}; its keys "
                f"are {quoted(row)} ({where}). Mend the row or choose another format."
            )
        return self.parse(row, where)


def _qra(row: Row, where: str) -> Fields:
    rationale = text_of(row, "rationale", where, empty=True)
    return Fields(
        question=text_of(row, "question", where).strip(),
        rationale=strip_closing(rationale),
        answer=text_of(row, "answer", where).strip(),
        conclusion=text_of(row, "conclusion", where, empty=True).strip(),
    )


def _gsm8k(row: Row, where: str) -> Fields:
    solution = text_of(row, "answer", where)
    rationale, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise unreadable("answer", "the answer behind ####", solution, where)
    rationale = strip_closing(_CALCULATOR_MARK.sub("", rationale))
    return Fields(question=text_of(row, "question", where).strip(), rationale=rationale, answer=answer.strip())


def _instruction(row: Row, where: str) -> Fields:
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


def _stated(completion: str, key: str, where: str) -> Stated:
    if tag := unended(completion):
        raise unreadable(key, f"thoughts that end in </{tag}>", completion, where)
    stated = split_thoughts(completion)
    if stated is None or not stated.answer:
        expected = 'a text that ends in "The answer is X", or "rationale --> X", or "<think>rationale</think>X"'
        raise unreadable(key, expected, completion, where)
    return stated


def _completion(question: str, completion: str, key: str, where: str) -> Fields:
    stated = _stated(completion, key, where)
    return Fields(
        question=plain_question(question),
        rationale=stated.reasoning,
        answer=stated.answer,
        conclusion=stated.conclusion,
    )


def _prompt_completion(row: Row, where: str) -> Fields:
    return _completion(text_of(row, "prompt", where), text_of(row, "completion", where), "completion", where)


def _messages(row: Row, where: str) -> Fields:
    turns = row["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f'Expected a list of messages in "messages", got {shown(turns)} ({where}). Mend the row.')
    roles = [turn.get("role") for turn in turns]
    if [role for role in roles if role != "system"] != ["user", "assistant"]:
        raise DataError(
            f"Expected one question and one reply (roles user, assistant; system is left out), got roles {roles} "
            f"({where}). Split longer conversations, one row per question."
        )
    question, reply = (turns[roles.index(role)] for role in ("user", "assistant"))
    content = text_of(reply, "content", where)
    # DeepSeek's interface and chat templates of reasoning models keep the thoughts apart.
    thoughts = next((key for key in ("reasoning_content", "reasoning") if reply.get(key) is not None), None)
    if thoughts is not None:
        content = f"<think>{text_of(reply, thoughts, where, empty=True)}</think>{content}"
    return _completion(text_of(question, "content", where), content, "content", where)


def _open_r1(row: Row, where: str) -> Fields:
    """The first generation that is complete and was found correct, by Math-Verify or by the judge."""
    made = row["generations"]
    if not isinstance(made, list) or not all(isinstance(text, str) for text in made):
        raise DataError(f'Expected a list of texts in "generations", got {shown(made)} ({where}). Mend the row.')
    judged = [[] if row.get(key) is None else row[key] for key in ("correctness_math_verify", "correctness_llama")]
    whole = [True] * len(made) if row.get("is_reasoning_complete") is None else row["is_reasoning_complete"]
    for column in (*judged, whole):
        if not isinstance(column, list) or not all(verdict in (True, False, None) for verdict in column):
            raise DataError(
                f"Expected a verdict for each of {len(made)} generations, got {shown(column)} ({where}). Mend the row."
            )
    for place, text in enumerate(made):
        right = [bool(verdicts[place]) for verdicts in judged if place < len(verdicts)]
        if place < len(whole) and whole[place] and (any(right) or not right) and not unended(text):
            stated = split_thoughts(text)
            answer = text_of(row, "answer", where, empty=True).strip() or (stated.answer if stated else "")
            if stated and answer:
                question = text_of(row, "problem", where).strip()
                return Fields(
                    question=question, rationale=stated.reasoning, answer=answer, conclusion=stated.conclusion
                )
    raise unreadable("generations", "a complete generation that was found correct", " | ".join(made), where)


def _dss(row: Row, where: str) -> Fields:
    question = plain_question(text_of(row, "input", where))
    label = text_of(row, "label", where).strip()
    _, _, choices = question.partition("\nAnswer Choices:\n")
    for line in choices.splitlines():
        letter, _, text = line.partition(". ")
        if text.casefold() == label.casefold():  # the label is the choice's text, the task's answer its letter
            label = letter
            break
    rationale = strip_closing(text_of(row, "rationale", where, empty=True))
    return Fields(question=question, rationale=rationale, answer=label)


def _fine_tune_cot(row: Row, where: str) -> Fields:
    return Fields(
        question=plain_question(text_of(row, "question", where)),
        rationale=strip_closing(text_of(row, "reasoning_completion", where, empty=True)),
        answer=text_of(row, "answer", where).strip(),
    )


def _svamp(row: Row, where: str) -> Fields:
    body, question = text_of(row, "Body", where), text_of(row, "Question", where)
    answer = re.sub(r"\.0+$", "", text_of(row, "Answer", where).strip())
    return Fields(question=f"{body.strip()} {question.strip()}", rationale="", answer=answer)


def _asdiv(row: Row, where: str) -> Fields:
    body, question = text_of(row, "body", where), text_of(row, "question", where)
    # "9 (apples)": the unit is not part of the answer.
    answer = re.sub(r"\s*\([^()]*\)\s*$", "", text_of(row, "answer", where))
    return Fields(question=f"{body.strip()} {question.strip()}", rationale="", answer=answer.strip())


def _multiarith(row: Row, where: str) -> Fields:
    answer = text_of(row, "final_ans", where).strip()
    return Fields(question=text_of(row, "question", where).strip(), rationale="", answer=answer)


def _commonsense_qa(row: Row, where: str) -> Fields:
    choices = row["choices"]
    lists = [choices.get(key) for key in ("label", "text")] if isinstance(choices, Mapping) else [None]
    sizes = {len(part) if isinstance(part, list) else None for part in lists}
    if len(sizes) != 1 or None in sizes:
        raise DataError(f'Expected labels and texts in "choices", got {shown(choices)} ({where}). Mend the row.')
    question = with_choices(text_of(row, "question", where), choices["label"], choices["text"])
    return Fields(question=question, rationale="", answer=text_of(row, "answerKey", where).strip())


def _aqua(row: Row, where: str) -> Fields:
    options = row["options"]
    marked = [_OPTION.fullmatch(str(option).strip()) for option in options] if isinstance(options, list) else [None]
    if not marked or None in marked:
        raise DataError(f'Expected options such as "A)21" in "options", got {shown(options)} ({where}). Mend the row.')
    labels = [match.group(1) for match in marked if match]
    texts = [match.group(2) for match in marked if match]
    return Fields(
        question=with_choices(text_of(row, "question", where), labels, texts),
        rationale=strip_closing(text_of(row, "rationale", where, empty=True)),
        answer=text_of(row, "correct", where).strip(),
    )


def _math(row: Row, where: str) -> Fields:
    solution = text_of(row, "solution", where)
    answer = text_of(row, "answer", where, empty=True).strip() or boxed(solution)
    if not answer:
        raise unreadable("solution", r"a \boxed{} answer", solution, where)
    return Fields(question=text_of(row, "problem", where).strip(), rationale=strip_closing(solution), answer=answer)


def _strategy_qa(row: Row, where: str) -> Fields:
    facts = row.get("facts")
    if isinstance(facts, list):
        facts = " ".join(str(fact).strip() for fact in facts)
    rationale = text_of({"facts": facts}, "facts", where, empty=True)
    answer = text_of(row, "answer", where).strip()
    return Fields(question=text_of(row, "question", where).strip(), rationale=rationale.strip(), answer=answer)


# In order of detection: the more specific first.
FORMATS: tuple[Format, ...] = (
    Format(name="fine_tune_cot", keys=("question", "reasoning_completion", "answer"), parse=_fine_tune_cot),
    Format(name="aqua", keys=("question", "options", "rationale", "correct"), parse=_aqua),
    Format(name="qra", keys=("question", "rationale", "answer"), optional=("task", "meta", "conclusion"), parse=_qra),
    Format(name="commonsense_qa", keys=("question", "choices", "answerKey"), parse=_commonsense_qa),
    Format(name="asdiv", keys=("body", "question", "answer"), parse=_asdiv),
    Format(
        name="gsm8k",
        keys=("question", "answer"),
        parse=_gsm8k,
        fits=lambda row: isinstance(row["answer"], str) and "####" in row["answer"],
    ),
    Format(
        name="strategy_qa",
        keys=("question", "answer"),
        optional=("facts",),
        parse=_strategy_qa,
        fits=lambda row: isinstance(row["answer"], bool),
    ),
    Format(name="multiarith", keys=("question", "final_ans"), parse=_multiarith),
    Format(name="qa", keys=("question", "answer"), optional=("rationale", "task", "meta", "conclusion"), parse=_qra),
    Format(
        name="open_r1",
        keys=("problem", "generations"),
        optional=(
            "answer",
            "solution",
            "messages",
            "is_reasoning_complete",
            "correctness_math_verify",
            "correctness_llama",
            "finish_reasons",
        ),
        parse=_open_r1,
    ),
    Format(name="math", keys=("problem", "solution"), optional=("answer",), parse=_math),
    Format(name="svamp", keys=("Body", "Question", "Answer"), parse=_svamp),
    Format(name="dss", keys=("input", "label", "rationale"), parse=_dss),
    Format(
        name="instruction",
        keys=("instruction",),
        optional=("input", "output", "label"),
        parse=_instruction,
        fits=lambda row: "output" in row or "label" in row,
    ),
    Format(name="prompt_completion", keys=("prompt", "completion"), parse=_prompt_completion),
    Format(name="messages", keys=("messages",), parse=_messages),
)


def get_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UserError: There is none.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise UserError(f"Expected a format, got {name!r} (format). Choose one of auto, {names}.")


def detect_format(row: Row, where: str) -> Format:
    """The first format that a row matches.

    Raises:
        DataError: None does.
    """
    for known in FORMATS:
        if known.matches(row):
            return known
    listed = "; ".join(f"{known.name}: {', '.join(known.keys)}" for known in FORMATS)
    raise DataError(
        f"Expected a row in a known format, got the keys {quoted(row)} ({where}). Rename them to those of a format: "
        f"{listed} (gsm8k needs #### in the answer, strategy_qa true or false, instruction an output or a label)."
    )
