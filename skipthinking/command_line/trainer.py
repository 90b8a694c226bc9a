"""Lightning's Trainer with the commands of this package."""

from __future__ import annotations

import lightning as L

from skipthinking.data.module import RationaleDataModule
from skipthinking.diagnosis import Diagnosis, GradientShares, Sharpness
from skipthinking.diagnosis.callback import Diagnose
from skipthinking.methods import Distiller

__all__ = ["SkipTrainer"]


class SkipTrainer(L.Trainer):
    """Lightning's Trainer with the commands ``annotate`` and ``diagnose``."""

    def annotate(
        self, model: L.LightningModule, datamodule: RationaleDataModule, ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:  # fmt: skip
        """Annotates the training examples with the student as it is; writes annotations.jsonl."""
        datamodule.annotating = True
        self.predict(
            model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only, return_predictions=False
        )

    def diagnose(
        self, model: Distiller, datamodule: RationaleDataModule, ckpt_path: str | None = None,
        weights_only: bool | None = None, gradients: GradientShares | None = GradientShares(),  # noqa: B008
        sharpness: Sharpness | None = Sharpness(), out: str = "diagnosis.json",  # noqa: B008
    ) -> None:  # fmt: skip
        """Measures gradient shares of core tokens, and sharpness, with the student as it is.

        Args:
            model: The method.
            datamodule: The data.
            ckpt_path: The checkpoint.
            weights_only: See Lightning.
            gradients: Settings of the gradient shares; null to leave them out.
            sharpness: Settings of sharpness; null to leave it out.
            out: Name of the file in the run folder.
        """
        diagnosis = Diagnosis(gradients, sharpness, out=out)
        self.callbacks.insert(0, Diagnose(diagnosis))  # type: ignore[attr-defined]
        self.annotate(model, datamodule, ckpt_path, weights_only)
