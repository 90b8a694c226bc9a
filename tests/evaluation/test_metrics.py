"""Laws of the metrics: plain counting, whatever the batches and ranks."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from skipthinking.evaluation.intervals import wilson
from skipthinking.evaluation.metrics import AnswerScores, by_group, scores
from skipthinking.records import Prediction


def prediction(id: str, **values: object) -> Prediction:
    fixed = {"task": "t", "question": "q", "gold": "1", "completion": "c", "extracted": "1", "extracted_lenient": "1"}
    flags = {"correct": True, "correct_lenient": True, "new_tokens": 10, "finished": True}
    return Prediction(**{"id": id, **fixed, **flags, **values})  # type: ignore[arg-type]


def drawn(seed: int, count: int) -> list[Prediction]:
    rng = random.Random(seed)
    return [
        prediction(
            f"e{n}",
            extracted=rng.choice([None, "", "0", "5"]),
            extracted_lenient=rng.choice([None, "5"]),
            correct=rng.random() < 0.3,
            correct_lenient=rng.random() < 0.6,
            new_tokens=rng.randint(0, 200),
            finished=rng.random() < 0.8,
        )
        for n in range(count)
    ]


def counted(predictions: list[Prediction]) -> dict[str, float]:
    n = len(predictions)
    return {
        "accuracy": len([p for p in predictions if p.correct]) / n,
        "accuracy_lenient": len([p for p in predictions if p.correct_lenient]) / n,
        "no_answer": len([p for p in predictions if p.extracted is None]) / n,  # an empty answer is one
        "unfinished": len([p for p in predictions if not p.finished]) / n,
        "new_tokens": sum(p.new_tokens for p in predictions) / n,
    }


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    # Failures have the mirrored interval.
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_interval_equals_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for trials in (1, 2, 7, 50, 1319):
        for successes in {0, 1, trials // 3, trials - 1, trials}:
            expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
            assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
            low, high = wilson(successes, trials)
            assert 0.0 <= low <= successes / trials + 1e-12
            assert successes / trials - 1e-12 <= high <= 1.0


def test_interval_solves_its_definition() -> None:
    # The bounds are those p at which the share seen is z standard errors off.
    for successes, trials, z in ((3, 10, 1.959964), (40, 41, 1.959964), (5, 9, 1.0)):
        for p in wilson(successes, trials, z):
            assert abs(successes / trials - p) == pytest.approx(z * math.sqrt(p * (1 - p) / trials), rel=1e-6)


def test_nothing_tried_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_counts(seed: int) -> None:
    predictions = drawn(seed, 37)
    metric = AnswerScores()
    metric.update(predictions)
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(counted(predictions))


@pytest.mark.parametrize("seed", range(4))
def test_merged_states_equal_one_pass(seed: int) -> None:
    predictions, rng = drawn(seed, 41), random.Random(seed)
    ranks = [AnswerScores() for _ in range(3)]
    for p in predictions:  # uneven ranks, batches of one
        rng.choice(ranks).update([p])
    ranks[0].update([])
    for other in ranks[1:]:
        ranks[0].merge_state(other)
    assert {name: float(value) for name, value in ranks[0].compute().items()} == pytest.approx(counted(predictions))


def test_state_is_summed_over_ranks() -> None:
    metric = AnswerScores()
    ranks = torch.tensor([[3, 1, 2, 0, 0, 60, 3], [5, 4, 4, 1, 1, 20, 0]])
    assert metric._reductions["counts"](ranks).tolist() == [8, 5, 6, 1, 1, 80, 3]
    assert metric._reductions["shares"](torch.tensor([0.5, 1.25])).tolist() == 1.75


def test_reset_forgets() -> None:
    metric = AnswerScores()
    metric.update(drawn(0, 5))
    metric.reset()
    metric.update([prediction("a", correct=False, new_tokens=7)])
    assert {name: float(value) for name, value in metric.compute().items()} == {
        "accuracy": 0.0,
        "accuracy_lenient": 1.0,
        "no_answer": 0.0,
        "unfinished": 0.0,
        "new_tokens": 7.0,
    }


def test_large_counts_are_exact() -> None:
    metric = AnswerScores()
    metric.update([prediction("a", new_tokens=2**24), prediction("b", new_tokens=1), prediction("c", new_tokens=1)])
    # In float32, 2**24 + 1 is 2**24.
    assert float(metric.compute()["new_tokens"]) * 3 == 2**24 + 2


@pytest.mark.parametrize("count", [1, 2, 40])
def test_reported_scores_are_counts_with_intervals(count: int) -> None:
    predictions = drawn(1, count)
    found, expected = scores(predictions), {"n": count, **counted(predictions)}
    for name, correct in (("accuracy", "correct"), ("accuracy_lenient", "correct_lenient")):
        right = [getattr(p, correct) for p in predictions].count(True)
        expected[f"{name}_low"], expected[f"{name}_high"] = wilson(right, count)
    if count > 1:
        lengths = [p.new_tokens for p in predictions]
        half = 1.96 * statistics.stdev(lengths) / math.sqrt(count)
        expected["new_tokens_low"] = statistics.mean(lengths) - half
        expected["new_tokens_high"] = statistics.mean(lengths) + half
    assert found == pytest.approx(expected)


def test_scores_of_nothing_are_zero() -> None:
    found = scores([])
    assert found["n"] == 0
    assert (found["accuracy"], found["accuracy_low"], found["accuracy_high"]) == (0.0, 0.0, 1.0)
    assert "new_tokens_low" not in found


def test_groups_keep_every_prediction_and_the_order() -> None:
    predictions = drawn(2, 6)
    groups = by_group(iter(predictions), {"e0": "b", "e1": "a", "e2": "b", "e3": "c", "e4": "a", "e5": "b", "e6": "d"})
    assert list(groups) == ["b", "a", "c"]  # as they first come; no empty group
    assert {name: [p.id for p in group] for name, group in groups.items()} == {
        "b": ["e0", "e2", "e5"],
        "a": ["e1", "e4"],
        "c": ["e3"],
    }
    with pytest.raises(KeyError):
        by_group(predictions, {"e0": "a"})
