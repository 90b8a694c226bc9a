"""Prompt templates: how a question becomes the student's prompt."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2

from skipthinking.data.jinja_text import Variable, calendar, text_template, turns_template, variables_of
from skipthinking.data.thoughts import THOUGHTS
from skipthinking.records import UserError, did_you_mean
from skipthinking.settings import Configurable

__all__ = ["FAULTS", "Chat", "Plain", "Template", "render_chat"]

_PROBE = "What is 17 + 25?"  # a question that no template contains
FAULTS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a chat template raises: its own errors, and those of Python in its expressions."""


class Template(Configurable, ABC):
    """Turns a question into a prompt, the same one in training and evaluation."""

    lead: str
    """Text between the prompt and the first character of the completion."""
    special_tokens: bool
    """Whether the tokenizer adds its special tokens to the prompt."""
    run_date: datetime | None = None
    """When the run began, for prompts that show the date; set by the data module. None for the present date."""

    @abstractmethod
    def render(self, question: str, tokenizer: Any) -> str:
        """Returns the prompt for a question that already has the wording of its task."""

    def check(self, tokenizer: Any) -> None:
        """Raises UserError if the template does not fit the tokenizer."""
        return

    def sample(self, tokenizer: Any) -> str:
        """Returns a prompt for a fixed question, to be compared with that of another run."""
        return self.render(_PROBE, tokenizer)

    def closing(self, tokenizer: Any) -> str:
        """Text that ends the thinking, for prompts whose last word is a tag that opens it; else empty.

        Without it a parser of thoughts would find no answer in a completion. For the chat template of DeepSeek-R1,
        whose prompts end in "<think>\\n", it is "\\n</think>\\n\\n".
        """
        prompt = self.sample(tokenizer).rstrip()
        for tag, end in THOUGHTS.items():
            if prompt.lower().endswith(tag):
                return f"\n{end.upper() if prompt[-len(tag) :].isupper() else end}\n\n"
        return ""

    def shows_date(self, tokenizer: Any) -> bool:
        """Whether prompts change with the date."""
        return False

    def chat_templates(self, tokenizer: Any, variables: Sequence[Variable]) -> list[str]:
        """Chat templates in Jinja for an exported student, by which a raw question may give this template's prompt.

        Several for tokenizers that put special tokens around a text, and treat a text after a special token as the
        middle of a text: SentencePiece writes a space before the first word, "<s> Question".

        Args:
            tokenizer: The student's tokenizer.
            variables: Choose texts around the question that are not part of this template; the first is the outermost.
        """
        before, *after = self.sample(tokenizer).split(_PROBE)
        if len(after) != 1:
            return []
        if not self.special_tokens:
            return [text_template(before, after[0], variables)]
        start, end = _around_text(tokenizer)
        tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        return [
            text_template(before, after[0], variables, around=(start + gap, end), special_tokens=tokens)
            for gap in (("", " ") if start else ("",))
        ]

    def describe(self, tokenizer: Any) -> list[str]:
        """Lines for the start report on what the template adds to prompts and completions."""
        lines = []
        if self.shows_date(tokenizer):
            lines.append(f"prompts show a date, in this run always its first day, {self.run_date:%Y-%m-%d}")
        if closing := self.closing(tokenizer).strip():
            lines.append(f"prompts open the thinking, so completions close it with {closing}")
        return lines


def _with_question(prompt: str) -> str:
    """The prompt, if it has a place for one question and ends in text."""
    if prompt.count("{question}") != 1 or prompt != prompt.rstrip():
        raise UserError(
            f"Expected a prompt with one {{question}} and no trailing white space, got {prompt!r}. "
            "Fix data.template.init_args.prompt."
        )
    return prompt


class Plain(Template):
    """A text prompt for base models and models trained from scratch.

    Args:
        prompt: Prompt with ``{question}`` in it once. It must not end in white space: the space after it belongs to
            the completion.
    """

    lead = " "
    special_tokens = True

    def __init__(self, prompt: str = "Question: {question}\nAnswer:") -> None:
        self.prompt = _with_question(prompt)

    def render(self, question: str, tokenizer: Any) -> str:
        """Inserts the question; braces in it are plain text."""
        return self.prompt.replace("{question}", question)


