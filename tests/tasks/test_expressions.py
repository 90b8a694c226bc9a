"""Pairs of expressions that are the same and pairs that are not, and laws with other programs as oracles."""

from __future__ import annotations

import itertools
import random
import threading
import time
from fractions import Fraction
from typing import Any

import pytest

from skipthinking.tasks import Choices, Expressions, Grader, Numbers, Text, YesNo, expressions, get_task

pytest.importorskip("math_verify")

# One pair a line, separated by " ~ ".
SAME = r"""
\frac{1}{2} ~ 0.5
.5 ~ \frac12
90 ~ 90^\circ
\text{(A)} ~ A
10,000 ~ 10000
10\,000 ~ 10000
11,\! 111,\! 100 ~ 11111100
9901 ~ 9{,}901
\$32,\!348 ~ 32348
\sqrt{1/n} ~ \frac{1}{\sqrt{n}}
\text{True} ~ \text{true}
\text{no solution} ~ No solution
\text{Evelyn} ~ Evelyn
3,5 ~ 5,3
3\text{ or }5 ~ \{5,3\}
3 and 5 ~ 3,5
x=3\text{ or }x=5 ~ 5,3
x=1,y=2 ~ (1,2)
(x,y)=(1,2) ~ (1,2)
x=5 ~ 5
\{1\} ~ 1
(1,2) ~ 1,2
(-2,1) ~ (-2, 1.0)
[3,5) ~ \left[3,5\right)
3\le x<5 ~ [3,5)
x\in[3,5) ~ [3,5)
x<5 ~ (-\infty,5)
x > 0 ~ (0,\infty)
5>x ~ x<5
\{x\mid x>2\} ~ (2,\infty)
\mathbb{R} ~ (-\infty,\infty)
\mathbb{R}\setminus\{1\} ~ (-\infty,1)\cup(1,\infty)
(-\infty,3]\cup[5,\infty) ~ [5,\infty)\cup(-\infty,3]
\emptyset ~ \varnothing
\begin{pmatrix} \frac12 \\ -3 \end{pmatrix} ~ \begin{bmatrix}0.5\\-3\end{bmatrix}
1\pm\sqrt{2} ~ 1-\sqrt{2},1+\sqrt{2}
\{-1,0,1\} ~ 0,\pm 1
0.\overline{3} ~ \frac{1}{3}
0.1\overline{6} ~ \frac16
3\frac{1}{2} ~ \frac72
-3\frac12 ~ -3.5
3 1/2 ~ 3.5
50\% ~ 50
50\% ~ \frac{1}{2}
5\text{ cm} ~ 5
5\text{ cm}^2 ~ 5\text{ square centimeters}
20 cm ~ 20\text{ centimeters}
6 \mathrm{~m} ~ 6
2:30\text{ p.m.} ~ 2:30 PM
\$18.90 ~ 18.9
2.75e11 ~ 2.75 \times 10^{11}
10\text{ million} ~ 10000000
5! ~ 120
\binom{5}{2} ~ 10
(2)(3) ~ 6
y=2x+1 ~ 2y=4x+2
y=2x+1 ~ 2x+1
4x-3y+7=0 ~ 8x-6y=-14
\frac{\sqrt{2}}{2} ~ \frac{1}{\sqrt{2}}
\sin^2 x+\cos^2 x ~ 1
\sin 30^\circ ~ \frac12
\log_2 8 ~ 3
\log_2(x) ~ \log _{2}\left(x\right)
\log_{3}(x(x-1)) ~ \log_3 (x^2-x)
\frac{270}7\text{ degrees} ~ \frac{270}{7}
x(x+1)(2) ~ 2x^2+2x
e^{i\pi} ~ -1
3+4i ~ 4i+3
3:2 ~ 6:4
2516_8 ~ 2516_{8}
0.333333 ~ \frac13
3.141593 ~ \pi
10^{-30} ~ 1/10^{30}
\frac{n!}{(n-1)!} ~ n
1 - \frac{1}{\mathrm{e}} ~ 1-e^{-1}
"""
DIFFERENT = r"""
1 - \frac{1}{\mathrm{e}} ~ 1 + \frac{1}{\mathrm{e}}
\frac{1}{2^{99}} ~ \frac{1}{2^{98}}
10^{-300} ~ 10^{-200}
10^{-300} ~ 0
0.0000001 ~ 0.0000002
0.333333 ~ 0.333334
10^{30} ~ 10^{30}+1
100! ~ 100!+1
4 ~ 4.0001
\frac13 ~ 0.33
\pi ~ 3.14
2516_8 ~ 2516_9
2516_8 ~ 2516
ABC_{16} ~ BAC_{16}
5!! ~ 120
5! ~ 5
2(3) ~ 5
2 3 ~ 5
1/2x ~ \frac12 x
\text{Evelyn} ~ \text{Evleyn}
dog ~ god
even ~ odd
\text{Quadrant I} ~ \text{Quadrant II}
f(x)=0 ~ \forall x>0, f(x)=0
f(x) ~ g(x)
f'(x) ~ f(x)
x_1 ~ x_2
2A ~ 2a
2t ~ 2s
3h ~ 3
|x| ~ x
\sqrt{x^2} ~ x
\log(x^2) ~ 2\log x
x^2+1=0 ~ x^2+2=0
\ln(\frac{1}{\sqrt{e}})=-\frac12 ~ x=5
9=1 ~ 1
1=2 ~ 3=4
2x+y=3 ~ 3
x=5 ~ y=5
x<5 ~ y<5
x<5 ~ x\le 5
x<5 ~ x>5
3,5 ~ 5
1,1,2 ~ 1,2
x=1,y=2 ~ 2,1
(1,2) ~ (2,1)
(1,2),(3,4) ~ (2,1),(4,3)
(3,5) ~ [3,5]
(3,5) ~ \{3,5\}
(-\infty,3]\cup[5,\infty) ~ (-\infty,3)\cup[5,\infty)
\emptyset ~ 0
\begin{pmatrix}1\\2\end{pmatrix} ~ \begin{pmatrix}1&2\end{pmatrix}
\begin{vmatrix}1&2\\3&4\end{vmatrix} ~ \begin{pmatrix}1&2\\3&4\end{pmatrix}
1\pm\sqrt2 ~ 1+\sqrt2
0.\overline{3} ~ 0.3
3\frac12 ~ \frac32
5\text{ cm} ~ 5\text{ m}
5\text{ cm} ~ 5\text{ cm}^2
5\text{ apples} ~ 5\text{ oranges}
6:00\text{ AM} ~ 6:00\text{ PM}
12:30 ~ 24:60
1:2:3 ~ 1:3:2
10\text{ million} ~ 10
50\% ~ 5
\sin 30^\circ ~ \sin 30
3+4i ~ 3-4i
\vec{v} ~ v
9^{9^{9^9}} ~ 9^{9^{9^8}}
\int x dx ~ \int y dy
"""


