"""Text rules of the formats: phrases that state an answer, answer choices, and prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = [
    "bare", "closing", "plain_question", "question_key", "strip_closing", "with_choices",
]  # fmt: skip

_PHRASE = re.compile(
    # "40 kgThe answer is": some data sets lost the line break before "The".
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
# Words before "the answer is" that have no content.
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


def closing(text: str) -> tuple[str, str] | None:
    """Splits a text into its reasoning and the answer that its end states.

    The end is "The answer is X" (or "Therefore, the final answer is: X."), "#### X", or a last line "Answer: X".
    If X is a calculation ("The answer is 4 + 79 = 83"), the answer is 83 and the calculation stays in the reasoning.

    Args:
        text: A completion.

    Returns:
        Reasoning and answer, or None if the end of the text does not state an answer.
    """
    for pattern in (_HASHES, _LABEL):
        if match := pattern.search(text):
            return strip_closing(text[: match.start()]), bare(match.group(1))
    phrase = _final_phrase(text)
    return None if phrase is None else (strip_closing(phrase[0]), phrase[1])


def strip_closing(text: str) -> str:
    """Returns the reasoning without phrases at its end that state the answer, and without white space around it."""
    text = text.strip()
    while True:
        if match := _HASHES.search(text) or _LABEL.search(text):
            shorter = text[: match.start()].rstrip()
        elif (phrase := _final_phrase(text)) and not _HEDGE.search(phrase[1]):
            shorter = phrase[0]
        else:
            return text
        text = shorter


def _final_phrase(text: str) -> tuple[str, str] | None:
    """Returns the text before the last "the answer is" and the answer after it, None if more text follows."""
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
    return head, bare(tail)


def bare(answer: str) -> str:
    """Returns an answer without quotes, asterisks and punctuation around it."""
    return answer.strip().rstrip(" .,;:>\"'”’*").lstrip(" *\"'“‘<")


def plain_question(text: str) -> str:
    """Removes the prompt around a question, and rewrites its answer choices in the form of :func:`with_choices`.

    The prompt is "Q:" or "Question:" before the question, and "###", "A:" or "A: Let's think step by step." after it.
    Choices are "Answer choices: A: race track, B: ..." or "Answer Choices:\\n(a) bank\\n(b) ...".
    """
    text = _AFTER.sub("", _BEFORE.sub("", text)).strip()
    parts = _CHOICES.split(text)
    if len(parts) != 2:
        return text
    labels, texts = _choices(parts[1])
    return with_choices(parts[0], labels, texts) if labels else text


def with_choices(question: str, labels: Sequence[str], texts: Sequence[str]) -> str:
    """Returns a question with its answer choices, one per line: "...\\nAnswer Choices:\\nA. bank\\nB. library"."""
    lines = [f"{label}. {text.strip()}" for label, text in zip(labels, texts, strict=True)]
    return "\n".join([question.strip(), "Answer Choices:", *lines])


def _choices(text: str) -> tuple[list[str], list[str]]:
    """Returns the labels and texts of choices A, B, C, ...; empty if the text has no such list."""
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
    """Returns the form in which questions are compared: without case and extra white space."""
    return " ".join(question.casefold().split())
