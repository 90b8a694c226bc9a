"""Formats of rationale data: parse a row into question, rationale and answer.

A parser is a pure function of one row, with a sample row in its docstring. :func:`detect_format` chooses the format by
the keys and contents of a row; keys that mean the same are in :data:`skipthinking.data.fields.KEYS`. Every parser
removes phrases that state the answer ("The answer is 5", "#### 5"), but only from the end of the rationale.
"""

from __future__ import annotations

from dataclasses import replace

from skipthinking.data.benchmark_formats import BENCHMARKS
from skipthinking.data.conversations import turns_of
from skipthinking.data.fields import (
    KEYS,
    Fields,
    NoAnswer,
    Row,
    RowError,
    Tracked,
    has,
    is_blank,
    key_of,
    peek,
    quoted,
    text_of,
    unreadable,
)  # fmt: skip
from skipthinking.data.parsers import (
    GOLD,
    Format,
    completion_row,
    conversation_row,
    plain_row,
    rationale_of,
    registry,
    stated_answer,
    worked_row,
)  # fmt: skip
from skipthinking.data.phrases import bare, strip_closing
from skipthinking.data.questions import question_of
from skipthinking.records import DataError, UserError
from skipthinking.tasks.graders import boxed, unwrap

__all__ = ["FORMATS", "Format", "detect_format", "get_format"]

# Without a key for the answer, the first of these that states one is taken.
_SOLUTIONS = ("ground_truth_solution", "solution")

FORMATS: list[Format] = [*BENCHMARKS]
"""All formats in order of detection: a format comes before less specific ones."""

_format = registry(FORMATS)


def _answer_text(row: Row) -> str:
    return str(peek(row, key_of(row, "answer") or "answer"))


@_format("gsm8k", "question", "answer", fits=lambda row: "####" in _answer_text(row))
def _gsm8k(row: Tracked, where: str) -> Fields:
    r"""Sample row: {"question": "2+3?", "answer": "She has 2+3 = $<<2+3=5>>5.\n#### 5"}"""
    return worked_row(question_of(row, where), text_of(row, str(key_of(row, "answer")), where), "answer", where)


@_format("instruction", "instruction", fits=lambda row: "label" in row or not is_blank(row.get("output")))
def _instruction(row: Tracked, where: str) -> Fields:
    """Sample row: {"instruction": "Add.", "input": "2 and 3", "output": "2+3=5. The answer is 5"}"""
    if "label" in row and is_blank(row.get("output")):
        return plain_row(row, where, "label")
    return completion_row(question_of(row, where), row, "output", where, (*GOLD, "label"))


@_format("prompt_completion", "prompt", "completion")
def _prompt_completion(row: Tracked, where: str) -> Fields:
    """Texts, or the conversations of TRL.

    Sample row: {"prompt": "2+3?", "completion": "<think>2+3=5</think>It is 5. The answer is 5."}
    Sample row: {"prompt": "2+3?", "response": "2+3=5. The answer is 5."}
    Sample row: {"prompt": [{"role": "user", "content": "2+3?"}],
        "completion": [{"role": "assistant", "content": "The answer is 5."}]}
    """
    key = str(key_of(row, "completion"))
    prompt, completion = row["prompt"], row[key]
    if row.get("label") is False:  # KTO's verdict
        raise RowError(f"Expected a completion to learn, got label false ({where}). Remove the row.", "labeled false")
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return completion_row(question_of(row, where), row, key, where)
    turns = [*turns_of(prompt, "prompt", where, "user"), *turns_of(completion, key, where, "assistant")]
    return conversation_row(turns, row, key, where)


@_format("messages", "messages")
def _messages(row: Tracked, where: str) -> Fields:
    """A question and its reply, or a question alone with columns for the rationale and the answer.

    Sample row: {"messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "2+3 --> 5"}]}
    """
    turns = turns_of(row["messages"], "messages", where)
    if [role for role, _ in turns] == ["user"] and has(row, "answer"):
        return plain_row(row, where)
    return conversation_row(turns, row, "content", where)


@_format("sharegpt", "conversations")
def _sharegpt(row: Tracked, where: str) -> Fields:
    """Sample row: {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "2+3 --> 5"}]}"""
    return conversation_row(turns_of(row["conversations"], "conversations", where), row, "value", where)


@_format("completion", "question", "completion", fits=lambda row: not is_blank(row[str(key_of(row, "completion"))]))
def _any_completion(row: Tracked, where: str) -> Fields:
    """A question and a completion under any of their keys, such as MetaMathQA's.

    Sample row: {"question": "2+3?", "completion": "2+3=5. The answer is 5."}
    Sample row: {"query": "2+3?", "response": "2+3=5. The answer is: 5"}
    """
    return completion_row(question_of(row, where), row, str(key_of(row, "completion")), where)


@_format("math", "problem", "solution")
def _math(row: Tracked, where: str) -> Fields:
    r"""Sample row: {"problem": "2+3?", "solution": "It is $\\boxed{5}$.", "level": "Level 1"}"""
    solution = text_of(row, "solution", where)
    answer = text_of(row, "answer", where, empty=True).strip() or boxed(solution)
    if answer in ("proof", "notfound"):  # NuminaMath-1.5
        raise NoAnswer(
            f"Expected a gold answer, got {answer!r} ({where}). Remove the row.", f"with {answer!r} for an answer"
        )
    if not answer:
        raise unreadable("solution", r"a \boxed{} answer", solution, where)
    return Fields(question=question_of(row, where), rationale=strip_closing(solution), answer=answer)


