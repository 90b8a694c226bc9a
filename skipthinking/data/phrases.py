"""Text rules of the importers: the phrases that state an answer, answer choices, and the prompts around a question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "Stated",
    "boxed",
    "closing",
    "plain_question",
    "question_key",
    "split_thoughts",
    "strip_closing",
    "thoughts",
    "unended",
    "with_choices",
]

_PHRASE = re.compile(
    # "40 kgThe answer is": the line break before it was lost.
    r"(?:(?<![a-zA-Z])(?i:the)|(?<=[a-z])The)\s+(?i:(?:(?:final|correct|right)\s+)?answer\s+is)(?![a-zA-Z])\s*:?\s*"
)
_HASHES = re.compile(r"####[^\S\n]*([^\n]*\S)\s*\Z")
_LABEL = re.compile(
    r"(?:\A|\n)[^\S\n]*\**(?:final\s+)?(?:answer|ans)\**\s*[:.]\**[^\S\n]*([^\n]*\S)\s*\Z", re.IGNORECASE
)
# "The answer is 3, but the question asks for more": a step of the reasoning rather than its close.
_HEDGE = re.compile(r",?\s+(?:but|not|because|since|which|so|however|though|although|if|when)(?![a-z])", re.IGNORECASE)
_NEXT_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+[A-Z(]|\n")
_WORKING = re.compile(r"[-+*/x×÷().,$%\d\s=]*=\s*(-?\$?[\d.,]*\d)\s*\.?")
# What leads up to "the answer is" without saying anything itself.
_LEAD = re.compile(
    r"(?:(?:\A|(?<=[^a-z]))(?:so|thus|hence|therefore|consequently|accordingly|and|then|but|however|"
    r"finally|overall|in conclusion|"
    r"(?:we|i) (?:can )?(?:conclude|say|see) that|(?:this|which) means(?: that)?|"
    r"it follows that|it (?:can be|is) concluded that)(?![a-z])[\s,:]*)+\Z",
    re.IGNORECASE,
)
_CHOICES = re.compile(r"\s*\(?(?:answer\s+)?(?:choices|options)\s*:\s*", re.IGNORECASE)
_BEFORE = re.compile(r"\A\s*(?:Q|Question)\s*:\s*", re.IGNORECASE)
_AFTER = re.compile(r"(?:\s*###|\s*\n\s*(?:A|Answer)\s*:(?:\s*Let['’]s think step by step\.?)?)\s*\Z")
# The opening tag is missing where the chat template has written it into the prompt.
_THOUGHTS = re.compile(r"\s*(?:<(?:think|thinking|reasoning)>)?(.*?)</(?:think|thinking|reasoning)>(.*)\Z", re.DOTALL)
_OPENED = re.compile(r"\s*<(think|thinking|reasoning)>")


class Stated(NamedTuple):
    """A completion in parts.

    Attributes:
        reasoning: Without a phrase at its end that states the answer.
        answer: The answer as it stands there.
        conclusion: What is said between the thoughts and the answer, where thoughts have tags.
    """

    reasoning: str
    answer: str
    conclusion: str = ""


def closing(text: str) -> tuple[str, str] | None:
    """Splits a text into its reasoning and the answer that it states at its very end.

    Read are "The answer is X" (also "Therefore, the final answer is: X."), "#### X", and a last line "Answer: X".
    Where X is worked out on the spot ("The answer is 4 + 79 = 83"), the answer is 83 and the working stays.

    Args:
        text: A completion.

    Returns:
        Reasoning and answer, or None if the text does not end by stating an answer.
    """
    for pattern in (_HASHES, _LABEL):
        if match := pattern.search(text):
            return strip_closing(text[: match.start()]), _bare(match.group(1))
    found = _final_phrase(text)
    return None if found is None else (strip_closing(found[0]), found[1])


def strip_closing(text: str) -> str:
    """The reasoning without surrounding white space and without phrases at its end that state the answer."""
    text = text.strip()
    while True:
        if match := _HASHES.search(text) or _LABEL.search(text):
            shorter = text[: match.start()].rstrip()
        elif (found := _final_phrase(text)) and not _HEDGE.search(found[1]):
            shorter = found[0]
        else:
            return text
        text = shorter


def _final_phrase(text: str) -> tuple[str, str] | None:
    matches = list(_PHRASE.finditer(text))
    if not matches:
        return None
    head, tail = text[: matches[-1].start()], text[matches[-1].end() :].strip()
    if _NEXT_SENTENCE.search(tail):
        return None
    lead = _LEAD.search(head)
    head = (head[: lead.start()] if lead else head).rstrip().rstrip(",;").rstrip()
    if working := _WORKING.fullmatch(tail):
        return f"{head} {tail}".strip(), working.group(1)
    return head, _bare(tail)


def _bare(answer: str) -> str:
    return answer.strip().rstrip(" .,;:>\"'”’*").lstrip(" *\"'“‘<")


def boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}``, braces balanced; None if there is none."""
    start = text.rfind("\\boxed{")
    depth = 0
    for position in range(start + len("\\boxed"), len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : position].strip()
    return None


