"""Draft-verified rollouts are plain greedy generation, token for token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.students import FromScratch, rollout
from skipthinking.students.rollout import complete

TEXTS = [f"Ann has {n} apples and buys {2 * n} more. Therefore, the answer is {3 * n}." for n in range(40)]
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.5, "initializer_range": 0.5},
    "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "max_position_embeddings": 64, "initializer_range": 0.5},
    "t5": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.5,
           "initializer_factor": 3.0},
}  # fmt: skip
LIMIT = 14


def _student(architecture: str, seed: int) -> Any:
    student = FromScratch(architecture, CONFIGS[architecture], vocab_size=600, numbers=10)
    student.prepare(TEXTS)
    torch.manual_seed(seed)
    student.build()
    return student.train()


@torch.no_grad()
def _plain(student: Any, prompt: list[int], begun: list[int], limit: int) -> list[int]:
    """The likeliest token again and again, the whole sequence read anew for each."""
    made: list[int] = []
    student.eval()
    while len(made) < limit and (not made or made[-1] != student.tokenizer.eos_token_id):
        if student.encoder_decoder:
            ids = torch.tensor([[student.config.decoder_start_token_id, *begun, *made]])
            logits = student.model(input_ids=torch.tensor([prompt]), decoder_input_ids=ids).logits
        else:
            logits = student.model(input_ids=torch.tensor([[*prompt, *begun, *made]])).logits
        made.append(int(logits[0, -1].argmax()))
    student.train()
    return made


def _make_likely_end(student: Any) -> None:
    """Lets EOS come up within a few tokens in some rollouts."""
    with torch.no_grad():
        weight = student.model.get_output_embeddings().weight
        weight[student.tokenizer.eos_token_id] = weight[torch.randint(len(weight), (8,))].mean(dim=0) * 2


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_rollout_is_plain_greedy_generation(architecture: str, seed: int) -> None:
    student = _student(architecture, seed)
    _make_likely_end(student)
    rng = np.random.default_rng(seed)
    prompts, begun, drafts, expected = {}, {}, {}, {}
    for n in range(24):
        id = f"e{n}"
        prompts[id] = rng.integers(1, student.config.vocab_size, 3 + n % 5)
        begun[id] = rng.integers(1, student.config.vocab_size, n % 4)
        expected[id] = _plain(student, prompts[id].tolist(), begun[id].tolist(), LIMIT - len(begun[id]))
        wrong = rng.integers(1, student.config.vocab_size, 1 + n % 20).tolist()
        right = expected[id]
        if right[-1] != student.tokenizer.eos_token_id:
            right = [*right, student.tokenizer.eos_token_id]  # a draft that goes on beyond the limit
        half = right[: len(right) // 2]
        drafts[id] = np.array([wrong, right, half + wrong, [*half, student.tokenizer.eos_token_id]][n % 4])
    found = complete(student, prompts, begun, drafts, max_new_tokens=LIMIT)
    assert found == expected
    ends = [ids[-1] == student.tokenizer.eos_token_id for ids in expected.values()]
    assert any(ids for ids in expected.values())
    assert not all(ends)


def test_a_draft_that_is_right_costs_no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    student = _student("gpt2", 0)
    prompt = np.array([5, 6, 7])
    draft = np.array(_plain(student, prompt.tolist(), [], 6))
    monkeypatch.setattr(student.model, "generate", lambda **kwargs: pytest.fail("generated"))
    empty = {"a": np.empty(0, dtype=np.int64)}
    assert complete(student, {"a": prompt}, empty, {"a": draft}, max_new_tokens=6) == {"a": draft.tolist()}


def test_any_number_of_ranks_shares_the_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    student = _student("llama", 1)
    rng = np.random.default_rng(0)
    prompts = {f"e{n}": rng.integers(1, 300, 4) for n in range(7)}
    begun = {id: np.empty(0, dtype=np.int64) for id in prompts}
    drafts = {id: rng.integers(1, 300, 5) for id in prompts}
    found, score = [], rollout.score_tokens

    def gathered(*args: Any, **kwargs: Any) -> Any:
        """Every rank has the scores of all, as after the gathering."""
        if not found:
            found.append(score(*args, **kwargs))
        return found[0]

    monkeypatch.setattr(rollout, "score_tokens", gathered)
    whole = complete(student, prompts, begun, drafts, max_new_tokens=6)
    parts = [complete(student, prompts, begun, drafts, max_new_tokens=6, rank=r, ranks=3) for r in range(3)]
    assert {id: ids for part in parts for id, ids in part.items()} == whole


def test_the_student_is_left_as_it_was() -> None:
    student = _student("gpt2", 0)
    state = torch.get_rng_state()
    rows = {"a": np.array([5, 6])}
    complete(student, rows, {"a": np.empty(0, dtype=np.int64)}, {"a": np.array([3, 4])}, max_new_tokens=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert student.model.training
