"""KPOD's schedule against brute force over all subsets, and the laws that the paper's equations state."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest

from skipthinking.methods.kpod.schedule import Schedule, hardness, plan_inputs, select, value
from skipthinking.records import UserError


def _best(costs: np.ndarray, clusters: np.ndarray, budget: float, diversity: float) -> float:
    """The greatest value of all subsets, one after the other."""
    best = 0.0
    for picks in itertools.product([False, True], repeat=len(costs)):
        if sum(cost for cost, pick in zip(costs, picks, strict=True) if pick) <= budget:
            sizes: dict[int, int] = {}
            for cluster, pick in zip(clusters, picks, strict=True):
                sizes[int(cluster)] = sizes.get(int(cluster), 0) + pick
            cost = sum(cost for cost, pick in zip(costs, picks, strict=True) if pick)
            best = max(best, cost + diversity * sum(size**0.5 for size in sizes.values()))
    return best


def _random_set(seed: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    costs = rng.choice([rng.random(n), rng.exponential(size=n) ** 3, rng.integers(0, 4, n).astype(float)])
    return costs, rng.integers(0, 4, n), float(rng.random() * costs.sum() * 1.1), float(rng.choice([0.0, 0.1, 1, 12]))


@pytest.mark.parametrize("seed", range(300))
def test_the_selection_is_worth_half_of_the_best_at_least(seed: int) -> None:
    costs, clusters, budget, diversity = _random_set(seed)
    chosen = select(costs, clusters, budget, diversity)
    assert costs[chosen].sum() <= budget * (1 + 1e-9)
    assert value(chosen, costs, clusters, diversity) >= _best(costs, clusters, budget, diversity) / 2 - 1e-9


def test_greedy_alone_breaks_the_guarantee_and_the_addition_mends_it() -> None:
    # Densities: the first is worth 1 + 1 / 0.01, the second 1 + 1 / 10; after the first, the second no longer fits.
    costs, clusters = np.array([0.01, 10.0]), np.array([0, 1])
    assert select(costs, clusters, 10.0, 1.0).tolist() == [False, True]


def test_the_order_is_that_of_the_plain_density_greedy() -> None:
    """Where all fits but the last few, the set is what one-by-one greedy takes, or better."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs, clusters = rng.random(60), rng.integers(0, 5, 60)
        left, taken, sizes = 10.0, np.zeros(60, dtype=bool), np.zeros(5)
        while True:
            fits = ~taken & (costs <= left)
            if not fits.any():
                break
            gain = 3.0 * (np.sqrt(sizes[clusters] + 1) - np.sqrt(sizes[clusters]))
            pick = int(np.where(fits, 1 + gain / costs, -1).argmax())
            taken[pick], left = True, left - costs[pick]
            sizes[clusters[pick]] += 1
        found = select(costs, clusters, 10.0, 3.0)
        assert value(found, costs, clusters, 3.0) >= value(taken, costs, clusters, 3.0) - 1e-9


def test_without_diversity_clusters_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    costs = rng.random(40)
    one, two = (select(costs, clusters, 5.0, 0.0) for clusters in (np.zeros(40, dtype=int), np.arange(40)))
    assert value(one, costs, np.zeros(40, dtype=int), 0.0) == pytest.approx(5.0, abs=0.05)
    assert value(two, costs, np.zeros(40, dtype=int), 0.0) == pytest.approx(5.0, abs=0.05)


def test_diversity_spreads_the_choice_over_clusters() -> None:
    costs, clusters = np.ones(40), np.repeat([0, 1, 2, 3], 10)
    chosen = select(costs, clusters, 8.0, 12.0)
    assert np.bincount(clusters[chosen]).tolist() == [2, 2, 2, 2]


def test_nothing_fits_nothing_is_chosen() -> None:
    assert not select(np.array([2.0, np.inf]), np.array([0, 0]), 1.0, 12.0).any()


def _questions(n: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.exponential(size=rng.integers(1, 12)) for _ in range(n)], rng.integers(0, 5, n)


@pytest.mark.parametrize(
    "settings",
    [{}, {"stages": 1}, {"stages": 40}, {"steps_per_stage": 1}, {"diversity": 0.0}, {"start_share": 0.0},
     {"start_share": 1.0}, {"exponent": 0.0}],
)  # fmt: skip
def test_inputs_never_rise_end_at_zero_and_stay_within_the_budget(settings: dict[str, Any]) -> None:
    difficulty, clusters = _questions(200)
    schedule = Schedule(**{"stages": 6, **settings})
    given = plan_inputs(difficulty, clusters, schedule)
    assert given.shape == (schedule.stages + 1, 200)
    assert (np.diff(given, axis=0) <= 0).all()
    assert (given[-1] == 0).all()
    total = sum(float(steps.sum()) for steps in difficulty)
    for stage, row in enumerate(given):
        asked = sum(hardness(steps, c) for steps, c in zip(difficulty, row, strict=True))
        assert asked <= schedule.budget(stage, total) * (1 + 1e-9)
        if settings == {}:  # and the budget is used, but for a step or so
            assert asked > 0.97 * schedule.budget(stage, total) or stage == 0


def test_a_step_falls_by_no_more_than_is_set() -> None:
    difficulty, clusters = _questions(100)
    given = plan_inputs(difficulty, clusters, Schedule(stages=20, steps_per_stage=2))
    assert np.diff(given[:-1], axis=0).min() == -2


def test_rationales_of_one_step_go_from_given_to_asked() -> None:
    given = plan_inputs([np.array([1.0])] * 10, np.zeros(10, dtype=int), Schedule(stages=5))
    assert given[0].tolist() == [1] * 10
    assert set(np.unique(given)) == {0, 1}
    assert [int((row == 0).sum()) for row in given] == [0, 3, 4, 6, 8, 10]  # D(t) = 3 + 7 (t / 5) ** 1.5, in whole ones


def test_steps_without_difficulty_are_asked_at_once() -> None:
    given = plan_inputs([np.zeros(3)] * 4, np.zeros(4, dtype=int), Schedule(stages=2))
    assert (given == 0).all()


def test_equation_9_counts_from_one() -> None:
    assert hardness([1.0, 2.0, 3.0], 2) == 3.0
    assert hardness([1.0, 2.0, 3.0], 0) == 6.0
    assert hardness([1.0, 2.0, 3.0], 3) == 0.0


def test_permuted_questions_have_permuted_inputs() -> None:
    difficulty, clusters = _questions(300)
    order = np.random.default_rng(1).permutation(300)
    straight = plan_inputs(difficulty, clusters, Schedule(stages=6))
    turned = plan_inputs([difficulty[i] for i in order], clusters[order], Schedule(stages=6))
    assert (straight[:, order] == turned).all()  # no two costs are equal here


def test_a_hundred_thousand_questions_take_seconds() -> None:
    difficulty, clusters = _questions(100_000)
    start = time.monotonic()
    plan_inputs(difficulty, clusters, Schedule(stages=10))
    assert time.monotonic() - start < 60  # about 2 s on a free core


@pytest.mark.parametrize("wrong", [{"stages": 0}, {"steps_per_stage": 0}, {"exponent": -1.0}, {"start_share": 1.1},
                                   {"diversity": -1.0}])  # fmt: skip
def test_settings_that_make_no_sense_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"model.{next(iter(wrong))}"):
        Schedule(**{"stages": 3, **wrong})
