"""The run folder: its lock, its config, and its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import LightningEnum, rank_zero_only

from skipthinking.files import write_text
from skipthinking.records import UserError
from skipthinking.runs.log import RunLogger

__all__ = ["LastCheckpoint", "RunConfig", "hold_folder", "last_checkpoint", "release_folders"]

_HELD: list[FileLock] = []


def hold_folder(folder: Path) -> None:
    """Locks the run folder for this process until :func:`release_folders`, or until the process ends in any way."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Expected a run folder that no other process trains in, got {folder}. Wait for it, or give another --run."
        ) from error
    _HELD.append(lock)


def release_folders() -> None:
    """Unlocks the run folders of this process, and removes those that nothing was written to."""
    while _HELD:
        lock = _HELD.pop()
        lock.release()
        path = Path(lock.lock_file)
        if path.parent.is_dir() and [*path.parent.iterdir()] == [path]:
            path.unlink()
            path.parent.rmdir()


# Such as the interval of Lightning's Timer: its default is an enum's member, which jsonargparse gives to this dumper.
yaml.SafeDumper.add_multi_representer(LightningEnum, lambda dumper, member: dumper.represent_str(member.value))


class RunConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder and sends it to every other logger."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Locks the folder for ``fit``; other commands do not change the config of a run."""
        if stage == "fit":
            hold_folder(Path(trainer.default_root_dir))

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the config once checkpoint and optimizer are loaded: a refused resume leaves the old one alone."""
        text = self.parser.dump(self.config, skip_unset=False)
        write_text(Path(trainer.default_root_dir) / "config.yaml", text)
        config = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))
        for logger in trainer.loggers:
            if not isinstance(logger, RunLogger):
                logger.log_hyperparams(config)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the config in the checkpoint, to be compared with the config of the next command; never applied."""
        checkpoint.setdefault("skipthinking", {})["config"] = self.parser.dump(
            self.config, format="json", skip_unset=False
        )


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint of a run folder that a run resumes from."""
    return folder / "checkpoints" / "last.ckpt"


class LastCheckpoint(Checkpoint):
    """Saves the checkpoint that a run resumes from: every few optimizer steps, and at the end of every epoch.

    Lightning's callback saves before a step is logged and before the validation that follows it, so that a run that is
    killed right after would resume without them.

    Args:
        folder: The run folder.
        every: Optimizer steps between two checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = last_checkpoint(folder), every
        self._saved = 0  # the step of the last checkpoint

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the step that the run begins with."""
        self._saved = trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Saves the steps before this batch if it is time."""
        step = trainer.global_step
        if step % self.every == 0 and step != self._saved:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves, on all ranks together."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = trainer.global_step
