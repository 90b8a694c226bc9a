"""Chat templates in Jinja, the language of ``apply_chat_template``: reads their variables, and writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from skipthinking.records import UserError

__all__ = ["Variable", "calendar", "literal", "set_if_missing", "text_template", "turns_template", "variables_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """A variable of a chat template that chooses the text before and after a question.

    Attributes:
        name: Name of the variable, such as "mode". A variable with one value is a constant and needs no name.
        texts: The text before and the text after the question, by value.
        default: The value for callers who give none; None if they must give one.
    """

    name: str
    texts: Mapping[Any, tuple[str, str]]
    default: Any

    def around(self, question: str, value: Any) -> str:
        """The question with the texts of a value around it."""
        before, after = self.texts[value]
        return before + question + after


def literal(value: Any) -> str:
    """A JSON value as a Jinja literal.

    >>> literal({"a": [True, None, "5 \\N{GREEK SMALL LETTER PI}"], 0.5: "\\n"})
    '{"a": [true, none, "5 π"], 0.5: "\\\\n"}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def set_if_missing(name: str, value: Any) -> str:
    """Gives a variable a default. transformers passes none for ``tools`` and ``documents`` that are not given."""
    return f"{{%- if {name} is not defined or {name} is none %}}{{%- set {name} = {literal(value)} %}}{{%- endif %}}"


def _raise_if(condition: str, message: str, shown: str = "", remedy: str = "") -> str:
    end = f" ~ {shown} ~ {literal(remedy)}" if shown else ""
    return f"{{%- if {condition} %}}{{{{- raise_exception({literal(message)}{end}) }}}}{{%- endif %}}"


def _lookup(variable: Variable) -> tuple[list[str], str, str]:
    """Lines that look a variable up, and expressions of the text before and after the question."""
    name, texts = variable.name, variable.texts
    if len(texts) == 1:
        ((before, after),) = texts.values()
        return [], literal(before), literal(after)
    known = " or ".join(json.dumps(value, ensure_ascii=False) for value in texts)
    lines = [
        f"{{%- set {name}_texts = {literal(texts)} %}}",
        f"{{%- if {name} is not defined %}}{{%- set {name} = {literal(variable.default)} %}}{{%- endif %}}",
        _raise_if(f"{name} not in {name}_texts", f"Expected {name}: {known}, got ", name, ". Give one of them."),
    ]
    return lines, f"{name}_texts[{name}][0]", f"{name}_texts[{name}][1]"


def _around(question: str, texts: Iterable[tuple[str, str]]) -> str:
    """An expression: a question with texts around it, of which the first is the outermost."""
    befores, afters = zip(*texts, strict=True)
    parts = [*befores, question, *reversed(afters)]
    return " + ".join(part for part in parts if part != '""')


def text_template(
    before: str,
    after: str,
    variables: Sequence[Variable],
    *,
    around: tuple[str, str] = ("", ""),
    special_tokens: Sequence[str] = (),
) -> str:
    """A chat template for a prompt that is a text with one question in it.

    It refuses what the prompt has no place for: system messages, earlier turns, and messages in parts. Nor does it
    take a question that has the prompt around it already, or one with a special token spelled out, which
    ``apply_chat_template`` would take for the token.

    Args:
        before: Text before the question.
        after: Text after the question.
        variables: Choose further texts around the question; the first is the outermost.
        around: Special tokens that the tokenizer puts before and after the prompt, as text.
        special_tokens: Special tokens that a question must not have.
    """
    lookups = [_lookup(variable) for variable in variables]
    lines = [
        _raise_if(
            "messages | length != 1 or messages[0].role != 'user' or messages[0].content is not string",
            "Expected one message, a user's question as text, got others: this student was trained on single questions "
            "without a system message. Send the question alone.",
        ),
        "{%- set question = messages[0].content %}",
    ]
    if before.strip() and after.strip():
        lines.append(
            _raise_if(
                f"question.startswith({literal(before)}) and question.endswith({literal(after)})",
                "Expected a question, got one inside of the prompt, which this chat template adds. Send the question "
                "alone.",
            )
        )
    if special_tokens:
        lines += [
            f"{{%- for token in {literal(special_tokens)} %}}",
            _raise_if(
                "token in question",
                "Expected a question without special tokens, got one with ",
                "token",
                ". Remove it.",
            ),
            "{%- endfor %}",
        ]
    lines += [line for of_one, _, _ in lookups for line in of_one]
    outer = literal(around[0] + before), literal(after + around[1])
    texts = [outer, *((start, end) for _, start, end in lookups)]
    return "\n".join([*lines, f"{{{{- {_around('question', texts)} }}}}"])


def turns_template(
    source: str,
    *,
    before: str,
    after: str,
    variables: Sequence[Variable],
    system: str | None,
    settings: Mapping[str, Any],
) -> str:
    """A chat template with texts around the users' turns, and with defaults.

    Args:
        source: The model's chat template.
        before: Text before a question.
        after: Text after a question.
        variables: Choose further texts around a question; the first is the outermost.
        system: The system message of conversations without one.
        settings: Defaults of variables of ``source``.
    """
    lines = [set_if_missing(name, value) for name, value in settings.items()]
    lookups = [_lookup(variable) for variable in variables]
    content = _around("turn.content", [(literal(before), literal(after)), *((start, end) for _, start, end in lookups)])
    first = f'[{{"role": "system", "content": {literal(system)}}}] if messages[0].role != "system" else []'
    if system or content != "turn.content":
        lines += [line for of_one, _, _ in lookups for line in of_one]
        lines += [
            f"{{%- set student = namespace(turns={first if system else '[]'}) %}}",
            "{%- for turn in messages %}",
            "{%- if turn.role == 'user' %}",
            _raise_if("turn.content is not string", "Expected questions as text, got a message in parts. Send texts."),
            f'{{%- set student.turns = student.turns + [{{"role": "user", "content": {content}}}] %}}',
            "{%- else %}",
            "{%- set student.turns = student.turns + [turn] %}",
            "{%- endif %}",
            "{%- endfor %}",
            "{%- set messages = student.turns %}",
        ]
    # The line break after the last tag is not part of the output (trim_blocks).
    return "\n".join([*lines, source]) if lines else source


class _Generation(Extension):
    """The tag of transformers around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Returns what the tag contains."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def variables_of(source: str) -> set[str]:
    """Names that a chat template takes from its caller, without those that rendering sets.

    Raises:
        UserError: The chat template is malformed.
    """
    environment = jinja2.Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"])
    try:
        names = meta.find_undeclared_variables(environment.parse(source))
    except jinja2.TemplateError as error:
        raise UserError(
            f"Expected a chat template in Jinja, got: {error}. Use data.template: Plain, or fix the tokenizer's "
            "chat_template."
        ) from error
    return names - {"messages", "add_generation_prompt", "strftime_now", "raise_exception"}


def calendar(run_date: datetime, text: str) -> str:
    """A Jinja macro in place of ``strftime_now``, the function that transformers gives to chat templates.

    transformers passes plain values only to a template, so the macro replaces every directive in the text: "%d" by
    "26".
    """
    chain = '.replace("%%", "\\0")'
    for directive in sorted(set(re.findall("%-?[a-zA-Z]", text))):
        chain += f".replace({json.dumps(directive)}, {json.dumps(run_date.strftime(directive))})"
    # The line break after the last tag is not part of the output (trim_blocks).
    return f'{{% macro strftime_now(format) %}}{{{{ format{chain}.replace("\\0", "%") }}}}{{% endmacro %}}\n'