def _pairs(table: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in (line.split(" ~ ") for line in table.strip().splitlines())]


def _same(a: str, b: str) -> bool:
    grader = Expressions()
    x, y = grader.read(a), grader.read(b)
    assert None not in (x, y), (a, b)
    return grader.same(str(x), str(y))


@pytest.mark.parametrize(("a", "b"), _pairs(SAME))
def test_one_thing_in_two_notations_is_the_same(a: str, b: str) -> None:
    assert _same(a, b)
    assert _same(b, a)


@pytest.mark.parametrize(("a", "b"), _pairs(DIFFERENT))
def test_different_things_are_not_the_same(a: str, b: str) -> None:
    assert not _same(a, b)
    assert not _same(b, a)
    task = get_task("math")
    assert not task.grade(f"So it is \\boxed{{{b}}}.", a).correct
    assert task.grade(f"So it is \\boxed{{{a}}}.", a).correct


def _writings(value: Fraction) -> list[str]:
    top, bottom = value.numerator, value.denominator
    whole, rest = divmod(abs(top), bottom)
    texts = [
        rf"\frac{{{top}}}{{{bottom}}}",
        f"{top}/{bottom}",
        rf"\dfrac{{{3 * top}}}{{{3 * bottom}}}",
        rf"x = {top} / {bottom}",
    ]
    if 1000 % bottom == 0:
        texts += [f"{float(value):.3f}", rf"{float(value):.4f} \text{{ cm}}"]
    if whole and rest:
        texts.append(rf"{'-' * (value < 0)}{whole}\frac{{{rest}}}{{{bottom}}}")
    return texts


