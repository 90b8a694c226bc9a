"""Laws of batches: what is padded, counted and shared out, and a loader that goes on where it stopped."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from students import tiny

from skipthinking.data.batches import (
    Batch,
    Counts,
    PlannedBatches,
    ResumableLoader,
    TargetIndex,
    collate,
    count,
    instance_length,
)  # fmt: skip
from skipthinking.data.epoch_instances import contexts_needed, sizes
from skipthinking.data.planning import Plan, plan_epoch
from skipthinking.records import Instance

PAD = 0  # also the last token of every instance, as where EOS pads


def instance(
    id: str, prompt: Sequence[int], tokens: Sequence[int], weights: Sequence[float], term: int = 0
) -> Instance:
    return Instance(
        id=id,
        prompt=np.array(prompt, dtype=np.int64),
        tokens=np.array(tokens, dtype=np.int64),
        weights=np.array(weights, dtype=np.float32),
        term=term,
    )


def instances(size: int, terms: int = 1) -> list[Instance]:
    """Instances with context, fractional weights, and PAD among and behind their tokens."""
    dice = random.Random(size)
    made = []
    for i in range(size):
        length = dice.randint(1, 9)
        tokens = [dice.choice([PAD, 5, 6, 7]) for _ in range(length - 1)] + [PAD]
        weights = [dice.choice([0, 0, 0.25, 1, 3]) for _ in range(length - 1)] + [1]
        made.append(instance(str(i), [dice.randint(0, 9)] * dice.randint(1, 4), tokens, weights, (i + 1) % terms))
    return made


def planned(
    rows: Sequence[Instance], plan: Plan, *, rank: int = 0, encoder_decoder: bool = False, terms: int = 1
) -> PlannedBatches:
    return PlannedBatches(
        tiny.epoch_instances(rows), plan, rank=rank, pad_id=PAD, encoder_decoder=encoder_decoder, terms=terms
    )


def weight_sums(rows: Sequence[Instance], terms: int) -> list[float]:
    """Weights per term, one token after the other."""
    sums = [0.0] * terms
    for row in rows:
        for weight in row.weights.tolist():
            sums[row.term] += weight
    return sums


def weights_of(batch: Batch) -> torch.Tensor:
    """Loss weight of every token, (B, L), from the index of a batch that is not packed."""
    weights_BL = torch.zeros(batch.tokens_BL.shape)
    shift = 1 if batch.prompts_BP is None else 0  # causal students: position t predicts token t + 1
    rows_N, columns_N = batch.where.rows_N, batch.where.places_N % (weights_BL.shape[1] - shift) + shift
    assert torch.equal(batch.where.places_N // (weights_BL.shape[1] - shift), rows_N)
    assert torch.equal(batch.where.ids_N, batch.tokens_BL[rows_N, columns_N])
    weights_BL[rows_N, columns_N] = batch.where.weights_N
    return weights_BL


def assert_same(one: NamedTuple, other: NamedTuple) -> None:
    for name, left, right in zip(one._fields, one, other, strict=True):
        if isinstance(left, TargetIndex):
            assert_same(left, right)
        elif isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype, name
            assert torch.equal(left, right), name
        else:
            assert left == right, name


# --------------------------------------------------------------------------------------------------- collate


TWO = [instance("a", [8, 9], [5, 6, PAD], [0, 0.5, 1]), instance("b", [7], [PAD], [2], term=1)]


def test_causal_batches_join_prompt_and_completion() -> None:
    batch = collate(TWO, pad_id=PAD, encoder_decoder=False, terms=2)
    assert batch.ids == ["a", "b"]
    assert batch.tokens_BL.tolist() == [[8, 9, 5, 6, PAD], [7, PAD, PAD, PAD, PAD]]
    assert batch.lengths_B.tolist() == [5, 2]
    assert weights_of(batch).tolist() == [[0, 0, 0, 0.5, 1], [0, 2, 0, 0, 0]]
    assert batch.terms_B.tolist() == [0, 1]
    assert batch.prompts_BP is None
    assert batch.prompt_lengths_B is None
    # Three targets: two of "a", one of "b". Contexts: 8 9 5 and 7.
    assert (batch.targets, batch.contexts) == (3, 4)
    assert batch.totals_K.tolist() == [1.5, 2]


def test_encoder_decoder_batches_keep_prompt_and_completion_apart() -> None:
    batch = collate(TWO, pad_id=PAD, encoder_decoder=True, terms=2)
    assert batch.tokens_BL.tolist() == [[5, 6, PAD], [PAD, PAD, PAD]]
    assert batch.lengths_B.tolist() == [3, 1]
    assert weights_of(batch).tolist() == [[0, 0.5, 1], [2, 0, 0]]
    assert batch.prompts_BP is not None
    assert batch.prompt_lengths_B is not None
    assert batch.prompts_BP.tolist() == [[8, 9], [7, PAD]]
    assert batch.prompt_lengths_B.tolist() == [2, 1]
    assert (batch.targets, batch.contexts) == (3, 4)
    assert batch.totals_K.tolist() == [1.5, 2]


def test_batches_have_the_types_that_models_take() -> None:
    batch = collate(TWO, pad_id=PAD, encoder_decoder=True, terms=2)
    assert batch.prompts_BP is not None
    assert batch.prompt_lengths_B is not None
    assert {batch.tokens_BL.dtype, batch.prompts_BP.dtype, batch.lengths_B.dtype, batch.terms_B.dtype} == {torch.long}
    assert batch.prompt_lengths_B.dtype == torch.long
    assert batch.where.weights_N.dtype == batch.totals_K.dtype == torch.float32


@pytest.mark.parametrize("encoder_decoder", [False, True])
@pytest.mark.parametrize("pad", [PAD, 5, 99])
def test_padding_has_no_weight_and_rows_give_the_instances_back(encoder_decoder: bool, pad: int) -> None:
    rows = instances(20)
    batch = collate(rows, pad_id=pad, encoder_decoder=encoder_decoder)
    for i, row in enumerate(rows):
        length = int(batch.lengths_B[i])
        assert (weights_of(batch)[i, length:] == 0).all()
        assert (batch.tokens_BL[i, length:] == pad).all()
        tokens = batch.tokens_BL[i, :length].tolist()
        if batch.prompts_BP is None or batch.prompt_lengths_B is None:
            assert not encoder_decoder
            prompt, tokens = tokens[: len(row.prompt)], tokens[len(row.prompt) :]
            assert (weights_of(batch)[i, : len(row.prompt)] == 0).all()
        else:
            place = int(batch.prompt_lengths_B[i])
            prompt = batch.prompts_BP[i, :place].tolist()
            assert (batch.prompts_BP[i, place:] == pad).all()
        assert prompt == row.prompt.tolist()
        assert tokens == row.tokens.tolist()
        assert weights_of(batch)[i, length - len(tokens) : length].tolist() == row.weights.tolist()
    assert batch.tokens_BL.shape == weights_of(batch).shape == (20, int(batch.lengths_B.max()))


def test_what_pads_changes_nothing_but_the_padding() -> None:
    rows = instances(10)
    one, other = (collate(rows, pad_id=pad, encoder_decoder=False) for pad in (PAD, 99))
    inside = torch.arange(one.tokens_BL.shape[1])[None, :] < one.lengths_B[:, None]
    assert torch.equal(one.tokens_BL[inside], other.tokens_BL[inside])
    assert_same(one, other._replace(tokens_BL=one.tokens_BL))


def test_the_normaliser_of_a_batch_is_the_steps() -> None:
    batch = collate(TWO, pad_id=PAD, encoder_decoder=False, terms=2, step=Counts([10.5, 20.0], 77, 88))
    assert batch.totals_K.tolist() == [10.5, 20]
    assert (batch.targets, batch.contexts) == (3, 4)  # its own


def test_count_adds_up_weights_targets_and_contexts() -> None:
    assert count(TWO, 2) == Counts([1.5, 2.0], 3, 4)
    assert count([], 3) == Counts([0.0, 0.0, 0.0], 0, 0)
    rows = instances(30, terms=3)
    counted = count(rows, 3)
    assert counted.weights == pytest.approx(weight_sums(rows, 3))
    assert counted.targets == sum(weight > 0 for row in rows for weight in row.weights.tolist())
    assert counted.targets + counted.contexts == sum(instance_length(row) for row in rows)
    assert instance_length(TWO[0]) == 5


def test_many_small_weights_are_summed_without_loss() -> None:
    # float32 sums of 0.1 drift: a float64 sum of a million float32 0.1s is 100000.00149...
    row = instance("a", [1], [5] * 1_000_000, [0.1] * 1_000_000)
    assert count([row]).weights[0] == pytest.approx(1_000_000 * float(np.float32(0.1)), rel=1e-12)


# -------------------------------------------------------------------------------------------- PlannedBatches


@pytest.mark.parametrize("encoder_decoder", [False, True])
@pytest.mark.parametrize("tokens", [None, 24])
@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("size", [1, 2, 7, 25])
@pytest.mark.parametrize("terms", [1, 2])
def test_ranks_and_micro_batches_add_up(
    size: int, ranks: int, accumulate: int, tokens: int | None, encoder_decoder: bool, terms: int
) -> None:
    rows = instances(size, terms)
    lengths = np.array([instance_length(row) for row in rows])
    plan = plan_epoch(lengths, seed=0, epoch=0, batch_size=3, batch_tokens=tokens, ranks=ranks, accumulate=accumulate)
    loaders = [planned(rows, plan, rank=rank, encoder_decoder=encoder_decoder, terms=terms) for rank in range(ranks)]
    places = [(step, row) for step, content in enumerate(plan.steps) for row in range(len(content))]
    assert [len(loader) for loader in loaders] == [len(places)] * ranks
    seen: list[str] = []
    by_step = np.zeros((len(plan.steps), terms))
    for index, (step, _) in enumerate(places):
        batches = [loader[index] for loader in loaders]
        shown = []
        for batch in batches:
            weights = weights_of(batch).double().sum(dim=1)
            for id, term, weight in zip(batch.ids, batch.terms_B.tolist(), weights.tolist(), strict=True):
                by_step[step, term] += weight
                if weight:  # not a ghost
                    shown.append(rows[int(id)])
        seen += [row.id for row in shown]
        # The normaliser of every batch is that of the whole step, by brute force over its instances.
        everyone = [rows[i] for content in plan.steps[step] for micro in content for i in micro]
        for batch in batches:
            assert batch.totals_K.tolist() == pytest.approx(weight_sums(everyone, terms))
            # Every rank tells the counts of all ranks, and those are the shown instances'.
            assert batch.targets == sum(weight > 0 for row in shown for weight in row.weights.tolist())
            assert batch.targets + batch.contexts == sum(map(instance_length, shown))
        if index + 1 == len(places) or places[index + 1][0] != step:
            assert by_step[step].tolist() == pytest.approx(batches[0].totals_K.tolist())
    assert sorted(seen, key=int) == [str(i) for i in range(size)]
    assert by_step.sum(axis=0).tolist() == pytest.approx(weight_sums(rows, terms))
    epoch = [loaders[0][index] for index in range(len(places))]
    assert sum(batch.targets + batch.contexts for batch in epoch) == lengths.sum()


def test_a_rank_without_instances_runs_a_ghost_that_counts_nothing() -> None:
    rows = instances(3)
    # One step of one row: rank 0 has instances 2 and 0, rank 1 none, rank 2 instance 1.
    plan = Plan(steps=[[[[2, 0], [], [1]]]])
    batches = [planned(rows, plan, rank=rank)[0] for rank in range(3)]
    assert [batch.ids for batch in (batches[0], batches[2])] == [["2", "0"], ["1"]]
    ghost = batches[1]
    assert len(ghost.ids) == 1  # a forward pass with something in it
    assert int(ghost.lengths_B[0]) > 0
    assert weights_of(ghost).shape == ghost.tokens_BL.shape
    assert not weights_of(ghost).any()
    # What it tells is that of the others: it adds nothing.
    assert torch.equal(ghost.totals_K, batches[0].totals_K)
    assert ghost.totals_K.tolist() == pytest.approx(weight_sums(rows, 1))
    counted = count(rows)
    assert {(batch.targets, batch.contexts) for batch in batches} == {(counted.targets, counted.contexts)}


def test_a_ghost_of_a_row_is_filled_from_its_step() -> None:
    rows = instances(6)
    # The second step accumulates two rows; in its second row rank 1 has none.
    plan = Plan(steps=[[[[0], [1]]], [[[2], [3]], [[4], []]]])
    batch = planned(rows, plan, rank=1)[2]
    assert not weights_of(batch).any()
    assert batch.totals_K.tolist() == pytest.approx(weight_sums(rows[2:5], 1))
    counted = count([rows[4]])
    assert (batch.targets, batch.contexts) == (counted.targets, counted.contexts)
    # Building a ghost leaves the instances alone.
    assert all(row.weights[-1] == 1 for row in rows)


# ------------------------------------------------------------------------------------------- ResumableLoader


def five_batches() -> PlannedBatches:
    rows = instances(14)
    lengths = np.array([instance_length(row) for row in rows])
    return planned(rows, plan_epoch(lengths, seed=0, epoch=3, batch_size=3))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("offset", [0, 3])
def test_a_loader_hands_out_the_plan_in_order(workers: int, offset: int) -> None:
    batches = five_batches()
    loader = ResumableLoader(batches, offset, num_workers=workers)
    for _ in range(2):  # Lightning makes two iterators in some epochs
        handed = list(loader)
        assert len(handed) == len(batches) == 5
        for index, batch in enumerate(handed):
            assert_same(batch, batches[index])
    assert len(loader) == offset + 5


def test_a_loader_draws_nothing_from_the_global_generator() -> None:
    # A resumed run makes one more loader than a run in one go: dropout must not notice.
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(ResumableLoader(five_batches()))
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_are_counted_over_the_step_and_references_follow_their_rows() -> None:
    rows = [
        Instance(id=str(i // 2), prompt=np.array([1]), tokens=np.array([2, PAD]), weights=np.ones(2, dtype=np.float32),
                 term=i % 2, reference=-float(i))
        for i in range(10)
    ]  # fmt: skip
    plan = plan_epoch(np.full(5, 3), seed=0, epoch=0, batch_size=2, ranks=2).spread(2)
    seen: list[float] = []
    for rank in (0, 1):
        for batch in planned(rows, plan, rank=rank, terms=2):
            ghost = not bool(weights_of(batch).any())
            assert batch.pairs == (4 if len(batch.ids) == 4 else 1)
            if not ghost:
                assert batch.terms_B.tolist() == [0, 1] * (len(batch.ids) // 2)
                assert batch.ids[::2] == batch.ids[1::2]
                seen += batch.references_B.tolist()
    assert sorted(seen) == [-float(i) for i in range(9, -1, -1)]
    plain = collate(instances(3), pad_id=PAD, encoder_decoder=False)
    assert plain.pairs == 0
    assert not plain.references_B.any()


@pytest.mark.parametrize(("prompt", "tokens"), [(7, 3), (3, 7), (5, 5)])
def test_a_causal_student_needs_room_for_both_sides_together_and_t5_for_the_longer_one(
    prompt: int, tokens: int
) -> None:
    row = Instance(
        id="a", prompt=np.zeros(prompt, dtype=np.int64), tokens=np.zeros(tokens, dtype=np.int64),
        weights=np.ones(tokens, dtype=np.float32),
    )  # fmt: skip
    rows = sizes(0, [row])
    assert contexts_needed(rows, encoder_decoder=False).tolist() == [10]
    assert contexts_needed(rows, encoder_decoder=True).tolist() == [max(prompt, tokens)]
