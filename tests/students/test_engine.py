"""The engine's scores: cached contexts, plain ones, and an unbatched pass over all logits give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.students import FromScratch, LoRA, engine, memory
from skipthinking.students.engine import Engine
from skipthinking.students.measures import Measure, entropy, nll, nll_and_hit
from tests.students.tiny import ARCHITECTURES, CAUSAL, CONTEXT, plain_greedy, ready, scratch


def _ids(rng: np.random.Generator, length: int) -> Any:
    return rng.integers(1, 300, size=length)


def _play(made: Engine, seed: int, impatient: bool = False, measure: Measure = nll_and_hit) -> list[Any]:
    """Extends, scores and keeps at random; the same for every engine of a seed."""
    rng = np.random.default_rng(seed)
    found, rows = [], 5
    for turn in range(5):
        for row in range(rows):
            made.extend(row, _ids(rng, int(rng.integers(0, 4))))
        texts = [_ids(rng, int(rng.integers(1, 8))) for _ in range(rows)]
        first = [int(rng.integers(0, len(text))) for text in texts]
        enough = (lambda row, scores, turn=turn: (row + turn) % 2 == 0) if impatient else None
        found += made.score(texts, measure, first=first, stop_early=enough)
        if rows == 5 and rng.random() < 0.5:
            made.keep([3, 0, 2])
            rows = 3
    return found


def _prompts() -> list[Any]:
    rng = np.random.default_rng(0)
    return [_ids(rng, length) for length in (5, 1, 9, 3, 3)]


def assert_cached_equals_plain(student: Any, seeds: range) -> None:
    for seed in seeds:
        cached, plain = Engine(student, _prompts(), 40), Engine(student, _prompts())
        assert cached.has_cache
        assert not plain.has_cache
        for ours, theirs in zip(_play(cached, seed), _play(plain, seed), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", CAUSAL)
def test_cached_contexts_are_read_as_plain_ones(architecture: str, lora: LoRA | None) -> None:
    assert_cached_equals_plain(scratch(architecture, lora=lora), range(6))


_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": CONTEXT}
OTHERS: dict[str, dict[str, Any]] = {
    "opt": {**_SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt_neox": {**_SMALL, "intermediate_size": 32},
    "gemma2": {**_SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 41},
    "mixtral": {**_SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "output_router_logits": True},
    "qwen2_moe": {**_SMALL, "intermediate_size": 32, "moe_intermediate_size": 16, "num_key_value_heads": 2,
                  "num_experts": 4, "shared_expert_intermediate_size": 16, "sliding_window": 0},
}  # fmt: skip


@pytest.mark.parametrize("architecture", OTHERS)
def test_other_attentions_see_what_they_should(architecture: str) -> None:
    torch.manual_seed(0)
    student = ready(FromScratch(architecture, OTHERS[architecture]))
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert_cached_equals_plain(student, range(3))


@pytest.mark.parametrize("architecture", CAUSAL)
def test_pieces_are_the_beginning_of_the_complete_scores(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_PIECE", 2)
    monkeypatch.setattr(memory, "PASS", {"cpu": 2})
    student, shorter = scratch(architecture), 0
    for seed in range(6):
        parts, plain = _play(Engine(student, _prompts(), 40), seed, True), _play(Engine(student, _prompts()), seed)
        for ours, theirs in zip(parts, plain, strict=True):
            shorter += len(ours) < len(theirs)
            np.testing.assert_allclose(ours, theirs[: len(ours)], atol=2e-5)
    assert shorter


@torch.no_grad()
def _unbatched(student: Any, prompt: Any, context: Any, text: Any, first: int) -> Any:
    """NLL, hit and entropy of a text's tokens, from all logits of one sequence in double precision, shape (N, 3)."""
    ids = torch.from_numpy(np.concatenate([context, text]))
    if student.encoder_decoder:
        ids = torch.cat([torch.tensor([student.config.decoder_start_token_id]), ids])
        logits = student.model(input_ids=torch.from_numpy(prompt)[None], decoder_input_ids=ids[None]).logits[0]
    else:
        logits = student.model(input_ids=torch.cat([torch.from_numpy(prompt), ids])[None]).logits[0]
    log_p = logits.double().log_softmax(-1)[-len(text) - 1 : -1]
    rows = [
        [-float(row[token]), float(row.argmax() == token), -float((row.exp() * row).sum())]
        for row, token in zip(log_p, text, strict=True)
    ]
    return np.array(rows[first:])


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "plain"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_measures_are_those_of_an_unbatched_pass(architecture: str, cached: bool) -> None:
    student, rng = scratch(architecture), np.random.default_rng(1)
    prompts, added = _prompts(), [_ids(rng, length) for length in (2, 0, 1, 4, 0)]
    texts, first = [_ids(rng, length) for length in (4, 7, 1, 2, 9)], [0, 0, 0, 1, 8]
    texts[1][:2] = plain_greedy(student, torch.from_numpy(prompts[1]), 2)  # the others hit nothing
    expected = [_unbatched(student, *row) for row in zip(prompts, added, texts, first, strict=True)]
    assert {hit for row in expected for hit in row[:, 1]} == {0.0, 1.0}
    made = Engine(student, prompts, 40 if cached else None)
    assert made.has_cache == (cached and architecture != "t5")
    for row, tokens in enumerate(added):
        made.extend(row, tokens)
    for measure, columns in ((nll, [0]), (nll_and_hit, [0, 1]), (entropy, [2]), (nll, [0])):
        for ours, theirs in zip(made.score(texts, measure, first=first), expected, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs[:, columns], atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_student_without_position_ids_has_no_cache(architecture: str) -> None:
    assert Engine(scratch(architecture), _prompts(), 40).has_cache == (architecture != "t5")


def test_a_window_shorter_than_the_text_is_not_cached() -> None:
    student = scratch("phi3", more={"sliding_window": 20})
    assert not Engine(student, _prompts(), 20).has_cache
    assert Engine(student, _prompts(), 19).has_cache


def test_an_encoder_used_as_a_decoder_is_not_cached() -> None:
    student = ready(FromScratch("roberta", {**_SMALL, "intermediate_size": 32, "is_decoder": True}))
    assert not Engine(student, _prompts(), 40).has_cache


def test_an_attention_that_takes_no_custom_masks_is_not_cached() -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True}
    assert not Engine(ready(FromScratch("falcon", small)), _prompts(), 40).has_cache
    small = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    assert not Engine(ready(FromScratch("gpt_neo", small)), _prompts(), 40).has_cache
    student = scratch("llama")
    student.model.config._attn_implementation = "flash_attention_2"
    assert not Engine(student, _prompts(), 40).has_cache


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_rotation_that_depends_on_the_pass_is_not_cached(kind: str) -> None:
    own = {"longrope": {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}, "dynamic": {"factor": 2.0}}[kind]
    bound = {"longrope": 24, "dynamic": CONTEXT}[kind]
    rope = {"rope_type": kind, "rope_theta": 1e4, **own}
    longrope = {"original_max_position_embeddings": 24} if kind == "longrope" else {}
    student = scratch("phi3" if longrope else "llama", more={"rope_parameters": rope, **longrope})
    assert not Engine(student, _prompts(), bound + 1).has_cache
    assert Engine(student, _prompts(), bound).has_cache


def test_rows_may_change_places() -> None:
    student, prompts = scratch("llama"), [np.arange(1, 9), np.arange(30, 43), np.arange(50, 55)]
    made, plain = Engine(student, prompts, 40), Engine(student, prompts)
    texts = [np.arange(5, 9), np.arange(7, 9), np.arange(3, 9)]
    for kept in ([0, 1, 2], [2, 0, 1], [1, 0]):
        for one in (made, plain):
            one.keep(kept)
        for ours, theirs in zip(*(one.score(texts[: len(kept)]) for one in (made, plain)), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_contexts_are_forwarded_once() -> None:
    student = scratch("llama")
    tokens: list[int] = []
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    made = Engine(student, [np.arange(1, 30)], 40)
    for first in (0, 0, 1, 2):  # a context's last token is needed where a text's first one is measured
        made.score([np.arange(1, 5)], first=[first])
    assert tokens == [29 + 3, 1 + 3, 3, 3]
    made.extend(0, np.arange(1, 3))
    made.score([np.arange(1, 5)], first=[2])
    assert tokens[-1] == 2 + 3