def test_rationals_are_the_same_if_their_fractions_are() -> None:
    draw = random.Random(3)
    values = [Fraction(draw.randint(-30, 30), draw.choice((1, 2, 3, 8, 9))) for _ in range(14)]
    for x, y in itertools.product(values, values):
        a, b = draw.choice(_writings(x)), draw.choice(_writings(y))
        assert _same(a, b) == (x == y), (a, b)


def test_polynomials_are_the_same_if_sympy_expands_them_alike() -> None:
    import sympy

    draw, x = random.Random(4), sympy.Symbol("x")
    for _ in range(25):
        a, b, c = (draw.randint(-5, 5) for _ in range(3))
        product = (x - a) * (x + b) * (c * x + 1)
        other = (x - a) * (x + b) * (c * x + draw.choice((1, 1, 2)))
        texts = [sympy.latex(product), sympy.latex(sympy.expand(other))]
        assert _same(*texts) == (sympy.expand(product - other) == 0), texts


def test_a_list_is_the_same_in_any_order_only() -> None:
    elements = [r"\frac12", "-3", r"\sqrt{2}", "7"]
    for order in itertools.permutations(elements):
        assert _same(", ".join(elements), ",".join(order))
        assert _same("(" + ", ".join(elements) + ")", f"({','.join(order)})") == (list(order) == elements)
    assert not _same(", ".join(elements), ", ".join([*elements[:3], "-3"]))


@pytest.mark.parametrize(
    ("text", "lenient"),
    [("so $x = 3$ it is", "3"), ("I get 3,200 and 4.5 in the end", "4.5"), (r"it is \(\frac{1}{2}\)", r"\frac{1}{2}"),
     ("nothing", None)],
)  # fmt: skip
def test_the_last_formula_or_number_counts_leniently(text: str, lenient: str | None) -> None:
    assert Expressions().last(text) == lenient


@pytest.mark.parametrize(
    "text",
    ["(" * 300 + "1" + ")" * 300, "x+" + "(" * 38 + "1" + ")" * 38,
     "9^{9^{9^9}}", "100000000!", "1," * 500, r"\frac{" * 200, " " * 5000 + "1",
     "x" * 5000,
     r"\{" * 50, "|" * 99, "1\\pm" * 40, r"\cup" * 30, "=" * 200, r"\begin{pmatrix}" * 20, "2^{99999999999}", "\\",
     "and " * 300],
)  # fmt: skip
def test_no_text_hangs_or_crashes(text: str) -> None:
    begin = time.monotonic()
    grader = Expressions()
    for other in ("1", text + "1"):
        a, b = grader.read(text), grader.read(other)
        thread = threading.Thread(target=grader.same, args=(a or "1", b or "1"))  # without the limit of the main thread
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        grader.last(text)
    assert time.monotonic() - begin < 10  # less than 1 s on an idle core


@pytest.mark.parametrize("grader", [Numbers(), Choices(), YesNo(), Text(), Expressions()])
def test_random_text_does_not_crash_a_grader(grader: Grader) -> None:
    draw = random.Random(5)
    pieces = [*"0123456789.,/:;=<>+-*^_%$°½(){}[]|!?'\" \n\\", r"\frac", r"\text{", r"\boxed{", " or ", " and ",
              "yes", "A",
              "million", "x", r"\pm", r"\cup", r"\{", r"\}", "\u2009", "−", "answer is", r"\begin{pmatrix}",
              "&"]  # fmt: skip
    texts = ["".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(400)]
    for text, other in itertools.pairwise(texts):
        a, b = grader.read(text), grader.read(other)
        grader.last(text)
        grader.rest(text)
        grader.strict(f"the answer is {text}", "the answer is")
        if a is not None:
            assert grader.same(a, a)
            assert grader.read(grader.show(text)) is not None
            if b is not None:
                assert grader.same(a, b) == grader.same(b, a)


def test_a_pair_is_graded_once_even_if_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[str, str]] = []

    def limited(compare: Any, a: str, b: str) -> bool:
        pairs.append((a, b))
        return False  # as after five seconds

    monkeypatch.setattr(expressions, "within_limit", limited)
    expressions._graded.cache_clear()
    grader = Expressions()
    assert not any(grader.same("x+31", "y+31") for _ in range(3))
    assert not any(grader.same("x+31", "z+31") for _ in range(3))
    assert len(pairs) == 2
    expressions._graded.cache_clear()
