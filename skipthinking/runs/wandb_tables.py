"""Answers and chunks as tables in W&B."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from skipthinking.methods.base import Distiller
from skipthinking.records import UserError

__all__ = ["ChunkTables", "PredictionTables"]

_COLUMNS = [
    "id", "question", "gold", "completion", "extracted", "correct", "correct_lenient", "new_tokens", "finished",
    "skipped",
]  # fmt: skip
_STEP_COLUMNS = ["id", "question", "chunk", "skipped", "step", "text", "tokens", "nll"]


class ChunkTables(Callback):
    """Logs the chunks of some training rationales to W&B after training, for methods with chunks.

    A row has the text of a step, its mean token NLL in nats under the trained student, the number of its chunk, and
    whether that chunk is skipped. In long traces every step is a chunk, and removed steps are skipped.

    Args:
        rationales: Number of rationales.
    """

    def __init__(self, rationales: int = 20) -> None:
        if rationales < 1:
            raise UserError(
                f"Expected at least 1 rationale, got ChunkTables.rationales={rationales}. Set rationales: 16, for "
                "example."
            )
        self.rationales = rationales

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores the rationales on all ranks, and logs the table on rank 0."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        method = cast("Distiller", pl_module)
        if not loggers or not method.data.runner.annotators:
            return
        rows = method.data.runner.drawings(method.data.encoded[: self.rationales])
        data: list[list[Any]] = [
            [row["id"], row["question"], number, number - 1 not in row["kept"], step + 1, row["steps"][step],
             row["tokens"][step], row["nll"][step]]
            for row in rows
            if "nll" in row and "chunks" in row
            for number, span in enumerate(row["chunks"], 1)
            for step in range(*span)
        ]  # fmt: skip
        for logger in loggers if trainer.is_global_zero else ():
            logger.log_table("train/chunks", columns=_STEP_COLUMNS, data=data)


class PredictionTables(Callback):
    """Logs the answers of a test to W&B, one table per test set; see experiments/with/wandb.yaml.

    Args:
        rows: Maximum number of answers per table.
    """

    def __init__(self, rows: int = 500) -> None:
        if rows < 1:
            raise UserError(f"Expected at least 1 row, got PredictionTables.rows={rows}. Set rows: 100, for example.")
        self.rows = rows

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the tables on rank 0."""
        method = cast("Distiller", pl_module)
        answers = {row.id: row for row in method.predictions}
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                for name, examples in method.data.test_sets.items():
                    shown = [answers[example.id] for example in examples[: self.rows]]
                    data: list[list[Any]] = [[getattr(row, column) for column in _COLUMNS] for row in shown]
                    logger.log_table(f"test/{name}", columns=_COLUMNS, data=data)
