"""95% intervals of reported numbers: Wilson's for one run, the bootstrap for several runs and for differences.

Shape suffixes: S runs (one per seed), N test examples, B bootstrap draws.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "bootstrap", "paired_bootstrap", "wilson"]

DRAWS = 4000
_SEED = 2505


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
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


def bootstrap(values_SN: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of the mean over runs and test examples.

    Runs and examples are drawn with replacement, the same examples for all runs, so the interval covers the variance
    between examples and between seeds. With few seeds it is too narrow: it includes (S - 1) / S of the variance between
    S seeds, so none of it with one seed.
    """
    return _percentiles(_means(values_SN, run_seed=1))


def paired_bootstrap(ours_SN: NDArray[np.float64], theirs_SN: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of the difference of two means over the same test examples.

    Each draw uses the same examples on both sides, but draws runs separately: runs with equal seeds are not paired.
    """
    return _percentiles(_means(ours_SN, run_seed=1) - _means(theirs_SN, run_seed=2))


def _means(values_SN: NDArray[np.float64], run_seed: int) -> NDArray[np.float64]:
    """Means of B draws, shape (B,); the drawn examples do not depend on ``run_seed``."""
    runs, examples = values_SN.shape
    drawn_BN = _counts(runs, run_seed) @ values_SN
    means: NDArray[np.float64] = np.einsum("bn,bn->b", drawn_BN, _counts(examples, 0)) / (runs * examples)
    return means


@functools.lru_cache(maxsize=8)
def _counts(size: int, stream: int) -> NDArray[np.float32]:
    """How often each of ``size`` items occurs in each of B draws of ``size`` items, shape (B, size)."""
    drawn_BN = np.random.default_rng((_SEED, stream)).integers(0, size, (DRAWS, size))
    # One bincount for all draws: item i of draw b is counted in bin b * size + i.
    bins = drawn_BN + size * np.arange(DRAWS)[:, None]
    return np.bincount(bins.ravel(), minlength=DRAWS * size).reshape(DRAWS, size).astype(np.float32)


def _percentiles(means_B: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(means_B, [2.5, 97.5])
    return (float(low), float(high))
