"""The grader for mathematical expressions in LaTeX; the library math-verify parses them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from skipthinking.tasks.graders import Grader, after_cue, boxed, unwrap, without_phrase
from skipthinking.tasks.latex import cells, depth, enclosed, fold, key, normalize, relation, split_top, split_unit
from skipthinking.tasks.values import library, number, same_ratio, same_sets, same_value, within_limit

__all__ = ["Expressions"]

_MARKS = '*`"'  # without the prime of a derivative and the underscore of an index
_SEGMENT = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$([^$\n]+)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMERAL = re.compile(r"(?<![\w.,/^])-?\$?[0-9](?:[0-9.,/]*[0-9])?")
_SENTENCE = re.compile(r"[a-z)][.!?]\s+[A-Z][a-z]")
_BASE = re.compile(r"-?[0-9A-F.]+_\{?\s*(?:[0-9]+|\\text\{[a-z]+\})\s*\}?", re.IGNORECASE)
_NAME = re.compile(r"[^-+*/<>=≤≥≠\d]*[a-zA-Z][^-+*/<>=≤≥≠\d]*(?:_\{?\w+\}?)?(?:\([a-zA-Z, ]*\))?")
_LONG_DECIMAL = re.compile(r"-?[0-9]*\.([0-9]{6,})")
_SET = re.compile(
    r"(?:[-+/0-9\s.,()\[\]{}]|\\(?:infty|cup|cap|setminus|backslash|frac|sqrt|pi|emptyset|mathbb\{R\}|[{}]))+"
)
_MIRROR = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠"}
_LONGEST, _DEEPEST = 4000, 40  # characters and pairs of brackets within each other
_MOST = 20  # elements of a list that are matched with those of another in any order


@dataclass(frozen=True, kw_only=True, slots=True)
class Expressions(Grader):
    r"""A mathematical expression, compared by meaning: ``\frac{1}{2}`` is 0.5.

    The answer is the last ``\boxed{...}`` (a list, if only "or", "and" or a comma stands between boxes), or else the
    text after the answer phrase. Lists and sets are compared in any order, tuples, intervals and matrices element by
    element, terms by their values, and words letter by letter. What is unknown to all of these is the same only if it
    is written the same way. Needs the extra ``math``. A comparison that takes longer than five seconds ends as
    different in the main thread of a process; in all threads, the parser gets no long terms and nothing computes huge
    powers.
    """

    def read(self, text: str) -> str | None:
        library()
        inner = boxed(text)
        inner = unwrap(text if inner is None else inner, marks=_MARKS)
        inner = unwrap(without_phrase(inner), marks=_MARKS)
        plain = inner.replace(r"\{", "").replace(r"\}", "")
        balanced = plain.count("{") == plain.count("}")
        return inner if balanced and re.search(r"\w|\\", inner) and not _SENTENCE.search(inner) else None

    def last(self, text: str) -> str | None:
        inner = boxed(text)
        if inner is not None:
            return self.read(inner)
        segments = [next(group for group in match.groups() if group) for match in _SEGMENT.finditer(text)]
        if segments:
            return self.read(segments[-1].rpartition("=")[2])
        numerals = _NUMERAL.findall(text)
        return self.read(numerals[-1]) if numerals else None

    def same(self, a: str, b: str) -> bool:
        if a == b or max(len(a), len(b)) > _LONGEST or depth(a + b) > _DEEPEST:
            return a == b
        return _graded(normalize(a), normalize(b))

    def strict(self, text: str, cue: str) -> str | None:
        inner = boxed(text)
        rest = after_cue(text, cue) if inner is None else inner
        return None if rest is None else self.read(rest)


@lru_cache(maxsize=2**16)
def _graded(a: str, b: str) -> bool:
    """The verdict of a pair, computed once, also where it takes longer than the limit."""
    return within_limit(_same, a, b)


@lru_cache(maxsize=4096)
def _same(a: str, b: str) -> bool:
    if key(a) == key(b):
        return True
    if _BASE.fullmatch(a) or _BASE.fullmatch(b):
        return False
    for compare in (_lists, _relations, _matrices, _brackets, _words, _ratios, _percents):
        verdict = compare(a, b)
        if verdict is not None:
            return verdict
    return _terms(a, b)


def _lists(a: str, b: str) -> bool | None:
    """Compares lists without brackets and sets in any order; named elements with bare ones in their order."""
    x, y = _elements(a), _elements(b)
    if x is None and y is None:
        return None
    if x is None or y is None:
        elements, listed, other = (x or [], a, b) if y is None else (y, b, a)
        if len(elements) == 1:
            return _same(elements[0], other)
        around = enclosed(other)
        # "1, 2" for the point (1, 2)
        return around is not None and enclosed(listed) is None and _each(elements, split_top(around[1], ",;"))
    names = [[part.partition("=")[0].strip() for part in parts if "=" in part] for parts in (x, y)]
    if len(x) > _MOST or (bool(names[0]) != bool(names[1]) and len({*names[0], *names[1]}) > 1):
        return _each(x, y)
    return _any_order(x, y)


def _elements(text: str) -> list[str] | None:
    around = enclosed(text)
    if around is not None and around[0] == r"\{" and not re.search(r"\||(?<!\\):", around[1]):
        parts = split_top(around[1], ",;")
        return [element for part in parts for element in _signs(part.strip())]
    parts = [element for part in split_top(text, ",;") for element in _signs(part.strip())]
    return parts if len(parts) > 1 and around is None else None


def _signs(text: str) -> list[str]:
    r"""Returns both values of a term with one ``\pm``."""
    if len(re.findall(r"\\pm|\\mp", text)) != 1:
        return [text]
    return [re.sub(r"\\[pm][pm](?![a-zA-Z])\s*", sign, text).removeprefix("+") for sign in "+-"]


def _each(x: Sequence[str], y: Sequence[str]) -> bool:
    return len(x) == len(y) and all(_same(p.strip(), q.strip()) for p, q in zip(x, y, strict=True))


def _any_order(x: Sequence[str], y: Sequence[str]) -> bool:
    rest = list(y)
    for element in x:
        match = next((other for other in rest if _same(element, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _relations(a: str, b: str) -> bool | None:
    """Compares equations, inequalities and memberships; a named value with a bare one."""
    x, y = _as_interval(a), _as_interval(b)
    if (x, y) != (a, b) and _variables(a, b):
        return _same(x, y)
    (terms, signs), (others, other_signs) = relation(a), relation(b)
    if not signs and not other_signs:
        return None
    if not signs or not other_signs:
        terms, signs, bare = (terms, signs, b) if signs else (others, other_signs, a)
        named = all(_NAME.fullmatch(term) for term in terms[:-1])
        return set(signs) <= {"=", "∈"} and named and _same(terms[-1], bare)
    if signs == other_signs and _each(terms, others):
        return True
    if [_MIRROR.get(sign) for sign in signs] == other_signs[::-1] and _each(terms, others[::-1]):
        return True
    if len(signs) != 1 or len(other_signs) != 1 or "∈" in signs + other_signs:
        return False
    if signs[0] in ">≥":
        terms, signs = terms[::-1], [_MIRROR[signs[0]]]
    if other_signs[0] in ">≥":
        others, other_signs = others[::-1], [_MIRROR[other_signs[0]]]
    same = (terms[0], terms[1]), (others[0], others[1])
    return signs == other_signs and same_ratio(*same, positive=signs[0] in "<≤")


def _variables(a: str, b: str) -> bool:
    """Whether two inequalities or memberships may be about the same variable."""
    names = [{term for term in relation(text)[0] if re.fullmatch("[a-zA-Z]", term)} for text in (a, b)]
    return not names[0] or not names[1] or names[0] == names[1]


def _as_interval(text: str) -> str:
    r"""Writes "1 < x ≤ 2", ``\{x | 1 < x ≤ 2\}``, ``x \in (1, 2]`` and ``\mathbb{R}`` as intervals."""
    around = enclosed(text)
    if around is not None and around[0] == r"\{" and (builder := re.match(r"([a-zA-Z])\s*[|:]", around[1])):
        condition = around[1][builder.end() :].strip()
        return _as_interval(condition) if builder[1] in relation(condition)[0] else text
    if key(text) in (r"\mathbbR", r"\mathbb{R}"):
        return r"(-\infty,\infty)"
    terms, signs = relation(text)
    letters = [bool(re.fullmatch("[a-zA-Z]", term)) for term in terms]
    if signs == ["∈"] and letters[0]:
        return terms[1]
    if signs and set(signs) <= set(">≥"):
        terms, signs, letters = terms[::-1], [_MIRROR[sign] for sign in signs[::-1]], letters[::-1]
    if not signs or not set(signs) <= set("<≤") or letters.count(True) != 1:
        return text
    opening, closing = {"<": "(", "≤": "["}, {"<": ")", "≤": "]"}
    if letters == [False, True, False]:
        return f"{opening[signs[0]]}{terms[0]},{terms[2]}{closing[signs[1]]}"
    if letters == [True, False]:
        return rf"(-\infty,{terms[1]}{closing[signs[0]]}"
    return rf"{opening[signs[0]]}{terms[0]},\infty)" if letters == [False, True] else text


def _matrices(a: str, b: str) -> bool | None:
    x, y = cells(a), cells(b)
    if x is None or y is None:
        return False if r"\begin" in a + b else None
    return len(x) == len(y) and all(map(_each, x, y))


def _brackets(a: str, b: str) -> bool | None:
    """Compares tuples, intervals and unions of intervals."""
    x, y = ([part.strip() for part in re.split(r"\\cup(?![a-zA-Z])", text)] for text in (a, b))
    if len(x) > 1 or len(y) > 1 or re.search(r"\\(?:setminus|cap|backslash)", a + b):
        parts_match = len(x) == len(y) > 1 and _any_order(x, y)
        return parts_match or (bool(_SET.fullmatch(a) and _SET.fullmatch(b)) and same_sets(a, b))
    left, right = enclosed(a), enclosed(b)
    if left is None and right is None:
        return None
    parts = [split_top(around[1], ",;") if around else [] for around in (left, right)]
    if max(map(len, parts)) < 2:  # parentheses around a term
        bare = [around[1] if around and around[0] == "(" else text for around, text in ((left, a), (right, b))]
        return _same(*bare) if bare != [a, b] else None
    if left is None or right is None:
        return False
    return (left[0], left[2]) == (right[0], right[2]) and _each(*parts)


def _words(a: str, b: str) -> bool | None:
    """Compares words, after units behind values are taken off."""
    (x, unit), (y, other) = split_unit(a), split_unit(b)
    if (unit and fold(x) is None) or (other and fold(y) is None):
        return (not unit or not other or _same_unit(unit, other)) and _same(x, y)
    x_words, y_words = fold(a), fold(b)
    if x_words is None and y_words is None:
        return None
    letters = [re.sub(r"[\s(){}.\\$*]", "", text).casefold() for text in (a, b)]
    return bool(x_words or letters[0]) and (x_words or letters[0]) == (y_words or letters[1])


def _same_unit(a: str, b: str) -> bool:
    """Whether two units are forms of a known one, or have a word in common."""
    if a in _UNITS or b in _UNITS:
        return _UNITS.get(a) == _UNITS.get(b)
    x, y = ({word.removesuffix("s") for word in unit.split()} for unit in (a, b))
    return bool(x & y)


def _ratios(a: str, b: str) -> bool | None:
    """Compares ratios such as 3:2 up to a factor; a time such as 12:30 is not a ratio."""
    if ":" not in a + b:
        return None
    try:
        x, y = ([Fraction(part.strip()) for part in text.split(":")] for text in (a, b))
    except (ValueError, ZeroDivisionError):
        return False
    if any(re.fullmatch(r"\d{1,2}:[0-5]\d", text) for text in (a, b)) or len(x) != len(y) or 0 in x or 0 in y:
        return False
    return all(p * y[0] == q * x[0] for p, q in zip(x, y, strict=True))


def _percents(a: str, b: str) -> bool | None:
    """Compares percentages; "50\\%" is both 50 and 0.5."""
    x, y = (text.removesuffix(r"\%").strip() for text in (a, b))
    if (x, y) == (a, b):
        return None
    if x != a and y != b:
        return _same(x, y)
    if re.search("[a-zA-Z]", (x if x != a else y).replace(r"\frac", "")):
        return False
    value, bare = (x, b) if x != a else (y, a)
    return _same(value, bare) or _same(rf"\frac{{{value}}}{{100}}", bare)


def _terms(a: str, b: str) -> bool:
    for decimal, other in ((a, b), (b, a)):
        match = _LONG_DECIMAL.fullmatch(decimal)
        if match and not re.fullmatch(r"-?[0-9.]+", other) and _rounds(decimal, other, len(match.group(1))):
            return True
    return same_value(a, b)


def _rounds(decimal: str, other: str, places: int) -> bool:
    """Whether a decimal with many places is another number, rounded or cut off."""
    value = number(other)
    exact = Fraction(decimal)
    return value is not None and abs(value - exact) < min(Fraction(1, 10**places), abs(exact) / 10_000)


def _named(*units: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for unit in units:
        first, *others = unit.split()
        names |= dict.fromkeys((first, *others, *(f"{other}s" for other in others)), first)
    return names


_LENGTHS = ("mm millimeter millimetre", "cm centimeter centimetre", "m meter metre", "km kilometer kilometre",
            "in inch inches", "ft foot feet", "yd yard", "mi mile")  # fmt: skip
_UNITS = _named(
    *_LENGTHS, "s sec second", "min minute", "h hr hour", "day days", "week weeks", "month months", "year yr",
    "g gram", "kg kilogram", "mg milligram", "lb lbs pound", "oz ounce", "l liter litre", "ml milliliter", "gal gallon",
    "am a.m", "pm p.m", "cent cents", "dollar dollars", "mph mph", "km/h kph",
)  # fmt: skip
for _power, _word in (("2", "square"), ("3", "cubic")):
    _UNITS |= {
        form: unit + _power
        for name, unit in _named(*_LENGTHS).items()
        for form in (f"{name}{_power}", f"{_word} {name}")
    }
