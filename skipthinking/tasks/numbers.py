"""The grader for numeric answers: exact rational arithmetic, no floats."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod

from skipthinking.tasks.graders import Grader, last_answer, unwrap, without_phrase
from skipthinking.tasks.number_text import SCALES, follows, plain, without_remarks

__all__ = ["Numbers"]

_CURRENCY = r"(?:(?:US|CA|AU|NZ|HK|[ACSR])?\$|[€£¥₹₩₽]|(?:USD|EUR|GBP|INR|CAD|AUD|Rs)\b\.?)"
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]|negative\b|minus\b)?\s?(?P<currency>{_CURRENCY})?\s?(?P<sign2>-?)"
    rf"(?:(?P<whole>[0-9]+)\s+(?P<num>[0-9]+)/(?P<den>[0-9]+)"
    rf"|(?P<top>{_DECIMAL})\s?/\s?(?P<bottom>-?{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,3})(?![0-9])|\s?[×x*]\s?10\s?\^\s?(?P<power>[-+]?[0-9]{1,3})(?![0-9]))?)",
    re.IGNORECASE,
)
_SCALE = re.compile(rf"\s*(?:-\s*)?({'|'.join(SCALES)})s?(?![a-z])", re.IGNORECASE)
# "$5M" is money; "5M" alone may be meters, molar or millions.
_LETTER = re.compile(r"(?:k|K|M|m|B|b|T|\s?(?:mn|mln|bn|tn))(?![A-Za-z])")
_LETTERS = {"k": 1_000, "m": 1_000_000, "mn": 1_000_000, "mln": 1_000_000, "b": 10**9, "bn": 10**9, "t": 10**12}
_LETTERS["tn"] = _LETTERS["t"]
_ALONE = ("k", "K", "mn", "mln", "bn", "tn")
# A run of text that looks like one number, well-formed or not: "1.234.567" and "12:30" are refused as a unit.
_RUN = re.compile(
    r"(?<![\w.,/:^])(?:(?<![\w)\]])(?:-(?!\s)|(?<![\w)\]%] )-\s)|\bnegative\s"  # "8 - 3" has no sign
    r"|(?:\A|(?<= is | be | to | at |was )|(?<=[=:(] ))minus\s)?"
    rf"{_CURRENCY}?\s?-?"
    r"(?:[0-9]+ [0-9]+/[0-9]+(?![0-9/])"
    r"|\.?[0-9](?:[0-9.,/:^]*[0-9])?(?:[eE][-+]?[0-9]+|\s?[×x*]\s?10\^[-+]?[0-9]+)?)"
    rf"(?:\s?-?(?:{'|'.join(SCALES)})s?(?![a-z])|(?:[kKMBT]|\s?(?:mn|mln|bn|tn))(?![A-Za-z0-9]))*",
    re.IGNORECASE,
)
_LONGEST = 64  # digits; a student that repeats one digit forever has not answered
_LARGEST = 100  # exponent; "1e999999999" must not fill the memory
_PLACES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers(Grader):
    r"""One number: integer, decimal, fraction, mixed or scientific, with sign, thousands separators, currency and unit.

    Signs in words ("negative 3"), scale words ("1.8 million", "2 dozen", "$5k") and LaTeX ("$\frac{1}{2}$",
    "1{,}234") belong to the number. A percent sign is a unit: ``"50%"`` is 50, as in the gold answers of the
    benchmarks. The right-hand side of "=" counts. A number with a unit may be followed by other numbers in a phrase
    ("$16.00 after 60 days"). Several numbers ("5 or 6", "12 + 5", "3-4", "2 hours 15 minutes"), sentences ("4 pens are
    bought.") and notations with two meanings ("1.234,50", "5M") are not an answer.

    The comparison is exact, with one exception: two numbers with at least four decimal places (a fraction such as 1/3
    has infinitely many) are the same if they differ by less than one unit in the last place of the shorter one, and by
    a relative difference of less than 1e-3. So 0.3333 is 1/3, and 0.6667 is 2/3.

    A completion's last scale word is its unit if that makes it the gold answer: "7 dozen" is 84, and also 7 where the
    question asks for dozens. A gold answer with a scale word has one reading.

    Attributes:
        scaled: Whether the last scale word belongs to the number; otherwise it is a unit.

    >>> Numbers().read("$1,234.00"), Numbers().read("12 apples"), Numbers().read("-3/4"), Numbers().read("1.234.567")
    ('1234', '12', '-0.75', None)
    """

    scaled: bool = field(default=True, repr=False)

    def readings(self, gold: str) -> tuple[Grader, ...]:
        unscaled = replace(self, scaled=False)
        return (self, unscaled) if unscaled.read(gold) == self.read(gold) else (self,)

    def read(self, text: str) -> str | None:
        parts = _parse(text, self.scaled)
        return None if parts is None else _canonical(parts[0])

    def rest(self, text: str) -> str:
        parts = _parse(text, self.scaled)
        return "" if parts is None else parts[1]

    def last(self, text: str) -> str | None:
        return last_answer(self.read(match.group()) for match in _RUN.finditer(plain(text)))

    def same(self, a: str, b: str) -> bool:
        x, y = Fraction(a), Fraction(b)
        if x == y:
            return True
        places = min(_places(x), _places(y))
        if places == float("inf"):
            return False
        return places >= _PLACES and abs(x - y) < min(Fraction(1, 10 ** int(places)), max(abs(x), abs(y)) / 1000)


def _parse(text: str, scaled: bool) -> tuple[Fraction, str] | None:
    """Returns the number at the start of an answer and the words after it, None if the text is not a number."""
    shorter = unwrap(without_phrase(unwrap(plain(text))))
    remark = without_remarks(shorter)
    if remark is None:
        return None
    head, _, tail = remark.rpartition("=")
    # "x = 3 or x = 5", "x <= 3", "5 (since 2+4=6)"
    if head.count("(") != head.count(")") or re.search(r"[,;]\s|\b(?:or|and)\b|[.!?]\s|\n|[<>!≤≥≠]\s*\Z", head):
        return None
    tail = unwrap(tail.rstrip("> "))  # "<The answer is 24>"
    match = _NUMBER.match(tail)
    value = None if match is None else _value(match)
    if match is None or value is None:
        return None
    end, scales = match.end(), []
    for _ in range(2):  # "2 hundred thousand"
        if scale := _SCALE.match(tail, end):
            scales.append(SCALES[scale.group(1).lower()])
            end = scale.end()
    if letter := _LETTER.match(tail, end):
        name = letter.group().strip()
        if match["currency"] or name in _ALONE:
            scales.append(_LETTERS[name.lower()])
            end = letter.end()
        elif name in ("M", "B", "T"):
            return None
    rest = tail[end:]
    if not follows(rest, unit=match["currency"] is not None):
        return None
    lost = f"{rest} {shorter[len(remark) :]}" if shorter.startswith(remark) else rest
    value *= prod(scales if scaled else scales[:-1])
    return value, " ".join(lost.split()).lstrip(",;:. ") if re.search("[a-zA-Z]", lost) else ""


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
        exponent = int(part["exponent"] or part["power"] or 0)
        if abs(exponent) > _LARGEST:
            return None
        value = Fraction(part["decimal"]) * Fraction(10) ** exponent
    return -value if part["sign"] not in ("", "+") or part["sign2"] else value


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
