"""Splits a rationale into steps: spans that partition its characters.

Methods group, skip and weight steps, so two things must hold for every text: no character is lost, and a step is what a
person would call a step. ``Sentences`` is the default; ``BlankLines`` and ``Pattern`` are for rationales with a layout.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from skipthinking.records import Span, UserError
from skipthinking.settings import Configurable

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

__all__ = ["BlankLines", "Pattern", "Sentences", "StepSplitter"]

# A period after these never ends a sentence.
_ALWAYS_JOINED = (
    "mr mrs ms dr prof st jr sr rev gen col sgt capt lt gov sen rep hon e.g i.e eg ie cf vs viz approx ca incl esp inc "
    "ltd corp co u.s u.k u.n d.c jan feb aug sept oct nov dec rs mt"
)
# A period after these ends a sentence only before a capital letter: "5 lbs. of rice", but "5 lbs. Bob has ...".
_JOINED_TO_LOWER_CASE = (
    "etc al a.m p.m b.c a.d b.c.e c.e ft lb lbs oz hr hrs min mins sec secs yr yrs km cm mm kg gal qt tbsp tsp mph "
    "dept est max avg sq cu"
)
# A period after these ends a sentence unless a number follows: "Is that so? No. He ...", but "train no. 5".
_BEFORE_NUMBER = re.compile(r"\b(?:nos?|figs?|eqs?|eqn|vol|ch|pp?|art|sect?|ex)\.$", re.IGNORECASE)
_SOFT_END = re.compile(
    r"(?<![\w.])(?i:" + _JOINED_TO_LOWER_CASE.replace(".", r"\.").replace(" ", "|") + r")\.[\"')\]]*\s+(?=[A-Z])"
)
# Punkt mistakes "B." and "x." for initials and "5. so" for an ordinal: "option B. This is", "be x. Then", "x = 5. so".
_MISSED_END = re.compile(
    r"\b[A-Z]\.\s+(?=(?:The|This|That|These|It|He|She|We|They|If|In|So|Then|Thus|Therefore|Hence|However|But|Since|Next)\b)"
    r"|(?<![\w.])[a-z]\.\s+(?=[A-Z])"
    r"|\d\.\s+(?=[a-z])"
)
# A quotation inside a sentence: '"Go!" she said'.
_QUOTE_END = re.compile(r"[.!?][\"'”’]+$")
_FACTORIAL = re.compile(r"[\dn)}] ?!$")  # "in 3! ways", "3!*2"
# "5.Then she", "in groups.When we", "accurate!So": no space between a word or number and a capitalized word.
_GLUED = re.compile(r"(?<=[a-z0-9]{2}|[\s$=(]\d|\w[)\]%\"'])[.!?](?=[A-Z](?:[a-z]|\s))")
_MARKER = re.compile(
    r"(?:(?:\\item\b|[-*+•])\s*)*(?:\\item|(?:\W*step\W*)?[(\[*_#]*(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.):\]]+[*_]*"
    r"|\W*step\s+\d{1,3}\W*)",
    re.IGNORECASE,
)
_LONGEST_MARKER = 100  # characters of a line, in which the pattern may go back over every one
_OPENING = re.compile(r"[-*+•–—#>(\[\\]+")
_MATH_ENVIRONMENTS = (
    "align|aligned|alignat|array|[bpvV]?matrix|cases|displaymath|eqnarray|equation|flalign|gather|gathered|math|multline|"
    "split|tabular|table|tikzpicture|asy"
)
# Never torn: displayed formulas, tables, drawings, headings. An environment goes on to its end, see ``_blocks``.
_BLOCK = re.compile(
    rf"\\begin\{{(?P<name>{_MATH_ENVIRONMENTS})\*?\}}|(?P<asy>\[asy\])"
    r"|(?<!\\)\\\[(?:(?!\\\[).){,2000}?\\\]|\$\$(?:(?!\n\s*\n|\$\$).)+\$\$"
    r"|(?:\A|(?<=\n))(?:#{1,6} [^\n]*|\*\*[^*\n]+\*\*:?)(?=\s*(?:\n|\Z))",
    re.DOTALL,
)
_END = re.compile(rf"\\end\{{(?P<name>{_MATH_ENVIRONMENTS})\*?\}}|\[/asy\]")
# Pieces without content join the step after them, ...
_OPENS = re.compile(
    r"(?:\\item\b\s*|[-*+•]\s+)?(?:"
    + "|".join(
        (
            # "## Solution", "**Step 2: Divide**"
            r"#{1,6} .*|\*\*(?:(?:step|part|case)\s*\d{1,2}\b|\d{1,2}[.)])?[^*=\d]*\*\*:?",
            # "Okay, let's break this down step by step:"
            r"(?:(?:okay|ok|alright|sure|certainly|so|now|first)[,!.]*\s+)*let['’]s\s+(?:[a-z'’-]+\s+){0,8}?"
            r"(?:step[- ]by[- ]step|steps|(?:this|it|things)\s+down|in\s+detail|carefully)(?:\s+[a-z'’-]+){0,4}[ .:!]*",
            r"let us think step by step[.:]?",
            # "Here's how we proceed:", "The calculation is as follows:"
            r"(?:here(?:['’]s)?|the|this|these)\s+(?:[a-z'’-]+\s+){0,6}?"
            r"(?:proceed|steps?|process|path|solution|calculation|breakdown|explanation|follows)(?:\s+[a-z'’-]+){0,4}\s*:",
            # "Therefore:", "So, we have:", "Hence" on its line
            r"(?:(?:and|so|thus|hence|then|therefore|now|next|finally|first|also|given|where|since|because|but|if|or|let|"
            r"note|that is|for example|we (?:get|have|know|obtain)|proof|reasoning|calculation|explanation|"
            r"(?:step-by-step\s+)?solution(?: path)?)(?:,? |(?![a-z])))+[ *]*(?:[,:;…]|\.{3}|\n)[\s*]*",
            # "Case 1.", "J.K." of Rowling
            r"(?:proof|claim|lemma|case|method|solution|remark)\s*\d{0,2}[.:]|(?:(?-i:[A-Z])\.){2,}|(?:mr|mrs|ms|dr)\.",
            # "\begin{itemize}", "```python", "<solution>"
            r"\\begin\{[^}]*\}(?:[\[{][^\]}]*[\]}])*|```\w*|<[a-z][\w ]*>",
        )
    )
    + r")\s*",
    re.IGNORECASE,
)
# ... or the step before them, as drawings do.
_CLOSES = re.compile(r"\\end\{[^}]*\}|(?:<br\s*/?>\s*|</[a-z][\w ]*>\s*)+", re.IGNORECASE)
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]|\\begin\{(tikzpicture|asy)\}.*?\\end\{\1\}", re.DOTALL)
_LINE = re.compile(r"[^\r\n]+")
_BLANK_LINE = re.compile(r"\r?\n[^\S\n]*\r?\n\s*")


_TAIL = 40  # characters before a start that the rules look at


def _before_space(text: str, offset: int) -> int:
    """The offset without the white space before it."""
    while offset and text[offset - 1].isspace():
        offset -= 1
    return offset


class StepSplitter(Configurable, ABC):
    """Splits a rationale into steps."""

    @abstractmethod
    def starts(self, text: str) -> Iterable[int]:
        """Returns the offsets of the steps; they may repeat, be unordered, and start blank steps."""

    def spans(self, text: str) -> list[Span]:
        """Partitions a text into steps.

        Args:
            text: A rationale.

        Returns:
            Contiguous spans in order, from 0 to ``len(text)``; none is blank. White space before a step belongs to it,
            and that at the end to the last step. Empty for a blank text.
        """
        if not text.strip():
            return []
        starts = [0]
        last = _before_space(text, len(text))  # nothing but white space follows
        for offset in sorted(set(self.starts(text))):
            start = _before_space(text, offset)  # with the white space before the step, so that no step is blank
            if starts[-1] < start < last:
                starts.append(start)
        return list(zip(starts, [*starts[1:], len(text)], strict=True))


class Sentences(StepSplitter):
    """One step per sentence, and per line.

    Uses NLTK's Punkt without training, with a fixed list of abbreviations, line by line: nothing is downloaded, and the
    steps of a text do not depend on other texts (Punkt trained on templated rationales learns "each" as an
    abbreviation). Additional rules:

    * A list marker ("1.", "(2)", "3)", "-", "Step 4:") is not a step; it belongs to the following step.
    * The items of a numbered list begin steps even if the line breaks were lost ("in detail:1. First, ... is 290.2.
      We are ... 2 groups.3. When"). Items count 1, 2, ..., and a number must follow a period or a colon. So "290.2. We"
      is split before "2." only if item 2 is the next one.
    * "She has 5.Then she" is split after the period: a lower-case letter or digit before it, a capitalized word after.
    * Decimals are not split, and neither are displayed formulas, tables and drawings.
    * A piece without content is not a step: a heading, "Therefore:" or "Let's think step by step." joins the following
      step; a closing bracket, the end of a LaTeX environment or a drawing joins the previous one.
    """

    def starts(self, text: str) -> Iterable[int]:
        """Returns the offsets of sentences, lines and list items."""
        punkt = _punkt()
        starts = set(_item_starts(text))
        for line in _LINE.finditer(text):
            offset, content = line.start(), line.group()
            starts.add(offset)
            for begin, _ in punkt.span_tokenize(content):
                end, first = _before_space(content, begin), content[begin : begin + 1]
                before = content[max(0, end - _TAIL) : end]
                numbered = first.isdigit() and _BEFORE_NUMBER.search(before)
                quoted = first.islower() and _QUOTE_END.search(before)
                factorial = (first.islower() or first in "*/+-=^)") and _FACTORIAL.search(before)
                if not (numbered or quoted or factorial):
                    starts.add(offset + begin)
            for pattern in (_GLUED, _SOFT_END, _MISSED_END):
                starts.update(offset + match.end() for match in pattern.finditer(content))
        return _joined(text, sorted(starts))


class BlankLines(StepSplitter):
    """One step per paragraph: splits at blank lines. A paragraph without content, such as a heading, is not a step."""

    def starts(self, text: str) -> Iterable[int]:
        """Returns the offsets of paragraphs."""
        return _joined(text, [0, *(match.end() for match in _BLANK_LINE.finditer(text))])


class Pattern(StepSplitter):
    r"""Splits at a regular expression.

    A step begins with every match: ``Step \d+:`` splits before "Step 3:". To split after a text, use a lookbehind:
    ``(?<=;)`` splits after every semicolon.

    Args:
        pattern: The regular expression, in Python's syntax; ``^`` and ``$`` match at every line.

    Raises:
        UserError: The pattern is not a regular expression.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern, re.MULTILINE)
        except re.error as error:
            raise UserError(
                f"Expected a regular expression, got {pattern!r} ({error}). Fix the pattern of the step splitter."
            ) from error

    def starts(self, text: str) -> Iterable[int]:
        """Returns the offsets of matches."""
        return [match.start() for match in self._pattern.finditer(text)]


