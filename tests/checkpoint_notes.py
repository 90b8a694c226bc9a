"""The annotations that a run left in its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from skipthinking.annotate.annotator import Annotator
from skipthinking.annotate.columns import Column
from skipthinking.methods.kpod.difficulty import Difficulty
from skipthinking.methods.kpod.given import GivenSteps
from skipthinking.methods.kpod.weights import TokenWeights
from skipthinking.methods.long_cot.annotators import Cuts, References
from skipthinking.methods.skip_thinking.chunks import Chunks, StageLosses
from skipthinking.methods.skip_thinking.skips import Skips

_KINDS: list[type[Annotator[Any]]] = [
    Chunks, StageLosses, Skips, TokenWeights, Difficulty, GivenSteps, Cuts, References,
]  # fmt: skip


def annotations(folder: Path) -> dict[str, dict[str, Any]]:
    """Per annotator name the values by example id.

    Args:
        folder: The run folder.
    """
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    saved = checkpoint["RationaleDataModule"]["annotations"].get("annotations", {})
    found = {}
    for kind in _KINDS:
        if kind.name in saved:
            column, annotator = Column.from_state(saved[kind.name]), kind.__new__(kind)
            found[kind.name] = {id: annotator.decode(column[id]) for id in column}
    return found


def annotation(folder: Path, name: str) -> dict[str, Any]:
    """The values of one annotator by example id."""
    return annotations(folder)[name]
