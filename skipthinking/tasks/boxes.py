r"""Answers in ``\boxed{...}``."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["boxed", "closing_brace"]

# Between the boxes of a list: "$ or $x=", ", ", r"\text{ and }".
_NAME = r"([a-zA-Z](?:_\{?\w+\}?)?)\s*(?:=|\\in\b)"
_BETWEEN_BOXES = re.compile(
    r"(?:\s|\$|\\[,;:! ()\[\]]|\\(?:quad|qquad)\b)*"
    r"(?:,|;|(?:,\s*)?(?:\\(?:text|mbox|mathrm)\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|\band\b|\bor\b|&))"
    rf"(?:\s|\$|\\[,;:! ()\[\]]|\\(?:quad|qquad)\b)*(?:{_NAME}\s*)?"
)
_NAME_OF_BOX = re.compile(rf"(?<![a-zA-Z\\]){_NAME}\s*\Z")


def boxed(text: str) -> str | None:
    r"""Returns the content of the last ``\boxed{...}``, or else of the last ``\fbox{...}``; None without one.

    Boxes with nothing but a separator between them are one list. Braces are balanced. If the last box is never closed,
    the boxes before it do not count either.

    >>> boxed(r"\boxed{1}, so \boxed{\frac{1}{2}}."), boxed(r"\boxed{1}, so \boxed{2")
    ('\\frac{1}{2}', None)
    >>> boxed(r"$x=\boxed{3}$ or $x=\boxed{5}$"), boxed(r"$x=\boxed{3}$ and $y=\boxed{5}$")
    ('3, 5', 'x=3, y=5')
    """
    for command in ("boxed", "fbox"):
        boxes = list(_boxes(text, command))
        if boxes:
            return _joined(text, boxes)
    return None


def _boxes(text: str, command: str) -> Iterator[tuple[int, int, str | None]]:
    """Yields start, end and content of every outermost box; the content of a box that is never closed is None."""
    end = 0
    for match in re.finditer(rf"\\{command}\s*\{{|\\{command}\s+([^\s{{}}$\\]+)", text):
        if match.start() < end:
            continue
        if match.group(1):
            end = match.end()
            yield match.start(), end, match.group(1).rstrip(".,;")
            continue
        closing = closing_brace(text, match.end() - 1)
        if closing is None:
            yield match.start(), match.end(), None
        else:
            end = closing + 1
            content = text[match.end() : closing].strip()
            yield match.start(), end, boxed(content) or content


def _joined(text: str, boxes: list[tuple[int, int, str | None]]) -> str | None:
    """Returns the content of the last box and of the boxes before it that belong to the same list."""
    start, _, content = boxes[-1]
    if content is None:
        return None
    contents, names = [content], []
    for before, end, content in reversed(boxes[:-1]):
        between = _BETWEEN_BOXES.fullmatch(text[end:start])
        if between is None or content is None:
            break
        contents.append(content)
        names.append(between.group(1))
        start = before
    if len(contents) == 1 or len(set(contents)) == 1:
        return contents[0]
    names.append(name.group(1) if (name := _NAME_OF_BOX.search(text[max(0, start - 40) : start])) else None)
    if None not in names and len(set(names)) == len(names):
        contents = [f"{name}={content}" for name, content in zip(names, contents, strict=True)]
    return ", ".join(reversed(contents))


def closing_brace(text: str, opening: int) -> int | None:
    """Returns the position of the brace that closes the one at ``opening``, None if there is none."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return None
