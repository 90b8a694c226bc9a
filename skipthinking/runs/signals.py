"""Stops a run so that it can be resumed: on Ctrl-C, SIGTERM, and SLURM's signal that a job's time is over."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from skipthinking.runs.folder import last_checkpoint
from skipthinking.runs.slurm import requeue

__all__ = ["Interrupts"]


class Interrupts(Callback):
    """Finishes and saves the optimizer step on Ctrl-C, SIGTERM and SIGUSR1; a second Ctrl-C stops at once.

    SLURM sends SIGUSR1 if asked by ``sbatch --signal=USR1@180``. The job is then requeued as well, and its command
    resumes by ``--ckpt_path last``. Lightning's own handler, replaced by this one, saves in the middle of a step.
    SLURM sends SIGTERM when it takes nodes away from a job; it requeues the job itself, unless the job was canceled.

    Several processes must save the same step. In a SLURM job all of them get the signal, and they agree on the step by
    one all-reduce of a flag per step. Outside of a job, and for Ctrl-C, they do not, and the last regular checkpoint
    counts. Between epochs, where searches run, a run stops at once: the previous epoch ended with a checkpoint.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = last_checkpoint(folder)
        self.asked = self.saved = self.requeue = False
        self.within = False  # an epoch
        self._before: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Handles SIGUSR1, before Lightning does, and before data workers start and inherit the handler."""
        if threading.current_thread() is not threading.main_thread():
            return

        process = os.getpid()

        def ask(number: int, frame: Any) -> None:
            if os.getpid() != process:
                return  # a data worker
            self.requeue = True
            if self.within:
                self.asked = True
                return
            if trainer.is_global_zero:
                requeue()
            raise KeyboardInterrupt

        self._before.setdefault(signal.SIGUSR1, signal.signal(signal.SIGUSR1, ask))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handles Ctrl-C, or SIGTERM among several processes, which in Lightning's handler wait for each other."""
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.world_size > 1:
            if "SLURM_JOB_ID" in os.environ:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._leave(os.getpid()))
            return

        def ask(number: int, frame: Any) -> None:
            if self.asked or not self.within:
                raise KeyboardInterrupt
            self.asked = True
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, ask)

    def _leave(self, process: int) -> Callable[[int, Any], None]:
        def ask(number: int, frame: Any) -> None:
            if os.getpid() != process:  # a data worker, which the signal ends
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            elif not self.within:
                raise KeyboardInterrupt
            else:
                self.asked = True

        return ask

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Saves once an optimizer step is complete."""
        if not self.saved and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._settle(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves and stops if a signal came after the last step, such as during validation."""
        self.within = False
        if not self.saved:
            self._settle(trainer)
        if self.saved:
            raise KeyboardInterrupt

    def _settle(self, trainer: L.Trainer) -> None:
        if trainer.world_size > 1:
            if "SLURM_JOB_ID" not in os.environ:
                return
            self.asked = trainer.strategy.reduce_boolean_decision(self.asked, all=False)
            self.requeue = self.asked and trainer.strategy.reduce_boolean_decision(self.requeue, all=False)
        elif trainer.received_sigterm:
            self.asked = True
        if self.asked:
            trainer.save_checkpoint(self.path)
            self.saved = True
            if self.requeue and trainer.is_global_zero:
                requeue()

    def on_train_batch_start(self, *args: Any) -> None:
        """Stops before the next micro-batch, once the saved step is logged."""
        self.within = True
        if self.saved:
            raise KeyboardInterrupt

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Prints how to resume."""
        self.within = False
        self.on_train_end(trainer, pl_module)
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero and trainer.state.fn == "fit":
            how = "Go on: the same command with --ckpt_path last." if self.path.exists() else "No checkpoint yet."
            print(f"stopped at step {trainer.global_step}. {how}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the handlers of Ctrl-C and SIGTERM."""
        for number in self._before.keys() & {signal.SIGINT, signal.SIGTERM}:
            signal.signal(number, self._before.pop(number))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restores the handler of SIGUSR1."""
        if signal.SIGUSR1 in self._before:
            signal.signal(signal.SIGUSR1, self._before.pop(signal.SIGUSR1))
