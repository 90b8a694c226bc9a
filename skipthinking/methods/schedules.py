"""Learning-rate schedules that depend on the length of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, cast

import lightning as L
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from skipthinking.data.position import micro_batches_done
from skipthinking.records import UserError

__all__ = [
    "Warmup",
    "begin_epoch",
    "begin_run",
    "logs_step",
    "optimizers",
    "resume_epoch",
    "step_plateaus",
    "steps_of_epoch",
]


class Warmup(LambdaLR):
    """Linear warm-up, then constant, linear or cosine decay to the end of training.

    Epochs may differ in length (pruned traces make fewer steps, preference pairs more), but every epoch advances the
    schedule by the same share of the run, so that the decay ends with the last epoch.

    Args:
        optimizer: The optimizer.
        warmup: Length of the warm-up, as a share of all optimizer steps.
        decay: Shape of the decay after the warm-up.
        floor: Final learning rate, as a share of the base rate.
        total_steps: Number of optimizer steps that the schedule spans; the full run by default.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.05,
        decay: Literal["constant", "linear", "cosine"] = "linear",
        floor: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        if decay not in ("constant", "linear", "cosine"):
            raise UserError(
                f"Expected constant, linear or cosine, got model.scheduler: decay={decay!r}. Set "
                "model.scheduler.init_args.decay: linear, for example."
            )
        if not (0 <= warmup <= 1 and 0 <= floor <= 1 and (total_steps is None or total_steps >= 1)):
            raise UserError(
                "Expected warmup and floor from 0 to 1 and total_steps of at least 1, got "
                f"model.scheduler: warmup={warmup}, floor={floor}, total_steps={total_steps}. "
                "Leave out what is outside of its range, for its default."
            )
        self.warmup, self.decay, self.floor = warmup, decay, floor
        self.total_steps = total_steps
        self._run_length: int | None = None
        # First step of the epoch, its position in the schedule, schedule steps per optimizer step, and steps of the
        # epoch. With epochs of 10 and 5 steps: (0, 0.0, 1.0, 10), then (10, 10.0, 2.0, 5).
        self._epoch = (0, 0.0, 1.0, 0)
        super().__init__(optimizer, self._factor)

    def set_run_length(self, steps: int | None) -> None:
        """Sets the length of the run in optimizer steps (None: unlimited), and the learning rate of the current step.

        Raises:
            UserError: The run is unlimited and ``total_steps`` is not set.
        """
        if steps is None and self.total_steps is None:
            raise UserError(
                "Expected a run with an end, got neither trainer.max_epochs nor trainer.max_steps. Set "
                "trainer.max_epochs: 10, trainer.max_steps: 1000 or model.scheduler.init_args.total_steps: 1000, for "
                "example."
            )
        self._run_length = steps
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self._factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def begin_epoch(self, epoch: int, steps: int, first: int) -> None:
        """Starts an epoch at the next step.

        Args:
            epoch: Number of the epoch.
            steps: Optimizer steps of the epoch.
            first: Optimizer steps of the first epoch; the length of the run is a multiple of it.
        """
        if self.total_steps is None:
            self._epoch = (self.last_epoch, float(epoch * first), first / steps, steps)

    def resume_epoch(self, epoch: int, steps: int, done: int, first: int) -> None:
        """Spreads the rest of an epoch over another number of steps, after a resume with another batch size.

        Args:
            epoch: Number of the epoch.
            steps: Optimizer steps of the epoch, those before the resume included.
            done: Optimizer steps of the epoch before the resume.
            first: Optimizer steps of the first epoch.
        """
        start, position, stride, before = self._epoch
        if self.total_steps is None and before not in (0, steps) and done < steps:
            position += (self.last_epoch - start) * stride
            self._epoch = (self.last_epoch, position, ((epoch + 1) * first - position) / (steps - done), steps)

    def _factor(self, step: int) -> float:
        total = self.total_steps or self._run_length or 1
        rise = self.warmup * total
        start, position, stride, _ = self._epoch
        position += (step - start) * stride
        if position < rise:
            return (position + 1) / (rise + 1)
        done = min(1.0, (position - rise) / max(1.0, total - rise))
        left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.decay]
        return self.floor + (1 - self.floor) * left


