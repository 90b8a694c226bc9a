"""Adapters merged into the weights for a while, so that a forward pass computes one matrix per layer and not three."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from skipthinking.students.memory import free_bytes

__all__ = ["merged"]

_MERGED: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # students whose adapters are merged at present


@contextmanager
def merged(student: nn.Module) -> Iterator[None]:
    """Merges the adapters of a student (peft); afterwards all weights are bit-equal to what they were.

    Adapted layers get a copy of their weights with the update added, in the type of these weights, as in an exported
    student; the layers' own parameters are set aside, not changed. So it takes the memory of the adapted weights once
    more, and does nothing if less than twice of that is free. Nothing happens within another such block, either.
    The weights of sharded students must be gathered. Not for gradients: the copies have none.
    """
    if getattr(student, "lora", None) is None:
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [part for part in student.modules() if isinstance(part, BaseTunerLayer)]
    own = [] if student in _MERGED else [(layer, layer.get_base_layer().weight) for layer in layers]
    if not own or 2 * sum(weight.nbytes for _, weight in own) > free_bytes(own[0][1].device):
        yield
        return
    _MERGED.add(student)
    try:
        with torch.no_grad():
            for layer, weight in own:
                layer.get_base_layer().weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
                layer.merge()
        yield
    finally:
        for layer, weight in own:
            layer.get_base_layer().weight = weight
            layer.merged_adapters.clear()
        _MERGED.remove(student)
