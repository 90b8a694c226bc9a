"""The callback that measures gradient shares and sharpness in training, and for the command ``diagnose``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from skipthinking.annotate.runner import say
from skipthinking.data.batches import instance_length
from skipthinking.diagnosis.core import core_by_truth, core_by_weight, origins
from skipthinking.diagnosis.gradients import GradientShares, Marked, example_parts, shares, summarize
from skipthinking.diagnosis.sharpness import Objective, Sharpness
from skipthinking.diagnosis.table import draw
from skipthinking.files import write_json
from skipthinking.methods.base import Distiller
from skipthinking.methods.kpod.weights import read_weights
from skipthinking.records import Encoded, Instance, UserError

__all__ = ["Diagnose", "Diagnosis"]


class Diagnosis(Callback):
    """Measures whether core tokens are over-smoothed and minima sharp, as Skip-Thinking (arXiv 2505.18642) explains it.

    :mod:`skipthinking.diagnosis.gradients` and :mod:`skipthinking.diagnosis.sharpness` define the measures. In training
    it measures at the end of epochs, in float32 and without dropout; nothing that training depends on is changed. It
    prints a table, writes ``diagnosis.json`` into the run folder, and adds columns ``diagnosis/...`` to metrics.csv.

    Gradients are those of the run's own instances in its last epoch, in random steps, not bucketed by length. The loss
    of sharpness has all stages as targets, whatever the stage sampling: else it would change with the epoch.

    Args:
        gradients: Settings of the gradient shares; null to leave them out.
        sharpness: Settings of sharpness; null to leave it out.
        every_n_epochs: In training, measures after so many epochs each, and after the last one; null for only the last.
        out: Name of the file in the run folder.
    """

    def __init__(
        self,
        gradients: GradientShares | None = GradientShares(),  # noqa: B008  (frozen)
        sharpness: Sharpness | None = Sharpness(),  # noqa: B008
        every_n_epochs: int | None = None,
        out: str = "diagnosis.json",
    ) -> None:
        self.gradients, self.sharpness, self.every_n_epochs, self.out = gradients, sharpness, every_n_epochs, out

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses several processes: each would measure the same, with weights that may be sharded."""
        if trainer.world_size > 1:
            raise UserError(
                f"Expected one process for a diagnosis, got {trainer.world_size}. Set trainer.devices: 1, or train "
                "without this callback and run the command diagnose afterwards."
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures, if this epoch is due or the last one."""
        done = trainer.current_epoch + 1
        last = trainer.should_stop or done == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if last or (self.every_n_epochs and done % self.every_n_epochs == 0):
            results = self.run(trainer, cast("Distiller", pl_module), trainer.current_epoch)
            for logger in trainer.loggers:
                logger.log_metrics(dict(_flat(results, "diagnosis")), step=trainer.global_step - 1)

    def run(self, trainer: L.Trainer, method: Distiller, epoch: int) -> dict[str, Any]:
        """Measures a method with the instances of an epoch, prints a table and writes the file."""
        size = method.data.batch_size * trainer.accumulate_grad_batches * method.rows_per_place
        with torch.inference_mode(False), method.student.frozen(merge=False), torch.enable_grad():
            results = {
                "method": type(method).__name__,
                "seed": method.data.seed,
                "step": trainer.global_step or method.steps_before,
                "epoch": epoch,
                "gradients": self.gradients and _gradients(self.gradients, method, epoch, size),
                "sharpness": self.sharpness and _sharpness(self.sharpness, method, epoch),
            }
        say(draw(results))
        write_json(Path(trainer.default_root_dir) / self.out, results)
        return results


class Diagnose(Callback):
    """Measures once for the command ``diagnose``, before adapters are merged for predictions.

    Args:
        diagnosis: What to measure.
    """

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses several processes."""
        self.diagnosis.setup(trainer, pl_module, stage)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures with the instances of the last epoch before the checkpoint."""
        method, most = cast("Distiller", pl_module), trainer.max_epochs
        epoch = method.epoch_before if most is None or most < 0 else min(method.epoch_before, most - 1)
        with trainer.precision_plugin.forward_context():
            method.data.runner.update(epoch)
        self.diagnosis.run(trainer, method, epoch)


def _gradients(settings: GradientShares, method: Distiller, epoch: int, size: int) -> dict[str, Any]:
    data = method.data
    core_of = _core_tokens(settings, method)
    steps: list[list[list[Marked]]] = [[]]
    for encoded in _shuffled(data.encoded, data.seed):
        if sum(map(len, steps[-1])) >= size:
            if len(steps) == settings.steps:
                break
            steps.append([])
        if not data.runner.lacks(encoded) and (rows := _marked(method, encoded, epoch, core_of)):
            steps[-1].append(rows)
    measured: dict[str, list[dict[str, float] | None]] = {"example": [], "step": []}
    for number, step in enumerate(filter(None, steps)):
        instances = [instance for rows in step for instance, _ in rows]
        parts = example_parts(method, step[0], instances, [data.seed, number, 0])
        measured["example"].append(shares(parts))
        for place, rows in enumerate(step[1:], 1):
            more = example_parts(method, rows, instances, [data.seed, number, place])
            measured["example"].append(shares(more))
            parts.add(more)
        measured["step"].append(shares(parts))
    return {**asdict(settings), "step_size": size, **{unit: summarize(rows) for unit, rows in measured.items()}}


def _core_tokens(settings: GradientShares, method: Distiller) -> Callable[[Encoded], NDArray[np.bool_]]:
    """The function that finds the core tokens of a training example."""
    codec = method.codec
    assert codec is not None
    if settings.weights is not None:
        weights = read_weights(Path(settings.weights), method.data.encoded)
        return lambda encoded: core_by_weight(encoded, weights[encoded.id], settings.core_share)

    def known(encoded: Encoded) -> NDArray[np.bool_]:
        core = core_by_truth(encoded, codec)
        if core is None:
            raise UserError(
                f"Expected core tokens, got none for example {encoded.id!r}: only built-in tasks know theirs. Give "
                "token weights by --gradients.weights FILE, the annotations.jsonl of a KeypointWeighter, or leave "
                "gradient shares out by --gradients null."
            )
        return core

    return known


def _marked(
    method: Distiller, encoded: Encoded, epoch: int, core_of: Callable[[Encoded], NDArray[np.bool_]]
) -> list[Marked]:
    """The instances of an example in an epoch, with their core tokens; none if one is longer than the limit.

    Raises:
        UserError: Core tokens are not known, or the loss is one of preference pairs.
    """
    rows = origins(method, encoded, method.data.runner.notes(encoded, epoch))
    if any(instance.reference is not None for instance, _ in rows):
        raise UserError(
            f"Expected instances with a likelihood loss, got preference pairs of {type(method).__name__} in epoch "
            f"{epoch}. Diagnose a checkpoint of an earlier epoch."
        )
    if any(instance_length(instance) > method.data.limit for instance, _ in rows):
        return []
    core_T = core_of(encoded)
    return [(instance, (places >= 0) & core_T[places]) for instance, places in rows]


def _sharpness(settings: Sharpness, method: Distiller, epoch: int) -> dict[str, Any]:
    data = method.data
    tests = {(row.id, row.question) for rows in data.test_sets.values() for row in rows}
    splits = {"train": data.encoded, "test": [row for key, row in data.teacher.items() if key in tests]}
    results: dict[str, Any] = asdict(settings)
    for split, rows in splits.items():
        instances: list[Instance] = []
        missing: set[str] = set()
        for encoded in _shuffled(rows, data.seed):
            notes = data.runner.notes(encoded, epoch)
            if missing := {a.name for a in data.runner.annotators if data.runner.has_run(a)} - notes.values.keys():
                continue
            candidates = method.make_instances(encoded, replace(notes, stage_sampling="all"))
            if all(instance_length(instance) <= data.limit for instance in candidates):
                instances += candidates
            if len(instances) >= settings.instances:
                break
        if instances:
            objective = Objective(method, instances, data.batch_size * max(map(instance_length, instances)))
            results[split] = settings.measure(objective, data.seed)
        elif missing:
            results[split] = f"not measured: the method needs {', '.join(sorted(missing))}, known for training only"
    return results


def _shuffled(rows: Sequence[Encoded], seed: int) -> Iterator[Encoded]:
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(rows))
    return (rows[place] for place in order.tolist())


def _flat(results: Any, name: str) -> Iterator[tuple[str, float]]:
    """The numbers of a nested dictionary, by names with slashes."""
    if isinstance(results, dict):
        for key, value in results.items():
            yield from _flat(value, f"{name}/{key}")
    elif isinstance(results, (int, float)) and not isinstance(results, bool):
        yield name, float(results)
