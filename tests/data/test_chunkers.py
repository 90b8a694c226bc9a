"""Laws of chunks by size, and of the stage that an epoch shows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import combinations, pairwise, permutations
from typing import Any, Literal

import numpy as np
import pytest

from skipthinking.annotate.sampling import draw_in_phase, draw_stage
from skipthinking.data import chunkers
from skipthinking.data.chunkers import AverageChunks, best_partition, even_partition
from skipthinking.records import Encoded, Example, Span, UserError

IDS = [f"example-{i}" for i in range(4000)]


def partitions(size: int, groups: int) -> Iterator[tuple[Span, ...]]:
    """All ways to cut ``size`` items into ``groups`` contiguous groups."""
    for cuts in combinations(range(1, size), groups - 1):
        yield tuple(pairwise((0, *cuts, size)))


def encoded(*sizes: int) -> Encoded:
    """An example with steps of so many tokens, and an answer of two."""
    ends = np.cumsum([0, *sizes]).tolist()
    return Encoded(
        example=Example(id="a", question="", rationale="", answer="", task="gsm8k"),
        prompts={"": np.array([1])},
        tokens=np.arange(ends[-1] + 2),
        steps=tuple(pairwise(ends)),
        answer=(ends[-1], ends[-1] + 2),
    )


def chi_square(counts: Mapping[Any, int], expected: Mapping[Any, float]) -> float:
    """Pearson's statistic; ``expected`` are probabilities over all possible values."""
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    return sum((counts.get(key, 0) - total * p) ** 2 / (total * p) for key, p in expected.items() if p)


# -------------------------------------------------------------------------------------------- best_partition


@pytest.mark.parametrize(("size", "groups"), [(size, groups) for size in range(1, 9) for groups in range(1, size + 1)])
def test_best_partition_is_the_best_of_all_partitions(size: int, groups: int) -> None:
    rng = np.random.default_rng(size * 10 + groups)
    for _ in range(5):
        costs = rng.normal(size=(size + 1, size + 1))
        totals = {spans: sum(costs[i, j] for i, j in spans) for spans in partitions(size, groups)}
        # Random reals have no ties, so the best one is unique.
        assert best_partition(costs, groups) == min(totals, key=lambda spans: totals[spans])


def test_among_equals_the_last_groups_begin_earliest() -> None:
    rng = np.random.default_rng(0)
    ties = 0
    for _ in range(200):
        size = int(rng.integers(3, 8))
        groups = int(rng.integers(1, size + 1))
        costs = rng.integers(0, 2, size=(size + 1, size + 1)).astype(float)
        totals = {spans: sum(costs[i, j] for i, j in spans) for spans in partitions(size, groups)}
        equals = [spans for spans in totals if totals[spans] == min(totals.values())]
        ties += len(equals) > 1
        assert best_partition(costs, groups) == min(equals, key=lambda spans: [start for start, _ in spans[::-1]])
    assert ties > 50


@pytest.mark.parametrize("rubbish", [np.nan, -1e9, np.inf])
def test_best_partition_reads_the_upper_triangle_alone(rubbish: float) -> None:
    costs = np.full((4, 4), rubbish)
    costs[0, 1], costs[1, 2], costs[2, 3], costs[0, 2], costs[1, 3], costs[0, 3] = 1, 1, 5, 3, 2, 0
    before = costs.copy()
    # 0..1 | 1..3 costs 1 + 2 = 3, and 0..2 | 2..3 costs 3 + 5 = 8.
    assert best_partition(costs, 2) == ((0, 1), (1, 3))
    assert best_partition(costs, 1) == ((0, 3),)
    assert best_partition(costs, 3) == ((0, 1), (1, 2), (2, 3))
    np.testing.assert_array_equal(costs, before)


# --------------------------------------------------------------------------------------------- AverageChunks


