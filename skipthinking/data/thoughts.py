"""Tags of reasoning models: splits a completion into thoughts, conclusion and answer."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from skipthinking.data.phrases import bare, closing, strip_closing
from skipthinking.tasks.graders import boxed

__all__ = ["THOUGHTS", "BadTags", "Stated", "Tagged", "split_tags", "split_thoughts"]

# Opening and closing tag of the thoughts; compared without case.
THOUGHTS = {
    "<think>": "</think>",  # DeepSeek-R1, Qwen3, OpenThoughts2
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<thoughts>": "</thoughts>",
    "<reasoning>": "</reasoning>",
    "<reason>": "</reason>",
    "<analysis>": "</analysis>",
    "<scratchpad>": "</scratchpad>",
    "<thought_process>": "</thought_process>",
    "<cot>": "</cot>",
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, Bespoke-Stratos, OpenThoughts
    "<|begin_of_reasoning|>": "<|end_of_reasoning|>",
    "<|start_thinking|>": "<|end_thinking|>",  # Command A
    "<seed:think>": "</seed:think>",
    "<|think|>": "<|/think|>",
    "[think]": "[/think]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi
}
# Tags around the text after the thoughts.
_SPOKEN = {
    "<answer>": "</answer>",
    "<final_answer>": "</final_answer>",
    "<solution>": "</solution>",
    "<|begin_of_solution|>": "<|end_of_solution|>",
    "<|begin_of_answer|>": "<|end_of_answer|>",
    "<|start_response|>": "<|end_response|>",
}

# The channels of gpt-oss.
_CHANNELS = re.compile(
    r"\s*(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>(.*?)<\|end\|>"
    r"<\|start\|>assistant<\|channel\|>final<\|message\|>(.*?)(?:<\|return\|>|<\|end\|>)?\s*",
    re.DOTALL,
)
# Tokens that end a reply, written out.
_END = re.compile(
    r"(?:\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|end_of_text\|>|<end_of_turn>|<｜end▁of▁sentence｜>|</s>))+\s*\Z"
)


class BadTags(ValueError):
    """Tags that are open, out of order or repeated.

    Attributes:
        expected: What would be right, for an error message.
        unended: Whether a tag was opened and never closed: the completion was cut off.
    """

    def __init__(self, expected: str, unended: bool = False) -> None:
        super().__init__(expected)
        self.expected, self.unended = expected, unended


class Tagged(NamedTuple):
    """A completion without its tags.

    Attributes:
        thoughts: The text between the tags of thoughts; None without such tags.
        text: The text after the thoughts.
        answer: The contents of answer tags that hold nothing but the answer; they are not part of ``text``.
    """

    thoughts: str | None
    text: str
    answer: str | None = None


class Stated(NamedTuple):
    """The parts of a completion.

    Attributes:
        reasoning: The reasoning, without a phrase at its end that states the answer.
        answer: The answer as written in the completion; empty if the completion states none.
        conclusion: The text between the thoughts and the answer, if the thoughts have tags.
    """

    reasoning: str
    answer: str
    conclusion: str = ""


@cache
def _any_of(*tags: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tags)), re.IGNORECASE)


_OPEN, _CLOSE = _any_of(*THOUGHTS), _any_of(*THOUGHTS.values())
_OPENED_BY = {close: open_ for open_, close in THOUGHTS.items()}


def split_tags(completion: str) -> Tagged:
    """Splits a completion by its tags; the opening tag is missing if the chat template put it into the prompt.

    >>> split_tags("<think>2+3=5</think>It is 5.")
    Tagged(thoughts='2+3=5', text='It is 5.', answer=None)
    >>> split_tags("2+3=5</think><answer>5</answer>")
    Tagged(thoughts='2+3=5', text='', answer='5')

    Raises:
        BadTags: A tag is never closed, or there are several blocks of thoughts or answers.
    """
    if not any(bracket in completion for bracket in "<[◁"):
        return Tagged(None, completion)
    completion = _END.sub("", completion)
    if channels := _CHANNELS.fullmatch(completion):
        return _split_spoken(channels[1], channels[2])
    if "<|channel|>" in completion:
        raise BadTags("one channel analysis and one channel final")
    opening = _OPEN.match(completion.lstrip())
    body = completion.lstrip()[opening.end() :] if opening else completion
    closing_tag = _any_of(THOUGHTS[opening[0].lower()]).search(body) if opening else _CLOSE.search(body)
    if closing_tag is None:
        if opening or (opened := _OPEN.search(body)):
            tag = (opening or opened)[0].lower()  # type: ignore[index]
            raise BadTags(f"thoughts that end in {THOUGHTS[tag]}", unended=True)
        return _split_spoken(None, completion)
    thoughts, rest = body[: closing_tag.start()], body[closing_tag.end() :]
    own = _any_of(_OPENED_BY[closing_tag[0].lower()])
    if own.search(thoughts) or _OPEN.search(rest) or _CLOSE.search(rest):
        raise BadTags(f"one block of thoughts, at the start, that ends in {closing_tag[0]}")
    return _split_spoken(thoughts, rest)


def _split_spoken(thoughts: str | None, text: str) -> Tagged:
    """Removes tags around the text after the thoughts, or around its answer."""
    tags = list(_any_of(*_SPOKEN, *_SPOKEN.values()).finditer(text))
    if not tags:
        return Tagged(thoughts, text)
    first = tags[0][0].lower()
    close = _SPOKEN.get(first)
    if close is not None and len(tags) == 1:
        rest = text[tags[0].end() :].strip()
        if "\n" not in rest and closing(rest):  # "<answer> The answer is True" is not cut off
            return Tagged(thoughts, f"{text[: tags[0].start()].rstrip()} {rest}")
        raise BadTags(f"an answer that ends in {close}", unended=True)
    if close is None or len(tags) > 2 or tags[1][0].lower() != close or text[tags[1].end() :].strip():
        raise BadTags(f"one answer in {first}, with no text after it")
    before, inner = text[: tags[0].start()].strip(), text[tags[0].end() : tags[1].start()].strip()
    if "\n" in inner or closing(inner) or boxed(inner):
        return Tagged(thoughts, "\n\n".join(filter(None, (before, inner))))
    return Tagged(thoughts, before, inner)


def split_thoughts(completion: str, gold: str = "") -> Stated:
    """Splits a completion by its tags, an arrow, a closing phrase, or a boxed answer.

    Thoughts without text (a model with thinking turned off) are no thoughts: the text after them is the reasoning.

    Args:
        completion: "<think>reasoning</think>conclusion and answer", "reasoning --> answer", "reasoning The answer is
            X", or a text with a boxed answer (which stays in the reasoning).
        gold: The answer, if it is known; another short text after the thoughts is then a conclusion.

    Raises:
        BadTags: A tag is never closed, or there are several blocks of thoughts or answers.
    """
    tagged = split_tags(completion)
    text = tagged.text.strip()
    if tagged.thoughts is None and tagged.answer is None:
        return _untagged(text, gold)
    spoken, answer = _spoken(text) if tagged.answer is None else (strip_closing(text), bare(tagged.answer))
    alone = bare(text)
    if not answer and alone and "\n" not in text and gold in ("", alone):
        spoken, answer = "", alone
    reasoning = strip_closing(tagged.thoughts or "")
    return Stated(reasoning, answer, spoken) if reasoning else Stated(spoken, answer)


def _spoken(text: str) -> tuple[str, str]:
    """Returns a text without the phrase that states its answer, and the answer; a box stays in the text."""
    stated = closing(text)
    return stated if stated else (strip_closing(text), boxed(text) or "")


def _untagged(text: str, gold: str) -> Stated:
    reasoning, arrow, after = text.rpartition("-->")
    answer = bare(re.sub(r"\s+END\s*\Z", "", after))
    if not arrow or "\n" in answer or closing(after) or boxed(after) or gold not in ("", answer):
        return Stated(*_spoken(text))
    if boxed(reasoning) not in (None, answer) and not after.rstrip().endswith(" END"):
        return Stated(text, gold)  # two answers
    return Stated(strip_closing(reasoning), answer)
