"""The prompts of evaluation: encoded once, and handed out in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from skipthinking.data.batches import EvalBatch
from skipthinking.data.encoding import Codec
from skipthinking.records import Encoded, Example

__all__ = ["Prompts"]


class Prompts:
    """Prompts of the evaluated splits, and the encoded examples of those that have a rationale.

    Attributes:
        teacher: Encoded examples by id and question, because splits may share ids.
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[str, NDArray[Any]]]] = {}
        self.teacher: dict[tuple[str, str], Encoded] = {}

    def encode(self, codec: Codec, name: str, examples: Sequence[Example], prefix: str) -> None:
        """Encodes a split, unless it is encoded already."""
        if name in self._rows:
            return
        prompts = codec.prompts(examples, prefix)
        self._rows[name] = [(example.id, prompt) for example, prompt in zip(examples, prompts, strict=True)]
        for encoded in codec.encode([row for row in examples if codec.splitter.spans(row.rationale.strip())]):
            self.teacher[encoded.id, encoded.example.question] = encoded

    def clear(self) -> None:
        """Forgets everything, for prompts that show another date."""
        self._rows.clear()
        self.teacher.clear()

    def loader(self, names: Sequence[str], batch_size: int, rank: int, ranks: int) -> DataLoader[EvalBatch]:
        """Batches prompts of similar length; rank r of R takes batches r, r + R, ..., so every example occurs once."""
        rows = [row for name in names for row in self._rows[name]]
        rows.sort(key=lambda row: (-len(row[1]), row[0]))  # longest first, so that a lack of memory shows immediately
        batches = [
            EvalBatch(ids=[id for id, _ in part], prompts=[torch.from_numpy(prompt) for _, prompt in part])
            for at in range(0, len(rows), batch_size)
            for part in [rows[at : at + batch_size]]
        ]
        # A rank without batches would skip the evaluation loop and its collectives, so it gets an empty batch.
        mine = batches[rank::ranks] or [EvalBatch(ids=[], prompts=[])]
        return DataLoader(cast("Dataset[EvalBatch]", mine), batch_size=None)