@pytest.mark.parametrize("by", ["tokens", "steps"])
@pytest.mark.parametrize("n_chunks", [1, 2, 3, 4, 7])
def test_average_chunks_deviate_least_from_their_mean(n_chunks: int, by: Literal["tokens", "steps"]) -> None:
    dice = random.Random(n_chunks)
    for _ in range(40):
        sizes = [dice.randint(1, 30) for _ in range(dice.randint(1, 8))]
        weighed = sizes if by == "tokens" else [1] * len(sizes)
        chunks = AverageChunks(n_chunks, by).chunk(encoded(*sizes))
        # They cover the steps in order, none is empty, and there are as many as asked for or as there are steps.
        assert [step for start, end in chunks for step in range(start, end)] == list(range(len(sizes)))
        assert all(start < end for start, end in chunks)
        assert len(chunks) == min(n_chunks, len(sizes))

        def deviation(spans: tuple[Span, ...], weighed: list[int] = weighed) -> float:
            mean = sum(weighed) / len(spans)
            return sum((sum(weighed[start:end]) - mean) ** 2 for start, end in spans)

        best = min(deviation(spans) for spans in partitions(len(sizes), len(chunks)))
        assert deviation(chunks) == pytest.approx(best, abs=1e-6)


def test_average_chunks_on_literal_cases() -> None:
    # 10 tokens in 2 chunks: 8 | 2 deviates by 3 + 3 from 5 each, 1 | 9 and 9 | 1 would by 4 + 4.
    assert AverageChunks(2).chunk(encoded(1, 7, 1, 1)) == ((0, 2), (2, 4))
    # 8 steps in 4 chunks are 2 steps each, however long they are.
    assert AverageChunks(4, by="steps").chunk(encoded(1, 90, 1, 1, 50, 1, 1, 1)) == ((0, 2), (2, 4), (4, 6), (6, 8))
    # By tokens a long step stands alone: 30 | 3 + 3 + 3.
    assert AverageChunks(2, by="tokens").chunk(encoded(30, 3, 3, 3)) == ((0, 1), (1, 4))
    assert AverageChunks(2, by="steps").chunk(encoded(30, 3, 3, 3)) == ((0, 2), (2, 4))


def test_fewer_steps_than_chunks_give_one_chunk_per_step() -> None:
    assert AverageChunks(4).chunk(encoded(5, 50, 5)) == ((0, 1), (1, 2), (2, 3))
    assert AverageChunks(4).chunk(encoded(5)) == ((0, 1),)
    assert AverageChunks(1).chunk(encoded(5, 50, 5)) == ((0, 3),)
    assert AverageChunks(4).chunk(encoded()) == ()


def test_chunks_do_not_depend_on_the_answer() -> None:
    row = encoded(3, 9, 4, 4)
    longer = Encoded(
        example=row.example, prompts={}, tokens=np.arange(520), steps=row.steps, answer=(row.answer[0], 520)
    )
    assert AverageChunks(3).chunk(longer) == AverageChunks(3).chunk(row)


@pytest.mark.parametrize("n_chunks", [0, -2])
def test_no_chunk_is_a_user_error(n_chunks: int) -> None:
    with pytest.raises(UserError, match=rf"at least 1 chunk, got n_chunks={n_chunks}"):
        AverageChunks(n_chunks)


# ------------------------------------------------------------------------------------------------ draw_stage


@pytest.mark.parametrize("stages", range(1, 8))
def test_every_lap_of_a_cycle_shows_every_stage_once(stages: int) -> None:
    for seed in (0, 7):
        for id in IDS[:50]:
            for lap in range(4):
                epochs = range(lap * stages, (lap + 1) * stages)
                shown = [draw_stage("cycle", stages, seed=seed, epoch=epoch, id=id) for epoch in epochs]
                assert sorted(shown) == list(range(stages))


@pytest.mark.parametrize("start", [0, 5, 10])
@pytest.mark.parametrize("kept", [[0], [0, 1, 2, 3], [1, 4], [0, 2, 3, 6]])
def test_a_phase_shows_every_stage_equally_often(kept: list[int], start: int) -> None:
    for id in IDS[:30]:
        shown = [draw_in_phase([kept] * epochs, seed=3, start=start, id=id) for epochs in range(1, 12)]
        for epochs in range(1, 12):
            counts = Counter(shown[:epochs])
            low = epochs // len(kept)
            assert all(low <= counts[stage] <= low + (epochs % len(kept) > 0) for stage in kept)


def test_the_first_phase_is_a_cycle_and_others_have_their_own_orders() -> None:
    for id in IDS[:50]:
        for epoch in range(9):
            oracle = draw_stage("cycle", 4, seed=1, epoch=epoch, id=id)
            assert draw_in_phase([range(4)] * (epoch + 1), seed=1, start=0, id=id) == oracle
    first = [[draw_in_phase([range(3)], seed=0, start=start, id=id) for id in IDS] for start in (0, 3)]
    ninth = {(a, b): 1 / 9 for a in range(3) for b in range(3)}
    assert chi_square(Counter(zip(*first, strict=True)), ninth) < 31.8  # the 99.99% quantile for 8 degrees of freedom


