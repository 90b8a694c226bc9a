"""Graders: extract an answer from text, put it into canonical form, and compare two canonical forms.

Gold answers and completions pass through the same grader, so ``"1,234"`` is the same answer
as ``"1234"``, and ``"(b)"`` the same as ``"B"``.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from skipthinking.tasks.boxes import boxed, closing_brace

__all__ = [
    "Choices", "Grader", "Text", "YesNo", "after_cue", "boxed", "cue_pattern", "last_answer", "unwrap",
    "without_phrase",
]  # fmt: skip

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
# The period of "Dr. Smith", "J. R. R. Tolkien" and "U.S. Army" does not end an answer.
_TEXT_END = re.compile(r"(?<!\b[A-Z])(?<!\b(?i:Dr|Mr|Ms|St|Jr|Sr|Mt|Ft|vs))(?<!\b(?i:Mrs))\.(?=\s|$)|[!?](?=\s|$)")
_OPTION = re.compile(
    r"\A(?:the\s+)?(?:(?:correct|best|right)\s+)?(?:option|choice|answer)(?:\s+is)?\s*:?\s+(?=\S)", re.I
)
_CORRECT = r"(?:correct|right|best|answer)"
_ARTICLE = re.compile(r"\A(?:the|an?) (?=\w\w)")
_SPELLINGS = str.maketrans({"’": "'", "‘": "'", "−": "-", "‐": "-", "‑": "-"})
_VERDICT = r"(not\s+)?(yes|no|true|false)"
_PHRASE = re.compile(
    r"\A\s*(?:####\s*|(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+|my\s+|our\s+)?(?:final\s+|correct\s+|right\s+)?"
    r"(?:answer|ans)\**(?:\s+is\b\s*:?|\s*[:=])\**\s*)(?=\S)",
    re.IGNORECASE,
)


def after_cue(text: str, cue: str, end: re.Pattern[str] = _SENTENCE_END) -> str | None:
    """Returns what follows the last ``cue``, up to the end of the line or sentence; None where the cue is missing.

    A cue keeps its punctuation: "A:" is not the article "a". An empty cue stands for the start of the last line.

    >>> after_cue("The answer is 3. No, the answer is: 5. Good.", "the answer is")
    '5'
    """
    if not cue:
        text = text.strip().rpartition("\n")[2]
    starts = [match.end() for match in cue_pattern(cue).finditer(text)] if cue else [0]
    if not starts:
        return None
    rest = text[starts[-1] :].partition("\n")[0].lstrip(" \t:")
    # The period of "the answer is .5" does not end a sentence: no white space follows it.
    return end.split(rest, maxsplit=1)[0].strip()


def cue_pattern(cue: str) -> re.Pattern[str]:
    """Returns the pattern of a cue: any case and white space, and no letter next to its words."""
    pattern = r"\s+".join(re.escape(word) for word in cue.split())
    before, after = (r"(?<!\w)" if cue[:1].isalnum() else ""), (r"(?!\w)" if cue[-1:].isalnum() else "")
    return re.compile(before + pattern + after, re.IGNORECASE)


def unwrap(text: str, marks: str = "*_`\"'“”‘’") -> str:
    """Removes white space, ``marks`` and math delimiters around an answer, and punctuation after it.

    >>> unwrap(' **"17."** '), unwrap(r"$\\boxed{3}$.")
    ('17', '3')
    """
    before = None
    while text != before:
        before = text
        text = text.strip().strip(marks).rstrip(".;,").strip()
        if len(text) > 1 and text[0] == text[-1] == "$":
            text = text[1:-1]
        for left, right in ((r"\(", r"\)"), (r"\[", r"\]")):
            if text.startswith(left) and text.endswith(right):
                text = text[2:-2]
        for command in ("\\boxed{", "\\fbox{", "\\text{"):
            if text.startswith(command) and closing_brace(text, len(command) - 1) == len(text) - 1:
                text = text[len(command) : -1]
    return text


def without_phrase(text: str) -> str:
    """Removes one phrase before an answer: "The answer is 5" and "Answer: 5" give "5".

    >>> without_phrase("The correct answer is: (B)"), without_phrase("#### 18"), without_phrase("answers")
    ('(B)', '18', 'answers')
    """
    return _PHRASE.sub("", text, count=1)


class Grader(ABC):
    """Extracts and compares answers of one kind. Subclasses are frozen dataclasses of their settings."""

    __slots__ = ()

    @abstractmethod
    def read(self, text: str) -> str | None:
        """Returns the canonical form of a text that is an answer, None for another text."""

    @abstractmethod
    def last(self, text: str) -> str | None:
        """Returns the canonical form of the last plausible answer in a text, None without one."""

    def same(self, a: str, b: str) -> bool:
        """Whether two canonical forms are the same answer."""
        return a == b

    def readings(self, gold: str) -> tuple[Grader, ...]:
        """Returns this grader, and graders of other readings that a completion may have beside this gold answer."""
        return (self,)

    def rest(self, text: str) -> str:
        """Returns the words of a readable answer that its canonical form leaves out, such as its unit."""
        return ""

    def show(self, answer: str) -> str:
        """Returns the form of an answer in the answer sentence; an unreadable answer stays as it is."""
        canonical = self.read(answer)
        return answer if canonical is None else canonical

    def strict(self, text: str, cue: str) -> str | None:
        """Returns the canonical form of the answer after the last ``cue`` in a text, None without one."""
        rest = after_cue(text, cue)
        return None if rest is None else self.read(rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class YesNo(Grader):
    """Yes or no; true and false mean the same. ``no`` as a determiner ("no one") is not an answer.

    >>> YesNo().read("True."), YesNo().last("There is no coin. So no, it is not.")
    ('yes', 'no')
    """

    def read(self, text: str) -> str | None:
        text = unwrap(without_phrase(unwrap(text)))
        match = re.match(rf"{_VERDICT}\b(?!-)(?!\s*(?:/|(?:or|and)\b))", text, re.IGNORECASE)
        return None if match is None else _verdict(text, match)

    def rest(self, text: str) -> str:
        text = unwrap(without_phrase(unwrap(text)))
        return re.sub(rf"{_VERDICT}\W*", "", text, count=1, flags=re.I) if self.read(text) else ""

    def last(self, text: str) -> str | None:
        matches = re.finditer(rf"(?<![\w-]){_VERDICT}\b(?!-)", text, re.IGNORECASE)
        return last_answer(_verdict(text, match) for match in matches)


def last_answer(answers: Iterable[str | None]) -> str | None:
    """Returns the last one that is not None."""
    return next((answer for answer in reversed(list(answers)) if answer is not None), None)


def _verdict(text: str, match: re.Match[str]) -> str | None:
    """Returns yes or no for a matched word, None where "no" is the determiner of the next word."""
    negated, word = match.group(1), match.group(2).casefold()
    if word == "no" and not re.match(r"\s*(?:[^\w\s-]|$|because\b|since\b|as\b|it\b)", text[match.end() :], re.I):
        return None
    return "yes" if (word in ("yes", "true")) != bool(negated) else "no"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices(Grader):
    """The label of one of several choices, in upper case: ``(B)``, ``b)``, ``B.``, ``B: populated areas``.

    A lower-case letter counts only as the complete answer or before a bracket, colon or period, and "A" at the start of
    a phrase is the article: neither "a dog" nor "A dog barks" is answer A. Two labels ("A or B") are not an answer.

    Attributes:
        labels: The labels, upper-case letters.
    """

    labels: str = "ABCDE"

    def read(self, text: str) -> str | None:
        text = unwrap(re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", unwrap(text))).replace("**", "")
        text = unwrap(_OPTION.sub("", without_phrase(text), count=1))
        label, mark = f"[{self.labels}{self.labels.lower()}]", r"[(\[{<]"
        # "A or B", "A and B", "(A) and (C)", "(B) fridge or (C) oven", but not "(B) because (A) and (C) are too small"
        if re.match(rf"\(?{label}\)?\s*(?:,?\s*(?:or|and)\s|[,/&])\s*(?:{mark}?{label}(?!\w)|both)", text):
            return None
        claim = re.split(r"\b(?:because|since|as|not|but)\b", text)[0]
        if re.search(rf"\b(?:or|and)\s+(?:\({label}\)|{label}\))", claim):
            return None
        match = re.match(rf"{mark}\s*({label})\s*[)\]}}>]|({label})\s*(?:\)|[:.!?](?!\w)|$)", text)
        # "B.fridge" and "B:12", but not "D.C." and "e.g."
        match = match or re.match(
            rf"([{self.labels}])(?=[:.](?!\w(?:\.|$))|\s*,|\s+(?:because|since|as|[-–—])(?!\w))", text
        )
        if match is None and (bare := self.labels.replace("A", "")):
            match = re.match(rf"([{bare}])(?=\s)", text)
        return None if match is None else next(group for group in match.groups() if group).upper()

    def last(self, text: str) -> str | None:
        upper, both = self.labels, f"{self.labels}{self.labels.lower()}"
        labels = [
            *re.finditer(rf"(?<!\w)\(([{both}])\)", text),
            *re.finditer(rf"\\boxed\s*\{{(?:\\text\w*\s*\{{)?\s*([{both}])\s*\}}", text),
            *re.finditer(rf"(?<![\w(.'’-])([{both}])\)", text),
            *re.finditer(rf"(?i:option|choice|answer)\s*:?\s*([{upper}])(?![\w'’+#])", text),
            *re.finditer(rf"(?<![\w.'’-])([{upper}])(?=\s+(?:because|since|as|is\s+(?:the\s+)?{_CORRECT})\b)", text),
            *re.finditer(rf"(?<![\w.'’-])([{upper}])(?=\s*(?:$|[,;:!?*\n]|\.(?!\w)))", text),
            *re.finditer(rf"(?<![\w.'’-])([{upper.replace('A', '') or upper}])(?=\s+[^\W\d])", text),
        ]
        return max(labels, key=lambda match: match.start(1)).group(1).upper() if labels else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(Grader):
    """One word or a short phrase: exact match without case, a first article, outer quotes and punctuation, and spaces.

    The sign and the decimal point of a number are part of it.

    Attributes:
        pattern: Regular expression that an answer must match after case folding; "the" may precede it. Without a
            pattern any text of one sentence is an answer, and the last plausible one is the last quoted phrase, or else
            the last word.
    """

    pattern: str | None = None

    def read(self, text: str) -> str | None:
        bare = _strip(_bare_text(text))
        if self.pattern is None:
            return None if _TEXT_END.search(bare) else _fold(bare) or None
        match = re.fullmatch(rf"(?:the )?({self.pattern})", _fold(bare))
        return None if match is None else match.group(1)

    def same(self, a: str, b: str) -> bool:
        return _ARTICLE.sub("", a) == _ARTICLE.sub("", b)

    def last(self, text: str) -> str | None:
        if self.pattern is not None:
            phrases = [match.group() for match in re.finditer(rf"(?<!\w)(?:{self.pattern})(?!\w)", _fold(text))]
        else:
            quotes = re.finditer(r'"([^"\n]+)"|“([^”\n]+)”', text)
            phrases = [match.group(1) or match.group(2) for match in quotes] or text.split()
        return last_answer(map(self.read, phrases))

    def strict(self, text: str, cue: str) -> str | None:
        rest = after_cue(text, cue, _TEXT_END)
        return None if rest is None else self.read(rest)

    def show(self, answer: str) -> str:
        """Without a pattern, the case of an answer is kept: names stay names."""
        if self.pattern is not None or self.read(answer) is None:
            return Grader.show(self, answer)
        return " ".join(_strip(_bare_text(answer)).split())


def _bare_text(text: str) -> str:
    """Removes an answer phrase, math delimiters and LaTeX commands for text around an answer."""
    return unwrap(without_phrase(unwrap(text)))


def _fold(text: str) -> str:
    """Case-folds and normalizes spaces; none stay around slashes: a word-level student writes "03 / 14 / 2021"."""
    text = unicodedata.normalize("NFC", text).translate(_SPELLINGS)
    return re.sub(r" ?/ ?", "/", " ".join(text.casefold().split()))


def _strip(text: str) -> str:
    """Removes white space, punctuation and quotes at both ends."""
    start, end = 0, len(text)
    while start < end and _is_edge(text[start]) and not _NUMBER_START.match(text, start):
        start += 1
    while start < end and _is_edge(text[end - 1]):
        end -= 1
    return text[start:end]


_NUMBER_START = re.compile(r"-?\.?\d")


def _is_edge(char: str) -> bool:
    return char.isspace() or unicodedata.category(char).startswith("P") or char in "`$*"
