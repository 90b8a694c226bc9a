"""Prefixes whose keys are kept against reading everything for every token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.students import LoRA
from skipthinking.students.prefixes import Prefixes
from skipthinking.students.rollout import complete
from tests.students.tiny import CAUSAL, CONTEXT, plain_greedy, scratch

LENGTHS = {"a": 30, "b": 3, "c": 17, "d": 30, "e": CONTEXT - 3}
ROOM = 9


def _texts(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {id: rng.integers(1, 300, size=length) for id, length in LENGTHS.items()}


def _asked(student: Any, texts: dict[str, Any], seed: int) -> tuple[dict[str, Any], ...]:
    """Prefixes of some texts, what is begun behind them, drafts that are right for some tokens, and what is right."""
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


@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", CAUSAL)
@torch.no_grad()
def test_what_follows_a_prefix_is_plain_greedy(architecture: str, lora: LoRA | None) -> None:
    student = scratch(architecture, lora=lora)
    kinds = set()
    for seed in range(4):
        texts = _texts(seed)
        ends = student.model.generation_config.eos_token_id = [student.tokenizer.eos_token_id]
        if seed % 2:  # a token that greedy answers come to is an end as well
            ends += _asked(student, texts, seed)[3].popitem()[1][-1:]
        prefixes = Prefixes(student, texts)
        for turn in range(4):  # the same texts again and again, of which nothing may have changed
            lengths, begun, drafts, right = _asked(student, texts, 10 * seed + turn)
            written = prefixes.complete(lengths, begun, drafts, dict.fromkeys(lengths, ROOM))
            found = {id: row.tokens for id, row in written.items()}
            assert found == right
            for id, row in written.items():
                line = np.concatenate([texts[id][: lengths[id]], begun[id], row.tokens])
                shares = student.model(input_ids=torch.from_numpy(line)[None]).logits[0].log_softmax(-1)
                nll = -shares[torch.arange(len(line) - 1), torch.from_numpy(line[1:])][
                    len(line) - 1 - len(row.tokens) :
                ]
                assert row.nll == pytest.approx(float(nll.sum()), abs=1e-3)
            prompts = {id: texts[id][: lengths[id]] for id in lengths}
            limits = {id: len(begun[id]) + ROOM for id in lengths}
            assert found == complete(student, prompts, begun, drafts, max_new_tokens=limits, what=None)
            short = prefixes.complete(lengths, begun, drafts, dict.fromkeys(lengths, 2))
            assert {id: row.tokens for id, row in short.items()} == {id: tokens[:2] for id, tokens in right.items()}
            for id, draft in drafts.items():
                kinds.add((draft.tolist() == right[id], right[id][-1] in ends, len(right[id]) < ROOM))
    # As drafted or not; ended; for want of room in the context. Each happens.
    assert {(True, True, True), (False, True, True), (False, False, False), (False, False, True)} <= kinds


@torch.no_grad()
def test_texts_are_forwarded_once() -> None:
    student = scratch("llama")
    tokens: list[int] = []
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    prefixes = Prefixes(student, {"a": np.arange(1, 31)})
    for length in (15, 22, 18):
        prefixes.complete({"a": length}, {"a": np.array([5, 6])}, {"a": np.array([7])}, {"a": 1})
    assert tokens == [30, 3, 3, 3]  # the last token of a prefix, and what is begun