@lru_cache(maxsize=1)
def _punkt() -> PunktSentenceTokenizer:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = {*_ALWAYS_JOINED.split(), *_JOINED_TO_LOWER_CASE.split()}
    return PunktSentenceTokenizer(parameters)


# Not a decimal such as 2.5, and not empty.
_ITEM = re.compile(r"\(?([1-9]\d*)(?:\.\)?|\))(?!\d)(?=\s*[^\s\d]|\s+\S)")


def _item_starts(text: str) -> list[int]:
    """Returns the offsets of the items of numbered lists with at least the items 1 and 2."""
    items: dict[str, list[tuple[int, int, int]]] = {}  # by number: the character before the item, its start, its end
    for item in _ITEM.finditer(text):
        # An item is at the start of the text or of a line, or after a period or a colon.
        before = item.start()
        while before and text[before - 1] != "\n" and text[before - 1].isspace():
            before -= 1
        if before == 0 or text[before - 1] in "\n.:;!?)]":
            items.setdefault(item[1], []).append((max(0, before - 1), item.start(), item.end()))
    starts: list[int] = []
    position = 0
    while (first := _next(items.get("1", ()), position)) is not None:
        marks = [first]
        while (following := _next(items.get(str(len(marks) + 1), ()), marks[-1][2] - 1)) is not None:
            marks.append(following)
        if len(marks) > 1:
            starts += [start for _, start, _ in marks]
        position = marks[-1][2]
    return starts


