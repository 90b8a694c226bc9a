"""Laws of scoring: one plain pass per instance gives the same, and the student is left as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.data.batches import instance_length
from skipthinking.ranks import by_length, gather
from skipthinking.records import Instance
from skipthinking.students import FromScratch, LoRA, Student, heads, measures
from skipthinking.students.scoring import score

TEXTS = [f"Ann has {n} apples and buys {2 * n} more. Therefore, the answer is {3 * n}." for n in range(40)]
# Much dropout, so that scoring in training mode would be another number.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.5, "initializer_range": 0.3},
    "t5": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.5},
}
each_architecture = pytest.mark.parametrize("architecture", CONFIGS)


def student_of(architecture: str, lora: LoRA | None = None) -> Any:
    student = FromScratch(architecture, CONFIGS[architecture], vocab_size=600, lora=lora)
    student.prepare(TEXTS)
    student.build()
    return student.train()


def instances(student: Any, count: int = 9) -> list[Instance]:
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        prompt = rng.integers(1, student.config.vocab_size, size=2 + 7 * n % 12)
        tokens = rng.integers(1, student.config.vocab_size, size=2 + 5 * n % 13)
        tokens[-1] = student.tokenizer.eos_token_id
        weights = rng.choice([0.0, 0.25, 1.0], size=len(tokens)).astype(np.float32)
        weights[-1] = 1.0
        rows.append(Instance(id=f"e{n}", prompt=prompt, tokens=tokens, weights=weights, term=n % 2))
    return rows


@torch.no_grad()
def plain_scores(student: Any, rows: list[Instance], of_shares: Any = None) -> dict[str, list[float]]:
    """Instance by instance, token by token, from all logits; the model is in evaluation mode.

    NLL, or any function of the log-probabilities of a position.
    """
    scores = {}
    student.model.eval()
    for row in rows:
        prompt, tokens = row.prompt.tolist(), row.tokens.tolist()
        if student.encoder_decoder:
            ids = torch.tensor([[student.config.decoder_start_token_id, *tokens[:-1]]])
            logits = student.model(input_ids=torch.tensor([prompt]), decoder_input_ids=ids).logits[0]
        else:
            logits = student.model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 :]
        shares = logits.double().log_softmax(dim=-1)
        places = [i for i in range(len(tokens)) if row.weights[i] > 0]
        scores[row.id] = [float(of_shares(shares[i]) if of_shares else -shares[i, tokens[i]]) for i in places]
    student.model.train()
    return scores


def assert_same(found: dict[str, Any], expected: dict[str, list[float]]) -> None:
    assert found.keys() == expected.keys()
    for id, nll in expected.items():
        np.testing.assert_allclose(found[id][:, 0], nll, rtol=1e-5, atol=1e-5)


# One token: every instance by itself. 40: a few at a time. 8192: all at once.
@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
@each_architecture
def test_scores_are_those_of_one_by_one(architecture: str, batch_tokens: int) -> None:
    student = student_of(architecture)
    rows = instances(student)
    found = score(student, rows, batch_tokens=batch_tokens)
    assert_same(found, plain_scores(student, rows))
    assert {scores.dtype for scores in found.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("chunk", [heads.CHUNK_ELEMENTS, 1200], ids=["all logits", "two rows of logits"])
@each_architecture
def test_any_measure_is_that_of_one_by_one(architecture: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "CHUNK_ELEMENTS", chunk)
    student = student_of(architecture)
    rows = instances(student)
    plain = plain_scores(student, rows, lambda shares: -(shares.exp() * shares).sum())
    for measure, expected in ((measures.entropy, plain), (measures.nll, plain_scores(student, rows))):
        found = score(student, rows, measure, batch_tokens=60)
        assert found.keys() == expected.keys()
        for id, values in expected.items():
            assert found[id].dtype == np.float32
            np.testing.assert_allclose(found[id], np.array(values)[:, None], rtol=1e-5, atol=1e-5)


def test_entropy_of_known_distributions() -> None:
    # Four tokens alike: ln 4. Two of four alike, the others impossible: ln 2. One for sure: 0.
    logits = torch.tensor([[0.0, 0, 0, 0], [5.0, 5, -torch.inf, -torch.inf], [0.0, -1e9, -1e9, -1e9]])
    found = measures.entropy(lambda hidden: hidden, logits, torch.tensor([0, 3, 2]))
    torch.testing.assert_close(found, torch.tensor([[np.log(4)], [np.log(2)], [0.0]], dtype=torch.float32))


def test_batches_hold_no_more_tokens_than_allowed() -> None:
    student, sizes = student_of("gpt2"), []
    rows = instances(student)
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    score(student, rows, batch_tokens=60)
    assert len(sizes) > 2
    assert sum(rows_ for rows_, _ in sizes) == len(rows)
    assert any(rows_ > 1 for rows_, _ in sizes)
    assert all(rows_ * (width + 1) <= 60 for rows_, width in sizes)  # the last token is not an input
    sizes.clear()
    score(student, rows, batch_tokens=1)  # a longer instance comes by itself
    assert [rows_ for rows_, _ in sizes] == [1] * len(rows)


def test_order_of_instances_does_not_matter() -> None:
    student = student_of("gpt2")
    rows = instances(student)
    assert_same(score(student, rows[::-1], batch_tokens=40), plain_scores(student, rows))
    assert score(student, []) == {}


@pytest.mark.parametrize("ranks", [2, 4, 11])  # 11: more than there are instances
def test_ranks_share_the_instances(ranks: int) -> None:
    student = student_of("gpt2")
    rows = instances(student)
    groups = by_length(rows, instance_length, 40)
    parts = [
        {id: nll for group in groups[rank::ranks] for id, nll in score(student, group).items()} for rank in range(ranks)
    ]
    assert sum(map(len, parts)) == len(rows)  # nothing twice
    assert_same({id: nll for part in parts for id, nll in part.items()}, plain_scores(student, rows))


def test_gather_without_other_ranks_is_the_part_itself() -> None:
    assert gather({"a": 1}) == {"a": 1}


@each_architecture
def test_student_and_generator_are_left_as_they_were(architecture: str) -> None:
    student = student_of(architecture, lora=LoRA(r=2))
    student.model.get_output_embeddings().eval()
    modes = {name: module.training for name, module in student.named_modules()}
    trained = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    score(student, instances(student), batch_tokens=40)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in student.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in student.named_parameters()} == trained
    assert all(parameter.grad is None for parameter in student.parameters())
    assert all(torch.equal(weights[name], value) for name, value in student.state_dict().items())
    assert torch.is_grad_enabled()


def test_frozen_puts_mixed_modes_back() -> None:
    module: Any = torch.nn.Sequential(
        torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2))
    )
    module.lora, module.compiled = None, False
    for chosen in (0, 1, 2, 3, 4):
        module.train()
        list(module.modules())[chosen].training = False
        modes = [part.training for part in module.modules()]
        with Student.frozen(module):
            assert not any(part.training for part in module.modules())
            assert not torch.is_grad_enabled()
        assert [part.training for part in module.modules()] == modes
        assert torch.is_grad_enabled()


def test_frozen_puts_modes_back_after_an_error() -> None:
    module: Any = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    module.lora, module.compiled = None, False
    with pytest.raises(RuntimeError, match="inside"), Student.frozen(module):
        raise RuntimeError("inside")
    assert [part.training for part in module.modules()] == [True, True, False]
    assert torch.is_grad_enabled()
