"""Gradient shares against one backward pass per token of a tiny student."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.data.batches import collate, count
from skipthinking.diagnosis.gradients import Marked, example_parts, shares, summarize
from skipthinking.methods import MultiTask
from skipthinking.records import Instance
from skipthinking.students.scratch import FromScratch, train_tokenizer

TINY = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def method() -> Any:
    student = FromScratch(config=TINY)
    student.tokenizer = train_tokenizer(["one two three"], 512, 10)
    torch.manual_seed(0)
    student.build()
    method = MultiTask(rationale_weight=0.5, student=student)
    return method.eval()


def _rows(term: int, *lengths: int) -> list[Marked]:
    """Instances with weights from 0 to 2, about a third of their tokens core."""
    rng = np.random.default_rng(lengths)
    rows: list[Marked] = []
    for length in lengths:
        weights = rng.choice([0.0, 0.5, 2.0], length).astype(np.float32)
        weights[-1] = 1.0
        prompt, tokens = rng.integers(5, 99, 4), rng.integers(5, 99, length)
        made = Instance(id=str(length), prompt=prompt, tokens=tokens, weights=weights, term=term)
        rows.append((made, rng.random(length) < 0.4))
    return rows


def _by_token(method: Any, rows: list[Marked], step: list[Instance]) -> list[tuple[bool, float, torch.Tensor]]:
    """Core or not, loss weight in the step, and gradient of that share of the loss, of every target token."""
    found = []
    totals = [sum(float(i.weights.sum()) for i in step if i.term == term) for term in range(2)]
    for made, core in rows:
        ids = torch.from_numpy(np.concatenate([made.prompt, made.tokens]))
        for place in np.flatnonzero(made.weights):
            logits = method.student.model(input_ids=ids[None]).logits[0]
            at = len(made.prompt) + int(place)
            a = method.term_weights[made.term] * float(made.weights[place]) / totals[made.term]
            loss = -a * logits[at - 1].log_softmax(-1)[ids[at]]
            grads = torch.autograd.grad(loss, list(method.student.parameters()), materialize_grads=True)
            found.append((bool(core[place]), a, torch.cat([g.flatten() for g in grads])))
    return found


def test_shares_are_those_of_one_backward_pass_per_token(method: Any) -> None:
    first, second = [*_rows(0, 6), *_rows(1, 9)], _rows(1, 5)  # two examples of a step, with two loss terms
    step = [made for made, _ in [*first, *second]]
    parts = example_parts(method, first, step, [0])
    for rows, unit in ((first, parts), (first + second, parts)):
        if rows is not first:
            unit.add(example_parts(method, second, step, [1]))
        tokens = _by_token(method, rows, step)
        core, whole = sum(g for is_core, _, g in tokens if is_core), sum(g for *_, g in tokens)
        found = shares(unit)
        assert found is not None
        share = sum(a for is_core, a, _ in tokens if is_core) / sum(a for _, a, _ in tokens)
        norm = float(core.norm() / whole.norm())
        cosine = float(torch.cosine_similarity(core, whole, dim=0))
        expected = {
            "tokens": share, "norm": norm, "cosine": cosine, "projection": norm * cosine, "per_token": norm / share,
        }  # fmt: skip
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_core_and_rest_add_up_to_the_gradient_of_the_step(method: Any) -> None:
    rows = [*_rows(0, 6), *_rows(1, 9)]
    instances = [made for made, _ in rows]
    batch = collate(instances, pad_id=0, encoder_decoder=False, terms=2, step=count(instances, 2))
    loss = method.micro_batch_loss(method.student.token_nll(batch), batch)
    whole = torch.autograd.grad(loss, list(method.student.parameters()), materialize_grads=True)
    parts = example_parts(method, rows, instances, [0])
    flipped = example_parts(method, [(made, ~core) for made, core in rows], instances, [0])
    for ours, core, rest, other in zip(whole, parts.core, parts.rest, flipped.core, strict=True):
        torch.testing.assert_close(core + rest, ours, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(rest, other, rtol=1e-4, atol=1e-7)
    one, two = shares(parts), shares(flipped)
    assert one is not None
    assert two is not None
    assert one["projection"] + two["projection"] == pytest.approx(1, rel=1e-4)


def test_all_tokens_core_is_the_whole_gradient_and_none_is_no_unit(method: Any) -> None:
    ((made, core),) = _rows(0, 7)
    everything = shares(example_parts(method, [(made, np.ones_like(core))], [made], [0]))
    assert everything is not None
    assert [everything[name] for name in everything if name != "nll"] == pytest.approx([1] * 6, rel=1e-5)
    assert shares(example_parts(method, [(made, np.zeros_like(core))], [made], [0])) is None


def test_random_tokens_are_as_many_and_depend_on_the_seed_alone(method: Any) -> None:
    rows = _rows(0, 12)
    step = [made for made, _ in rows]
    one, same, other = (shares(example_parts(method, rows, step, seed)) for seed in ([0, 1], [0, 1], [0, 2]))
    assert one == same
    assert one is not None
    assert other is not None
    assert one["random"] != other["random"]
    assert one["norm"] == other["norm"]


def test_a_summary_is_the_mean_over_units_with_core_tokens() -> None:
    # Mean 2 and t(0.975, 1) = 12.706 times the standard error 1.
    found = summarize([{"norm": 1.0}, None, {"norm": 3.0}, None])
    assert (found["units"], found["with_core"], found["mean"]) == (4, 0.5, {"norm": 2.0})
    assert found["half"]["norm"] == pytest.approx(12.7062, rel=1e-4)
    assert summarize([None])["mean"] == {}
