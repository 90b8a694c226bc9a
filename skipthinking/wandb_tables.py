"""Answers as tables in W&B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from skipthinking.records import UserError

if TYPE_CHECKING:
    from skipthinking.methods import Distiller

__all__ = ["PredictionTables"]

_COLUMNS = ["id", "question", "gold", "completion", "extracted", "correct", "correct_lenient", "new_tokens", "skipped"]


class PredictionTables(Callback):
    """Sends the answers of a test to W&B, a table per test set; by class path, see experiments/with/wandb.yaml.

    Args:
        rows: Most answers of a table.
    """

    def __init__(self, rows: int = 500) -> None:
        if rows < 1:
            raise UserError(f"Expected at least 1 row, got PredictionTables.rows={rows}.")
        self.rows = rows

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sends them, from the first rank."""
        method = cast("Distiller", pl_module)
        answers = {row.id: row for row in method.predictions}
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                for name, examples in method.data.test_sets.items():
                    shown = [answers[example.id] for example in examples[: self.rows]]
                    data: list[list[Any]] = [[getattr(row, column) for column in _COLUMNS] for row in shown]
                    logger.log_table(f"test/{name}", columns=_COLUMNS, data=data)
