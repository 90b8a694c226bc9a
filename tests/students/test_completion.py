"""The engine's completions are plain greedy decoding, token for token, with a KV cache and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.students import FromScratch, LoRA
from skipthinking.students.engine import Engine
from tests.students.tiny import CAUSAL, CONTEXT, plain_greedy, scratch

TEXTS = [f"Ann has {n} apples and buys {2 * n} more. Therefore, the answer is {3 * n}." for n in range(40)]
LENGTHS = {"a": 30, "b": 3, "c": 17, "d": 30, "e": CONTEXT - 3}
ROOM = 9
NONE = np.empty(0, dtype=np.int64)


# ------------------------------------------------------------------------------------------------ prefixes


def _texts(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {id: rng.integers(1, 300, size=length) for id, length in LENGTHS.items()}


def _asked(student: Any, texts: dict[str, Any], seed: int) -> tuple[dict[str, Any], ...]:
    """Prefixes of some texts, what is begun after them, drafts that are right for some tokens, and what is right."""
    rng = np.random.default_rng(seed)
    ids = [id for id in texts if rng.random() < 0.8] or ["a"]
    lengths = {id: len(texts[id]) if rng.random() < 0.3 else int(rng.integers(1, len(texts[id]))) for id in ids}
    begun = {id: rng.integers(1, 300, size=int(rng.integers(0, 3))) for id in ids}
    whole = {id: torch.from_numpy(np.concatenate([texts[id][: lengths[id]], begun[id]])) for id in ids}
    ends = student.model.generation_config.eos_token_id
    right = {id: plain_greedy(student, whole[id], min(ROOM, CONTEXT - len(whole[id])), ends) for id in ids}
    drafts = {}
    for id in ids:
        agreed = int(rng.integers(0, len(right[id]) + 1))
        others = rng.integers(1, 300, size=int(rng.integers(1, 4)))
        ended = agreed > 0 and right[id][agreed - 1] in ends
        draft = right[id][:agreed] if ended else [*right[id][:agreed], *others]
        drafts[id] = np.array(draft[: CONTEXT - len(whole[id])])  # what does not fit is never cut
    return lengths, begun, drafts, right


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "plain"])
@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", CAUSAL)
@torch.no_grad()
def test_what_follows_a_prefix_is_plain_greedy(architecture: str, lora: LoRA | None, cached: bool) -> None:
    student = scratch(architecture, lora=lora)
    kinds = set()
    for seed in range(4):
        texts = _texts(seed)
        ends = student.model.generation_config.eos_token_id = [student.tokenizer.eos_token_id]
        if seed % 2:  # a token that greedy answers come to is an end as well
            ends += _asked(student, texts, seed)[3].popitem()[1][-1:]
        prompts = [text[:1] for text in texts.values()]  # of a causal student, it does not matter where they end
        engine, ids = Engine(student, prompts, CONTEXT if cached else None), list(texts)
        for row, text in enumerate(texts.values()):
            engine.extend(row, text[1:])
        for turn in range(4):  # the same texts again and again, of which nothing may have changed
            lengths, begun, drafts, right = _asked(student, texts, 10 * seed + turn)
            # Rows that are not asked about take part all the same.
            kept = [lengths.get(id, 1) for id in ids]
            given = [begun.get(id, NONE) for id in ids], [drafts.get(id, np.array([5])) for id in ids]
            rows = engine.complete(*given, [ROOM] * len(ids), lengths=kept, with_nll=True)
            written = {id: row for id, row in zip(ids, rows, strict=True) if id in lengths}
            assert {id: row.tokens for id, row in written.items()} == right
            for id, row in written.items():
                line = np.concatenate([texts[id][: lengths[id]], begun[id], row.tokens])
                shares = student.model(input_ids=torch.from_numpy(line)[None]).logits[0].log_softmax(-1)
                nll = -shares[torch.arange(len(line) - 1), torch.from_numpy(line[1:])][
                    len(line) - 1 - len(row.tokens) :
                ]
                assert row.nll == pytest.approx(float(nll.sum()), abs=1e-3)
            short = engine.complete(*given, [2] * len(ids), lengths=kept)
            assert {row.nll for row in short} == {None}
            found = {id: row.tokens for id, row in zip(ids, short, strict=True) if id in lengths}
            assert found == {id: tokens[:2] for id, tokens in right.items()}
            for id, draft in drafts.items():
                kinds.add((draft.tolist() == right[id], right[id][-1] in ends, len(right[id]) < ROOM))
    # As drafted or not; ended; for want of room in the context. Each happens.
    assert {(True, True, True), (False, True, True), (False, False, False), (False, False, True)} <= kinds


def test_texts_are_forwarded_once() -> None:
    student = scratch("llama")
    tokens: list[int] = []
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    engine = Engine(student, [np.arange(1, 31)], 40)
    for length in (15, 22, 18):
        engine.complete([np.array([5, 6])], [np.array([7])], [1], lengths=[length])
    assert tokens == [30, 3, 3, 3]  # the last token of a prefix, and what is begun


def test_contexts_may_grow_and_go_between_completions_and_scores() -> None:
    student, rng = scratch("llama"), np.random.default_rng(0)
    prompts = [rng.integers(1, 300, size=length) for length in (4, 9, 2)]
    cached, plain = Engine(student, prompts, 40), Engine(student, prompts)
    for kept in ([0, 1, 2], [2, 0], [1]):
        texts = [rng.integers(1, 300, size=3) for _ in kept]
        found = []
        for engine in (cached, plain):
            engine.keep(kept)
            for row, text in enumerate(texts):
                engine.extend(row, text[: row + 1])
            written = engine.complete([text[:1] for text in texts], texts, [5] * len(kept))
            found.append((engine.score(texts), [row.tokens for row in written]))
        for ours, theirs in zip(found[0][0], found[1][0], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
        assert found[0][1] == found[1][1]


# ------------------------------------------------------------------------------------------------- drafts

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
    """The likeliest token again and again, the complete sequence read again for each."""
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
    """Lets EOS come up within a few tokens in some completions."""
    with torch.no_grad():
        weight = student.model.get_output_embeddings().weight
        weight[student.tokenizer.eos_token_id] = weight[torch.randint(len(weight), (8,))].mean(dim=0) * 2


@pytest.mark.parametrize("longest", [None, 64], ids=["plain", "cached"])
@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_completion_is_plain_greedy_generation(architecture: str, seed: int, longest: int | None) -> None:
    student = _student(architecture, seed)
    _make_likely_end(student)
    rng = np.random.default_rng(seed)
    end = student.tokenizer.eos_token_id
    prompts, begun, drafts, expected = [], [], [], []
    for n in range(24):
        prompts.append(rng.integers(1, student.config.vocab_size, 3 + n % 5))
        begun.append(rng.integers(1, student.config.vocab_size, n % 4))
        right = _plain(student, prompts[n].tolist(), begun[n].tolist(), LIMIT - len(begun[n]))
        expected.append(right)
        wrong = rng.integers(1, student.config.vocab_size, 1 + n % 20).tolist()
        if right[-1] != end:
            right = [*right, end]  # a draft that goes on beyond the limit
        half = right[: len(right) // 2]
        drafts.append(np.array([wrong, right, half + wrong, [*half, end], half or wrong][n % 5]))
    limits = [LIMIT - len(part) for part in begun]
    found = [row.tokens for row in Engine(student, prompts, longest).complete(begun, drafts, limits)]
    assert found == expected
    ends = [ids[-1] == end for ids in expected]
    assert any(ids for ids in expected)
    assert not all(ends)
    grown = Engine(student, prompts, longest)  # what is begun may be a context, or what of a longer one is kept
    for row, part in enumerate(begun):
        grown.extend(row, np.concatenate([part, prompts[row]]))
    lengths = [len(prompt) + len(part) for prompt, part in zip(prompts, begun, strict=True)]
    assert [row.tokens for row in grown.complete([NONE] * 24, drafts, limits, lengths=lengths)] == expected
    assert student.training


@pytest.mark.parametrize("longest", [None, 64], ids=["plain", "cached"])
def test_no_room_is_no_completion(longest: int | None) -> None:
    student = _student("llama", 0)
    engine = Engine(student, [np.arange(1, 5)], longest)
    for limit in (0, -3):
        assert engine.complete([np.array([3])], [np.array([7, 8])], [limit]) == [([], None)]


def test_a_draft_that_is_right_costs_no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    student = _student("gpt2", 0)
    prompt = np.array([5, 6, 7])
    draft = np.array(_plain(student, prompt.tolist(), [], 6))
    monkeypatch.setattr(student.model, "generate", lambda **kwargs: pytest.fail("generated"))
    (row,) = Engine(student, [prompt]).complete([NONE], [draft], [6])
    assert row.tokens == draft.tolist()


def test_the_student_is_left_as_it_was() -> None:
    for longest in (None, 20):
        student = _student("gpt2", 0)
        state = torch.get_rng_state()
        engine = Engine(student, [np.array([5, 6])], longest)
        engine.complete([NONE], [np.array([3, 4])], [5])
        engine.score([np.array([3, 4])])
        assert torch.equal(torch.get_rng_state(), state)
        assert student.training
        assert student.model.training
