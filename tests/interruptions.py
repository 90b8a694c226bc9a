"""Callbacks that end a run at a chosen optimiser step, by class path."""

from __future__ import annotations

import os
import signal
import time
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


class AskParent(Callback):
    """Has the parent process get Ctrl-C when an optimiser step is done, and gives it time to pass it on.

    Args:
        step: The step.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Asks."""
        if trainer.global_step == self.step:
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(1)