def _next(items: Sequence[tuple[int, int, int]], position: int) -> tuple[int, int, int] | None:
    """The first item from a position on; the items are in order."""
    place = bisect_left(items, (position,))
    return items[place] if place < len(items) else None


def _blocks(text: str) -> list[Span]:
    """Returns the spans of blocks, in order. An environment without an end is none."""
    ends: dict[str | None, list[Span]] = {}
    for end in _END.finditer(text):
        ends.setdefault(end["name"], []).append(end.span())
    blocks: list[Span] = []
    position = 0
    while (block := _BLOCK.search(text, position)) is not None:
        start, position = block.span()
        if block["name"] or block["asy"]:
            closing = ends.get(block["name"], [])
            place = bisect_left(closing, (position,))
            if place == len(closing):
                position = start + 1
                continue
            position = closing[place][1]
        blocks.append((start, position))
    return blocks


def _joined(text: str, starts: list[int]) -> list[int]:
    """Drops the starts inside of blocks, and those of pieces without content."""
    blocks = _blocks(text)
    outside = []
    for start in starts:
        place = bisect_left(blocks, (start,)) - 1  # the last block that begins before the start
        if place < 0 or blocks[place][1] <= start:
            outside.append(start)
    starts = outside
    kept: list[int] = []
    waiting = False  # there was no content since the last kept start, so the next piece belongs to the same step
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        piece = text[start:end]
        if not piece.strip():
            continue
        belongs = _belongs(piece)
        if not waiting and (belongs != "before" or not kept):
            kept.append(start)
            waiting = belongs is not None
        elif belongs is None:
            waiting = False
    if waiting and kept:
        kept.pop()  # no content until the end: it belongs to the previous step
    return kept


def _belongs(piece: str) -> Literal["before", "after"] | None:
    """Returns the side on which the step of a piece without content is; None for a piece with content."""
    side: Literal["before", "after"] = "before"
    for line in _DRAWING.sub("\n", piece).splitlines(keepends=True):
        words = line.strip()
        bare = not any(character.isalnum() for character in words)
        if not words or _CLOSES.fullmatch(words) or (bare and not _OPENING.fullmatch(words)):
            continue
        if not (bare or (len(words) < _LONGEST_MARKER and _MARKER.fullmatch(words)) or _OPENS.fullmatch(line.lstrip())):
            return None
        side = "after"
    return side
