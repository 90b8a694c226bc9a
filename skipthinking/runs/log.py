"""The log of a run: metrics.csv.

step,epoch,train/loss,train/target_tokens
9,0,2.3026,5120
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from skipthinking.files import write_text

__all__ = ["RunLogger"]


class RunLogger(Logger):
    """Writes ``metrics.csv``, one row per logged step; a resumed run appends, where Lightning's logger starts again.

    Args:
        folder: The run folder; the first row creates it.
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
        """Keeps a row until :meth:`save`; metrics of the step of the last row are added to it."""
        values = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in metrics.items()}
        row = {"step": str(step), **{name: str(value) for name, value in values.items()}}
        if self._rows and self._rows[-1]["step"] == row["step"]:
            self._rows[-1].update(row)
        else:
            self._rows.append(row)

    @rank_zero_only
    def save(self) -> None:
        """Appends the rows; a new column rewrites the file in one piece."""
        if not self._rows:
            return
        exists = self.path.exists()
        if not self._header and exists:
            self._header = list(self._read()[0])
        new = {name for row in self._rows for name in row} - set(self._header)
        if new or not exists:
            before = self._header
            old = self._read()[1] if exists else []
            self._header = ["step", *sorted({*self._header, *new} - {"step"})]
            try:
                write_text(self.path, self._text([*old, *self._rows], header=True))
            except OSError:  # Lightning saves once more after an error
                self._header = before
                raise
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(self._text(self._rows, header=False))
        self._rows = []

    def finalize(self, status: str) -> None:
        """Writes the rows that are left."""
        self.save()

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Drops the rows that a resumed run is going to write again, and a row that a kill left incomplete."""
        if self.path.exists():
            self._header, rows = self._read()
            write_text(self.path, self._text([row for row in rows if int(row["step"]) < step], header=True))

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file)] or [[]]
        return header, [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]

    def _text(self, rows: list[dict[str, str]], header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._header, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
