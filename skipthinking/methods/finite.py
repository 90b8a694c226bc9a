"""Checks that stop a run at a non-finite loss or gradient, before the weights are updated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from skipthinking.annotate.runner import say
from skipthinking.records import UserError

__all__ = ["check_gradients", "check_loss"]

_REMEDY = "Lower the learning rate, clip gradients (trainer.gradient_clip_val), or train in float32 or bfloat16."


def check_loss(module: L.LightningModule, loss: Tensor, ids: Sequence[str], micro_batch: int) -> None:
    """Checks the loss of a micro-batch.

    Raises:
        UserError: The loss is not finite.
    """
    if not torch.isfinite(loss):
        raise UserError(
            f"Expected a finite loss, got {loss.item()} at step {module.global_step} (epoch {module.current_epoch}, "
            f"micro-batch {micro_batch}), examples {', '.join(ids)}. {_REMEDY}"
        )


def check_gradients(module: L.LightningModule) -> None:
    """Checks the gradients of an optimizer step, with a single synchronization with the device.

    With precision 16-mixed, overflow is expected: the loss scaler skips the step and lowers its scale; this is logged.

    Raises:
        UserError: A gradient is not finite.
    """
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    norms = [getattr(norm, "full_tensor", lambda norm=norm: norm)() for norm in _norms([g for _, g in named])]
    finite = torch.isfinite(torch.stack(norms)) if norms else torch.ones(0, dtype=torch.bool)
    if finite.all():
        return
    plugin: Any = module.trainer.precision_plugin
    if getattr(plugin, "scaler", None) is not None:
        say(f"step {module.global_step}: gradients overflowed in float16, so the loss scaler skips this step")
        return
    name = named[int((~finite).nonzero()[0])][0]
    raise UserError(
        f"Expected finite gradients, got others in {name} at step {module.global_step} (epoch "
        f"{module.current_epoch}). {_REMEDY}"
    )


def _norms(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(list(gradients))) if gradients else []