def test_with_gaps_the_stage_drawn_least_often_comes_next() -> None:
    dice, never, given = random.Random(0), 0, 0
    for id in IDS[:400]:
        phase = [[*(m for m in range(4) if dice.random() > 0.25), 4] for _ in range(6)]
        counts: Counter[int] = Counter()
        for epoch in range(1, 7):
            drawn = draw_in_phase(phase[:epoch], seed=0, start=5, id=id)
            assert drawn in phase[epoch - 1]
            assert counts[drawn] == min(counts[m] for m in phase[epoch - 1])
            counts[drawn] += 1
        given += sum(any(m in shown for shown in phase) for m in range(4))
        never += sum(not counts[m] for m in range(4) if any(m in shown for shown in phase))
    assert never < 0.06 * given  # with laps from epoch 0, 31% of the chunks in 5 such epochs


def test_a_cycle_goes_through_every_order_alike() -> None:
    def order(id: str, lap: int) -> tuple[int, ...]:
        return tuple(draw_stage("cycle", 3, seed=0, epoch=3 * lap + i, id=id) for i in range(3))

    six = dict.fromkeys(permutations(range(3)), 1 / 6)
    # 25.7 is the 99.99% quantile for 5 degrees of freedom.
    assert chi_square(Counter(order(id, 0) for id in IDS), six) < 25.7
    assert chi_square(Counter(order(id, 5) for id in IDS), six) < 25.7
    # Another lap has an order of its own: the same one for a sixth of the examples.
    again = sum(order(id, 0) == order(id, 1) for id in IDS) / len(IDS)
    assert again == pytest.approx(1 / 6, abs=0.03)


@pytest.mark.parametrize("sampling", ["cycle", "uniform", "loss"])
def test_a_draw_is_a_function_of_its_arguments(sampling: Literal["cycle", "uniform", "loss"]) -> None:
    losses = [1.0, 2.0, 3.0, 4.0, 5.0]

    def draws() -> list[int]:
        return [draw_stage(sampling, 5, seed=3, epoch=e, id=id, losses=losses) for id in IDS[:20] for e in range(7)]

    random.seed(1)
    state = random.getstate()
    first = draws()
    assert random.getstate() == state
    random.seed(2)
    np.random.seed(2)
    assert draws() == first
    assert draws()[::-1] == first[::-1]


@pytest.mark.parametrize(
    ("sampling", "pinned"),
    [
        ("cycle", [0, 3, 2, 1, 3, 1, 0, 2, 2, 1, 3, 0]),
        ("uniform", [1, 2, 0, 1, 1, 3, 2, 2, 3, 0, 1, 3]),
        ("loss", [1, 3, 3, 2, 1, 2, 1, 2, 2, 3, 1, 3]),
    ],
)
def test_draws_are_the_same_in_every_process(sampling: Literal["cycle", "uniform", "loss"], pinned: list[int]) -> None:
    # Pinned: a resumed run goes on with the stages that the first process drew.
    drawn = [draw_stage(sampling, 4, seed=1, epoch=epoch, id="gsm8k-17", losses=[1, 2, 3, 4]) for epoch in range(12)]
    assert drawn == pinned


def test_uniform_draws_every_stage_alike() -> None:
    quarter = dict.fromkeys(range(4), 0.25)
    # 21.1 is the 99.99% quantile for 3 degrees of freedom.
    for epoch in (0, 1, 50):
        assert chi_square(Counter(draw_stage("uniform", 4, seed=0, epoch=epoch, id=id) for id in IDS), quarter) < 21.1
    # Over the epochs of one example too.
    over = Counter(draw_stage("uniform", 4, seed=0, epoch=epoch, id="a") for epoch in range(4000))
    assert chi_square(over, quarter) < 21.1


def test_loss_draws_in_proportion_to_the_losses() -> None:
    # Losses 1, 2, 5, 0 of 8: the last stage is never drawn.
    drawn = Counter(draw_stage("loss", 4, seed=0, epoch=2, id=id, losses=[1.0, 2.0, 5.0, 0.0]) for id in IDS)
    assert drawn[3] == 0
    # 18.4 is the 99.99% quantile for 2 degrees of freedom.
    assert chi_square(drawn, {0: 1 / 8, 1: 2 / 8, 2: 5 / 8, 3: 0}) < 18.4


