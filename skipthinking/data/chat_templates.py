"""The chat template of an exported student: by it a raw question becomes the prompt of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from skipthinking.data.encoding import Codec
from skipthinking.data.jinja_text import Variable
from skipthinking.data.templates import FAULTS
from skipthinking.tasks import get_task

__all__ = ["chat_template_of", "prompt_variables"]

# White space, line breaks, digits, and characters of several bytes at the borders of a question.
_PROBES = ("What is 17 + 25?", " a  b\n\n", "5", "naïve — 数", "Is 3 < 4? {{ x }} {question}")


def prompt_variables(
    choice: tuple[str, Mapping[Any, str]], prefix: str, tasks: Sequence[str], tested: Sequence[str]
) -> tuple[Variable, Variable]:
    """The texts that a run puts around its questions: the method's prefix, then the wording of the task.

    Args:
        choice: The method's name for its prefixes, such as "mode", and its prefixes by value; if there are none,
            ``prefix`` is the only one.
        prefix: The prefix that a test uses.
        tasks: Names of the tasks of the run.
        tested: Names of those that it is tested on.
    """
    name, prefixes = choice if choice[1] else ("prefix", {"": prefix})
    default = next(value for value, text in prefixes.items() if text == prefix)
    method = Variable(name=name, texts={value: (text, "") for value, text in prefixes.items()}, default=default)

    wordings = {}
    for task in dict.fromkeys(tasks):
        before, _, after = get_task(task).question.partition("{question}")
        wordings[task] = before, after
    if set(wordings.values()) <= {("", "")}:
        return method, Variable(name="task", texts={"": ("", "")}, default="")
    usual = [task for task in wordings if task in tested] or list(wordings)
    default = usual[0] if len({wordings[task] for task in usual}) == 1 else None
    # "" is for questions that have their wording already, as `teach` sends them.
    return method, Variable(name="task", texts={**wordings, "": ("", "")}, default=default)


def chat_template_of(codec: Codec, variables: Sequence[Variable]) -> str | None:
    """The chat template by which ``apply_chat_template`` gives the prompts of a codec, token for token.

    Returns:
        The template, in Jinja; None if none gives the same tokens for all values of the variables.
    """
    for source in codec.template.chat_templates(codec.tokenizer, variables):
        if all(_same(codec, source, variables, values) for values in product(*(one.texts for one in variables))):
            return source
    return None


def _same(codec: Codec, source: str, variables: Sequence[Variable], values: Sequence[Any]) -> bool:
    """Whether questions get the codec's prompts with some values of the variables, and with defaults left out."""
    questions = list(_PROBES)
    for variable, value in reversed([*zip(variables, values, strict=True)]):
        questions = [variable.around(question, value) for question in questions]
    expected = [ids.tolist() for ids in codec.prompt_ids(questions)]
    given = {one.name: value for one, value in zip(variables, values, strict=True) if value != one.default}
    try:
        return expected == [
            codec.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], chat_template=source, add_generation_prompt=True, **given
            )["input_ids"]
            for question in _PROBES
        ]
    except FAULTS:
        return False