def unended(completion: str) -> str | None:
    """The name of the tag with which a completion opens thoughts that it never closes; None if there is none."""
    opened = _OPENED.match(completion)
    return opened.group(1) if opened and not _THOUGHTS.match(completion) else None


def thoughts(completion: str) -> tuple[str, str] | None:
    """What a completion has in tags for thoughts, and what follows them; None where there are no such tags.

    >>> thoughts("<think>2+3=5</think>It is 5.")
    ('2+3=5', 'It is 5.')
    """
    match = _THOUGHTS.match(completion)
    return (match.group(1), match.group(2)) if match else None


def split_thoughts(completion: str) -> Stated | None:
    """Reasoning and answer of a completion: thoughts in tags, an arrow, a closing phrase, or a boxed answer.

    Args:
        completion: "<think>reasoning</think>conclusion and answer", "reasoning --> answer", "reasoning The answer is
            X", or a text with a boxed answer (which stays in the reasoning).

    Returns:
        The parts, or None if no answer is stated, or the thoughts have no end.
    """
    if parts := thoughts(completion):
        reasoning, rest = strip_closing(parts[0]), parts[1].strip()
        if stated := closing(rest):
            return Stated(reasoning, stated[1], stated[0]) if stated[1] else None
        if answer := boxed(rest):
            return Stated(reasoning, answer, rest)
        return Stated(reasoning, _bare(rest)) if _bare(rest) and "\n" not in rest else None
    if unended(completion):
        return None
    reasoning, arrow, answer = completion.rpartition("-->")
    if arrow and closing(answer) is None:
        return Stated(strip_closing(reasoning), _bare(re.sub(r"\s+END\s*\Z", "", answer)))
    if stated := closing(completion):
        return Stated(*stated)
    answer = boxed(completion) or ""
    return Stated(completion.strip(), answer) if answer else None


def plain_question(text: str) -> str:
    """The question without a prompt around it, and with answer choices in one form.

    Removed are "Q:" or "Question:" before it, "###", "A:" or "A: Let's think step by step." behind it. Choices written
    as "Answer choices: A: race track, B: ..." or "Answer Choices:\\n(a) bank\\n(b) ..." become :func:`with_choices`.
    """
    text = _AFTER.sub("", _BEFORE.sub("", text)).strip()
    parts = _CHOICES.split(text)
    if len(parts) != 2:
        return text
    labels, texts = _choices(parts[1])
    return with_choices(parts[0], labels, texts) if labels else text


def with_choices(question: str, labels: Sequence[str], texts: Sequence[str]) -> str:
    """A question with its answer choices, one per line: "...\\nAnswer Choices:\\nA. bank\\nB. library"."""
    lines = [f"{label}. {text.strip()}" for label, text in zip(labels, texts, strict=True)]
    return "\n".join([question.strip(), "Answer Choices:", *lines])


def _choices(text: str) -> tuple[list[str], list[str]]:
    """Labels and texts of choices that count A, B, C, ...; empty if they do not."""
    marks: list[re.Match[str]] = []
    while len(marks) < 26:
        label = chr(ord("A") + len(marks))
        before = r"\A\s*" if not marks else r"(?:,\s*|\s+)"
        mark = re.compile(rf"{before}(?:\({label}\)|{label}[.:)])\s*", re.IGNORECASE)
        match = mark.search(text, marks[-1].end() if marks else 0)
        if match is None:
            break
        marks.append(match)
    ends = [*(match.start() for match in marks[1:]), len(text)]
    texts = [text[match.end() : end].strip() for match, end in zip(marks, ends, strict=True)] if marks else []
    if len(texts) < 2 or not all(texts):
        return [], []
    return [chr(ord("A") + index) for index in range(len(texts))], texts


def question_key(question: str) -> str:
    """A question as it is compared: case and white space play no role."""
    return " ".join(question.casefold().split())
