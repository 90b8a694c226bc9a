"""95% intervals of reported numbers: Wilson's for one run, variance components with t quantiles for several.

Runs (seeds) and test examples are crossed: every run answers the same examples. The mean over both varies with the runs
drawn, the examples drawn, and what is left in single answers:

    Var(mean) = var_seeds / S + var_examples / N + var_residual / (S N)

The mean squares of the analysis of variance estimate the terms: MS_seeds / (S N) estimates the first and the last, with
S - 1 degrees of freedom; (MS_examples - MS_residual) / (S N) the second, with enough for the normal quantile. The
interval is the mean plus and minus its standard error times the mean of the terms' quantiles, weighted by the terms
(Cochran and Cox, 1950). Simulated, that covers 93% to 98% for 2 to 10 seeds; with Satterthwaite's degrees of freedom
for the sum, 2 seeds that differ have 88%. ``tests/evaluation/test_coverage.py`` has the simulation.

Shape suffixes: S and R runs (one per seed), N test examples. Leading axes are independent data sets.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spread", "accuracy_interval", "ratio_interval", "spread", "wilson"]

_Z, _Z_POWER = 1.959963984540054, 0.8416212335729143  # normal quantiles of 97.5% and 80%
Array = NDArray[np.floating[Any]]


def wilson(successes: int, trials: int, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (95% by default).

    Equals ``scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")``, but the import of scipy.stats
    takes 0.6 s, three times the startup time of ``compare`` and ``summary``.

    >>> [round(x, 3) for x in wilson(19, 20)]
    [0.764, 0.991]
    """
    if trials == 0:
        return (0.0, 1.0)
    rate, spread = successes / trials, z * z / trials
    center = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    low = 0.0 if successes == 0 else max(0.0, center - half)  # exactly 0 and 1, without rounding
    return (low, 1.0 if successes == trials else min(1.0, center + half))


class Spread(NamedTuple):
    """How far an estimated mean may lie from the true one.

    Attributes:
        half: Half the width of the 95% interval.
        detectable: The minimum detectable effect: a true mean this far from 0 would give an interval without 0 in about
            80% of repetitions.
    """

    half: Array
    detectable: Array


def spread(ours_SN: Array, theirs_RN: Array | None = None) -> Spread:
    """The spread of a mean, or of the difference of two means on the same test examples with unrelated seeds.

    If the runs of both sides are paired (run s of both started from one warm-up), pass their differences,
    ``spread(ours_SN - theirs_SN)``. A side with one run adds no variance between seeds: the interval then holds for
    that run and not for its method. The interval is never narrower than one standard error of S N independent answers,
    as two runs with equal scores would otherwise seem to prove that seeds do not matter.
    """
    sides = [ours_SN] if theirs_RN is None else [ours_SN, theirs_RN]
    count = ours_SN.shape[-1]
    means_N = ours_SN.mean(axis=-2) if theirs_RN is None else ours_SN.mean(axis=-2) - theirs_RN.mean(axis=-2)
    examples = means_N.var(axis=-1, ddof=min(1, count - 1)) / count  # includes the residuals of sides with one run
    least = np.zeros_like(examples)
    seeds: list[tuple[Array, Array | float]] = []
    for side in sides:
        runs = side.shape[-2]
        if runs > 1:
            variance, residual = _between_seeds(side)
            seeds.append((variance, runs - 1))
            least = least + residual
    if len(seeds) == 2 and seeds[0][1] == seeds[1][1]:
        seeds = [_welch(*seeds)]  # with 2 and 10 runs, Welch's degrees of freedom are too many (88%), so it is left out
    parts = [(np.maximum(examples - least, 0), math.inf), *seeds]
    total = sum(variance for variance, _ in parts)

    def quantile(p: float) -> Array:
        weighted = sum(variance * _quantile(p, df) for variance, df in parts)
        return np.divide(weighted, total, out=np.full_like(total, _quantile(p, math.inf)), where=total > 0)

    half = np.maximum(quantile(0.975) * np.sqrt(total), np.sqrt(least))
    return Spread(half=half, detectable=half * (1 + quantile(0.8) / quantile(0.975)))


def _between_seeds(values_SN: Array) -> tuple[Array, Array]:
    """MS_seeds / (S N) and MS_residual / (S N)."""
    runs, count = values_SN.shape[-2:]
    centered_SN = values_SN - values_SN.mean(axis=(-2, -1), keepdims=True)
    seeds = (centered_SN.mean(axis=-1) ** 2).sum(axis=-1)
    examples = (centered_SN.mean(axis=-2) ** 2).sum(axis=-1)
    total = np.einsum("...sn,...sn->...", centered_SN, centered_SN)
    residual = np.maximum(total - count * seeds - runs * examples, 0)  # sums of squares; 0 up to rounding
    return seeds / (runs - 1) / runs, residual / ((runs - 1) * max(1, count - 1) * runs * count)


def _welch(one: tuple[Array, Any], other: tuple[Array, Any]) -> tuple[Array, Array]:
    """The sum of two variances, and its degrees of freedom by Welch and Satterthwaite."""
    total = one[0] + other[0]
    squares = one[0] ** 2 / one[1] + other[0] ** 2 / other[1]
    return total, np.divide(total**2, squares, out=np.full_like(total, one[1]), where=squares > 0)


def _quantile(p: float, df: Array | float) -> Any:
    """Quantile of Student's t; the normal one for infinitely many degrees of freedom."""
    if isinstance(df, float) and math.isinf(df):
        return _Z if p == 0.975 else _Z_POWER
    from scipy.special import stdtrit  # 0.1 s, so only where there are several seeds

    return stdtrit(df, p)


def accuracy_interval(correct_SN: Array) -> tuple[Array, Array]:
    """Interval of the mean of 0/1 values over runs and test examples, within [0, 1].

    Wilson's if there is one run, or if all values are equal, as if there were one run then. Otherwise the interval is
    symmetric in the log odds, whose half width is that of the mean times its derivative there.
    """
    runs, count = correct_SN.shape[-2:]
    mean = correct_SN.mean(axis=(-2, -1), dtype=np.float64)
    if runs == 1:
        ends = np.array([wilson(round(rate * count), count) for rate in mean.ravel()]).reshape(*mean.shape, 2)
        return ends[..., 0], ends[..., 1]
    certain = (mean == 0) | (mean == 1)
    inside = np.where(certain, 0.5, mean)
    odds, half = np.log(inside / (1 - inside)), spread(correct_SN).half / (inside * (1 - inside))
    low, high = (0.5 + 0.5 * np.tanh((odds + sign * half) / 2) for sign in (-1, 1))
    return (
        np.where(certain, np.where(mean == 0, 0.0, wilson(count, count)[0]), low),
        np.where(certain, np.where(mean == 0, wilson(0, count)[1], 1.0), high),
    )


def ratio_interval(ours_SN: Array, theirs_RN: Array, paired: bool) -> tuple[float, float, float]:
    """The ratio of two positive means on the same test examples, and its interval, symmetric in its logarithm.

    Args:
        ours_SN: Values above the line.
        theirs_RN: Values below it.
        paired: Whether run s of both sides belongs together.
    """
    ratio = float(ours_SN.mean() / theirs_RN.mean())
    scaled_RN = ratio * theirs_RN  # the first-order error of the ratio is that of this difference, over theirs
    width = spread(ours_SN - scaled_RN) if paired else spread(ours_SN, scaled_RN)
    factor = math.exp(min(700.0, float(width.half / ours_SN.mean())))
    return ratio, ratio / factor, ratio * factor