class Chat(Template):
    """The tokenizer's own chat template, with the generation prompt added.

    Args:
        system: System message; an error if the chat template takes none.
        settings: Variables of the chat template, for example ``{enable_thinking: false}``; an error if the chat
            template does not use one of them.
        prompt: The user's turn, with ``{question}`` in it once, for example "{question} Let's think step by step."
    """

    lead = ""
    special_tokens = False

    def __init__(
        self, system: str | None = None, settings: dict[str, Any] | None = None, prompt: str = "{question}"
    ) -> None:
        self.system, self.settings, self.prompt = system, dict(settings or {}), _with_question(prompt)

    def render(self, question: str, tokenizer: Any) -> str:
        """Renders one user turn, after the system message.

        Raises:
            UserError: The tokenizer has no chat template, or the chat template raises an error.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"Expected a tokenizer with a chat template, got {getattr(tokenizer, 'name_or_path', '')!r} without "
                "one. Use data.template: Plain."
            )
        turns = [{"role": "system", "content": self.system}] if self.system else []
        turns.append({"role": "user", "content": self.prompt.replace("{question}", question)})
        try:
            return render_chat(turns, tokenizer, self.settings, self.run_date)
        except FAULTS as error:
            raise self._misfit(turns, tokenizer, " ".join(str(error).split())) from error

    def _misfit(self, turns: Sequence[Mapping[str, str]], tokenizer: Any, reason: str) -> UserError:
        """The error of a chat template that cannot be rendered, with the setting without which it can."""
        if self.system and _renders(turns[-1:], tokenizer, self.settings):
            return UserError(
                f"Expected a chat template that takes a system message, got: {reason} (data.template.system). Leave "
                "it out."
            )
        if self.settings and _renders(turns, tokenizer, {}):
            return UserError(
                f"Expected settings that the chat template takes, got {self.settings}: {reason} "
                "(data.template.settings). Fix them or leave them out."
            )
        return UserError(
            f"Expected a chat template that takes a user message, got: {reason} "
            f"({getattr(tokenizer, 'name_or_path', '')!r}). Use data.template: Plain, or fix the tokenizer's "
            "chat_template."
        )

    def check(self, tokenizer: Any) -> None:
        """Checks that the chat template shows the question, and uses the system message and all settings.

        Raises:
            UserError: It does not.
        """
        if self.settings and getattr(tokenizer, "chat_template", None):
            names = variables_of(_source(tokenizer, self.settings))
            for name in sorted(self.settings.keys() - names):
                raise UserError(
                    f"Expected settings that the chat template uses ({', '.join(sorted(names)) or 'none'}), got "
                    f"{name!r} (data.template.settings).{did_you_mean(name, names) or ' Leave it out.'}"
                )
        prompt = self.sample(tokenizer)
        if _PROBE not in prompt:
            raise UserError(
                f"Expected a chat template that shows a question given as text, got {prompt[:200]!r} for {_PROBE!r}. "
                "Use data.template: Plain, or fix the tokenizer's chat_template."
            )
        if self.system and prompt == self._with(system=None).sample(tokenizer):
            raise UserError(
                f"Expected a chat template that takes a system message, got one that ignores {self.system!r} "
                "(data.template.system). Leave it out."
            )

    def shows_date(self, tokenizer: Any) -> bool:
        """Whether the prompt differs between two times, which have no part in common."""
        times = datetime(2001, 1, 1, 1, 1, 1, 1), datetime(2002, 2, 2, 22, 2, 2, 2)
        return len({self._with(run_date=time).sample(tokenizer) for time in times}) > 1

    def chat_templates(self, tokenizer: Any, variables: Sequence[Variable]) -> list[str]:
        """The tokenizer's chat template, with this template's system message, settings and date as defaults."""
        source = _source(tokenizer, self.settings)
        if self.run_date is not None and self.shows_date(tokenizer):
            source = calendar(self.run_date, f"{source}{self.settings}") + source
        before, after = self.prompt.split("{question}")
        return [
            turns_template(
                source, before=before, after=after, variables=variables, system=self.system, settings=self.settings
            )
        ]

    def _with(self, **changes: Any) -> Chat:
        changed = copy.copy(self)
        vars(changed).update(changes)
        return changed


def render_chat(
    messages: Sequence[Mapping[str, str]],
    tokenizer: Any,
    settings: Mapping[str, Any] | None = None,
    run_date: datetime | None = None,
) -> str:
    """Renders messages by the tokenizer's chat template, with the generation prompt.

    Args:
        messages: Messages with "role" and "content".
        tokenizer: A tokenizer with a chat template.
        settings: Variables of the chat template.
        run_date: Time that the chat template shows; the present one by default.

    Raises:
        TemplateError, or another one of FAULTS: The chat template cannot render the messages.
    """
    settings = settings or {}
    source = _source(tokenizer, settings)
    if run_date is not None and "strftime_now" in source:
        source = calendar(run_date, f"{source}{settings}") + source
    return tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=True, **settings
    )


def _source(tokenizer: Any, settings: Mapping[str, Any]) -> str:
    """The text of the chat template; some tokenizers have one for tools, too."""
    source: str = tokenizer.get_chat_template(None, settings.get("tools"))
    return source


def _around_text(tokenizer: Any) -> tuple[str, str]:
    """The special tokens that the tokenizer adds before and after a text, as text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    mask, tokens = encoded["special_tokens_mask"], tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return "".join(tokens[:first]), "".join(tokens[last:])


def _renders(turns: Sequence[Mapping[str, str]], tokenizer: Any, settings: Mapping[str, Any]) -> bool:
    try:
        render_chat(turns, tokenizer, settings)
    except FAULTS:
        return False
    return True
