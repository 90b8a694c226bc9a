"""Checks that stop a run at a non-finite loss or gradient, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from skipthinking.annotate.runner import say
from skipthinking.records import UserError

__all__ = ["FiniteChecks"]

_REMEDY = "Lower the learning rate, clip gradients (trainer.gradient_clip_val), or train in float32 or bfloat16."


class _OnItsWay:
    """A tensor that is copied to the host while the device goes on."""

    def __init__(self, value: Tensor) -> None:
        cuda = value.device.type == "cuda"
        self._value = value.detach().to("cpu", non_blocking=cuda)  # torch makes a pinned copy
        self._copied = torch.cuda.Event() if cuda else None
        if self._copied is not None:
            self._copied.record()

    def read(self) -> Any:
        """The values; waits for what the device was given before the copy, not for what came after it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._value.tolist()


class FiniteChecks:
    """Watches the losses of micro-batches and the gradients of optimizer steps.

    Each value is checked when the next one is watched, so that the device computes while the host waits for it. So
    a loss is checked before its optimizer step, and gradients after the forward pass that follows theirs, when the
    weights have been updated with them. Nothing is made of such weights: :meth:`read` runs before a checkpoint is
    saved, before a validation, and at the end of every epoch.
    """

    def __init__(self) -> None:
        self._unread: list[tuple[_OnItsWay, Callable[[Any], None]]] = []
        self.last_loss: float | None = None
        """The last loss that was checked."""

    def loss(self, module: L.LightningModule, loss: Tensor, ids: Sequence[str], micro_batch: int) -> None:
        """Watches the step's loss up to a micro-batch.

        Raises:
            UserError: A value that was watched before is not finite.
        """
        step, epoch = module.global_step, module.current_epoch

        def check(value: float) -> None:
            if not math.isfinite(value):
                raise UserError(
                    f"Expected a finite loss, got {value} at step {step} (epoch {epoch}, micro-batch {micro_batch}), "
                    f"examples {', '.join(ids)}. {_REMEDY}"
                )
            self.last_loss = value

        self._watch(loss, check)

    def gradients(self, module: L.LightningModule) -> None:
        """Watches the norms of all gradients before an optimizer step.

        With precision 16-mixed, overflow is expected: the loss scaler skips the step and lowers its scale; this is
        logged.

        Raises:
            UserError: A value that was watched before is not finite.
        """
        named = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        if not named:
            return
        parts = torch._foreach_norm(list(named.values()))
        norms = [getattr(norm, "full_tensor", lambda norm=norm: norm)() for norm in parts]
        plugin: Any = module.trainer.precision_plugin
        scaled = getattr(plugin, "scaler", None) is not None
        step, epoch, names = module.global_step, module.current_epoch, list(named)

        def check(finite: list[bool]) -> None:
            if all(finite):
                return
            if scaled:
                say(f"step {step}: gradients overflowed in float16, so the loss scaler skips this step")
                return
            raise UserError(
                f"Expected finite gradients, got others in {names[finite.index(False)]} at step {step} (epoch "
                f"{epoch}). {_REMEDY}"
            )

        self._watch(torch.isfinite(torch.stack(norms)), check)

    def read(self) -> None:
        """Checks what was watched.

        Raises:
            UserError: A value is not finite; it stays unread, so that later calls raise, too.
        """
        for value, check in self._unread:
            check(value.read())
        self._unread = []

    def _watch(self, value: Tensor, check: Callable[[Any], None]) -> None:
        self.read()
        self._unread.append((_OnItsWay(value), check))
