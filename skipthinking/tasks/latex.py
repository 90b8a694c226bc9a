r"""Answers in LaTeX as text: one spelling for each notation, and the parts of lists, tuples, matrices and relations."""

from __future__ import annotations

import itertools
import re

from skipthinking.tasks.number_text import SCALES

__all__ = ["Enclosed", "cells", "depth", "enclosed", "fold", "key", "normalize", "relation", "split_top", "split_unit"]

Enclosed = tuple[str, str, str]
"""Opening bracket, content, closing bracket."""

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "θ": r"\theta ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "√": r"\sqrt ",
    "≈": r"\approx ", "°": r"^\circ ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "²": "^2", "³": "^3", "’": "'", "′": "'",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u2007", r"\,"),
})  # fmt: skip
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|max|min|gcd|pi|infty"
_DIGITS = r"[0-9]+(?:\.[0-9]+)?"
_DELIMITERS: dict[str, str] = {r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lvert": "|", r"\rvert": "|"}
# In this order.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r",\s*\\!\s*", ","),
        (r"\\!|\\(?:displaystyle|limits|bf|rm|it)(?![a-zA-Z])|\\\$|(?<!\\)\$", ""),
        (r"\\(?:m?left|m?right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\{,\}", ","),
        (r"\\(?:thinspace|quad|qquad|hspace\{[^{}]*\})(?![a-zA-Z])|(?<!\\)\\[,;:\s]|~", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9a-zA-Z])\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*([0-9a-zA-Z])", r"\\frac\1{\2}"),
        (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\(?:mathrm|text|textrm)\s*\{([eid])\}|(?<![0-9}\s])\\math(?:rm|it|bf|sf|tt)\s*\{([a-zA-Z])\}", r"{\1\2}"),
        (r"_\s*([0-9])(?= )", r"_{\1}"),
        (rf"\\(?:mathrm|operatorname)\s*\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 "),
        (r"\\(?:math(?:rm|it|bf|sf|tt)|operatorname|text(?:rm|bf|it|normal|sf|tt)|mbox|hbox)\s*\{", r"\\text{"),
        (r"\s*,?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}\s*", ", "),
        (r"(?<=[^a-zA-Z\\])\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*", ", "),
        (r"\\text\s*\{\s*(?:percent|%|\\%)\s*\}|(?<=[0-9}])\s*percent\b|(?<!\\)%", r"\\%"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|(?<=[0-9}])\s*(?:\\text\s*\{\s*)?degrees?\b\s*\}?", ""),
        (r"\\(?:leqslant|leq|le)(?![a-zA-Z])", "≤"),
        (r"\\(?:geqslant|geq|ge)(?![a-zA-Z])", "≥"),
        (r"<=", "≤"),
        (r">=", "≥"),
        (r"\\neq?(?![a-zA-Z])|!=", "≠"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\approx(?![a-zA-Z])|\\simeq(?![a-zA-Z])", "="),
        (r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset "),
        (r"\\(?:lbrace|lvert|rvert|rbrace)(?![a-zA-Z])", lambda match: _DELIMITERS[match.group()]),
        (r"\\(?:mid|vert)(?![a-zA-Z])", "|"),
        (rf"(?<![a-zA-Z\\])(?=(?:{_FUNCTIONS})(?![a-zA-Z]))", r"\\"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![0-9.,])([0-9]{1,3}(?: [0-9]{3})+)(?![0-9])", lambda match: match.group().replace(" ", "")),
        (rf"({_DIGITS})\s*(?:\\text\s*\{{\s*)?({'|'.join(SCALES)})s?\b\s*\}}?", lambda match: _scaled(*match.groups())),
        (rf"({_DIGITS})[eE]([-+]?[0-9]+)(?![0-9a-zA-Z])", r"\1 \\cdot 10^{\2}"),
        (r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{([0-9]+)\}", lambda match: _repeating(*match.groups())),
        (r"(?<![0-9}^_.])([0-9]+)\s*(\\frac\{[0-9]+\}\{[0-9]+\})", r"(\1+\2)"),
        (r"(?<![0-9])([0-9]+) +([0-9]+)\s*/\s*([0-9]+)", r"(\1+\\frac{\2}{\3})"),
        (r"(?<![a-zA-Z}\])])-\(([0-9]+)\+(\\frac\{[0-9]+\}\{[0-9]+\})\)", r"-(\1+\2)"),
        (r"\s+", " "),
    )
]
_ANGLE = re.compile(rf"({_DIGITS})\s*\^\s*\{{?\s*\\circ\s*\}}?")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?<=[0-9a-zA-Z})\]%])\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*\{?\s*(-?[0-9])\s*\}?)?\s*\Z"
    r"|(?<=[0-9}]) ([a-zA-Z]{2,}(?:[ /.][a-zA-Z]+){0,3})\s*(?:\^\s*\{?\s*(-?[0-9])\s*\}?)?\s*\Z"
    r"|(?<=[0-9])(mm|cm|km|kg|mg|ml|ft|mi|mph|min)(?:\^([0-9]))?\s*\Z"
)


