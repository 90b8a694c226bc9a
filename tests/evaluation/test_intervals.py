"""Laws of the intervals: closed forms where there are some, and what pairing and seeds do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from skipthinking.evaluation.intervals import accuracy_interval, ratio_interval, spread, wilson


def flips(seed: int, shape: tuple[int, ...], p: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < p).astype(float)


def interval(values: np.ndarray, other: np.ndarray | None = None) -> tuple[float, float]:
    mean, half = values.mean() - (0 if other is None else other.mean()), spread(values, other).half
    return (mean - half, mean + half)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.9])
def test_one_run_has_the_width_of_the_normal_interval(p: float) -> None:
    values = flips(0, (1, 800), p)
    low, high = interval(values)
    mean = values.mean()
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(mean * (1 - mean) / 800), rel=0.06)
    assert tuple(map(float, accuracy_interval(values))) == wilson(int(values.sum()), 800)


def test_a_paired_interval_has_the_width_of_the_discordant_pairs() -> None:
    theirs = flips(1, (1, 900), 0.6)
    ours = theirs.copy()
    ours[0, :60] = 1 - ours[0, :60]
    gained, lost = (ours > theirs).sum(), (ours < theirs).sum()
    low, high = interval(ours, theirs)
    width = math.sqrt(gained + lost - (gained - lost) ** 2 / 900) / 900  # of a difference of matched proportions
    assert high - low == pytest.approx(2 * 1.96 * width, rel=0.06)
    assert interval(ours - theirs) == pytest.approx((low, high))  # one run each: both ways are the same
    alone = [interval(side) for side in (ours, theirs)]
    assert high - low < 0.6 * max(high - low for low, high in alone)  # what pairing is for


def test_swapping_the_sides_turns_the_sign() -> None:
    for ours, theirs in ((1, 1), (3, 3), (2, 5), (1, 4)):
        one, other = flips(2, (ours, 200), 0.7), flips(3, (theirs, 200), 0.5)
        low, high = interval(one, other)
        assert interval(other, one) == pytest.approx((-high, -low))


def test_seeds_that_disagree_widen_the_interval() -> None:
    agree = np.tile(flips(4, (1, 300), 0.5), (2, 1))
    assert interval(agree) == pytest.approx(interval(agree[:1]))  # a copy of a run is no news of other seeds
    disagree = np.stack([np.ones(300), np.zeros(300)])
    assert accuracy_interval(disagree) == pytest.approx((0.0, 1.0), abs=1e-9)


def test_one_run_covers_what_it_says() -> None:
    """Of 200 test sets drawn independently, about 95% of the intervals hold the truth."""
    held = sum(low <= 0.7 <= high for low, high in (interval(flips(n, (1, 150), 0.7)) for n in range(200)))
    assert 0.90 <= held / 200 <= 0.99


def test_is_the_same_every_time() -> None:
    values = flips(5, (3, 50), 0.5)
    assert interval(values) == interval(values.copy())


def test_mean_squares_are_those_of_a_loop() -> None:
    """The interval of 3 x 40 values from the table of the analysis of variance, by loops and scipy's quantiles."""
    values = flips(6, (3, 40), 0.6) + np.array([[0.0], [0.3], [0.1]])
    runs, count = values.shape
    mean = sum(map(float, values.ravel())) / 120
    by_run = [sum(row) / count for row in values.tolist()]
    by_example = [sum(column) / runs for column in values.T.tolist()]
    ms_seeds = count * sum((x - mean) ** 2 for x in by_run) / 2
    ms_examples = runs * sum((x - mean) ** 2 for x in by_example) / 39
    ms_residual = sum(
        (values[s, i] - by_run[s] - by_example[i] + mean) ** 2 for s in range(runs) for i in range(count)
    ) / (2 * 39)
    seeds, examples = ms_seeds / 120, (ms_examples - ms_residual) / 120
    assert examples > 0
    quantiles = (stats.t.ppf(0.975, 2), stats.norm.ppf(0.975))
    half = (seeds * quantiles[0] + examples * quantiles[1]) / math.sqrt(seeds + examples)
    assert float(spread(values).half) == pytest.approx(half)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (5, 5)])
def test_examples_that_do_not_differ_leave_students_and_welchs_t(ours: int, theirs: int) -> None:
    rng = np.random.default_rng(ours)
    one, other = (np.repeat(rng.normal(size=(runs, 1)), 30, axis=1) for runs in (ours, theirs))
    single = stats.ttest_1samp(one[:, 0], 0).confidence_interval()
    assert interval(one) == pytest.approx((single.low, single.high))
    both = stats.ttest_ind(one[:, 0], 3 * other[:, 0], equal_var=False).confidence_interval()
    assert interval(one, 3 * other) == pytest.approx((both.low, both.high))
    pairs = stats.ttest_rel(one[:, 0], other[:, 0]).confidence_interval()
    assert interval(one - other) == pytest.approx((pairs.low, pairs.high))


def test_equal_scores_of_seeds_do_not_make_an_interval_of_no_width() -> None:
    """Two runs with five errors each, none in common: no variance between seeds or examples, but no certainty."""
    values = np.ones((2, 100))
    values[0, :5] = values[1, 5:10] = 0
    assert float(spread(values).half) >= math.sqrt(0.95 * 0.05 / 200)  # the standard error of 200 separate answers
    low, high = map(float, accuracy_interval(values))
    assert low < 0.95 < high


def test_accuracy_of_all_and_none_is_wilsons_of_one_run() -> None:
    for value in (0, 1):
        values = np.full((3, 40), float(value))
        assert tuple(map(float, accuracy_interval(values))) == wilson(40 * value, 40)


@pytest.mark.parametrize("paired", [True, False])
def test_a_ratio_is_that_of_means_and_its_inverse_the_inverse(paired: bool) -> None:
    rng = np.random.default_rng(7)
    length = rng.uniform(50, 150, size=(1, 200))
    theirs = length * rng.uniform(0.9, 1.1, size=(4, 200))
    ours = 0.6 * theirs * rng.uniform(0.95, 1.05, size=(4, 200))
    ratio, low, high = ratio_interval(ours, theirs, paired)
    assert ratio == pytest.approx(ours.mean() / theirs.mean())
    assert low < 0.6 < high
    assert ratio_interval(theirs, ours, paired) == pytest.approx((1 / ratio, 1 / high, 1 / low))
    assert ratio_interval(3 * ours, theirs, paired) == pytest.approx((3 * ratio, 3 * low, 3 * high))
    # Long examples are long on both sides, so the ratio is known better than either mean.
    assert math.log(high / ratio) < 0.5 * float(spread(ours).half) / ours.mean()


@pytest.mark.parametrize("runs", [1, 3, 8])
def test_a_difference_of_the_minimum_detectable_effect_is_seen_four_times_in_five(runs: int) -> None:
    """Each draw estimates the effect; the true difference is the root of the mean of its squares.

    With 3 runs that is 5% too small, for the sum of two quantiles stands in for the noncentral t.
    """
    rng = np.random.default_rng(8)
    draws = rng.normal(size=(1500, runs, 60)) + 0.1 * (runs > 1) * rng.normal(size=(1500, runs, 1))
    effect = float(np.sqrt((spread(draws).detectable ** 2).mean()))
    seen = abs(draws.mean(axis=(-2, -1)) + effect) > spread(draws).half
    assert 0.75 <= seen.mean() <= 0.85
