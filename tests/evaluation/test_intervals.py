"""Laws of the intervals: closed forms where there are some, and what pairing and seeds do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skipthinking.evaluation.intervals import bootstrap, paired_bootstrap


def flips(seed: int, shape: tuple[int, int], p: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < p).astype(float)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.9])
def test_bootstrap_of_one_run_has_the_width_of_the_normal_interval(p: float) -> None:
    values = flips(0, (1, 800), p)
    low, high = bootstrap(values)
    mean = values.mean()
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(mean * (1 - mean) / 800), rel=0.06)


def test_paired_bootstrap_has_the_width_of_the_discordant_pairs() -> None:
    theirs = flips(1, (1, 900), 0.6)
    ours = theirs.copy()
    ours[0, :60] = 1 - ours[0, :60]
    gained, lost = (ours > theirs).sum(), (ours < theirs).sum()
    low, high = paired_bootstrap(ours, theirs)
    spread = math.sqrt(gained + lost - (gained - lost) ** 2 / 900) / 900  # of a difference of matched proportions
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.06)
    alone = [bootstrap(side) for side in (ours, theirs)]
    assert high - low < 0.6 * max(high - low for low, high in alone)  # what pairing is for


def test_swapping_the_sides_turns_the_sign() -> None:
    ours, theirs = flips(2, (1, 200), 0.7), flips(3, (1, 200), 0.5)
    low, high = paired_bootstrap(ours, theirs)
    assert paired_bootstrap(theirs, ours) == pytest.approx((-high, -low))


def test_seeds_that_disagree_widen_the_interval() -> None:
    agree = np.tile(flips(4, (1, 300), 0.5), (2, 1))
    assert bootstrap(agree) == pytest.approx(bootstrap(agree[:1]))  # a copy of a run is no news of other seeds
    disagree = np.stack([np.ones(300), np.zeros(300)])
    assert bootstrap(disagree) == (0.0, 1.0)  # both draws the same run, on either side, in a quarter of cases each


def test_covers_what_it_says() -> None:
    """Of 200 test sets drawn independently, about 95% of the intervals hold the truth."""
    held = sum(low <= 0.7 <= high for low, high in (bootstrap(flips(n, (1, 150), 0.7)) for n in range(200)))
    assert 0.90 <= held / 200 <= 0.99


def test_is_the_same_every_time() -> None:
    values = flips(5, (3, 50), 0.5)
    assert bootstrap(values) == bootstrap(values.copy())