@_format("text", "text", fits=lambda row: "||" in str(row["text"]) and "####" in str(row["text"]))
def _text(row: Tracked, where: str) -> Fields:
    """Lines of implicit chain-of-thought (GSM8K-Aug), also in a file NAME.txt.

    Sample row: {"text": "2+3?||<<2+3=5>> #### 5"}
    """
    text = text_of(row, "text", where)
    question, mark, solution = text.partition("||")
    if not mark or "||" in solution or not question.strip():
        raise unreadable("text", "question||rationale #### answer", text, where)
    return worked_row(question.strip(), solution, "text", where)


@_format("qra", "question", "rationale", "answer", optional=("task", "meta"))
def _qra(row: Tracked, where: str) -> Fields:
    """The project's format, with or without a rationale.

    Sample row: {"id": "a", "question": "2+3?", "rationale": "2+3=5.", "answer": "5"}
    Sample row: {"problem": "2+3?", "reasoning": "2+3=5.", "final_answer": "5"}
    Sample row: {"question": "2+3?", "answer": 5}
    """
    answer = _answer_text(row)
    if any(tag in answer.lower() for tag in ("</think", "<answer>", "<|end_of_thought|>")):
        return completion_row(question_of(row, where), row, str(key_of(row, "answer")), where, ())
    if "####" in answer:
        raise unreadable("answer", "the answer alone, as in the other rows", answer, where)
    return plain_row(row, where)


@_format("strategy_qa", "question", "answer", fits=lambda row: isinstance(row[str(key_of(row, "answer"))], bool))
def _strategy_qa(row: Tracked, where: str) -> Fields:
    """Sample row: {"question": "Is 2+3 even?", "answer": false, "facts": ["2+3 is 5.", "5 is odd."]}"""
    facts = row.get("facts")
    if isinstance(facts, list):
        facts = " ".join(str(fact).strip() for fact in facts)
    fields = plain_row(row, where)
    rationale = fields.rationale or text_of({"facts": facts}, "facts", where, empty=True).strip()
    return replace(fields, rationale=rationale)


@_format("multiarith", "question", "final_ans")
def _multiarith(row: Tracked, where: str) -> Fields:
    """Sample row: {"question": "2+3?", "final_ans": "5"}"""
    return plain_row(row, where, "final_ans")


# After gsm8k and strategy_qa, which have these keys too.
_format("qa", "question", "answer", optional=("task", "meta"))(_qra)


@_format("trace", "question", "rationale")
def _trace(row: Tracked, where: str) -> Fields:
    """A rationale that states its answer, or whose answer is in another solution, as in s1K and OpenThoughts.

    Sample row: {"question": "2+3?", "reasoning": "2+3=5. The answer is 5."}
    Sample row: {"problem": "2+3?", "deepseek_reasoning": "2+3=5.", "deepseek_solution": "It is $\\\\boxed{5}$.",
        "ground_truth_solution": "$\\\\boxed{5}$"}
    """
    stated = rationale_of(row, where)
    key = str(key_of(row, "rationale"))
    answer, source = "", key
    for source in _SOLUTIONS:
        solution = str(peek(row, source) or "") if source != key else ""
        answer = stated_answer(solution) or ("" if "\n" in solution.strip() else bare(solution))
        if answer:
            break
    else:
        others = KEYS["rationale"] if row.rationale_key else ()
        texts = [stated.conclusion, *(str(peek(row, name) or "") for name in (key, *others))]
        answer = next(filter(None, map(stated_answer, texts)), "")
    if not answer:
        text = str(peek(row, key))
        raise unreadable(key, 'a text that ends in "The answer is X", or a \\boxed{} answer', text, where)
    if row.rationale_key or source not in KEYS["rationale"] or answer == bare(str(peek(row, source))):
        row.used.add(source)  # another long solution is left to be found as a second rationale
    return Fields(
        question=question_of(row, where),
        rationale=stated.reasoning,
        answer=answer,
        conclusion=stated.conclusion,
        stated=unwrap(stated.answer),
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


def detect_format(row: Row, where: str, rationale_key: str | None = None) -> Format:
    """Returns the first format that a row matches.

    Raises:
        DataError: The row matches no format.
    """
    tracked = Tracked(row, rationale_key)
    for known in FORMATS:
        if known.matches(tracked):
            return known
    listed = "; ".join(f"{known.name}: {', '.join(known.keys)}" for known in FORMATS)
    meant = "; ".join(f"for {role} also {', '.join(KEYS[role][1:])}" for role in ("question", "rationale", "answer"))
    raise DataError(
        f"Expected a row in a known format, got the keys {quoted(row)} ({where}). Rename them, or move values out of "
        "nested objects, to the keys of a format: "
        f"{listed} (gsm8k needs #### in the answer, strategy_qa true or false, instruction an output or a label); "
        f"{meant}. Rows without gold answers are read by predict (--questions)."
    )
