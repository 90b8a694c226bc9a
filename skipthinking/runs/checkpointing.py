"""When a run is saved: every N optimizer steps, and after each epoch."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint

__all__ = ["checkpoints", "last_checkpoint"]


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint of a run folder that a run resumes from."""
    return folder / "checkpoints" / "last.ckpt"


class EpochCheckpoint(Checkpoint):
    """Saves the last checkpoint after each epoch, which Lightning's own callback does for a monitored metric only.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = last_checkpoint(folder)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves, on all ranks together."""
        trainer.save_checkpoint(self.path)


def checkpoints(folder: Path, every: int) -> list[Callback]:
    """Callbacks that save the last checkpoint.

    Args:
        folder: The run folder.
        every: Optimizer steps between two of them; each epoch ends with one in any case.
    """
    steps = ModelCheckpoint(
        dirpath=last_checkpoint(folder).parent, save_top_k=0, save_last=True, enable_version_counter=False,
        every_n_train_steps=every,
    )  # fmt: skip
    return [steps, EpochCheckpoint(folder)]
