"""An epoch knows the sizes of its instances, and makes an instance only when its batch is due."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from searches import on_ranks

from skipthinking.data import epoch_instances
from skipthinking.data.batches import PlannedBatches, ResumableLoader, collate, count, count_sizes
from skipthinking.data.epoch_instances import EpochInstances, survey
from skipthinking.data.planning import plan_epoch
from skipthinking.records import Instance, UserError

LIMIT = 14


def make(example: int) -> list[Instance] | None:
    """None to three instances of 2 to 19 tokens; every eleventh example is left out, every seventh is a pair."""
    rng = np.random.default_rng(example)
    pair = example % 7 == 3
    made = [
        Instance(
            id=f"e{example}", prompt=np.full(rng.integers(1, 5), 9), tokens=np.full(size, 5),
            weights=rng.choice([0.1, 1.0, 3.7], size).astype(np.float32) * (rng.random(size) < 0.7),
            term=int(rng.integers(2)), reference=-1.0 if pair else None,
        )
        for size in rng.integers(1, 16, 2 if pair else rng.integers(0, 4))
    ]  # fmt: skip
    return None if example % 11 == 10 else made


def kept(example: int) -> list[Instance]:
    """The instances of an example that fit, by a loop."""
    made = make(example) or []
    fitting = [row for row in made if len(row.prompt) + len(row.tokens) <= LIMIT]
    return fitting if len(fitting) == len(made) or example % 7 != 3 else []


EXAMPLES = 60
ALL = [row for example in range(EXAMPLES) for row in kept(example)]


def identities(rows: list[Instance]) -> list[tuple[object, ...]]:
    return [(row.id, row.prompt.tolist(), row.tokens.tolist(), row.weights.tolist(), row.term) for row in rows]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_instances, "_BLOCK", 3)


def surveyed(workers: int = 0) -> EpochInstances:
    found = survey(make, EXAMPLES, limit=LIMIT, encoder_decoder=False, workers=workers)
    left_out = [e for e in range(EXAMPLES) if make(e) is None or len(kept(e)) < len(make(e) or [])]
    assert found.left_out.tolist() == left_out
    for example, needed in zip(found.left_out.tolist(), found.needed.tolist(), strict=True):
        assert needed == max((len(row.prompt) + len(row.tokens) for row in make(example) or []), default=0)
    return EpochInstances(make, [f"e{example}" for example in range(EXAMPLES)], found.sizes)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_the_instances_that_fit_in_the_order_of_the_examples(workers: int) -> None:
    epoch = surveyed(workers)
    assert len(epoch) == len(ALL) > 50
    assert identities(epoch.take(range(len(epoch)))) == identities(ALL)
    assert epoch.lengths().tolist() == [len(row.prompt) + len(row.tokens) for row in ALL]
    assert [*epoch.identities()] == [(row.id, row.term, len(row.prompt), len(row.tokens)) for row in ALL]


def test_ranks_share_the_survey_and_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = surveyed().sizes
    for found in on_ranks(monkeypatch, 3, lambda rank: surveyed().sizes):
        assert found.tobytes() == alone.tobytes()


def test_counts_from_sizes_are_those_of_the_instances_to_the_bit() -> None:
    epoch, rng = surveyed(), np.random.default_rng(0)
    for _ in range(50):
        chosen = rng.permutation(len(ALL))[: rng.integers(1, 30)].tolist()
        assert count_sizes(epoch.sizes[chosen], 2) == count([ALL[i] for i in chosen], 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_made_when_due_are_those_of_instances_made_before(workers: int) -> None:
    epoch = surveyed()
    plan = plan_epoch(epoch.lengths(), seed=1, epoch=2, batch_size=4, ranks=2)
    for rank in range(2):
        batches = PlannedBatches(epoch, plan, rank=rank, pad_id=0, encoder_decoder=False, terms=2)
        for (step, row), batch in zip(plan.for_rank(rank), ResumableLoader(batches, 0, workers), strict=True):
            everyone = [ALL[i] for ranks in plan.steps[step] for micro in ranks for i in micro]
            mine = [ALL[i] for i in plan.steps[step][row][rank]]
            want = collate(mine, pad_id=0, encoder_decoder=False, terms=2, step=count(everyone, 2))
            for name in ("tokens_BL", "terms_B", "totals_K", "references_B"):
                assert torch.equal(getattr(batch, name), getattr(want, name))
            assert batch.ids == want.ids
            assert all(map(torch.equal, batch.where, want.where))


def test_a_batch_makes_each_of_its_examples_once_and_no_other() -> None:
    made: Counter[int] = Counter()

    def counted(example: int) -> list[Instance] | None:
        made[example] += 1
        return make(example)

    found = survey(counted, EXAMPLES, limit=LIMIT, encoder_decoder=False)
    assert set(made.values()) == {1}
    assert len(made) == EXAMPLES
    epoch = EpochInstances(counted, [f"e{example}" for example in range(EXAMPLES)], found.sizes)
    plan = plan_epoch(epoch.lengths(), seed=0, epoch=0, batch_size=8)
    batches = PlannedBatches(epoch, plan, rank=0, pad_id=0, encoder_decoder=False, terms=2)
    for index, ((micro,),) in enumerate(plan.steps):
        made.clear()
        batches[index]
        assert made == dict.fromkeys(epoch.sizes["example"][micro].tolist(), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_method_keeps_its_message_in_every_worker(workers: int) -> None:
    def wrong(example: int) -> list[Instance] | None:
        if example == 31:
            raise UserError("Expected a row, got e31. Fix it.")
        return make(example)

    with pytest.raises(UserError, match=r"^Expected a row, got e31\. Fix it\.$"):
        survey(wrong, EXAMPLES, limit=LIMIT, encoder_decoder=False, workers=workers)


def test_an_epoch_takes_bytes_per_instance_whatever_the_length_of_its_instances() -> None:
    assert epoch_instances.SIZES.itemsize <= 32
