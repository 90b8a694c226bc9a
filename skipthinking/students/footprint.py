"""How much memory a training step takes, without the weights, the device, or the memory: tensors have shapes only."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from skipthinking.data.batches import Batch
from skipthinking.students.base import Student
from skipthinking.students.heads import CHUNK_ELEMENTS, take_as_last

__all__ = ["LOGITS_MOST", "Footprint", "footprint", "optimizer_bytes"]


LOGITS_MOST = 3 * 4 * CHUNK_ELEMENTS  # bytes of a chunk of logits with its gradients, in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Bytes of a training step. What kernels and memory fragments take comes on top.

    Attributes:
        parameters: Number of weights.
        trained: Number of trained weights.
        weights: Bytes of the weights.
        gradients: Of the gradients.
        optimizer: Of the optimizer's states.
        activations: Of what the forward pass of the micro-batch keeps for the backward pass; weights that autocast
            converts are among them.
        recomputed: With gradient checkpointing, of the activations of a layer, which come and go in the backward pass.
        work: Of a chunk of logits with its gradients, which comes and goes, too.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    recomputed: int
    work: int

    @property
    def fixed(self) -> int:
        """What does not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The most that a step takes: gradients exist while the last activations do."""
        return self.fixed + self.activations + self.recomputed + self.work


def footprint(
    student: Student,
    batch: Batch,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    compute: torch.dtype = torch.float32,
    weights: torch.dtype | None = None,
) -> Footprint:
    """The memory of a training step on a micro-batch.

    The forward pass runs on tensors without memory (torch's FakeTensorMode), so that the result holds for any
    architecture, adapter and gradient checkpointing; a student of billions of weights takes seconds.

    Args:
        student: The student, with its tokenizer; it is not built.
        batch: The micro-batch, on the CPU.
        optimizer: Makes the optimizer.
        compute: Type that autocast computes in.
        weights: Type of all weights; by default those that the student's settings give.
    """
    with FakeTensorMode() as mode:
        twin = _twin(student, weights)
        kept = _saved(twin, batch, mode, compute)
        parameters = list(twin.parameters())
        trained = [p for p in parameters if p.requires_grad]
        size = sum(p.numel() * p.element_size() for p in trained)
        vocabulary = twin.config.get_text_config(decoder=True).vocab_size
        work = min(LOGITS_MOST, 3 * 4 * len(batch.where.ids_N) * vocabulary)
        recomputed = 0
        if student.gradient_checkpointing:
            everything = copy.copy(student)
            everything.gradient_checkpointing = False
            layers = twin.config.get_text_config(decoder=True).num_hidden_layers
            recomputed = (_saved(_twin(everything, weights), batch, mode, compute) - kept) // layers
    return Footprint(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in trained),
        weights=sum(t.numel() * t.element_size() for t in itertools.chain(parameters, twin.buffers())),
        gradients=size,
        optimizer=round(size / trained[0].element_size() * optimizer_bytes(optimizer, trained[0].dtype)),
        activations=kept,
        recomputed=recomputed,
        work=work,
    )


def _twin(student: Student, dtype: torch.dtype | None) -> Student:
    """The student, built, with tensors of the present FakeTensorMode; peft could not move an adapter within it."""
    with unset_fake_temporarily(), torch.device("meta"):
        twin = student.outline()
    copies: dict[int, Tensor] = {}  # tied weights stay tied

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            empty = torch.empty(tensor.shape, dtype=kind)
            weight = isinstance(tensor, nn.Parameter)
            copies[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if weight else empty
        return copies[id(tensor)]

    for module in twin.modules():
        stored: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in stored:
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)
    return twin


def _saved(twin: Student, batch: Batch, mode: FakeTensorMode, compute: torch.dtype) -> int:
    """Bytes that the forward pass keeps, each storage once, weights not counted."""
    own = {p.untyped_storage()._cdata for p in itertools.chain(twin.parameters(), twin.buffers())}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # a storage that is freed would give its address to another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    take_as_last(twin.model)
    twin.train()
    autocast = torch.autocast("cpu", compute) if compute != torch.float32 else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        twin.token_nll(_fake(batch, mode))
    return sum(sizes.values())


def _fake(value: Any, mode: FakeTensorMode) -> Any:
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_fake(part, mode) for part in value))
    return value


def optimizer_bytes(optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], dtype: torch.dtype) -> float:
    """Bytes of an optimizer's states per trained weight, by a step on a small matrix.

    >>> optimizer_bytes(torch.optim.AdamW, torch.float32)
    8.0
    """
    weight = nn.Parameter(torch.zeros(64, 64, dtype=dtype))
    weight.grad = torch.ones_like(weight)
    one = optimizer([weight])
    one.step()
    states = [value for value in one.state[weight].values() if isinstance(value, Tensor) and value.dim()]
    return sum(state.numel() * state.element_size() for state in states) / weight.numel()
