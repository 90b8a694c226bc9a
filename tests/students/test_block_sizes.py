"""Block sizes follow memory: what a token takes is what it really takes, and every process has the same blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from skipthinking import ranks
from skipthinking.students import kv_cache, memory
from skipthinking.students.engine import Engine
from skipthinking.students.kv_cache import KVCache
from tests.students import tiny


@pytest.mark.parametrize("architecture", tiny.CAUSAL)
def test_a_cached_token_takes_the_bytes_of_its_keys_and_values(architecture: str) -> None:
    student = tiny.scratch(architecture)
    cache = KVCache(student, 1, 6)
    with student.frozen():
        cache.step(torch.tensor([5]), torch.tensor([0]), 1)
    held = sum(states[0, 0].nbytes for stored in cache._stored.values() for states in stored)
    assert held == memory.cache_bytes(student)


def test_more_memory_gives_larger_blocks_up_to_what_is_efficient(monkeypatch: pytest.MonkeyPatch) -> None:
    student, found = tiny.scratch("llama"), []
    for free in (2**10, 2**20, 2**20 + 2**15, 2**40):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        found.append((student.block_tokens(), student.block_tokens(cached=True), memory.cache_tokens(student)))
    assert found[0] < found[1]
    assert found[1][:2] == found[2][:2]  # a little more memory, such as that of another moment, changes no block
    assert found[1][0] * memory.pass_bytes(student) <= 2**19
    assert found[1][1] * 2 * memory.cache_bytes(student) <= 2**19
    assert found[3][:2] == (2**13, 2**17)
    assert memory.free_bytes(torch.device("cpu")) == 2**40
    for gpu in (2**33, 2**40):  # of 46,603 tokens with a copy, and more than any GPU has
        student_on_gpu = SimpleNamespace(**{name: getattr(student, name) for name in ("config", "model")})
        student_on_gpu.device = torch.device("cuda")
        monkeypatch.setattr(memory, "free_bytes", lambda device, gpu=gpu: gpu)
        monkeypatch.setattr(memory, "cache_bytes", lambda student: 46_080)  # of SmolLM2-135M in float32
        kept = memory.search_tokens(student_on_gpu), memory.cache_tokens(student_on_gpu)
        assert kept == ((2**15, 93_206) if gpu == 2**33 else (2**18, 2**18))


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (None, 36),  # 30 are free, and 6 of the 10 of the allocator hold no tensor
        (1.0, 36),
        (0.25, 16),  # 20 of 80 are allowed: 10 more than the allocator has
        (0.1, 6),  # 8 are allowed, which the allocator has exceeded
    ],
)
def test_a_process_plans_with_what_it_may_take_of_a_gpu(
    fraction: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"mem_get_info": (30, 80), "memory_reserved": 10, "memory_allocated": 4}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    if fraction is None:
        monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction", raising=False)
    else:
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction, raising=False)
    assert memory.free_bytes(torch.device("cuda")) == expected


def test_only_a_gpu_is_asked_for_unused_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[bool]()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(True))
    tiny.scratch("llama").release_memory()
    assert not calls
    memory.release_unused(torch.device("cuda"))
    assert calls == [True]


def test_a_process_plans_with_its_share_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for available, processes, expected in ((2**34, 1, 2**32), (2**33, 4, 2**31), (2**20, 1, 2**28)):
        monkeypatch.setattr(memory, "_host_bytes", lambda available=available: available)
        monkeypatch.setattr(memory, "ranks", lambda processes=processes: processes)
        assert memory.free_bytes(device) == expected


def test_processes_agree_on_the_smallest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "gather", lambda part: {"0": 512, "1": 128, **{f"own{k}": v for k, v in part.items()}})
    assert ranks.smallest(256) == 128
    assert ranks.smallest(64) == 64


def test_contexts_are_read_in_passes_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    student: Any = tiny.scratch("llama")
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 300, size=length) for length in (21, 5, 13)]
    texts = [rng.integers(1, 300, size=6) for _ in prompts]
    nothing = [np.empty(0, dtype=np.int64)] * 3
    expected = Engine(student, prompts, 40).score(texts), Engine(student, prompts, 40).complete(nothing, texts, [5] * 3)
    widest: list[int] = []
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: widest.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr("skipthinking.students.engine.pass_tokens", lambda student: 12)
    found = Engine(student, prompts, 40).score(texts), Engine(student, prompts, 40).complete(nothing, texts, [5] * 3)
    for ours, theirs in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert found[1] == expected[1]
    assert max(widest) <= 18  # 12, or three texts of 6 after their contexts


def test_a_search_without_a_cache_says_so_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "_REPORTED", set())
    student = tiny.scratch("llama")
    student.model.config._attn_implementation = "flash_attention_2"
    for _ in range(2):
        assert not Engine(student, [np.array([3])], 9).has_cache
    assert not Engine(student, [np.array([3])]).has_cache  # not asked for
    (line,) = capsys.readouterr().out.splitlines()
    assert "searches read each context again" in line
    assert "model.student.init_args.attention: sdpa" in line
