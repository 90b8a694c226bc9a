"""``torch.compile`` for students: layer by layer, in training only.

Layers of a kind share one compilation, and masks and the head, whose hook selects target positions, stay as they are.
Compilation in place leaves the names of weights alone (no ``_orig_mod`` in checkpoints and exports).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from skipthinking.records import UserError

__all__ = ["compile_layers", "uncompiled"]

BACKEND: Any = "inductor"


def compile_layers(model: nn.Module) -> None:
    """Compiles the layers of a model for batches of any shape, when they are first called.

    Raises:
        UserError: The model has no list of layers.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if not outer:
        raise UserError(
            f"Expected a model with a list of layers, got {type(model).__name__}. Set model.student.compile: false."
        )
    for name in outer:
        for layer in model.get_submodule(name).children():
            layer.compile(backend=BACKEND, dynamic=True)


def uncompiled(compiled: bool) -> AbstractContextManager[Any]:
    """Runs compiled layers, if there are any, as they were written: answers have too many shapes to compile for."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
