"""Scores of all methods: pure functions over predictions, and a torchmetrics Metric that syncs over ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from skipthinking.evaluation.intervals import wilson
from skipthinking.records import Prediction

__all__ = ["AnswerScores", "scores"]


def scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Accuracy (strict and lenient), no-answer rate and mean new tokens, with n and 95% intervals."""
    metric = AnswerScores(sync_on_compute=False)  # the predictions of all ranks are already gathered
    metric.update(predictions)
    values = {name: float(value) for name, value in metric.compute().items()}
    n = len(predictions)
    for name in ("accuracy", "accuracy_lenient"):
        values[f"{name}_low"], values[f"{name}_high"] = wilson(round(values[name] * n), n)
    if n > 1:
        mean = values["new_tokens"]
        spread = math.sqrt(sum((p.new_tokens - mean) ** 2 for p in predictions) / (n - 1) / n)
        values["new_tokens_low"], values["new_tokens_high"] = mean - 1.96 * spread, mean + 1.96 * spread
    return {"n": n, **values}


def by_group(predictions: Iterable[Prediction], group_of: Mapping[str, str]) -> dict[str, list[Prediction]]:
    """Predictions by the group of their example id; groups are in order of first occurrence."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(group_of[prediction.id], []).append(prediction)
    return groups


class AnswerScores(Metric):
    """Shares and means over predictions, on any number of ranks.

    ``compute`` returns accuracy, accuracy_lenient, no_answer, unfinished (no EOS within the limit), new_tokens, and, if
    stages have names, skipped: the mean share of the teacher's chunks that the student left out.
    """

    full_state_update = False
    counts: Tensor
    shares: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Apple's GPUs have no float64, and float32 cannot represent counts above 2^24 exactly.
        self.add_state("counts", default=torch.zeros(7, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("shares", default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction]) -> None:
        """Adds predictions."""
        for p in predictions:
            row = [1, p.correct, p.correct_lenient, p.extracted is None, not p.finished, p.new_tokens]
            row.append(p.skipped is not None)
            self.counts += torch.tensor(row, dtype=torch.int64, device=self.counts.device)
        self.shares += sum(p.skipped or 0.0 for p in predictions)

    def compute(self) -> dict[str, Tensor]:
        """The shares and means over all predictions of all ranks, float64 on the CPU."""
        names = ("accuracy", "accuracy_lenient", "no_answer", "unfinished", "new_tokens")
        total, *sums, staged = self.counts.cpu().double()
        means = {name: value / total.clamp_min(1) for name, value in zip(names, sums, strict=True)}
        return means | ({"skipped": self.shares.cpu().double() / staged} if staged else {})