def test_loss_without_losses_is_uniform() -> None:
    for losses in (None, [0.0, 0.0, 0.0, 0.0]):
        drawn = Counter(draw_stage("loss", 4, seed=0, epoch=2, id=id, losses=losses) for id in IDS)
        assert chi_square(drawn, dict.fromkeys(range(4), 0.25)) < 21.1


@pytest.mark.parametrize("sampling", ["cycle", "uniform"])
def test_losses_do_not_move_the_other_samplings(sampling: Literal["cycle", "uniform"]) -> None:
    for id in IDS[:50]:
        with_losses = draw_stage(sampling, 4, seed=0, epoch=1, id=id, losses=[0, 0, 0, 9])
        assert with_losses == draw_stage(sampling, 4, seed=0, epoch=1, id=id)


@pytest.mark.parametrize("sampling", ["cycle", "uniform", "loss"])
def test_ids_and_seeds_draw_independently(sampling: Literal["cycle", "uniform", "loss"]) -> None:
    ninth = {(a, b): 1 / 9 for a in range(3) for b in range(3)}
    ones = [1.0, 1.0, 1.0]
    # 31.8 is the 99.99% quantile for 8 degrees of freedom.
    ids = Counter(
        (
            draw_stage(sampling, 3, seed=0, epoch=4, id=f"{id}a", losses=ones),
            draw_stage(sampling, 3, seed=0, epoch=4, id=f"{id}b", losses=ones),
        )
        for id in IDS
    )
    assert chi_square(ids, ninth) < 31.8
    seeds = Counter(
        (
            draw_stage(sampling, 3, seed=0, epoch=4, id=id, losses=ones),
            draw_stage(sampling, 3, seed=1, epoch=4, id=id, losses=ones),
        )
        for id in IDS
    )
    assert chi_square(seeds, ninth) < 31.8


def test_uniform_epochs_draw_independently() -> None:
    ninth = {(a, b): 1 / 9 for a in range(3) for b in range(3)}
    epochs = Counter(
        (draw_stage("uniform", 3, seed=0, epoch=4, id=id), draw_stage("uniform", 3, seed=0, epoch=5, id=id))
        for id in IDS
    )
    assert chi_square(epochs, ninth) < 31.8


def test_digits_of_seed_epoch_and_id_do_not_run_together() -> None:
    # Were the parts simply joined, (1, 12, "x"), (11, 2, "x") and (1, 1, "2x") would draw alike for every "x".
    for first, second in [((1, 12, ""), (11, 2, "")), ((1, 1, "2"), (1, 12, ""))]:
        same = sum(
            draw_stage("uniform", 4, seed=first[0], epoch=first[1], id=first[2] + id)
            == draw_stage("uniform", 4, seed=second[0], epoch=second[1], id=second[2] + id)
            for id in IDS[:400]
        )
        assert same < 200  # a quarter, 100, by chance


@pytest.mark.parametrize("seed", range(40))
def test_even_chunks_have_the_least_squared_deviation_by_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.randint(1, 4) for _ in range(rng.randint(1, 9))]
    groups = rng.randint(1, len(sizes))
    mean = Fraction(sum(sizes), groups)

    def rank(ends: tuple[int, ...]) -> tuple[Fraction, tuple[int, ...]]:
        """The cost, and among equals the earliest last groups."""
        return sum(((sum(sizes[i:j]) - mean) ** 2 for i, j in pairwise(ends)), Fraction()), ends[::-1]

    every = [(0, *cuts, len(sizes)) for cuts in combinations(range(1, len(sizes)), groups - 1)]
    assert even_partition(sizes, groups) == tuple(pairwise(min(every, key=rank)))


def test_the_work_for_even_chunks_grows_with_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[int] = Counter()
    for name in ("_at", "_hides"):
        kind = getattr(chunkers, name)
        monkeypatch.setattr(chunkers, name, lambda *args, kind=kind: (calls.update([steps]), kind(*args))[1])
    for steps in (541, 1082):
        even_partition(random.Random(0).choices(range(1, 60), k=steps), 4)
    assert 541 * 3 < calls[1082] < 2.2 * calls[541]
