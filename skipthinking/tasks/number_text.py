r"""Text around a number: LaTeX and Unicode as plain ASCII, scale words, and what may follow a number in an answer."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["SCALES", "follows", "plain", "without_remarks"]

SCALES = {
    "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "lakh": 10**5,
    "crore": 10**7, "dozen": 12,
}  # fmt: skip

_CHARACTERS = {
    **dict.fromkeys("−–﹣－‒", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2008\u2009\u200a\u202f\u205f\u3000", "\u2009"),
    **dict.fromkeys("\u200b\u2060\ufeff", ""),
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    **dict.fromkeys("·⋅∙", "×"),
    "⁄": "/",
}  # fmt: skip
_TRANSLATION = str.maketrans(_CHARACTERS)
_NUMERAL = r"\s*\{?\s*(-?[0-9][0-9,]*(?:\.[0-9]+)?)\s*\}"
_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\!|\\(?:left|right|displaystyle|bf)(?![a-zA-Z])|\\[()\[\]]", ""),
        (r"\{,\}", ","),
        (r"\\[,;: ]|(?<=[0-9}])~|~(?=[a-zA-Z\\])|\\(?:quad|qquad|thinspace)(?![a-zA-Z])", "\u2009"),
        (r"\\([%$#&])", r"\1"),
        (r"\\(?:text|mathrm)\s*\{([^{}]*)\}(?=\s*\^)", r" \1"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\[dtc]?frac\s*([0-9])\s*([0-9])(?![0-9])", r" \1/\2"),
        (rf"\\[dtc]?frac{_NUMERAL}{_NUMERAL}", r" \1/\2"),
        (r"-\s+(?=[0-9]+/[0-9])", "-"),
        (r"\\(?:times|cdot)(?![a-zA-Z])", "×"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", "°"),
        (r"\^\{([-+]?[0-9]+)\}", r"^\1"),
        (r"(?<!\S)\*\*|\*\*(?!\S)", ""),
        (r"(?<![0-9.,])(?<![0-9] )[0-9]{1,3}(?:[\u2009 ][0-9]{3})+(?! ?[0-9/])", lambda match: _closed(match.group())),
        (r"\u2009", " "),
        (r"(?<=[0-9]) and an? half\b", " 1/2"),
        (r"(?<=[0-9]) (?:and|&) (?=[0-9]+/[0-9])", " "),
    )
]


def plain(text: str) -> str:
    r"""Converts LaTeX, Unicode signs, spaces, digits and fraction characters to ASCII.

    >>> plain(r"$1\frac{1}{2}$"), plain("1\u202f234"), plain(r"1{,}234\%"), plain("−½")
    ('$1 1/2$', '1234', '1,234%', '-1/2')
    """
    text = "".join(map(_vulgar, text)) if not text.isascii() else text
    text = re.sub(r"[^\S\n]{2,}", " ", text.translate(_TRANSLATION))
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return re.sub(r"(?<=-) (?=[0-9]+/[0-9])", "", text)


def _closed(number: str) -> str:
    return re.sub(r"\s", "", number)


def _vulgar(char: str) -> str:
    """Writes a character such as ½ as " 1/2"."""
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", char)
    return char


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ZERO_TO_MANY = _words(
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety half quarter"
) | set(SCALES)  # fmt: skip
# What is said about a number without changing it starts here: "72 in total, so ...", "7 because ...".
_BREAKS = _words(
    "in after for at on over within during before from every per each by because since as so but if when while with "
    "and which that who this where of left until given assuming"
)
# A number that follows one of these is not a second answer: "7 eggs in 4 weeks".
_INTRODUCES = _words("in after for at on over within during before from every")
_BETWEEN = _words("the a an about around approximately roughly first last next past those these all")
# After a number without a unit only these introduce another one: "1 in 4" and "3 for 2" are ratios.
_TIMES = _words("after on within during before")
# With one of these before a break, the text is a sentence or another number: "4 pens are bought", "5 squared".
_CHANGES = _words(
    "is are was were be been being am has have had will would can could do does did may might must should shall cost "
    "costs equal equals make makes give gives get gets need needs hold holds contain contains weigh weighs sell sells "
    "than below under plus minus divided multiplied added subtracted taken reduced increased decreased squared cubed "
    "factorial point modulo mod halves thirds fourths fifths sixths sevenths eighths ninths tenths hundredths "
    "thousandths millionths"
)
_OR = _words("more less fewer so greater higher above better")
_OPERATOR = re.compile(
    r"\s*(?:[+*^×÷=<>≤≥≈≠±&|√π!十百千万亿億兆\\{}⁰¹²³⁴⁵⁶⁷⁸⁹]|x\s*[-($]?\s*[0-9]|:\s*[0-9]|/\s*[^a-zA-Z]|[.,][0-9]|[eE][-+]?[0-9]"
    r"|-\s*[-($]?\s*[0-9]|-\s*[a-zA-Z](?![a-zA-Z])|\(\s*[-0-9])|[0-9]"
)
_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+[A-Z0-9]|\n")
_TOKEN = re.compile(r"[a-zA-Z][a-zA-Z'’]*(?:\^?[0-9]+)?|[$€£¥₹]?[0-9][0-9.,/:]*|[^\sa-zA-Z0-9]")
_REMARK = re.compile(r"\s*\((?!\s*(?:or|mod|to|and)\b)(?=[^()]*[a-zA-Z]{2})([^()]*)\)(?=\s*[.,;:]?\s*\Z|\s+[a-z])")


def without_remarks(text: str) -> str | None:
    """Removes remarks in parentheses after a number, such as " (estimate)"; None if parentheses remain open.

    A remark with other numbers stays ("1500 (should be 1275)"), unless it is a calculation of the same number.

    >>> without_remarks("294 (error: 231+63=294)"), without_remarks("294 (error: 231+63=295)")
    ('294', '294 (error: 231+63=295)')
    """
    text = _REMARK.sub(lambda match: match.group() if _contradicts(match) else "", text)
    text = text[:-1] if text.endswith(")") and text.count("(") < text.count(")") else text
    return None if text.count("(") > text.count(")") else text


def _contradicts(remark: re.Match[str]) -> bool:
    before, result = remark.string[: remark.start()].rstrip(), remark.group(1).rpartition("=")[2].strip()
    return re.search("[0-9]", remark.group(1)) is not None and not (result and before == result)


def follows(rest: str, unit: bool) -> bool:
    """Whether the text after a number leaves the number an answer: a unit, or a phrase about the number.

    Args:
        rest: The text after the number and its scale words.
        unit: Whether the number has a unit in front, such as a currency sign.
    """
    if _OPERATOR.match(rest) or _SENTENCE.search(rest):
        return False
    before: list[str] = []  # the words before the current one
    at_break = False
    for token in _TOKEN.findall(rest.casefold()):
        word = token.rstrip("0123456789^'’") if token[0].isalpha() else token
        if token[0].isalpha():
            if not at_break and (word in _CHANGES or (word in _OR and before[-1:] == ["or"])):
                return False
            if word == "of" and before == ["quarters"]:
                return False
            if word in _ZERO_TO_MANY and not _introduced(before, unit):
                return False
            at_break = at_break or word in _BREAKS
        elif re.search("[0-9]", token):
            if not _introduced(before, unit):
                return False
        elif token in "%°¢$€£¥₹":
            unit = True
            continue
        else:
            at_break = True
        before.append(word)
    return True


def _introduced(before: list[str], unit: bool) -> bool:
    """Whether the next number follows a preposition, and the answer has a unit before the preposition."""
    position = len(before) - 1
    while position >= 0 and before[position] in _BETWEEN:
        position -= 1
    if position < 0 or before[position] not in _INTRODUCES or {"(", "out"} & set(before):
        return False
    return unit or position > 0 or before[position] in _TIMES