def optimizers(
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerCallable,
    scheduler: LRSchedulerCallable | None,
    trainer: L.Trainer,
) -> Any:
    """The return value of ``configure_optimizers``: the optimizer, with a schedule stepped after every optimizer step.

    Raises:
        UserError: The optimizer rejects its settings, a plateau schedule names no monitor, or the run of a Warmup
            schedule is unlimited.
    """
    try:
        created = optimizer(parameters)
    except ValueError as error:
        raise UserError(f"Expected settings that fit the optimizer, got: {error}. Fix model.optimizer.") from error
    if scheduler is None:
        return created
    schedule = scheduler(created)
    if isinstance(schedule, ReduceLROnPlateau):
        monitor = getattr(schedule, "monitor", None)
        if monitor is None:
            raise UserError(
                "Expected a plateau schedule that names its monitor, got torch's own. Set model.scheduler: "
                "{class_path: lightning.pytorch.cli.ReduceLROnPlateau, init_args: {monitor: val/accuracy}}, for "
                "example."
            )
        return {"optimizer": created, "lr_scheduler": {"scheduler": schedule, "monitor": monitor}}
    if isinstance(schedule, Warmup) and max(trainer.max_steps, trainer.max_epochs or -1) < 0:
        schedule.set_run_length(None)  # raises now, before anything is written
    return {"optimizer": created, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def steps_of_epoch(trainer: L.Trainer) -> int:
    """Number of optimizer steps in the current epoch."""
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def begin_run(trainer: L.Trainer, steps_per_epoch: int) -> None:
    """Passes the length of the run to Warmup schedules, computed from the optimizer steps of the first epoch.

    Lightning's ``estimated_stepping_batches`` would build the loader before a resumed run has restored its position.
    """
    bounds = [trainer.max_steps, steps_per_epoch * (trainer.max_epochs or -1)]
    total = min((bound for bound in bounds if bound > 0), default=None)
    for schedule in _warmups(trainer):
        schedule.set_run_length(total)


def logs_step(trainer: L.Trainer, step: int) -> bool:
    """Whether an optimizer step, counted from 1, is logged: the first, every ``log_every_n_steps``-th, and the last."""
    epochs: int = trainer.max_epochs or -1
    last = step == trainer.max_steps or (trainer.is_last_batch and trainer.current_epoch + 1 == epochs)
    return step == 1 or last or step % max(1, cast("Any", trainer).log_every_n_steps) == 0


def begin_epoch(trainer: L.Trainer, steps_per_epoch: int) -> None:
    """Passes the length of the epoch to Warmup schedules, if the run ends by max_epochs rather than max_steps."""
    for schedule in _warmups(trainer) if _ends_by_epochs(trainer, steps_per_epoch) else ():
        schedule.begin_epoch(trainer.current_epoch, steps_of_epoch(trainer), steps_per_epoch)


def resume_epoch(trainer: L.Trainer, steps_per_epoch: int) -> None:
    """Passes the length of an epoch that a resumed run is in the middle of, in the same case."""
    done = micro_batches_done(trainer) // trainer.accumulate_grad_batches
    for schedule in _warmups(trainer) if done and _ends_by_epochs(trainer, steps_per_epoch) else ():
        schedule.resume_epoch(trainer.current_epoch, steps_of_epoch(trainer), done, steps_per_epoch)


def step_plateaus(trainer: L.Trainer) -> None:
    """Steps plateau schedules at the end of a complete epoch, before checkpoints are saved.

    Lightning steps them after that, so that a run that goes on from the end of an epoch would lose the step; and never
    in an epoch that a run was resumed in.
    """
    for config in trainer.lr_scheduler_configs if trainer.fit_loop.epoch_loop._num_ready_batches_reached() else ():
        value = trainer.callback_metrics.get(config.monitor or "")
        due = (trainer.current_epoch + 1) % config.frequency == 0
        if isinstance(config.scheduler, ReduceLROnPlateau) and due and value is not None:  # else Lightning's error
            config.scheduler.step(value)


def _ends_by_epochs(trainer: L.Trainer, steps_per_epoch: int) -> bool:
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    return epochs > 0 and not 0 < steps < steps_per_epoch * epochs


def _warmups(trainer: L.Trainer) -> list[Warmup]:
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [schedule for schedule in schedules if isinstance(schedule, Warmup)]
