"""The grader for numeric answers: exact rational arithmetic, no floats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from skipthinking.tasks.graders import Grader, last_answer, unwrap

__all__ = ["Numbers"]

_CURRENCY = "$€£¥₹"
_MINUS = str.maketrans({"−": "-", "–": "-", "﹣": "-", "－": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " "})
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s?[{_CURRENCY}]?\s?(?P<sign2>-?)"
    rf"(?:(?P<whole>[0-9]+)\s+(?P<num>[0-9]+)/(?P<den>[0-9]+)"
    rf"|(?P<top>{_DECIMAL})\s?/\s?(?P<bottom>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9]))?)"
)
# A run of text that looks like one number, well-formed or not: "1.234.567" and "12:30" are refused as a unit.
_RUN = re.compile(
    rf"(?<![\w.,/:])(?:(?<![\w)\]])-\s?)?[{_CURRENCY}]?-?"
    r"(?:[0-9]+ [0-9]+/[0-9]+(?![0-9/])|\.?[0-9](?:[0-9.,/:^]*[0-9])?(?:[eE][-+]?[0-9]+)?)"
)
_OPERATOR = re.compile(r"\s*(?:[-+*/^×÷=:]|x\b)\s*[-($]?\s*[0-9]|\s*[x*]\s*[0-9]|[.,/:][0-9]|[eE][-+]?[0-9]")
_LONGEST = 64  # digits; a student that repeats one digit forever has not answered
_LARGEST = 100  # exponent; "1e999999999" must not fill the memory
_PLACES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers(Grader):
    """One number: integer, decimal, fraction, mixed or scientific, with thousands separators, currency and unit.

    A percent sign is a unit: ``"50%"`` is 50, as in the gold answers of the benchmarks. The right-hand side of "="
    counts. Two numbers ("5 or 6", "12 + 5", "3-4") are not an answer.

    The comparison is exact, with one exception: two numbers with at least four decimal places (a fraction such as 1/3
    has infinitely many) are the same if they differ by less than one unit in the last place of the shorter one, and by
    a relative difference of less than 1e-3. So 0.3333 is 1/3, and 0.6667 is 2/3.

    >>> Numbers().read("$1,234.00"), Numbers().read("12 apples"), Numbers().read("-3/4"), Numbers().read("1.234.567")
    ('1234', '12', '-0.75', None)
    """

    def read(self, text: str) -> str | None:
        text = unwrap(_plain(text)).rpartition("=")[2]
        text = unwrap(text.replace("\\$", "$").replace("\\%", "%").replace("\\!", ""))
        match = _NUMBER.match(text)
        if match is None:
            return None
        rest = text[match.end() :]
        if _OPERATOR.match(rest) or re.search(r"(?<![A-Za-z^0-9])[0-9]", rest) or re.match(r"[0-9]", rest):
            return None
        value = _value(match)
        return None if value is None else _canonical(value)

    def last(self, text: str) -> str | None:
        return last_answer(self.read(match.group()) for match in _RUN.finditer(_plain(text)))

    def same(self, a: str, b: str) -> bool:
        x, y = Fraction(a), Fraction(b)
        if x == y:
            return True
        places = min(_places(x), _places(y))
        if places == float("inf"):
            return False
        return places >= _PLACES and abs(x - y) < min(Fraction(1, 10 ** int(places)), max(abs(x), abs(y)) / 1000)


def _plain(text: str) -> str:
    """Converts Unicode minus signs, spaces and fraction characters to ASCII."""
    text = re.sub(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))", ",", text).translate(_MINUS)
    return re.sub(f"[{''.join(_VULGAR)}]", lambda match: f" {_VULGAR[match.group()]}", text)


def _value(match: re.Match[str]) -> Fraction | None:
    """Returns the value of a match of ``_NUMBER``; None for too many digits or a division by zero."""
    part = {name: (value or "").replace(",", "") for name, value in match.groupdict().items()}
    if any(len(value) > _LONGEST for value in part.values()):
        return None
    if part["den"] or part["bottom"]:
        below = Fraction(part["den"] or part["bottom"])
        if below == 0:
            return None
        value = Fraction(part["whole"] or 0) + Fraction(part["num"] or part["top"]) / below
    else:
        exponent = int(part["exponent"] or 0)
        if abs(exponent) > _LARGEST:
            return None
        value = Fraction(part["decimal"]) * Fraction(10) ** exponent
    return -value if "-" in (part["sign"], part["sign2"]) else value


def _places(value: Fraction) -> float:
    """Returns the number of decimal places of a terminating decimal, infinity for other fractions."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else float("inf")


def _canonical(value: Fraction) -> str:
    """Returns the exact decimal without trailing zeros if it is short enough, else ``p/q``."""
    places = _places(value)
    if places > _LONGEST:
        return str(value)
    digits = str(abs(value.numerator) * 10 ** int(places) // value.denominator).rjust(int(places) + 1, "0")
    whole, decimals = (digits[: -int(places)], digits[-int(places) :]) if places else (digits, "")
    return f"{'-' if value < 0 else ''}{whole}{'.' if decimals else ''}{decimals}"
