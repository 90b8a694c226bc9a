"""Laws of the loss: it equals one loop over the tokens of a step, however the step is split."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from skipthinking.losses import dpo, row_sums, weighted_likelihood


class Row(NamedTuple):
    """One instance: NLL and weight of every token, and its term."""

    nll: list[float]
    weights: list[float]
    term: int


def step_loss(rows: list[Row], term_weights: list[float]) -> float:
    """The definition: per term the weighted mean over all tokens of the step, then the weighted sum over terms."""
    total = 0.0
    for term, term_weight in enumerate(term_weights):
        upper = lower = 0.0
        for row in rows:
            if row.term == term:
                for nll, weight in zip(row.nll, row.weights, strict=True):
                    upper += weight * nll
                    lower += weight
        if lower:
            total += term_weight * upper / lower
    return total


def totals_of(rows: list[Row], terms: int) -> Tensor:
    return torch.tensor([sum(sum(row.weights) for row in rows if row.term == k) for k in range(terms)])


def part_loss(rows: list[Row], totals_K: Tensor, term_weights: list[float]) -> tuple[Tensor, Tensor]:
    """The contribution of one micro-batch to the loss of a step, and its token NLLs as a leaf tensor."""
    kept = [
        (nll, weight, row.term) for row in rows for nll, weight in zip(row.nll, row.weights, strict=True) if weight > 0
    ]
    nll_N = torch.tensor([nll for nll, _, _ in kept], requires_grad=True)
    weights_N, terms_N = torch.tensor([weight for _, weight, _ in kept]), torch.tensor([term for *_, term in kept])
    return weighted_likelihood(nll_N, weights_N, terms_N, totals_K, term_weights), nll_N


def drawn(seed: int, terms: int, count: int = 9) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        length = rng.randint(1, 40)
        weights = [rng.choice([0.0, 0.0, 0.1, 0.7, 1.0]) for _ in range(length)]
        rows.append(Row([rng.uniform(0, 9) for _ in range(length)], [*weights[:-1], 1.0], i % terms))
    return rows


def test_literal_step() -> None:
    rows = [Row([9.0, 2.0, 4.0], [0.0, 1.0, 0.5], 0), Row([1.0], [1.0], 1), Row([7.0], [1.0], 1)]
    loss, _ = part_loss(rows, totals_of(rows, 2), [1.0, 0.5])
    # term 0: (1*2 + 0.5*4) / 1.5 = 8/3; the 9 is context. term 1: (1 + 7) / 2 = 4, at weight 0.5
    assert loss.item() == pytest.approx(8 / 3 + 2.0)
    assert loss.shape == ()


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_loss_is_the_sum_of_weighted_means(seed: int, terms: int) -> None:
    rows, term_weights = drawn(seed, terms), [1.0, 0.3, 2.5][:terms]
    loss, _ = part_loss(rows, totals_of(rows, terms), term_weights)
    assert loss.item() == pytest.approx(step_loss(rows, term_weights), rel=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_micro_batch_losses_of_any_split_add_up_to_the_step(seed: int) -> None:
    rng, rows, term_weights = random.Random(seed), drawn(seed, 2), [1.0, 0.3]
    totals_K = totals_of(rows, 2)
    order = rng.sample(range(len(rows)), len(rows))
    cuts = sorted(rng.sample(range(1, len(rows)), rng.randint(1, len(rows) - 1)))
    parts = [[rows[i] for i in order[a:b]] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    losses = [part_loss(part, totals_K, term_weights)[0].item() for part in parts]
    assert sum(losses) == pytest.approx(step_loss(rows, term_weights), rel=1e-5)
    # The mean of the losses of the parts differs: the split is uneven.
    assert sum(step_loss(part, term_weights) for part in parts) / len(parts) != pytest.approx(sum(losses), rel=1e-3)


def test_gradient_of_a_token_is_its_weight_over_the_steps() -> None:
    rows, term_weights = drawn(1, 2), [1.0, 0.3]
    totals_K = totals_of(rows, 2)
    loss, nll_N = part_loss(rows[:4], totals_K, term_weights)
    loss.backward()
    expected = [
        term_weights[row.term] * weight / float(totals_K[row.term])
        for row in rows[:4]
        for weight in row.weights
        if weight
    ]
    torch.testing.assert_close(nll_N.grad, torch.tensor(expected))


@pytest.mark.parametrize("term", [0, 1, 2])
def test_each_term_alone_trains_its_tokens_and_no_others(term: int) -> None:
    rows = drawn(2, 3)
    loss, nll_N = part_loss(rows, totals_of(rows, 3), [float(k == term) for k in range(3)])
    loss.backward()
    own = torch.tensor([row.term == term for row in rows for weight in row.weights if weight])
    assert bool((nll_N.grad[own] > 0).all())
    assert not bool(nll_N.grad[~own].any())


def test_term_without_instances_counts_zero() -> None:
    rows = [row._replace(term=1) for row in drawn(3, 1)]
    totals_K = totals_of(rows, 3)
    assert totals_K.tolist()[::2] == [0.0, 0.0]
    loss, nll_N = part_loss(rows, totals_K, [5.0, 1.0, 7.0])
    loss.backward()
    assert loss.item() == pytest.approx(step_loss(rows, [0.0, 1.0, 0.0]), rel=1e-5)
    assert bool(nll_N.grad.isfinite().all())


def test_micro_batch_without_targets_adds_zero() -> None:
    nll_N = torch.zeros(0, requires_grad=True)
    for totals_K in (torch.tensor([3.0, 0.0]), torch.zeros(2)):
        loss = weighted_likelihood(nll_N, torch.zeros(0), torch.zeros(0, dtype=torch.long), totals_K, [1.0, 1.0])
        loss.backward()
        assert loss.item() == 0.0


def test_scale_of_token_weights_cancels_and_that_of_terms_does_not() -> None:
    rows, term_weights = drawn(4, 2), [1.0, 0.3]
    once = part_loss(rows, totals_of(rows, 2), term_weights)[0].item()
    tripled = [row._replace(weights=[3 * weight for weight in row.weights]) for row in rows]
    assert part_loss(tripled, totals_of(tripled, 2), term_weights)[0].item() == pytest.approx(once, rel=1e-5)
    fourfold = [4 * weight for weight in term_weights]
    assert part_loss(rows, totals_of(rows, 2), fourfold)[0].item() == pytest.approx(4 * once, rel=1e-5)
    # Scaling the token weights of one term changes neither its mean nor the loss.
    one = [row if row.term else row._replace(weights=[3 * weight for weight in row.weights]) for row in rows]
    assert part_loss(one, totals_of(one, 2), term_weights)[0].item() == pytest.approx(once, rel=1e-5)


def test_literal_preferences() -> None:
    # beta 0.5. Pair 1: the chosen one gains 1 nat, the rejected one loses 3: margin 0.5 * 4 = 2, -log sigmoid(2).
    # Pair 2: both gain 7, margin 0: log 2. Pair 3: the rejected one gains 2 more: margin -1.
    loss_P = dpo(torch.tensor([1.0, 7.0, 0.0]), torch.tensor([-3.0, 7.0, 2.0]), beta=0.5)
    expected = [math.log(1 + math.exp(-2.0)), math.log(2.0), math.log(1 + math.e)]
    torch.testing.assert_close(loss_P, torch.tensor(expected))
    assert loss_P[0].item() == pytest.approx(0.126928, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_preference_loss_is_log_sigmoid_with_the_gradient_of_the_paper(seed: int) -> None:
    torch.manual_seed(seed)
    logps, references = torch.randn(2, 6, dtype=torch.float64) * 5, torch.randn(2, 6, dtype=torch.float64) * 5
    logps.requires_grad_()
    chosen_P, rejected_P = logps - references
    loss = dpo(chosen_P, rejected_P, beta=0.3).sum()
    reward = 0.3 * (logps - references)
    better = torch.softmax(reward, dim=0)  # Bradley-Terry: the probability that each side is preferred
    assert loss.item() == pytest.approx(-better[0].log().sum().item())
    loss.backward()
    # Rafailov et al., Eq. 8: the weight of a pair is the probability that the reward orders it wrongly.
    torch.testing.assert_close(logps.grad, 0.3 * torch.stack([-better[1], better[1]]).detach())


def test_preference_loss_is_finite_for_large_margins() -> None:
    far = torch.tensor([1e4, -1e4], requires_grad=True)
    loss_P = dpo(far, -far.detach(), beta=1.0)
    assert loss_P.tolist() == [0.0, 2e4]
    loss_P.sum().backward()
    assert far.grad.tolist() == [0.0, -1.0]


def test_row_sums_add_up_each_row_whatever_its_weights() -> None:
    # Two targets in the first row, none in the second, two in the third.
    nll_N = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    sums_B = row_sums(nll_N, torch.tensor([0, 0, 2, 2]), 3)
    assert sums_B.tolist() == [3.0, 0.0, 12.0]
    (sums_B * torch.tensor([1.0, 5.0, 3.0])).sum().backward()
    assert nll_N.grad.tolist() == [1.0, 1.0, 3.0, 3.0]
