"""The run folder: its log, its config, its checkpoints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import LightningEnum, rank_zero_only

from skipthinking.records import UserError
from skipthinking.files import write_text

__all__ = ["RunConfig", "RunLogger", "checkpoints", "release_folders"]

_HELD: list[FileLock] = []


def _hold_folder(folder: Path) -> None:
    """Makes the run folder this process's own until :func:`release_folders`, or until the process ends in any way."""
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
    """Gives the run folders of this process back; where nothing was written, none is left."""
    while _HELD:
        lock = _HELD.pop()
        lock.release()
        path = Path(lock.lock_file)
        if path.parent.is_dir() and [*path.parent.iterdir()] == [path]:
            path.unlink()
            path.parent.rmdir()


class RunLogger(Logger):
    """``metrics.csv``, one row per logged step. A resumed run goes on with it, where Lightning's logger starts anew.

    Args:
        folder: The run folder; it is made with the first row.
    """

    name = version = ""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.path = folder, folder / "metrics.csv"
        self._header: list[str] = []
        self._rows: list[dict[str, str]] = []

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    save_dir = log_dir

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keeps a row until :meth:`save`."""
        values = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in metrics.items()}
        self._rows.append({"step": str(step), **{name: str(value) for name, value in values.items()}})

    @rank_zero_only
    def save(self) -> None:
        """Appends the rows; a column that is new rewrites the file, at once or not at all."""
        if not self._rows:
            return
        if not self._header and self.path.exists():
            self._header = list(self._read()[0])
        new = sorted({name for row in self._rows for name in row} - set(self._header))
        if new:
            old = self._read()[1] if self.path.exists() else []
            self._header = ["step", *sorted({*self._header, *new} - {"step"})]
            write_text(self.path, self._text([*old, *self._rows], header=True))
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(self._text(self._rows, header=False))
        self._rows = []

    def finalize(self, status: str) -> None:
        """Writes what is left."""
        self.save()

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Drops the rows that a resumed run is going to write again, and one that a kill cut short."""
        if self.path.exists():
            self._header, rows = self._read()
            write_text(self.path, self._text([row for row in rows if int(row["step"]) < step], header=True))

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        return header, [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]

    def _text(self, rows: list[dict[str, str]], header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._header, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


# Such as the interval of Lightning's Timer: its default is an enum's member, which jsonargparse gives to this dumper.
yaml.SafeDumper.add_multi_representer(LightningEnum, lambda dumper, member: dumper.represent_str(member.value))


class RunConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder and sends the whole config to every logger."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Only holds the folder, for ``fit``: the other commands read the config of a run, they do not change it."""
        if stage == "fit":
            _hold_folder(Path(trainer.default_root_dir))

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes, now that the checkpoint and the optimiser fit: a refused resume leaves the run's config alone."""
        text = self.parser.dump(self.config, skip_unset=False)
        write_text(Path(trainer.default_root_dir) / "config.yaml", text)
        config = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))
        for logger in trainer.loggers:
            if not isinstance(logger, RunLogger):
                logger.log_hyperparams(config)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the config in the checkpoint, to be compared on the next load; it is never applied."""
        checkpoint.setdefault("skipthinking", {})["config"] = self.parser.dump(
            self.config, format="json", skip_unset=False
        )


class EpochCheckpoint(Checkpoint):
    """Saves ``checkpoints/last.ckpt`` after each epoch, which Lightning's own does for a monitored metric only.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoints" / "last.ckpt"

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves, on all ranks together."""
        trainer.save_checkpoint(self.path)


def checkpoints(folder: Path, every: int) -> list[Callback]:
    """Callbacks that keep ``checkpoints/last.ckpt`` fresh: every so many optimiser steps, and after each epoch."""
    steps = ModelCheckpoint(
        dirpath=folder / "checkpoints", save_top_k=0, save_last=True, enable_version_counter=False,
        every_n_train_steps=every,
    )  # fmt: skip
    return [steps, EpochCheckpoint(folder)]
