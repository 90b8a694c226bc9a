"""Learning-rate schedules that know the length of the run."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["Warmup"]


class Warmup(LambdaLR):
    """Linear warm-up, then constant, linear or cosine decay to the end of training.

    Args:
        optimizer: The optimizer.
        warmup: Length of the warm-up, as a share of all optimiser steps.
        decay: Shape of what follows.
        floor: Share of the learning rate that is left at the end.
        total_steps: Optimiser steps of the run; filled in by the method when it is null.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.05,
        decay: Literal["constant", "linear", "cosine"] = "linear",
        floor: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        self.warmup, self.decay, self.floor, self.total_steps = warmup, decay, floor, total_steps
        super().__init__(optimizer, self._factor)

    def set_total_steps(self, steps: int) -> None:
        """Tells the length of the run, unless it was given; the rate of step 0 follows it."""
        self.total_steps = self.total_steps or steps
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self._factor(self.last_epoch)

    def _factor(self, step: int) -> float:
        total = self.total_steps or 1
        rise = self.warmup * total
        if step < rise:
            return (step + 1) / (rise + 1)
        done = min(1.0, (step - rise) / max(1.0, total - rise))
        left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.decay]
        return self.floor + (1 - self.floor) * left
