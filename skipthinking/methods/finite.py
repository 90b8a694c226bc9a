"""Losses and gradients that are not finite end a run before they reach the weights."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor

from skipthinking.records import UserError

__all__ = ["check_gradients", "check_loss"]

_REMEDY = "Lower the learning rate, clip gradients (trainer.gradient_clip_val), or train in float32 or bfloat16."


def check_loss(module: L.LightningModule, loss: Tensor, ids: Sequence[str], micro_batch: int) -> None:
    """Checks the loss of a micro-batch.

    Raises:
        UserError: It is not finite.
    """
    if not torch.isfinite(loss):
        raise UserError(
            f"Expected a finite loss, got {loss.item()} at step {module.global_step} (epoch {module.current_epoch}, "
            f"micro-batch {micro_batch}), examples {', '.join(ids)}. {_REMEDY}"
        )


def check_gradients(module: L.LightningModule) -> None:
    """Checks the gradients of an optimizer step; the fused norms cost one wait for the device.

    Raises:
        UserError: One is not finite.
    """
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    norms = torch._foreach_norm([gradient for _, gradient in named])
    finite = torch.isfinite(torch.stack(norms)) if norms else torch.ones(0, dtype=torch.bool)
    if not finite.all():
        name = named[int((~finite).nonzero()[0])][0]
        raise UserError(
            f"Expected finite gradients, got others in {name} at step {module.global_step} (epoch "
            f"{module.current_epoch}). {_REMEDY}"
        )
