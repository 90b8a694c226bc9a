"""Tags of reasoning models: splits a completion into thoughts, conclusion and answer."""

from __future__ import annotations

import re
from typing import NamedTuple

from skipthinking.data.phrases import bare, closing, strip_closing
from skipthinking.tasks.graders import boxed

__all__ = ["Stated", "split_thoughts", "thoughts", "unended"]

# The opening tag is missing if the chat template put it into the prompt.
_THOUGHTS = re.compile(r"\s*(?:<(?:think|thinking|reasoning)>)?(.*?)</(?:think|thinking|reasoning)>(.*)\Z", re.DOTALL)
_OPENED = re.compile(r"\s*<(think|thinking|reasoning)>")


class Stated(NamedTuple):
    """The parts of a completion.

    Attributes:
        reasoning: The reasoning, without a phrase at its end that states the answer.
        answer: The answer as written in the completion.
        conclusion: The text between the thoughts and the answer, if the thoughts have tags.
    """

    reasoning: str
    answer: str
    conclusion: str = ""


def unended(completion: str) -> str | None:
    """Returns the name of the tag if a completion opens thoughts and never closes them, else None."""
    opened = _OPENED.match(completion)
    return opened.group(1) if opened and not _THOUGHTS.match(completion) else None


def thoughts(completion: str) -> tuple[str, str] | None:
    """Returns the thoughts between the tags of a completion, and the text after them; None without such tags.

    >>> thoughts("<think>2+3=5</think>It is 5.")
    ('2+3=5', 'It is 5.')
    """
    match = _THOUGHTS.match(completion)
    return (match.group(1), match.group(2)) if match else None


def split_thoughts(completion: str) -> Stated | None:
    """Splits a completion by the tags of thoughts, an arrow, a closing phrase, or a boxed answer.

    Args:
        completion: "<think>reasoning</think>conclusion and answer", "reasoning --> answer", "reasoning The answer is
            X", or a text with a boxed answer (which stays in the reasoning).

    Returns:
        The parts, or None if the completion states no answer or never closes its thoughts.
    """
    if parts := thoughts(completion):
        reasoning, rest = strip_closing(parts[0]), parts[1].strip()
        if stated := closing(rest):
            return Stated(reasoning, stated[1], stated[0]) if stated[1] else None
        if answer := boxed(rest):
            return Stated(reasoning, answer, rest)
        return Stated(reasoning, bare(rest)) if bare(rest) and "\n" not in rest else None
    if unended(completion):
        return None
    reasoning, arrow, answer = completion.rpartition("-->")
    if arrow and closing(answer) is None:
        return Stated(strip_closing(reasoning), bare(re.sub(r"\s+END\s*\Z", "", answer)))
    if stated := closing(completion):
        return Stated(*stated)
    answer = boxed(completion) or ""
    return Stated(completion.strip(), answer) if answer else None