def _scaled(number: str, scale: str) -> str:
    return rf"{number} \cdot {SCALES[scale]}"


def _repeating(whole: str, fixed: str, period: str) -> str:
    """Writes a repeating decimal as a fraction: 0.1\\overline{6} is 15/90."""
    above = int(whole + fixed + period) - int(whole + fixed or 0)
    return rf"\frac{{{above}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"


def normalize(text: str) -> str:
    r"""Returns an answer with one spelling for each notation.

    >>> normalize(r"10\,000"), normalize(r"0.\overline{3}"), normalize(r"3\dfrac12\text{ or }\mathrm{e}")
    ('10000', '\\frac{3}{9}', '(3+\\frac{1}{2}), {e}')
    """
    text = " ".join(text.translate(_CHARACTERS).split())
    grouped = "{,}" in text or r",\!" in text or enclosed(text.strip()) is None
    if re.search(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])", text):
        text = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return (
        (_THOUSANDS.sub(lambda match: match.group().replace(",", ""), text) if grouped else text)
        .lstrip(" ;,")
        .rstrip(" .;,")
    )


def key(text: str) -> str:
    """Returns a form in which spaces and braces around one token do not count: ``x^{2}`` is ``x^2``."""
    text = re.sub(r"\{(\\?[a-zA-Z0-9])\}", r"\1", re.sub(r"([_^])\{([0-9]+)\}(?![0-9])", r"\1\2", text))
    return re.sub(r"\s+", "", text)


def fold(text: str) -> str | None:
    r"""Returns the words of an answer without case, commands and punctuation; None if the answer is mathematics.

    >>> fold(r"\text{(A)}"), fold("no solution"), fold("xy"), fold(r"\sin x")
    ('a', 'nosolution', None, None)
    """
    bare = re.sub(r"\\[a-zA-Z]+", " ", _TEXT.sub(" ", text))
    runs = re.findall("[a-zA-Z]+", bare)
    worded = any(re.search("[a-zA-Z]", content) for content in _TEXT.findall(text))
    # "xyz" may be a product, "yes" a word: three letters are a word if the answer has nothing else.
    alone = len(runs) == 1 and len(runs[0]) > 2 and runs[0] == bare.strip(" .()")
    if not (worded or alone or any(len(run) > 3 for run in runs)):
        return None
    return re.sub(r"[\s(){}.,;:!?'\"\\$*]", "", _TEXT.sub(r"\1", text)).casefold()


def depth(text: str) -> int:
    """Returns how many pairs of brackets and braces are within each other at most."""
    deepest = level = 0
    for char in text:
        level += (char in "([{") - (char in ")]}")
        deepest = max(deepest, level)
    return deepest


def split_top(text: str, separators: str) -> list[str]:
    """Splits at separators outside brackets and braces; (a, b] counts as one pair of brackets."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth <= 0 and char in separators:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def enclosed(text: str) -> Enclosed | None:
    r"""Returns the brackets around an entire text and its content: "(1, 2]" and ``\{1, 2\}``; None without brackets."""
    for opening, closings in ((r"\{", (r"\}",)), ("(", (")", "]")), ("[", (")", "]"))):
        for closing in closings:
            if text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                depth = 0
                for char in inner:
                    depth += (char in "([{") - (char in ")]}")
                    if depth < 0:
                        return None
                return (opening, inner.strip(), closing) if depth == 0 and not inner.endswith("\\") else None
    return None


def cells(text: str) -> list[list[str]] | None:
    """Returns the cells of a matrix or column vector, None for other texts."""
    match = re.fullmatch(
        r"[(\[]?\s*\\begin\{([pb]?matrix|smallmatrix|array)\}(?:\{[clr| ]*\})?(.*)\\end\{\1\}\s*[)\]]?", text, re.DOTALL
    )
    if match is None or r"\begin" in match.group(2):
        return None
    rows = [row for row in re.split(r"\\\\", match.group(2)) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def relation(text: str) -> tuple[list[str], list[str]]:
    r"""Splits at relation signs outside brackets: terms and signs; ``\in`` counts as a sign."""
    text = re.sub(r"\\in(?![a-zA-Z])", "∈", text)
    terms = split_top(text, _SIGNS)
    ends = itertools.accumulate((len(term) + 1 for term in terms[:-1]), initial=-1)
    return [term.strip() for term in terms], [text[end] for end in ends if end >= 0]


_SIGNS = "=<>≤≥≠∈"


def split_unit(text: str) -> tuple[str, str]:
    r"""Splits a unit or a word in ``\text`` from the end of a value: "5\text{ cm}^2" is "5" and "cm2"."""
    match = _UNIT.search(text)
    if match is None or re.search(r"\\[a-zA-Z]*\Z", text[: match.start()]):
        return text, ""
    groups = [group or "" for group in match.groups()]
    name, power = groups[0] + groups[2] + groups[4], groups[1] + groups[3] + groups[5]
    return text[: match.start()].strip(), name.strip(" .").casefold() + power
