"""Laws of the learning-rate schedule: literal rates, and the same rates after a resume."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from skipthinking.methods.schedules import Warmup
from skipthinking.records import UserError

each_decay = pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def factors(steps: int, **settings: Any) -> list[float]:
    """The rate of every optimiser step, and of the one that would follow, as shares of the base rate."""
    by = optimizer(2.0)
    schedule, found = Warmup(by, **settings), []
    for _ in range(steps + 1):
        found.append(by.param_groups[0]["lr"] / 2.0)
        by.step()
        schedule.step()
    return found


QUARTER = (1 + math.sqrt(0.5)) / 2  # cosine decay after a quarter of its way: (1 + cos 45°) / 2 = 0.854


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 10 steps, 2 of them warm-up: 1/3, 2/3, then 1 at step 2; a quarter of the decay at 4, half at 6, its end at 10
        ({"decay": "constant"}, {0: 1 / 3, 1: 2 / 3, 2: 1.0, 4: 1.0, 6: 1.0, 10: 1.0}),
        ({"decay": "linear"}, {0: 1 / 3, 1: 2 / 3, 2: 1.0, 4: 0.75, 6: 0.5, 9: 0.125, 10: 0.0}),
        ({"decay": "cosine"}, {0: 1 / 3, 1: 2 / 3, 2: 1.0, 4: QUARTER, 6: 0.5, 8: 1 - QUARTER, 10: 0.0}),
        # a floor of 0.1: 0.1 + 0.9 * what is left; the warm-up starts from zero all the same
        ({"decay": "constant", "floor": 0.1}, {0: 1 / 3, 2: 1.0, 6: 1.0, 10: 1.0}),
        ({"decay": "linear", "floor": 0.1}, {0: 1 / 3, 2: 1.0, 4: 0.775, 6: 0.55, 10: 0.1}),
        ({"decay": "cosine", "floor": 0.1}, {0: 1 / 3, 2: 1.0, 4: 0.1 + 0.9 * QUARTER, 6: 0.55, 10: 0.1}),
    ],
)
def test_literal_rates(settings: dict[str, Any], expected: dict[int, float]) -> None:
    found = factors(10, warmup=0.2, total_steps=10, **settings)
    assert {step: found[step] for step in expected} == pytest.approx(expected, abs=1e-12)


def test_default_is_a_short_warmup_and_linear_decay_to_zero() -> None:
    found = factors(100, total_steps=100)
    # 5% of 100 steps: 5 steps of warm-up, then 95 down to zero
    expected = [1 / 6, 2 / 6, 5 / 6, 1.0, 94 / 95, 1 / 95, 0.0]
    assert [found[step] for step in (0, 1, 4, 5, 6, 99, 100)] == pytest.approx(expected)


@each_decay
def test_rate_stays_at_the_end_behind_the_last_step(decay: str) -> None:
    found = factors(15, warmup=0.2, decay=decay, floor=0.3, total_steps=10)
    assert found[10:] == pytest.approx([1.0 if decay == "constant" else 0.3] * 6)


@each_decay
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.33, 1.0])
@pytest.mark.parametrize("total", [1, 2, 3, 17])
def test_every_step_has_a_rate_above_zero(decay: str, warmup: float, total: int) -> None:
    found = factors(total, warmup=warmup, decay=decay, total_steps=total)[:total]
    assert all(0.0 < factor <= 1.0 for factor in found)
    assert warmup == 1.0 or total < 17 or max(found) > 0.9  # the rate that was asked for is come to
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])  # up
    assert found[top:] == sorted(found[top:], reverse=True)  # then down


def test_without_warmup_the_first_step_has_the_whole_rate() -> None:
    assert factors(4, warmup=0.0, total_steps=4) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert factors(1, warmup=0.0, total_steps=1) == pytest.approx([1.0, 0.0])


def test_groups_keep_their_proportion() -> None:
    by = optimizer(2.0, 0.5)
    schedule = Warmup(by, warmup=0.2, total_steps=10)
    for _ in range(10):
        first, second = (group["lr"] for group in by.param_groups)
        assert first == pytest.approx(4 * second)
        by.step()
        schedule.step()


@each_decay
def test_length_told_later_equals_length_given(decay: str) -> None:
    told, given = optimizer(2.0), optimizer(2.0)
    later = Warmup(told, warmup=0.3, decay=decay)  # type: ignore[arg-type]
    later.set_run_length(20)
    at_once = Warmup(given, warmup=0.3, decay=decay, total_steps=20)  # type: ignore[arg-type]
    at_once.set_run_length(5)  # what the user gave counts
    for _ in range(21):
        assert told.param_groups[0]["lr"] == given.param_groups[0]["lr"]
        for by, schedule in ((told, later), (given, at_once)):
            by.step()
            schedule.step()


@each_decay
@pytest.mark.parametrize("at", [0, 3, 6, 13, 20])
def test_resume_goes_on_with_the_same_rates(decay: str, at: int) -> None:
    expected = factors(20, warmup=0.3, decay=decay, floor=0.1, total_steps=20)
    by = optimizer(2.0)
    schedule = Warmup(by, warmup=0.3, decay=decay, floor=0.1)  # type: ignore[arg-type]
    schedule.set_run_length(20)
    for _ in range(at):
        by.step()
        schedule.step()
    kept = json.loads(json.dumps([schedule.state_dict(), by.state_dict()["param_groups"]]))

    resumed = optimizer(2.0)
    again = Warmup(resumed, warmup=0.3, decay=decay, floor=0.1)  # type: ignore[arg-type]
    again.set_run_length(20)
    again.load_state_dict(kept[0])
    resumed.load_state_dict({"state": {}, "param_groups": kept[1]})
    found = []
    for _ in range(at, 21):
        found.append(resumed.param_groups[0]["lr"] / 2.0)
        resumed.step()
        again.step()
    assert found == expected[at:]


@pytest.mark.parametrize(
    "setting",
    [{"warmup": -0.1}, {"warmup": 1.1}, {"floor": -0.1}, {"floor": 1.1}, {"total_steps": 0}, {"warmup": math.nan}],
)
def test_setting_out_of_range_is_refused(setting: dict[str, Any]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=rf"Expected warmup and floor from 0 to 1.*{name}={value}"):
        Warmup(optimizer(1.0), **setting)


def test_unknown_decay_is_refused() -> None:
    with pytest.raises(UserError, match="exponential"):
        Warmup(optimizer(1.0), decay="exponential")  # type: ignore[arg-type]


@each_decay
def test_run_without_an_end_needs_a_length(decay: str) -> None:
    with pytest.raises(UserError, match=r"Expected a run with an end.*total_steps"):
        Warmup(optimizer(1.0), decay=decay).set_run_length(None)  # type: ignore[arg-type]
    by = optimizer(2.0)
    Warmup(by, warmup=0.2, decay=decay, total_steps=10).set_run_length(None)  # type: ignore[arg-type]
    assert by.param_groups[0]["lr"] == pytest.approx(2 / 3)


def test_last_rate_is_that_of_the_optimizer_once_the_length_is_told() -> None:
    by = optimizer(2.0)
    schedule = Warmup(by, warmup=0.3)
    schedule.set_run_length(20)
    assert schedule.get_last_lr() == [by.param_groups[0]["lr"]]


@each_decay
def test_epochs_take_equal_shares_whatever_their_steps(decay: str) -> None:
    """Epochs of 4, 2 and 8 steps go through the same rates as three of 4, faster or slower."""
    expected = factors(12, warmup=0.25, decay=decay, total_steps=12)
    by = optimizer(2.0)
    schedule, found = Warmup(by, warmup=0.25, decay=decay), []  # type: ignore[arg-type]
    schedule.set_run_length(12)
    for epoch, steps in enumerate((4, 2, 8)):
        schedule.begin_epoch(epoch, steps, first=4)
        for _ in range(steps):
            found.append(by.param_groups[0]["lr"] / 2.0)
            by.step()
            schedule.step()
    assert found[:4] == expected[:4]  # to the last bit: a run of equal epochs is what it was
    assert found[4:6] == pytest.approx(expected[4:8:2])
    assert found[6::2] == pytest.approx(expected[8:12])
    assert by.param_groups[0]["lr"] / 2.0 == pytest.approx(expected[12])


@pytest.mark.parametrize("total_steps", [None, 12])
@each_decay
def test_an_epoch_that_goes_on_in_other_steps_ends_at_the_same_rate(decay: str, total_steps: int | None) -> None:
    """The second of three epochs of 4 steps goes on after one step: with 6 steps in place of 3, or with one."""
    expected = factors(12, warmup=0.25, decay=decay, total_steps=12)
    for left in (3, 6, 1):
        by = optimizer(2.0)
        schedule, found = Warmup(by, warmup=0.25, decay=decay, total_steps=total_steps), []  # type: ignore[arg-type]
        schedule.set_run_length(12)
        for epoch, steps in enumerate((4, 1 + left, 4)):
            schedule.begin_epoch(epoch, 4, first=4)
            for step in range(steps):
                if epoch == 1 and step >= 1:
                    schedule.resume_epoch(epoch, steps, done=step, first=4)  # again at every later stop
                found.append(by.param_groups[0]["lr"] / 2.0)
                by.step()
                schedule.step()
        assert found[:5] == expected[:5]
        if total_steps is None:
            assert found[5 + left :] == pytest.approx(expected[8:12])
            assert found[5] == pytest.approx(expected[5], abs=1e-9)
        else:
            assert found[: min(12, len(found))] == expected[: min(12, len(found))]
        if left == 3:
            assert found == expected[:12]  # to the last bit where nothing changed
