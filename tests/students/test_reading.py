"""Cached contexts against reading everything each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.students import FromScratch, LoRA, reading
from skipthinking.students.reading import CachedReader, PlainReader, reader
from tests.students.tiny import ARCHITECTURES, CAUSAL, CONTEXT, ready, scratch


def _ids(rng: np.random.Generator, length: int) -> Any:
    return rng.integers(1, 300, size=length)


@torch.no_grad()
def _play(made: Any, seed: int, impatient: bool = False) -> list[Any]:
    """Grows, scores and narrows at random; the same for every reader of a seed."""
    rng = np.random.default_rng(seed)
    found, rows = [], 5
    for turn in range(5):
        for row in range(rows):
            made.grow(row, _ids(rng, int(rng.integers(0, 4))))
        texts = [_ids(rng, int(rng.integers(1, 8))) for _ in range(rows)]
        first = [int(rng.integers(0, len(text))) for text in texts]
        enough = (lambda row, scores, turn=turn: (row + turn) % 2 == 0) if impatient else None
        found += made.score(texts, first, enough)
        if rows == 5 and rng.random() < 0.5:
            made.narrow([3, 0, 2])
            rows = 3
    return found


def _prompts() -> list[Any]:
    rng = np.random.default_rng(0)
    return [_ids(rng, length) for length in (5, 1, 9, 3, 3)]


@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", CAUSAL)
def test_cached_contexts_are_read_as_whole_ones(architecture: str, lora: LoRA | None) -> None:
    student = scratch(architecture, lora=lora)
    for seed in range(6):
        cached, plain = reader(student, _prompts(), 40), PlainReader(student, _prompts())
        assert isinstance(cached, CachedReader)
        for ours, theirs in zip(_play(cached, seed), _play(plain, seed), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


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
    for seed in range(3):
        cached, plain = reader(student, _prompts(), 40), PlainReader(student, _prompts())
        assert isinstance(cached, CachedReader)
        for ours, theirs in zip(_play(cached, seed), _play(plain, seed), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_pieces_are_the_beginning_of_the_whole(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PIECE", 2)
    monkeypatch.setattr(reading, "_PASS", {"cpu": 2})
    student, shorter = scratch(architecture), 0
    for seed in range(6):
        parts, plain = _play(reader(student, _prompts(), 40), seed, True), _play(PlainReader(student, _prompts()), seed)
        for ours, theirs in zip(parts, plain, strict=True):
            shorter += len(ours) < len(theirs)
            np.testing.assert_allclose(ours, theirs[: len(ours)], atol=2e-5)
    assert shorter


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_who_cannot_be_told_positions_reads_everything(architecture: str) -> None:
    made = reader(scratch(architecture), _prompts(), 40)
    assert isinstance(made, PlainReader if architecture == "t5" else CachedReader)


def test_a_window_shorter_than_the_text_is_not_cached() -> None:
    student = scratch("phi3", more={"sliding_window": 20})
    assert isinstance(reader(student, _prompts(), 20), PlainReader)
    assert isinstance(reader(student, _prompts(), 19), CachedReader)


def test_an_encoder_put_to_use_as_a_decoder_is_not_cached() -> None:
    student = ready(FromScratch("roberta", {**_SMALL, "intermediate_size": 32, "is_decoder": True}))
    assert isinstance(reader(student, _prompts(), 40), PlainReader)


def test_an_attention_that_takes_no_masks_of_our_own_is_not_cached() -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True}
    assert isinstance(reader(ready(FromScratch("falcon", small)), _prompts(), 40), PlainReader)
    small = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    assert isinstance(reader(ready(FromScratch("gpt_neo", small)), _prompts(), 40), PlainReader)
    student = scratch("llama")
    student.model.config._attn_implementation = "flash_attention_2"
    assert isinstance(reader(student, _prompts(), 40), PlainReader)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_rotation_that_depends_on_the_pass_is_not_cached(kind: str) -> None:
    own = {"longrope": {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}, "dynamic": {"factor": 2.0}}[kind]
    bound = {"longrope": 24, "dynamic": CONTEXT}[kind]
    rope = {"rope_type": kind, "rope_theta": 1e4, **own}
    longrope = {"original_max_position_embeddings": 24} if kind == "longrope" else {}
    student = scratch("phi3" if longrope else "llama", more={"rope_parameters": rope, **longrope})
    assert isinstance(reader(student, _prompts(), bound + 1), PlainReader)
    assert isinstance(reader(student, _prompts(), bound), CachedReader)


@torch.no_grad()
def test_rows_may_change_places() -> None:
    student, prompts = scratch("llama"), [np.arange(1, 9), np.arange(30, 43), np.arange(50, 55)]
    made, plain = (CachedReader(student, prompts, 40), PlainReader(student, prompts))
    texts = [np.arange(5, 9), np.arange(7, 9), np.arange(3, 9)]
    for kept in ([0, 1, 2], [2, 0, 1], [1, 0]):
        for one in (made, plain):
            one.narrow(kept)
        for ours, theirs in zip(
            *(one.score(texts[: len(kept)], [0] * len(kept)) for one in (made, plain)), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@torch.no_grad()
def test_contexts_are_forwarded_once() -> None:
    student = scratch("llama")
    tokens: list[int] = []
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    made = reader(student, [np.arange(1, 30)], 40)
    for first in (0, 0, 1, 2):  # a context's last token is needed where a text's first one is asked for
        made.score([np.arange(1, 5)], [first])
    assert tokens == [29 + 3, 1 + 3, 3, 3]
    made.grow(0, np.arange(1, 3))
    made.score([np.arange(1, 5)], [2])
    assert tokens[-1] == 2 + 3
