"""Formats of benchmarks and of published rationale data; see :mod:`skipthinking.data.formats`."""

from __future__ import annotations

from dataclasses import replace

from skipthinking.data.fields import (
    Fields,
    RowError,
    Tracked,
    answer_of,
    peek,
    shown,
    text_of,
    unreadable,
)
from skipthinking.data.parsers import Format, lettered_row, plain_row, registry, without_unit
from skipthinking.data.phrases import strip_closing
from skipthinking.data.questions import question_of
from skipthinking.data.thoughts import BadTags, Stated, split_thoughts

__all__ = ["BENCHMARKS"]

BENCHMARKS: list[Format] = []
"""The formats in order of detection."""

_benchmark = registry(BENCHMARKS)


@_benchmark("fine_tune_cot", "question", "reasoning_completion", "answer")
def _fine_tune_cot(row: Tracked, where: str) -> Fields:
    """Sample row: {"question": "2+3?", "reasoning_completion": "2+3=5.", "completion": " 5", "answer": "5"}"""
    return Fields(
        question=question_of(row, where),
        rationale=strip_closing(text_of(row, "reasoning_completion", where, empty=True)),
        answer=answer_of(row, "answer", where),
    )


@_benchmark("aqua", "question", "options", "rationale", "correct")
def _aqua(row: Tracked, where: str) -> Fields:
    r"""Sample row: {"question": "2+3?", "options": ["A)5", "B)6"], "rationale": "2+3=5.\nAnswer: A", "correct": "A"}"""
    return lettered_row(row, where, "correct", "options")


@_benchmark("commonsense_qa", "question", "choices", "answerKey")
def _commonsense_qa(row: Tracked, where: str) -> Fields:
    """Sample row: {"question": "2+3?", "choices": {"label": ["A", "B"], "text": ["5", "6"]}, "answerKey": "A"}"""
    return lettered_row(row, where, "answerKey", "choices")


@_benchmark("commonsense_qa_files", "question", "answerKey", fits=lambda row: isinstance(peek(row, "question"), dict))
def _commonsense_qa_files(row: Tracked, where: str) -> Fields:
    """The files that CommonsenseQA's authors publish.

    Sample row: {"answerKey": "A", "question": {"stem": "2+3?", "choices": [{"label": "A", "text": "5"}]}}
    """
    return plain_row(row, where, "answerKey")


@_benchmark("dss", "input", "label", "rationale")
def _dss(row: Tracked, where: str) -> Fields:
    r"""Sample row: {"input": "2+3?\nAnswer Choices:\n(a) 5\n(b) 6", "label": "5", "rationale": "2+3=5."}"""
    fields = plain_row(row, where, "label")
    label = fields.answer
    _, _, choices = fields.question.partition("\nAnswer Choices:\n")
    for line in choices.splitlines():
        letter, _, text = line.partition(". ")
        if text.casefold() == label.casefold():  # the label is the text of a choice, the task's answer its letter
            label = letter
            break
    return replace(fields, answer=label)


@_benchmark("asdiv", "body", "question", "answer")
def _asdiv(row: Tracked, where: str) -> Fields:
    """Sample row: {"body": "He has 2 apples.", "question": "How many?", "answer": "2 (apples)"}"""
    return without_unit(plain_row(row, where, "answer"))


@_benchmark("mawps", "Question", "Numbers", "Answer")
def _mawps(row: Tracked, where: str) -> Fields:
    """MAWPS with placeholders, as in the CSV files of SVAMP's authors.

    Sample row: {"Question": "number0 + number1 ?", "Numbers": "2 3", "Equation": "+ number0 number1", "Answer": 5.0}
    """
    return without_unit(plain_row(row, where, "Answer"))


@_benchmark("svamp", "Body", "Question", "Answer")
def _svamp(row: Tracked, where: str) -> Fields:
    """SVAMP, and ASDiv's own XML.

    Sample row: {"Body": "He has 2 apples.", "Question": "How many?", "Answer": 2.0}
    Sample row: {"Body": "He has 2 apples.", "Question": "How many?", "Answer": "2 (apples)", "Formula": "2=2"}
    """
    return without_unit(plain_row(row, where, "Answer"))


@_benchmark("addsub", "sQuestion", "lSolutions")
def _addsub(row: Tracked, where: str) -> Fields:
    """AddSub, SingleEq, MultiArith and SingleOp as their authors publish them.

    Sample row: {"iIndex": 1, "sQuestion": "2+3?", "lEquations": ["X=2+3"], "lSolutions": [5.0]}
    """
    return without_unit(plain_row(row, where, "lSolutions"))


_VERDICTS = ("correctness_math_verify", "correctness_llama")


@_benchmark(
    "open_r1", "problem", "generations",
    optional=("answer", "solution", "messages", "is_reasoning_complete", *_VERDICTS, "finish_reasons"),
)  # fmt: skip
def _open_r1(row: Tracked, where: str) -> Fields:
    """Takes the first generation that is complete and correct according to Math-Verify or to the LLM judge.

    Sample row: {"problem": "2+3?", "answer": "5", "generations": ["<think>2+3=5</think>It is 5."],
        "is_reasoning_complete": [true], "correctness_math_verify": [true], "correctness_llama": null}
    """
    generations = row["generations"]
    if not isinstance(generations, list) or not all(isinstance(text, str) for text in generations):
        raise RowError(
            f'Expected a list of texts in "generations", got {shown(generations)} ({where}). Fix the row.',
            'without texts in "generations"',
        )
    size = len(generations)
    verdicts = [[] if row.get(key) is None else row[key] for key in _VERDICTS]
    complete = [True] * size if row.get("is_reasoning_complete") is None else row["is_reasoning_complete"]
    for column in (*verdicts, complete):
        if not isinstance(column, list) or not all(verdict in (True, False, None) for verdict in column):
            raise RowError(
                f"Expected a verdict for each of {size} generations, got {shown(column)} ({where}). Fix the row.",
                "without a verdict for each generation",
            )
    for i, text in enumerate(generations[: len(complete)]):
        judged = [column[i] for column in verdicts if i < len(column)]
        stated = _stated(text) if complete[i] and (any(judged) or not judged) else None
        if stated and stated.answer:
            return Fields(
                question=question_of(row, where),
                rationale=stated.reasoning,
                answer=text_of(row, "answer", where, empty=True).strip() or stated.answer,
                conclusion=stated.conclusion,
            )
    raise unreadable("generations", "a complete and correct generation", " | ".join(generations), where)


def _stated(text: str) -> Stated | None:
    """The parts of a completion, None if its tags are not in order."""
    try:
        return split_thoughts(text)
    except BadTags:
        return None
