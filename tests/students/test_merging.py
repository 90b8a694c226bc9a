"""Merged adapters: the same answers from fewer layers, and afterwards bit-equal weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from skipthinking.students import merging
from skipthinking.students.measures import nll
from skipthinking.students.merging import merged
from skipthinking.students.scoring import score
from tests.students import tiny


def _bits(student: Any) -> dict[str, tuple[int, bytes]]:
    """Name, identity and bytes of every weight."""
    return {name: (id(p), p.detach().numpy().tobytes()) for name, p in student.named_parameters()}


def _calls(student: Any, prompt: torch.Tensor) -> int:
    """Modules that a pass calls."""
    calls: list[int] = []
    handles = [part.register_forward_pre_hook(lambda *_: calls.append(1)) for part in student.modules()]
    student.model(input_ids=prompt[None])
    for handle in handles:
        handle.remove()
    return len(calls)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_merged_answers_are_the_same_and_weights_come_back(architecture: str) -> None:
    student = tiny.scratch(architecture, lora=tiny.adapter()).train()
    prompts, rows = tiny.prompts(student, [3, 9, 5]), tiny.instances(student)
    before, flags = _bits(student), {name: p.requires_grad for name, p in student.named_parameters()}
    with student.frozen(merge=False):
        expected, scores = student.generate(prompts, 9), tiny_scores(student, rows)
    with student.frozen():
        inside = _bits(student)
        assert inside.keys() == before.keys()
        assert sum(inside[name] != before[name] for name in before) == sum("lora_A" in name for name in before) > 3
        assert student.generate(prompts, 9) == expected
        with student.frozen():  # once is enough
            assert _bits(student) == inside
        torch.testing.assert_close(tiny_scores(student, rows), scores, rtol=1e-4, atol=1e-4)
    assert _bits(student) == before
    assert {name: p.requires_grad for name, p in student.named_parameters()} == flags
    assert student.training
    found = student.token_nll(tiny.batch_of(student, rows))  # adapters are trained again
    found.sum().backward()
    assert all(bool(value.any()) for name, value in tiny.gradients(student).items() if "lora_B" in name)


def tiny_scores(student: Any, rows: Any) -> torch.Tensor:
    return torch.cat([torch.from_numpy(values) for values in score(student, rows, nll).values()])


def test_a_pass_calls_fewer_layers() -> None:
    student = tiny.scratch("llama", lora=tiny.adapter())
    (prompt,) = tiny.prompts(student, [5])
    with student.frozen(merge=False):
        unmerged = _calls(student, prompt)
    with student.frozen():
        assert _calls(student, prompt) <= unmerged - 3 * 14  # A, B and dropout of 7 layers in each of 2 blocks


def test_weights_come_back_after_an_error_and_memory_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny.scratch("gpt2", lora=tiny.adapter())
    before = _bits(student)
    with pytest.raises(KeyError), merged(student):
        raise KeyError
    assert _bits(student) == before
    monkeypatch.setattr(merging, "free_bytes", lambda device: 1000)
    with merged(student):
        assert _bits(student) == before
