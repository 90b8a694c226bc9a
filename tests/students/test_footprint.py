"""The memory of a training step, planned without weights, against the same step with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skipthinking.command_line.planning import write_plan
from skipthinking.data.batches import collate
from skipthinking.methods import Distiller
from skipthinking.records import Instance
from skipthinking.students import FromScratch, LoRA
from skipthinking.students.footprint import LOGITS_MOST, Footprint, footprint, optimizer_bytes

SIZES = {
    "llama": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 160},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256},
}


def _instances(rows: int, length: int) -> list[Instance]:
    one = np.arange(length) % 64
    return [
        Instance(id=str(row), prompt=one[:8], tokens=one[8:], weights=np.ones(length - 8, dtype=np.float32))
        for row in range(rows)
    ]


def _student(architecture: str, **settings: Any) -> FromScratch:
    student = FromScratch(architecture=architecture, config=SIZES[architecture], vocab_size=512, **settings)
    student.prepare(["a b c d e f g h"] * 4)
    return student


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [None, LoRA(r=4)])
@pytest.mark.parametrize("architecture", SIZES)
def test_plan_equals_a_step_with_weights(architecture: str, lora: LoRA | None, compute: torch.dtype) -> None:
    student = _student(architecture, lora=lora)
    batch = collate(_instances(4, 96), pad_id=0, encoder_decoder=False)
    planned = footprint(student, batch, optimizer=torch.optim.AdamW, compute=compute)
    assert not student.built

    student.build()
    student.train()
    weights = list(student.model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    autocast = nullcontext() if compute == torch.float32 else torch.autocast("cpu", compute)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        loss = student.token_nll(batch).sum()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*weights, *student.model.buffers()]}
    activations = sum(one.untyped_storage().nbytes() for place, one in seen.items() if place not in own)
    assert planned.activations == pytest.approx(activations, rel=0.02)

    optimizer = torch.optim.AdamW(trained)
    loss.backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert planned.optimizer == sum(value.nbytes for value in states)
    assert planned.gradients == sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    assert (planned.parameters, planned.trained) == (sum(w.numel() for w in weights), sum(w.numel() for w in trained))


def test_activations_grow_with_rows_and_shrink_with_checkpointing() -> None:
    def planned(rows: int, **settings: Any) -> Any:
        batch = collate(_instances(rows, 96), pad_id=0, encoder_decoder=False)
        return footprint(_student("llama", **settings), batch, optimizer=torch.optim.SGD)

    one, two, spared = planned(2), planned(4), planned(4, gradient_checkpointing=True)
    assert two.activations == pytest.approx(2 * one.activations, rel=0.02)
    assert one.fixed == two.fixed == spared.fixed
    assert spared.activations < 0.5 * two.activations
    assert spared.total < two.total
    assert one.optimizer == 0


def test_states_of_optimizers_are_counted() -> None:
    adam = optimizer_bytes(torch.optim.AdamW, torch.float32)
    momentum = optimizer_bytes(lambda weights: torch.optim.SGD(weights, lr=1.0, momentum=0.9), torch.float32)
    assert (adam, momentum) == (8, 4)


def test_plan_of_a_run_trains_nothing(
    run: Callable[..., int], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--plan", "--model.student.gradient_checkpointing", "true") == 0
    out = capsys.readouterr().out
    assert "a step" in out
    assert "a GPU of  80 GB holds" in out
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("words", [["--model", "KPOD"], ["--model", "LongCoT"], ["--trainer.precision", "bf16-mixed"]])
def test_every_method_can_be_planned(
    words: list[str], run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--plan", *words, "--data.batch_size", 2) == 0
    rows = 4 if "LongCoT" in words else 2  # pairs
    assert f"the longest micro-batch: {rows} instances" in capsys.readouterr().out


def test_what_cannot_be_planned_is_refused(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--plan", "--data.max_length", 10) == 2
    assert "all are longer" in capsys.readouterr().err
    assert run("test", "--plan", "--untrained", "true") == 2
    assert "--plan with fit" in capsys.readouterr().err


def test_instances_that_fit_do_fit() -> None:
    def planned(rows: int) -> Footprint:
        batch = collate(_instances(rows, 96), pad_id=0, encoder_decoder=False)
        student = _student("llama", gradient_checkpointing=True)
        return footprint(student, batch, optimizer=torch.optim.SGD)

    text = write_plan(planned(2), rows=2, width=96, precision="32-true", shards=1)
    most = int(re.findall(r"16 GB holds (\d+)", text)[0])
    many = planned(1024)  # more logits than a chunk, which few instances keep as they are
    needed = many.fixed + LOGITS_MOST + (many.activations + many.recomputed) / 1024 * most
    assert 0.5 * 16 * 2**30 < needed < 0.92 * 16 * 2**30


def test_no_gradient_of_a_step_is_held_in_the_next_one(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients grow while activations shrink: 4 bytes a weight less than both together."""
    held, start = list[bool](), Distiller.on_train_batch_start

    def look(self: Distiller, batch: Any, index: int) -> None:
        held.append(any(weight.grad is not None for weight in self.parameters()))
        start(self, batch, index)

    monkeypatch.setattr(Distiller, "on_train_batch_start", look)
    words = ["--trainer.accumulate_grad_batches", 2, "--trainer.max_epochs", 1, "--data.val_size", 0]
    assert run("fit", *words, "--evaluate", "false") == 0
    assert held == [False, True] * 3  # a step has two micro-batches
