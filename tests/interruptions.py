"""Callbacks that end or spoil a run at a chosen optimizer step, for use by class path."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class PulledPlugError(Exception):
    """Simulates a crash."""


class Interrupt(Callback):
    """Ends the run after an optimizer step.

    Args:
        step: The number of the optimizer step.
        how: ``crash`` raises, ``kill`` sends SIGKILL, ``ctrl_c`` SIGINT, ``terminate``
            SIGTERM, ``requeue`` SIGUSR1, ``stop`` asks Lightning to stop, as ``max_time`` does.
        rank: The process that ends the run.
    """

    def __init__(self, step: int, how: str = "crash", rank: int = 0) -> None:
        self.step, self.how, self.rank = step, how, rank

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Ends the run."""
        if trainer.global_step != self.step or trainer.global_rank != self.rank:
            return
        if self.how == "crash":
            raise PulledPlugError
        if self.how == "stop":
            trainer.should_stop = True
            return
        signals = {"kill": signal.SIGKILL, "ctrl_c": signal.SIGINT, "terminate": signal.SIGTERM}
        os.kill(os.getpid(), {**signals, "requeue": signal.SIGUSR1}[self.how])


class SaveAt(Callback):
    """Saves a checkpoint in a hook, as users' callbacks may, and crashes once the step is logged.

    Args:
        hook: Name of the hook.
        call: Which of its calls, from 1.
        path: The file.
    """

    def __init__(self, hook: str, call: int, path: str) -> None:
        calls, saved = 0, False
        crash = "on_train_batch_start", "on_train_epoch_end", "on_train_end"

        def act(name: str, trainer: Any) -> None:
            nonlocal calls, saved
            if saved and name in crash:
                raise PulledPlugError
            calls += name == hook
            if name == hook and calls == call:
                trainer.save_checkpoint(path)
                saved = True
                if name in crash or name == "on_before_optimizer_step":
                    raise PulledPlugError

        for name in {hook, *crash}:
            setattr(self, name, lambda trainer, *args, name=name: act(name, trainer))


class InterruptTest(Callback):
    """Sends this process SIGTERM while it tests.

    Args:
        rank: The process that gets the signal.
    """

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def on_test_batch_start(self, trainer: Any, *args: Any) -> None:
        """Sends the signal."""
        if trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


class SpoilGradient(Callback):
    """Gives one weight, the last norm's first, a gradient that is not finite, in a step whose loss is finite.

    Args:
        step: The step.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        """Spoils."""
        if trainer.global_step == self.step:
            next(weight for name, weight in module.named_parameters() if "ln_f" in name).grad[0] = float("inf")


class AskParent(Callback):
    """Sends the parent process a signal after an optimizer step and gives the parent time to forward it.

    Args:
        step: The number of the optimizer step.
        name: The signal.
    """

    def __init__(self, step: int, name: str = "SIGINT") -> None:
        self.step, self.number = step, signal.Signals[name]

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Sends the signal."""
        if trainer.global_step == self.step:
            os.kill(os.getppid(), self.number)
            time.sleep(1)


class Breakdown(LambdaLR):
    """A constant learning rate that ends the run after N optimizer steps, also in runs that callbacks do not reach.

    Args:
        optimizer: The optimizer.
        step: The number of the optimizer step.
        how: ``crash`` raises, ``kill`` sends SIGKILL.
    """

    def __init__(self, optimizer: Optimizer, step: int, how: str = "crash") -> None:
        self.last, self.how = step, how
        super().__init__(optimizer, lambda _: 1.0)

    def step(self, *args: Any) -> None:
        """Ends the run."""
        super().step(*args)
        if self.last_epoch >= self.last:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise PulledPlugError
