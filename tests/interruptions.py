"""Callbacks that end a run at a chosen optimiser step, by class path."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch.callbacks import Callback


class PulledPlugError(Exception):
    """Stands for a crash."""


class Interrupt(Callback):
    """Ends the run when an optimiser step is done.

    Args:
        step: The step.
        how: ``crash`` raises, ``kill`` sends SIGKILL, ``ctrl_c`` SIGINT, ``terminate``
            SIGTERM.
    """

    def __init__(self, step: int, how: str = "crash") -> None:
        self.step, self.how = step, how

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Ends the run."""
        if trainer.global_step != self.step:
            return
        if self.how == "crash":
            raise PulledPlugError
        signals = {"kill": signal.SIGKILL, "ctrl_c": signal.SIGINT, "terminate": signal.SIGTERM}
        os.kill(os.getpid(), signals[self.how])
