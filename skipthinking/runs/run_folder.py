"""The run folder of a run from Python."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback, Checkpoint

from skipthinking.annotate.runner import say
from skipthinking.checkpoints import save_safely
from skipthinking.files import write_text
from skipthinking.methods.base import Distiller
from skipthinking.records import UserError
from skipthinking.runs.callbacks import Answers, Results, SearchLog, StartReport
from skipthinking.runs.export import export_run, update_results
from skipthinking.runs.folder import LastCheckpoint, hold_folder, last_checkpoint, release_folders
from skipthinking.runs.log import RunLogger
from skipthinking.runs.throughput import Throughput
from skipthinking.settings import config_of, run_config
from skipthinking.students.sharding import WholeWeights, whole_state

__all__ = ["RunFolder", "run_callbacks"]

_TRAINER = (
    "max_epochs", "max_steps", "min_epochs", "min_steps", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "limit_train_batches", "overfit_batches", "precision", "log_every_n_steps",
)  # fmt: skip


def run_callbacks(folder: Path, every: int, answer_settings: Mapping[str, Any] | None = None) -> list[Callback]:
    """What every run has: whole weights for answers, its reports and results, and its last checkpoint.

    Args:
        folder: Where it writes.
        every: Optimizer steps between checkpoints.
        answer_settings: Settings of how the student answers that differ from the run's own, by dotted key.
    """
    return [
        WholeWeights(), Results(folder, answer_settings), Answers(folder), StartReport(), SearchLog(), Throughput(),
        LastCheckpoint(folder, every),
    ]  # fmt: skip


class RunFolder(Checkpoint):
    """Writes what a run of the command line writes, to the trainer's ``default_root_dir``.

    ``fit`` writes config.yaml, metrics.csv, checkpoints/last.ckpt and student/, ``test`` predictions.jsonl and
    summary.json, ``validate`` predictions_val.jsonl, and ``predict`` answers.jsonl, if the questions come from a file.
    The command line takes the folder as one of its own: ``compare``, ``summary``, and ``test --config``. ::

        L.seed_everything(0)
        method = CWT(student=FromScratch(), optimizer=partial(torch.optim.AdamW, lr=1e-3))
        data = RationaleDataModule(
            train=[Generated("arithmetic")], test={"arithmetic": Generated("arithmetic", "test", size=200)}
        )
        trainer = L.Trainer(max_epochs=5, default_root_dir="runs/mine", logger=False, callbacks=[RunFolder()])
        trainer.fit(method, datamodule=data)
        trainer.test(method, datamodule=data)

    Departures from the command line: signals are handled as Lightning does it; of the trainer's settings, config.yaml
    has those that change what is learned; no other run is trained first, as KPOD's token weighter.

    Args:
        every: Optimizer steps between two checkpoints.
        export: Whether ``fit`` ends with an export of the student.
    """

    def __init__(self, every: int = 500, export: bool = True) -> None:
        self.every, self.export = every, export
        self._written: Path | None = None  # the folder whose run this object has written
        self._config: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Adds the callbacks and the log of a run; for ``fit``, locks the folder.

        Raises:
            UserError: The trainer has no folder for the run, or one with another run; or the method does not fit the
                run, see :meth:`Distiller.prior_run`.
        """
        folder = Path(trainer.default_root_dir)
        if folder.resolve() == Path.cwd():
            raise UserError(
                "Expected a run folder, got the current one. Give it to the trainer: "
                'Trainer(default_root_dir="runs/NAME", ...).'
            )
        callbacks: list[Callback] = cast("Any", trainer).callbacks
        if not any(isinstance(callback, LastCheckpoint) for callback in callbacks):
            callbacks += run_callbacks(folder, self.every)
        save_safely(trainer)
        if stage == "fit":
            self._begin(trainer, cast("Distiller", pl_module), folder)

    def _begin(self, trainer: L.Trainer, method: Distiller, folder: Path) -> None:
        if "PL_GLOBAL_SEED" not in os.environ or not method.student.built:
            # Initial weights depend on the seed of the generator, which an earlier run in this process has changed.
            L.seed_everything(int(os.environ.get("PL_GLOBAL_SEED", 0)), verbose=False)
        if trainer.is_global_zero:
            hold_folder(folder)
        if not any(isinstance(logger, RunLogger) for logger in trainer.loggers):
            trainer.loggers = [RunLogger(folder), *trainer.loggers]
        config, missing = run_config(method, method.data)
        self._config = {
            "run": folder.name, "runs_dir": str(folder.parent), **config,
            "trainer": {name: _setting(trainer, name) for name in _TRAINER},
        }  # fmt: skip
        method.prior_run({**self._config, "checkpoint_every": self.every}, folder, method.data)
        for key in missing:
            say(
                f"note: {folder / 'config.yaml'} lacks {key}, which has no import path; functools.partial of a class "
                "would have one"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises UserError if the folder holds a run that this one does not continue."""
        folder = Path(trainer.default_root_dir)
        holds_one = any((folder / name).exists() for name in ("metrics.csv", "checkpoints"))
        if holds_one and trainer.ckpt_path is None and self._written != folder:
            raise UserError(
                f"Expected a new run, got default_root_dir={str(folder)!r}, which holds one. Go on with it by "
                f"fit(..., ckpt_path={str(last_checkpoint(folder))!r}), or give another folder."
            )
        self._written = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the config once checkpoint and optimizer are loaded."""
        if trainer.is_global_zero:
            text = yaml.safe_dump(self._config, sort_keys=False)
            write_text(Path(trainer.default_root_dir) / "config.yaml", f"# written by RunFolder, from Python\n{text}")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the config in the checkpoint."""
        checkpoint.setdefault("skipthinking", {})["config"] = json.dumps(self._config)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exports the student, and unlocks the folder."""
        method = cast("Distiller", pl_module)
        state = whole_state(method.student.model) if self.export else None
        if trainer.is_global_zero:
            if self.export:
                export_run(Path(trainer.default_root_dir), method, method.data, state, None)
            release_folders()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Writes the results of a test, which are in the folder by now, into the card of the exported student."""
        if stage == "test" and trainer.is_global_zero:
            update_results(Path(trainer.default_root_dir), cast("Distiller", pl_module).data)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Unlocks the folder."""
        release_folders()


def _setting(trainer: L.Trainer, name: str) -> Any:
    """A setting of a trainer as its config has it: null for Lightning's default."""
    usual = {"limit_train_batches": 1.0, "min_epochs": 0, "gradient_clip_algorithm": "norm"}
    value = config_of(getattr(trainer, name))[0]
    return None if value == usual.get(name) else value
