"""Stops a run so that it can be resumed: on Ctrl-C, SIGTERM, and SLURM's signal that a job's time is over."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from skipthinking.runs.folder import last_checkpoint
from skipthinking.runs.slurm import requeue

__all__ = ["Interrupts", "handlers_kept"]


class Interrupts(Checkpoint):
    """Finishes and saves the optimizer step on Ctrl-C, SIGTERM and SIGUSR1; a second Ctrl-C stops at once.

    SLURM sends SIGUSR1 if asked by ``sbatch --signal=USR1@180``. The job is then requeued as well, and its command
    resumes by ``--ckpt_path last``. Lightning's own handler, replaced by this one, saves in the middle of a step.
    SLURM sends SIGTERM when it takes nodes away from a job; it requeues the job itself, unless the job was canceled.

    A validation within an epoch is not interrupted: the step that follows it is saved. A run that is killed before that
    loses the steps since its last checkpoint.

    Several processes must save the same step. In a SLURM job all of them get the signal, and they agree on the step by
    one all-reduce of a flag per step. Outside of a job, and for Ctrl-C, they do not, and the last regular checkpoint
    counts. Between epochs, where searches run, a run stops at once: the previous epoch ended with a checkpoint. So do
    test, validate, predict and annotate, where Lightning ignores SIGTERM.

    Lightning calls checkpoint callbacks last: what this one saves has the state of all others after the same step.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = last_checkpoint(folder)
        self.stop_requested = self.saved = self.requeue = self.terminated = False
        self.within = False  # an epoch
        self._outer: dict[int, Any] = {}  # handlers before the command, and before training
        self._inner: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Handles SIGUSR1 and SIGTERM, before Lightning does, and before data workers start and inherit a handler."""
        self.watch(trainer)

    def watch(self, trainer: L.Trainer) -> None:
        """Handles SIGUSR1 and SIGTERM from now on; the command line calls this before it reads the data."""

        def ask(number: int, frame: Any) -> None:
            self.requeue = True
            if self.within:
                self.stop_requested = True
                return
            if trainer.is_global_zero:
                requeue()
            raise KeyboardInterrupt

        def end(number: int, frame: Any) -> None:
            if not self.within:
                raise SIGTERMException
            if trainer.world_size == 1:
                self.stop_requested = self.terminated = True
                # Lightning's handler, which runs before this one, has noted it, and would end a validation, unsaved.
                trainer._signal_connector.received_sigterm = False

        _handle(self._outer, signal.SIGUSR1, ask)
        _handle(self._outer, signal.SIGTERM, end)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handles Ctrl-C, or SIGTERM among several processes, which in Lightning's handler wait for each other."""

        def leave(number: int, frame: Any) -> None:
            if not self.within:
                raise KeyboardInterrupt
            self.stop_requested = True

        def ask(number: int, frame: Any) -> None:
            if self.stop_requested or not self.within:
                raise KeyboardInterrupt
            self.stop_requested = True
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

        if trainer.world_size == 1:
            _handle(self._inner, signal.SIGINT, ask)
        elif "SLURM_JOB_ID" in os.environ:
            _handle(self._inner, signal.SIGTERM, leave)

    def _on_answering_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handles SIGTERM among several processes outside of training, where Lightning ignores it."""
        launcher = trainer.strategy.launcher

        def end(number: int, frame: Any) -> None:
            if launcher is not None:
                launcher.kill(number)
            raise SIGTERMException

        if trainer.state.fn != "fit":
            if trainer.received_sigterm:
                raise SIGTERMException
            if trainer.world_size > 1:
                _handle(self._inner, signal.SIGTERM, end)

    on_test_start = on_validation_start = on_predict_start = _on_answering_start

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Saves once an optimizer step is complete; the last one of an epoch, after the validation that follows it."""
        if not self.saved and not trainer.is_last_batch and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._settle(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves and stops if a signal came after the last step, such as during validation."""
        self.within = False
        if not self.saved:
            self._settle(trainer)
        if self.saved:
            self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> NoReturn:
        raise SIGTERMException if self.terminated or trainer.received_sigterm else KeyboardInterrupt

    def _settle(self, trainer: L.Trainer) -> None:
        if trainer.world_size > 1:
            if "SLURM_JOB_ID" not in os.environ:
                return
            self.stop_requested = trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False)
            self.requeue = self.stop_requested and trainer.strategy.reduce_boolean_decision(self.requeue, all=False)
        if self.stop_requested:
            trainer.save_checkpoint(self.path)
            self.saved = True
            if self.requeue and trainer.is_global_zero:
                requeue()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Stops before the next micro-batch, once the saved step is logged."""
        self.within = True
        if self.saved:
            self._stop(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Prints how to go on."""
        self.within = False
        _restore(self._inner)
        if not isinstance(exception, (KeyboardInterrupt, SIGTERMException)) or not trainer.is_global_zero:
            return
        how, task = "Start the same command again.", trainer.state.fn
        if task == "fit" or trainer.global_step:  # a test after training
            how = "Go on: the same command with --ckpt_path last." if self.path.exists() else "No checkpoint yet."
        where = f"at step {trainer.global_step}" if task is None or task == "fit" else f"in {task.value}"
        print(f"stopped {where}. {how}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the handlers of before training."""
        _restore(self._inner)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restores the handlers of before the command."""
        _restore(self._inner)
        _restore(self._outer)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restores the handlers of signals after a command, which an exception may leave installed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        _restore(before)


def _handle(before: dict[int, Any], number: signal.Signals, handler: Callable[[int, Any], None]) -> None:
    """Installs a handler for this process only: SIGTERM ends data workers, which inherit handlers."""
    if threading.current_thread() is not threading.main_thread():
        return
    process = os.getpid()

    def own(given: int, frame: Any) -> None:
        if os.getpid() == process:
            handler(given, frame)
        elif given == signal.SIGTERM:
            signal.signal(given, signal.SIG_DFL)
            os.kill(os.getpid(), given)

    previous = signal.signal(number, own)
    before.setdefault(number, previous)


def _restore(before: dict[Any, Any]) -> None:
    while before:
        signal.signal(*before.popitem())
