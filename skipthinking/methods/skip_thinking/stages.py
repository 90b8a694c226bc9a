"""Stages of a rationale: each chunk with its marker, then the answer; as tokens, and found again in a completion."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import Encoded, Span, UserError

__all__ = ["Stages", "marker_pattern", "split_stages", "stage_tokens"]

Tokens = NDArray[np.int64]

_END = "[.!?;…。！？]"
_CLOSER = r"""["'”’)\]}*_$]"""
# The end of a sentence, up to two closing characters included: lookbehinds have a fixed width.
_ENDED = rf"(?:(?<={_END})|(?<={_END}{_CLOSER})|(?<={_END}{_CLOSER}{_CLOSER}))"
# Before a line break, or "1. Add", "Step 2:" on the same line: the step before may end without a full stop. What
# precedes must not be half a formula: "x = [3]", the end of a line.
_NEXT = r"(?<![=+\-*/×÷<>(\s]) (?={marker}[^\S\n]*(?:\n|\d+[.)]\s|[Ss]tep \d))"

# After the heading of a list whose first items were skipped: "in two steps: [3] Then 7." Not "the answer is: [3]".
_HEADING = r"(?<=[:：]) (?={marker}\s+(?:[-*•]\s+)?[A-Z])"


@cache
def marker_pattern(marker: str) -> str:
    """Regular expression of a stage marker, and of the blank before it, where a stage can start; group 2 is its number.

    A stage starts at the start of a completion, after another marker (group "run"), or where a step ends: after a
    sentence, between a colon and a capital letter, or before a line break, a list item or "Step 2". " [3]" elsewhere
    is text: a citation, a list, an index, an answer. Markers are matched in the text, not among the tokens: where a
    tokenizer has the token " [3]", " [3]" in a teacher's text is that token, too.

    Args:
        marker: See :class:`Stages`.

    Raises:
        UserError: Markers could not be told from numbers around them.
    """
    before, _, after = marker.strip().partition("{}")
    if marker.count("{}") != 1 or not marker.startswith(" "):
        raise UserError(
            f"Expected a marker with one {{}} that begins with a blank, got model.stage_marker={marker!r}. "
            "Set model.stage_marker: ' [{}]', for example."
        )
    if not before or not after or before[-1].isdigit() or after[0].isdigit():
        raise UserError(
            "Expected a marker with a character that is no digit before and after its number, got model.stage_marker="
            f"{marker!r}: without them numbers of the text would be taken for markers. "
            "Set model.stage_marker: ' [{}]', for example."
        )
    before, after = re.escape(before), re.escape(after)
    following, heading = (way.replace("{marker}", rf"{before}\d+{after}") for way in (_NEXT, _HEADING))
    return rf"(?:\A\s*|{_ENDED} |{following}|{heading}|(?P<run>(?<=\d{after}) )){before}([1-9]\d*){after}(?![.,;:)\]])"


def split_stages(text: str, marker: str, most: int | None = None) -> tuple[str, list[tuple[int, str]]]:
    """Splits a completion at its stage markers.

    Args:
        text: The completion.
        marker: See :class:`Stages`.
        most: Maximum number of chunks of a rationale; None if it is not known.

    Returns:
        The text before the first marker, and the number and the text of every stage. Numbers ascend strictly and are at
        most ``most``; other numbers are text. The texts one after the other are the completion without its markers.

    >>> split_stages("[1] As [2] says. [3] So 7. The answer is [9].", " [{}]", 4)
    ('', [(1, ' As [2] says.'), (3, ' So 7. The answer is [9].')])
    """
    numbers, starts, ends = [0], [], [0]
    for match in re.finditer(marker_pattern(marker), text):
        number, in_place = int(match[2]), match["run"] is None or match.start() == ends[-1]
        if in_place and numbers[-1] < number and (most is None or number <= most):
            numbers.append(number)
            starts.append(match.start())
            ends.append(match.end())
    before, *parts = (text[end:start] for end, start in zip(ends, [*starts, len(text)], strict=True))
    return before, list(zip(numbers[1:], parts, strict=True))


def stage_tokens(encoded: Encoded, chunks: Sequence[Span], markers: Sequence[Tokens] = ()) -> list[Tokens]:
    """The tokens of every stage: each chunk after its marker, then the answer.

    Args:
        encoded: The example.
        chunks: Step spans that cover all steps.
        markers: Marker tokens of every chunk; none by default. The answer stage has no marker.
    """
    stages = [encoded.tokens[encoded.steps[i][0] : encoded.steps[j - 1][1]] for i, j in chunks]
    if len(markers):
        stages = [np.concatenate([marker, stage]) for marker, stage in zip(markers, stages, strict=False)]
    return [*stages, encoded.tokens[slice(*encoded.answer)]]


class Stages:
    """Converts the stages of a rationale to tokens, with a marker before each chunk.

    Args:
        marker: Text that opens stage m, with one ``{}`` for m, counted from 1; None for no markers.
        encode: Returns the token ids of a text between two words.
    """

    def __init__(self, marker: str | None, encode: Callable[[str], Tokens]) -> None:
        self.marker = marker
        self._encode = cache(lambda number: encode(str(marker).format(number)))

    def markers(self, chunks: int) -> list[Tokens]:
        """The marker tokens of stages 1..chunks; empty without markers."""
        return [self._encode(m) for m in range(1, chunks + 1)] if self.marker else []

    def tokens(self, encoded: Encoded, chunks: Sequence[Span]) -> list[Tokens]:
        """The tokens of every stage, markers included."""
        return stage_tokens(encoded, chunks, self.markers(len(chunks)))

    def opening(self, stage: int, chunks: int) -> int:
        """Number of tokens that name a stage: its marker; its first token, if it has none, as the answer stage."""
        return len(self.markers(chunks)[stage]) if self.marker and stage < chunks else 1
