"""Continuous batching: answers are those of transformers row by row, and no token is computed that nobody reads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skipthinking.students import FromScratch, continuous, kv_cache
from skipthinking.students.completions import Completions
from skipthinking.students.kv_cache import KVCache
from tests.students import tiny
from tests.students.test_engine import OTHERS

LENGTHS = (3, 11, 1, 30, 7, 46, 5, 9, 2, 14, 8, 47)  # of 48 positions


def student_of(architecture: str) -> Any:
    """A student some of whose answers end early: at a token that about half of them come to."""
    if architecture in tiny.CONFIGS:
        student = tiny.scratch(architecture)
    else:
        torch.manual_seed(0)
        student = tiny.ready(FromScratch(architecture, OTHERS[architecture], vocab_size=600))
        for parameter in student.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    answers = [tiny.plain_greedy(student, prompt, 12, [-1]) for prompt in tiny.prompts(student, LENGTHS[:5])]
    share = {id: sum(id in ids for ids in answers) / len(answers) for ids in answers for id in ids}
    student.model.generation_config.eos_token_id = [-1, min(share, key=lambda id: (abs(share[id] - 0.5), id))]
    return student


def row_by_row(student: Any, prompts: list[Tensor], limits: list[int]) -> list[list[int]]:
    """The answers of transformers, one prompt at a time."""
    rooms = [min(limit, student.context_length - len(prompt)) for prompt, limit in zip(prompts, limits, strict=True)]
    made = [
        student.model.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=room)[0]
        for prompt, room in zip(prompts, rooms, strict=True)
    ]
    return [ids[len(prompt) :].tolist() for ids, prompt in zip(made, prompts, strict=True)]


@contextmanager
def passes(student: Any) -> Iterator[list[tuple[int, int]]]:
    """Shapes of the model's inputs, (rows, tokens per row)."""
    shapes: list[tuple[int, int]] = []
    handle = student.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    handle.remove()


@pytest.mark.parametrize("architecture", [*tiny.CAUSAL, *OTHERS])
def test_answers_equal_those_of_transformers_row_by_row(architecture: str) -> None:
    student, rng = student_of(architecture), random.Random(0)
    prompts = tiny.prompts(student, LENGTHS)
    limits = [rng.randint(1, 16) for _ in prompts]
    expected = row_by_row(student, prompts, limits)
    early = [len(ids) < limit for ids, limit in zip(expected, limits, strict=True)]
    assert 1 < sum(early) < len(early) + (architecture in OTHERS)
    for at_once in (2, 5, None):
        assert student.generate(prompts, limits, at_once=at_once) == expected
    begun = [prompt[len(prompt) // 2 :] for prompt in prompts]
    rest = [prompt[: len(prompt) // 2] for prompt in prompts]
    assert student.generate(rest, limits, begun, at_once=4) == expected


@pytest.mark.parametrize("at_once", [1, 3, 8, 40])
def test_a_token_is_computed_only_if_it_is_read(at_once: int) -> None:
    student = student_of("llama")
    prompts = tiny.prompts(student, [*LENGTHS[:5], *LENGTHS[6:11]] * 4)
    limits = [4 + 7 * i % 23 for i in range(len(prompts))]
    with passes(student) as shapes:
        answers = student.generate(prompts, limits, at_once=at_once)
    written = sum(map(len, answers))
    # The first token of an answer comes from reading the prompt.
    assert sum(rows for rows, width in shapes if width == 1) <= written - len(prompts) + 4  # four prompts have 1 token
    assert sum(rows * width for rows, width in shapes) <= sum(map(len, prompts)) * 1.5 + written
    # All rows are in use until no prompt waits; then the longest answer is finished. Prompts are read in few passes.
    assert len(shapes) <= written / at_once * 1.2 + max(limits) + 2 * min(8, at_once) * -(-len(prompts) // at_once)


def test_one_copy_to_the_host_per_pass() -> None:
    from torch.overrides import TorchFunctionMode

    class Count(TorchFunctionMode):
        copies = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            self.copies += name in ("item", "tolist", "__bool__", "__int__", "__float__", "numpy")
            return func(*args, **(kwargs or {}))

    student = student_of("llama")
    prompts = tiny.prompts(student, LENGTHS[:5] * 4)
    with passes(student) as shapes, Count() as count:
        student.generate(prompts, 12, at_once=8)
    reads = sum(width > 1 for _, width in shapes)
    assert len(shapes) > 3 * reads
    assert count.copies <= len(shapes) + len(prompts) + 3 * reads  # prompts and their sizes are on the host


def test_memory_bounds_rows_and_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    student, held = student_of("llama"), []
    prompts, limits = tiny.prompts(student, LENGTHS), [2, 9, 12, 5, 12, 1, 4, 12, 12, 3, 7, 1]
    expected = row_by_row(student, prompts, limits)
    resize = KVCache.resize
    monkeypatch.setattr(continuous, "cache_tokens", lambda student: 60)
    monkeypatch.setattr(continuous, "_SPARE", 2)
    monkeypatch.setattr(KVCache, "resize", lambda self, *args: (held.append(args[:2]), resize(self, *args))[1])
    shuffled = random.Random(1).sample(range(len(prompts)), len(prompts))  # a queue may have any order
    for order in (shuffled, range(len(prompts))):
        batch = Completions(student)
        for i in order:
            batch.add(i, prompts[i], limits[i])
        found = batch.run()
        assert [found[i] for i in range(len(prompts))] == expected
    assert max(rows for rows, _ in held) > 2
    assert all(rows * columns <= 60 for rows, columns in held)


def test_prompts_may_join_later() -> None:
    student = student_of("gpt2")
    prompts, limits = tiny.prompts(student, LENGTHS), [11] * len(LENGTHS)
    batch, found = Completions(student, at_once=4), {}
    with passes(student) as shapes:
        for start in range(0, len(prompts), 4):
            for i in range(start, start + 4):
                batch.add(i, prompts[i], limits[i])
            found |= batch.run(finish=False)
            assert start + 4 - len(found) <= 4  # at most so many wait for company
        found |= batch.run()
    assert [found[i] for i in range(len(prompts))] == row_by_row(student, prompts, limits)
    assert max(rows for rows, _ in shapes) == 4
    assert batch.run() == {}


def test_a_student_without_a_cache_says_so_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "_REPORTED", set())
    student = tiny.scratch("phi3", more={"sliding_window": 6})
    prompts = tiny.prompts(student, LENGTHS)
    limits = [int(limit) for limit in np.random.default_rng(0).integers(1, 12, size=len(prompts))]
    expected = row_by_row(student, prompts, limits)
    capsys.readouterr()
    assert student.generate(prompts, limits, at_once=3) == expected
    assert student.generate(prompts, limits) == expected
    (line,) = capsys.readouterr().out.splitlines()
    assert "transformers' generate" in line
    assert "slides over 6 tokens" in line


def test_another_attention_is_named_with_what_to_do() -> None:
    student = tiny.scratch("llama")
    student.model.config._attn_implementation = "flash_attention_2"
    why = kv_cache.why_no_cache(student, 40)
    assert "(flash_attention_2)" in why
    remedy = why.split("model.student.init_args.attention: ")[1].split()[0]
    student.model.config._attn_implementation = remedy
    assert not kv_cache.why_no_cache(student, 40)
