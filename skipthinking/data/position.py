"""The position in an epoch, so that a run goes on with every instance that is left, each once, under any batch size.

A position counts optimizer steps, not batches. Together with the settings that the steps were planned with, it tells
which instances they had: plans are pure functions. A resumed run with the same settings continues the plan; with
another batch size, accumulation or number of processes it plans the instances that are left.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loops.loop import _Loop

from skipthinking.data.epoch_instances import EpochInstances
from skipthinking.data.planning import Plan, Planning, padding_share, waiting_share
from skipthinking.records import UserError

__all__ = ["Epoch", "align_batches", "micro_batches_done", "position_of", "reopen_epoch", "restore_progress"]


class Epoch:
    """The instances of an epoch, and the plan of those that are left.

    Args:
        number: Number of the epoch.
        instances: All instances of the epoch; pairs of a preference are neighbors.
        planning: The settings of the plan.
        position: The result of :meth:`position` in a checkpoint of this epoch; None for its beginning.

    Attributes:
        plan: The plan of the instances that are left.
        offset: Micro-batches of every rank before the plan, in units of the present accumulation.

    Raises:
        UserError: The epoch of the position had other instances.
    """

    def __init__(
        self, number: int, instances: EpochInstances, planning: Planning, position: dict[str, Any] | None = None
    ) -> None:
        size = 2 if instances.sizes["pair"][:1].any() else 1  # a pair shares a micro-batch
        if planning.batch_tokens is not None:
            planning = replace(planning, batch_tokens=max(1, planning.batch_tokens // size))
        self.number, self.instances, self.planning = number, instances, planning
        lengths = instances.lengths().reshape(-1, size).max(axis=1)
        left, plan = np.arange(len(lengths)), None
        self._stretches: list[dict[str, Any]] = []  # settings of earlier plans, and the steps taken with them
        self._taken = 0  # steps of the present plan before its remaining ones
        if position is not None:
            self._check(position)
            for stretch in position["stretches"]:
                earlier = Planning(**{name: value for name, value in stretch.items() if name != "steps"})
                steps, last = stretch["steps"], stretch is position["stretches"][-1]
                if last and planning.same_steps(earlier):
                    whole = planning.plan(lengths[left], number).select(left)
                    plan, self._taken = Plan(steps=whole.steps[steps:]), steps
                else:
                    self._stretches.append(stretch)
                    done = earlier.plan(lengths[left], number).select(left).steps[:steps]
                    left = np.setdiff1d(left, [i for step in done for row in step for micro in row for i in micro])
        if plan is None:
            plan = planning.plan(lengths[left], number).select(left)
        self.plan = plan.spread(size)
        before = self._taken + sum(stretch["steps"] for stretch in self._stretches)
        self.offset = before * planning.accumulate

    def position(self, micro_batches: int) -> dict[str, Any]:
        """The position after a number of micro-batches of every rank in this epoch, in plain types for a checkpoint.

        Micro-batches of an optimizer step that is not complete are not counted: its gradients are not in a checkpoint.
        """
        done = micro_batches - self.offset
        steps = len(self.plan.steps) if done >= self.plan.rows() else max(0, done) // self.planning.accumulate
        return {
            "epoch": self.number,
            "instances": self._digest,
            "count": len(self.instances),
            "stretches": [*self._stretches, {**asdict(self.planning), "steps": self._taken + steps}],
        }

    def describe(self) -> str:
        """A line for the start report: instances, tokens, steps and padding of what is left of the epoch."""
        micro = [batch for step in self.plan.steps for row in step for batch in row]
        left, lengths = [i for batch in micro for i in batch], self.instances.lengths()
        targets = int(self.instances.sizes["targets"][left].sum())
        contexts = int(lengths[left].sum()) - targets
        done = f"; {len(self.instances) - len(left)} instances were trained on before" if self.offset else ""
        waits = ""
        if self.planning.ranks > 1:
            waits = f", {waiting_share(self.plan, lengths):.1%} of the processes' time spent waiting for the slowest"
        if self._stretches:
            now = self.planning
            done += (
                f" in other batches; the rest has batch_size={now.batch_size}, batch_tokens={now.batch_tokens}, "
                f"accumulation {now.accumulate} and {now.ranks} process(es)"
            )
        return (
            f"epoch {self.number}: {len(left)} instances, {targets:,} target and {contexts:,} context tokens, "
            f"{len(self.plan.steps)} optimizer steps, {padding_share(micro, lengths):.1%} padding{waits}{done}"
        )

    @cached_property
    def _digest(self) -> str:
        """A hash of the instances as far as plans and losses depend on their identity: ids, terms and lengths."""
        digest = hashlib.blake2b(digest_size=16)
        for id, term, prompt, tokens in self.instances.identities():
            digest.update(f"{id}\0{term} {prompt} {tokens}\0".encode())
        return digest.hexdigest()

    def _check(self, position: dict[str, Any]) -> None:
        if position["instances"] != self._digest:
            raise UserError(
                f"Expected the {position['count']} training instances that epoch {self.number} began with, got "
                f"{len(self.instances)}, not all of them the same. Go on with the data and the settings that it began "
                "with (the log and config.yaml of the run have them), or start a new run."
            )


def micro_batches_done(trainer: L.Trainer) -> int:
    """Micro-batches of this epoch that have been trained on, of every rank."""
    loop: Any = trainer.fit_loop
    return int(loop.epoch_loop.batch_progress.current.processed)


def _done(epoch: Epoch, trainer: L.Trainer) -> tuple[int, bool]:
    """Micro-batches of an epoch that have been trained on, and whether they are all; a limit of the trainer counts."""
    loop: Any = trainer.fit_loop
    if loop.epoch_progress.current.started <= epoch.number:
        return 0, False  # Lightning counts the micro-batches of the last epoch until the first one of this epoch
    done = micro_batches_done(trainer)
    return done, done >= trainer.num_training_batches


def position_of(epoch: Epoch, trainer: L.Trainer) -> dict[str, Any]:
    """The position of a run that a checkpoint is made of; see :meth:`Epoch.position`."""
    done, finished = _done(epoch, trainer)
    incomplete = 0 if finished else done % epoch.planning.accumulate  # micro-batches that a resumed run repeats
    return {**epoch.position(done), "finished": finished, "incomplete": incomplete}


def restore_progress(trainer: L.Trainer, position: dict[str, Any]) -> int:
    """Sets Lightning's counts to the beginning or to the middle of an epoch, and returns its number.

    Lightning restores them as they were at some place between two hooks. Its repairs of the counts fit some of these
    places only: after a stop at the last batch of an epoch, later stops would go on with an epoch too early. In the
    middle of an epoch the counts become those of a checkpoint from ``on_train_batch_end``, where the last micro-batch
    is not completed and the step of the log comes next: only from there does Lightning train first even if a
    validation follows this micro-batch (``val_check_interval``).
    """
    loop: Any = trainer.fit_loop
    middle = not position["finished"] and any(stretch["steps"] for stretch in position["stretches"])
    number: int = position["epoch"] + position["finished"]
    progress, batches = loop.epoch_progress, loop.epoch_loop.batch_progress
    for counts in (progress.total, progress.current):
        counts.ready = counts.started = number + middle
        counts.processed = counts.completed = number
    _set(batches.total, batches.total.processed - position["incomplete"])
    _set(batches.current, 0)  # in the middle of an epoch, see align_batches
    batches.total.completed -= middle
    batches.is_last_batch = False
    loop.epoch_loop.val_loop.batch_progress.reset()  # a validation that did not end is not gone on with
    loop.epoch_loop._batches_that_stepped = trainer.global_step - middle  # the step of the log
    restarting: Any = _Loop.restarting
    restarting.fset(loop, middle)  # the fit loop's own setter sees a restart wherever max_steps is set
    return number


def align_batches(trainer: L.Trainer, offset: int) -> None:
    """Sets Lightning's count of micro-batches in this epoch, in units of the present accumulation."""
    loop: Any = trainer.fit_loop
    _set(loop.epoch_loop.batch_progress.current, offset)
    loop.epoch_loop.batch_progress.current.completed -= 1  # see restore_progress


def _set(counts: Any, value: int) -> None:
    counts.ready = counts.started = counts.processed = counts.completed = value


def reopen_epoch(epoch: Epoch | None, trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Marks an epoch in a checkpoint as unfinished if max_steps, max_time or an early stop ended it.

    Lightning counts such an epoch as finished before it saves, so that a resumed run would lose the rest of it.
    """
    if epoch is None or _done(epoch, trainer)[1]:
        return
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["processed"] = min(counts["processed"], epoch.number)
        counts["completed"] = min(counts["completed"], epoch.number)
    checkpoint["epoch"] = min(checkpoint["epoch"], epoch.number)
