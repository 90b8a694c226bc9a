"""Coverage of the intervals, simulated: how often a 95% interval holds the truth.

A student of seed s answers example i right with chance logistic(mu + seed_s + example_i). Examples differ in their
difficulty by a standard deviation of 1.5, and each method finds some harder than others do; seeds differ by 0, 0.5
or 1. The truth is the mean over the populations of both, by a quadrature that shares nothing with the intervals.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from skipthinking.evaluation.intervals import accuracy_interval, spread

DRAWS, EXAMPLES, SEEDS = 2700, 200, (2, 3, 5, 10)  # the Monte Carlo error of 93% is 0.49 points
DIFFICULTY, TASTE = 1.5, 0.5  # deviations over examples: of all methods' difficulty, and of what is a method's own
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
CELLS = [(rate, deviation) for rate in (0.3, 0.8, 0.97) for deviation in (0.0, 0.5, 1.0)]
CORNER = ("accuracy", 10, 0.97, 1.0)  # 92.7 to 94.2% in six simulations; the last test says why
Draws = np.ndarray  # of shape (DRAWS, seeds, EXAMPLES), zeros and ones


@functools.cache
def intercept(rate: float, deviation: float) -> float:
    """The mu at which the mean over N(0, deviation²) of logistic(mu + x) is ``rate``, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = (WEIGHTS / (1 + np.exp(-middle - deviation * NODES))).sum() / WEIGHTS.sum()
        low, high = (middle, high) if mean < rate else (low, middle)
    return low


@functools.lru_cache(maxsize=1)
def answers(rates: tuple[float, float], deviation: float, difficulty: float = DIFFICULTY) -> tuple[Draws, Draws, Draws]:
    """A method; one whose seeds share half of their variance with it (a warm-up); and one with separate seeds."""
    rng = np.random.default_rng([int(100 * rates[0]), int(100 * rates[1]), int(10 * deviation)])

    def normal(scale: float, *shape: int) -> np.ndarray:
        return rng.standard_normal((DRAWS, *shape), dtype=np.float32) * np.float32(scale)

    common = normal(difficulty, 1, EXAMPLES)

    def draw(rate: float, seeds: np.ndarray) -> Draws:
        mu = intercept(rate, float(np.sqrt(deviation**2 + difficulty**2 + TASTE**2)))
        chance = 1 / (1 + np.exp(-(common + normal(TASTE, 1, EXAMPLES) + np.float32(mu)) - seeds))
        return (rng.random(chance.shape, dtype=np.float32) < chance).astype(np.float32)

    half, runs = deviation * 0.5**0.5, max(SEEDS)
    warm_up = normal(half, runs, 1)
    ours, paired = (draw(rate, warm_up + normal(half, runs, 1)) for rate in rates)
    return ours, paired, draw(rates[1], normal(deviation, runs, 1))


def share_that_holds(kind: str, seeds: tuple[int, int], rates: tuple[float, float], *cell: float) -> float:
    """The share of the intervals that hold the truth."""
    ours, paired, unpaired = answers(rates, *cell)
    ours = ours[:, : seeds[0]]
    if kind == "accuracy":
        low, high = accuracy_interval(ours)
        assert ((low >= 0) & (high <= 1)).all()
        return float(((low <= rates[0]) & (rates[0] <= high)).mean())
    theirs = (paired if kind == "paired" else unpaired)[:, : seeds[1]]
    half = spread(ours - theirs).half if kind == "paired" else spread(ours, theirs).half
    difference = ours.mean(axis=(-2, -1)) - theirs.mean(axis=(-2, -1))
    return float((abs(difference - (rates[0] - rates[1])) <= half).mean())


@pytest.mark.parametrize(("rate", "deviation"), CELLS)
def test_coverage_is_93_percent_or_more_and_from_three_seeds_98_or_less(rate: float, deviation: float) -> None:
    for kind in ("accuracy", "paired", "unpaired"):
        for seeds in SEEDS:
            share = share_that_holds(kind, (seeds, seeds), (rate, rate), deviation)
            least = 0.92 if (kind, seeds, rate, deviation) == CORNER else 0.93
            assert least <= share <= (0.98 if seeds >= 3 else 1.0), (kind, seeds, share)
            # The methods are equal: an interval without 0 calls them different.
            assert kind == "accuracy" or share >= 0.94, (kind, seeds, share)
    for unequal in ((2, 10), (10, 3), (3, 5)):
        share = share_that_holds("unpaired", unequal, (rate, rate), deviation)
        assert 0.94 <= share <= 0.99, (unequal, share)


def test_coverage_falls_short_where_few_seeds_make_most_of_the_errors() -> None:
    """The corner that no such interval reaches: five or ten seeds cannot tell of what none of them shows.

    At 97% with a deviation of 1, the worst tenth of the seeds (below 93.5%) makes a third of all errors. If examples
    are about equally hard, nothing else widens the interval, and it lies too high where those seeds are missing. So
    does the difference from a method at 80%, whose seeds differ more in points.
    """
    skewed = [share_that_holds("accuracy", (seeds, seeds), (0.97, 0.97), 1.0, 0.5) for seeds in (5, 10)]
    unequal = [share_that_holds("unpaired", (seeds, seeds), (0.97, 0.8), 1.0, 0.5) for seeds in (3, 5)]
    assert all(0.90 <= share < 0.935 for share in (*skewed, *unequal)), (skewed, unequal)
