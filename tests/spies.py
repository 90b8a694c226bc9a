"""A callback that records the prompts of a run, for use by class path."""

from __future__ import annotations

from typing import Any

import lightning as L

SEEN: dict[str, Any] = {}
"""The id of the printed instance ("id"), and prompt ids: "first" (of that instance), "train", "test", "predict"."""


class Prompts(L.Callback):
    """Records prompt ids in SEEN."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Records the prompt of the printed instance, and those of all examples."""
        data = trainer.datamodule
        SEEN["id"], SEEN["first"] = data.first.id, [data.first.prompt.tolist()]
        SEEN["train"] = [row.prompts[pl_module.prompt_prefixes[0]].tolist() for row in data.encoded]

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Records the prompts of a batch."""
        SEEN.setdefault("test", []).extend(prompt.tolist() for prompt in batch.prompts)

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Records the prompts of a batch."""
        SEEN.setdefault("predict", []).extend(prompt.tolist() for prompt in batch.prompts)
