"""An epoch that stops anywhere goes on with every instance that is left, under any settings of its batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from students import tiny

from skipthinking.data.planning import Planning, plan_epoch
from skipthinking.data.position import Epoch
from skipthinking.records import Instance, UserError


def instances(count: int, pairs: bool = False) -> list[Instance]:
    """Instances of 1 to 9 tokens."""
    rng = np.random.default_rng(count)
    return [
        Instance(id=str(i // 2 if pairs else i), prompt=np.array([1]), tokens=np.ones(size, dtype=np.int64),
                 weights=np.ones(size, dtype=np.float32), term=0, reference=-1.0 if pairs else None)
        for i, size in enumerate(rng.integers(1, 10, count))
    ]  # fmt: skip


def epoch_of(
    number: int, rows: Sequence[Instance], planning: Planning, position: dict[str, Any] | None = None
) -> Epoch:
    """The epoch of the given instances."""
    return Epoch(number, tiny.epoch_instances(rows), planning, position)


def plannings(seed: int) -> list[Planning]:
    """Five settings at random; the same ones may follow each other."""
    rng = np.random.default_rng(seed)
    some = [
        Planning(
            seed=3, batch_size=int(rng.integers(1, 6)), batch_tokens=None if rng.random() < 0.6 else 25,
            ranks=int(rng.integers(1, 4)), accumulate=int(rng.integers(1, 4)), bucket=bool(rng.integers(2)),
        )
        for _ in range(2)
    ]  # fmt: skip
    return [some[int(which)] for which in rng.integers(0, 2, 5)]


def trained(epoch: Epoch, rows: int) -> list[int]:
    """The instances of all ranks in the first micro-batches of a plan."""
    micro = [row for step in epoch.plan.steps for row in step][:rows]
    return [i for row in micro for batch in row for i in batch]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_every_instance_is_trained_on_once_whatever_changes_at_every_stop(seed: int, pairs: bool) -> None:
    rng = np.random.default_rng(100 + seed)
    rows = instances(46, pairs)
    seen: list[int] = []
    position: dict[str, Any] | None = None
    for planning in plannings(seed):
        epoch = epoch_of(7, rows, planning, position)
        assert epoch.offset % planning.accumulate == 0
        steps = int(rng.integers(0, len(epoch.plan.steps) // 2 + 1))
        micro = sum(map(len, epoch.plan.steps[:steps]))
        seen += trained(epoch, micro)
        position = json.loads(json.dumps(epoch.position(epoch.offset + micro)))
    rest = epoch_of(7, rows, plannings(seed)[0], position)
    seen += trained(rest, rest.plan.rows())
    assert sorted(seen) == list(range(46))
    nothing = epoch_of(7, rows, plannings(seed)[1], rest.position(rest.offset + rest.plan.rows()))
    assert nothing.plan.steps == []


@pytest.mark.parametrize("tokens", [None, 25])
@pytest.mark.parametrize("steps", range(5))
def test_the_same_settings_continue_the_same_plan(steps: int, tokens: int | None) -> None:
    rows, settings = instances(31), {"seed": 0, "batch_size": 3, "accumulate": 2, "batch_tokens": tokens}
    lengths = np.array([len(row.prompt) + len(row.tokens) for row in rows])
    whole = plan_epoch(lengths, epoch=2, **settings)
    epoch = epoch_of(2, rows, Planning(**settings), epoch_of(2, rows, Planning(**settings)).position(2 * steps))
    assert epoch.plan.steps == whole.steps[steps:]
    again = epoch_of(2, rows, Planning(**settings), epoch.position(epoch.offset + 2))
    assert again.plan.steps == whole.steps[steps + 1 :]


@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("steps", range(4))
def test_a_step_split_in_another_way_continues_the_same_steps(steps: int, bucket: bool) -> None:
    """A run that goes on with two processes in place of one differs from a run in one go by rounding only."""
    rows, ways = instances(40), [(12, 1, 1), (6, 2, 1), (4, 1, 3), (2, 3, 2)]
    plannings = [
        Planning(seed=1, batch_size=size, ranks=ranks, accumulate=accumulate, bucket=bucket)
        for size, ranks, accumulate in ways
    ]
    position = epoch_of(0, rows, plannings[0]).position(steps)
    whole = [sorted(trained(epoch_of(0, rows, plannings[0]), at)) for at in range(5)]
    for planning in plannings:
        epoch = epoch_of(0, rows, planning, position)
        assert epoch.offset == steps * planning.accumulate
        done = [i for step in epoch.plan.steps for row in step for micro in row for i in micro]
        assert sorted(done) == sorted(set(range(40)) - set(whole[steps]))
        for at, step in enumerate(epoch.plan.steps, steps):
            ours = sorted(i for row in step for micro in row for i in micro)
            assert ours == sorted(set(whole[at + 1]) - set(whole[at]))


def test_micro_batches_of_an_incomplete_step_are_trained_on_again() -> None:
    rows, planning = instances(30), Planning(seed=0, batch_size=2, accumulate=3)
    whole = epoch_of(0, rows, planning)
    for micro in range(whole.plan.rows()):
        resumed = epoch_of(0, rows, planning, whole.position(micro))
        assert resumed.plan.steps == whole.plan.steps[micro // 3 :]
        assert resumed.offset == micro // 3 * 3


def test_an_epoch_goes_on_only_with_its_own_instances() -> None:
    rows = instances(12)
    planning = Planning(seed=0, batch_size=2)
    position = epoch_of(4, rows, planning).position(2)
    for other in (rows[:-1], [*rows, rows[0]], [*rows[:-1], instances(13)[-1]]):
        with pytest.raises(UserError, match="12 training instances that epoch 4 began with"):
            epoch_of(4, other, planning, position)
