"""Equality of two mathematical expressions, by their values at many points with 200 digits."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from skipthinking.records import UserError
from skipthinking.tasks.latex import depth

__all__ = ["library", "number", "same_ratio", "same_sets", "same_value", "within_limit"]

_DIGITS = 200
_POINTS = 14
_LONGEST = 400  # characters
_DEEPEST = 12  # pairs of brackets within each other; 30 pairs take the parser two seconds
_LARGEST = 10**5  # exponents and arguments of factorials beyond this are not computed
# Notations that the parser misreads in silence. It drops primes and indices of numbers, adds the factors of "2 3",
# takes "1/2x" for 1/(2x), and reads "x2" as a product.
_MISREAD = re.compile(
    r"'|\\prime|[0-9}]\s*_|[0-9]\s+[0-9]|/\s*[0-9.]+\s*[a-zA-Z\\(]|(?<![\\a-zA-Z])[a-zA-Z]+[0-9]|\.\.|\\[lc]?dots|\\%|%|:|!!"
    r"|\\(?:forall|exists|to|rightarrow|Rightarrow|equiv|pmod|bmod|mod|pm|mp|int|sum|prod|lim|nabla|partial|text|begin)"
    r"(?![a-zA-Z])|[?#@&;,=<>≤≥≠∈]"
)
_PRODUCT = re.compile(r"(_\{[^{}]*\}\s*\(|_[0-9]\s*\()|(?<=[0-9)}])\s*\(")
_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9.])")


class _Unsupported(Exception):
    """The value of an expression cannot be computed."""


def library() -> Any:
    """Returns the library math-verify."""
    try:
        import math_verify
    except ImportError:
        raise UserError(
            "Expected the library math-verify for answers in LaTeX, got none installed (task math). "
            "Do pip install 'skipthinking[math]'."
        ) from None
    return math_verify


def within_limit(compare: Callable[[str, str], bool], a: str, b: str) -> bool:
    """Compares with a limit of five seconds, after which the answers are different.

    The limit uses a signal, which works only in the main thread of a process; other threads have no limit.
    """
    library()
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    seconds = 5 if threading.current_thread() is threading.main_thread() else None
    try:
        return bool(timeout(seconds)(compare)(a, b))
    except TimeoutException:
        return False


def same_sets(a: str, b: str) -> bool:
    """Whether math-verify parses both as sets and calls them equal."""
    from math_verify.grader import sympy_compare_sets

    x, y = (_parsed(text, "Set") for text in (a, b))
    return x is not None and y is not None and bool(sympy_compare_sets(x, y, 6, 15))


def same_value(a: str, b: str) -> bool:
    """Whether two terms have the same value wherever both are real; a term that cannot be computed is not the same."""
    x, y = _parsed(a), _parsed(b)
    return x is not None and y is not None and _compare(x, y, _equal, "i" in a + b)


def same_ratio(left: tuple[str, str], right: tuple[str, str], positive: bool) -> bool:
    """Whether the differences of two pairs of terms are proportional: x = 5 is 2x - 10 = 0.

    Args:
        left: Both sides of a relation.
        right: Both sides of the other relation.
        positive: Whether the factor must be positive, as for inequalities.
    """
    x, y = (_parsed(f"({pair[0]})-({pair[1]})") for pair in (left, right))
    if x is None or y is None or not _names(x) or not _names(y):
        return False
    ratios: list[Any] = []

    def proportional(u: Any, v: Any, floor: Any) -> bool:
        if abs(u) <= floor or abs(v) <= floor:
            return bool(abs(u) <= floor and abs(v) <= floor)
        ratios.append(u / v)
        return _equal(ratios[0], ratios[-1], 0) and (not positive or ratios[0].real > 0)

    return _compare(x, y, proportional, False) and bool(ratios)


def number(text: str) -> Fraction | None:
    """Returns the value of a real term without variables, to many digits; None for other terms."""
    import mpmath

    expression = _parsed(text)
    if expression is None or _names(expression):
        return None
    with mpmath.workdps(_DIGITS):
        try:
            value = mpmath.mpmathify(_value(expression, {}))
            if not mpmath.isfinite(value) or abs(value.imag) > mpmath.mpf(10) ** (20 - _DIGITS):
                return None
            return Fraction(mpmath.nstr(value.real, 40, strip_zeros=False, min_fixed=-1, max_fixed=-1))
        except (ArithmeticError, ValueError, TypeError, _Unsupported):
            return None


def _equal(u: Any, v: Any, floor: Any) -> bool:
    import mpmath

    return bool(abs(u - v) <= max(abs(u), abs(v)) * mpmath.mpf(10) ** (20 - _DIGITS) + floor)


def _compare(x: Any, y: Any, same: Callable[[Any, Any, Any], bool], complex_unit: bool) -> bool:
    """Whether two SymPy expressions are the same at all points where both are real, or complex with the unit i."""
    import mpmath
    import sympy

    names = sorted(_names(x) | _names(y))
    draw = random.Random(0)
    compared = 0
    with mpmath.workdps(_DIGITS):
        tiny = mpmath.mpf(10) ** (20 - _DIGITS)
        floor = tiny if x.has(sympy.Add) or y.has(sympy.Add) else 0  # what sums that cancel leave over
        for _ in range(_POINTS if names else 1):
            point = {name: mpmath.mpf(_drawn(draw)) / 977 for name in names}
            try:
                u, v = _value(x, point), _value(y, point)
            except (ArithmeticError, ValueError, TypeError, _Unsupported, mpmath.libmp.NoConvergence):
                continue
            finite, real = (
                [check(value) for value in (u, v)] for check in (mpmath.isfinite, lambda z: abs(z.imag) < tiny)
            )
            if not all(finite):
                if any(finite) or (not names and u != v):
                    return False
                compared += not names
            elif names and not complex_unit and not all(real):
                if any(real):
                    return False
            elif not same(u, v, floor):
                return False
            else:
                compared += 1
    return compared >= (3 if names else 1)


def _drawn(draw: random.Random) -> int:
    size = draw.choice((900, 5_000, 40_000))
    return draw.choice((1, 1, -1)) * draw.randrange(1, size)


@lru_cache(maxsize=1024)
def _parsed(text: str, kind: str = "Expr") -> Any:
    """Returns a text as a SymPy object of a kind (Expr or Set), None if the parser cannot read all of it."""
    library()
    import sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    if len(text) > _LONGEST or depth(text) > _DEEPEST or (kind == "Expr" and _MISREAD.search(text)):
        return None
    exact = _DECIMAL.sub(lambda match: rf"\frac{{{int(match[1] + match[2])}}}{{1{'0' * len(match[2])}}}", text)
    # The parser adds the factors of 2(3); the parenthesis after a base is the argument of a logarithm.
    exact = _PRODUCT.sub(lambda match: match[1] or r" \cdot (", exact)
    config = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
    try:
        expression = latex2sympy(
            exact, is_real=True, convert_degrees=False, normalization_config=None, conversion_config=config
        )
    except Exception:  # the parser raises whatever its actions raise
        return None
    return expression if isinstance(expression, getattr(sympy, kind)) else None


def _names(expression: Any) -> set[str]:
    return {str(symbol) for symbol in expression.free_symbols} - {"i"}


def _value(expression: Any, point: Mapping[str, Any]) -> Any:
    """Returns the value of a SymPy expression as an mpmath number, without any rewriting by SymPy."""
    import mpmath
    import sympy

    if isinstance(expression, sympy.Rational):
        return mpmath.mpf(expression.p) / expression.q
    if isinstance(expression, sympy.Float):
        return mpmath.mpf(str(expression))
    if expression.is_Symbol:
        if str(expression) not in ("i", *point):
            raise _Unsupported
        return mpmath.mpc(0, 1) if str(expression) == "i" else point[str(expression)]
    if expression in _constants():
        return _constants()[expression]()
    values = [_value(argument, point) for argument in expression.args]
    if isinstance(expression, sympy.core.function.AppliedUndef):
        # Any function that is unlikely to satisfy an equation by chance.
        weight = sum(map(ord, str(expression.func)))
        return mpmath.sin(sum((weight + place) * value for place, value in enumerate(values, 1)) / 7) + weight
    name = type(expression).__name__
    if name in _GROWING and any(abs(value) > _LARGEST for value in values[_GROWING[name] :]):
        raise _Unsupported
    function = _FUNCTIONS.get(name)
    if function is None:
        raise _Unsupported
    return function(mpmath, *values)


@lru_cache(maxsize=1)
def _constants() -> dict[Any, Callable[[], Any]]:
    import mpmath
    import sympy

    return {
        sympy.pi: lambda: +mpmath.pi, sympy.E: lambda: +mpmath.e, sympy.I: lambda: mpmath.mpc(0, 1),
        sympy.oo: lambda: mpmath.inf, sympy.zoo: lambda: mpmath.nan, sympy.nan: lambda: mpmath.nan,
        -sympy.oo: lambda: -mpmath.inf,
    }  # fmt: skip


_GROWING = {"Pow": 1, "factorial": 0, "binomial": 0, "exp": 0, "sinh": 0, "cosh": 0}
"""Functions with huge values, and their first argument that must not be large."""

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda mp, *x: mp.fsum(x),
    "Mul": lambda mp, *x: mp.fprod(x),
    "Pow": lambda mp, x, y: mp.power(x, y),
    "exp": lambda mp, x: mp.exp(x),
    "log": lambda mp, x, base=None: mp.log(x) if base is None else mp.log(x) / mp.log(base),
    "Abs": lambda mp, x: mp.mpf(abs(x)),
    "floor": lambda mp, x: mp.floor(x),
    "ceiling": lambda mp, x: mp.ceil(x),
    "factorial": lambda mp, x: mp.factorial(x),
    "binomial": lambda mp, n, k: mp.binomial(n, k),
    "Max": lambda mp, *x: max(x),
    "Min": lambda mp, *x: min(x),
    "UnevaluatedExpr": lambda mp, x: x,
    **{
        name: (lambda mp, x, function=name: getattr(mp, function)(x))
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh")
    },
}
