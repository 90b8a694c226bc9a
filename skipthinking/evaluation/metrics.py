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


def scores(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What :class:`AnswerScores` computes, with n and 95% intervals; accuracy by budget in a mapping of its own."""
    budgets = tuple(predictions[0].correct_at) if predictions else ()
    metric = AnswerScores(budgets, sync_on_compute=False)  # the predictions of all ranks are already gathered
    metric.update(predictions)
    values: dict[str, Any] = {name: float(value) for name, value in metric.compute().items()}
    if budgets:
        values["accuracy_at"] = {str(budget): values.pop(f"accuracy_at_{budget}") for budget in budgets}
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

    ``compute`` returns

    - accuracy, accuracy_lenient, no_answer, unfinished (no EOS within the limit) and new_tokens;
    - accuracy_at_B for every budget B: the accuracy if generation stops after B new tokens;
    - for methods that name stages, skipped_known: the share of answers (to examples with a teacher's rationale) of
      which it is known what they skip; and, if there are some, skipped: the mean share of the teacher's chunks that
      those leave out.

    Args:
        budgets: The budgets, in new tokens.
        settings: See Metric.
    """

    full_state_update = False
    counts: Tensor
    shares: Tensor

    def __init__(self, budgets: Sequence[int] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self.budgets = tuple(budgets)
        # Apple's GPUs have no float64, and float32 cannot represent counts above 2^24 exactly.
        self.add_state("counts", default=torch.zeros(8 + len(self.budgets), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("shares", default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction]) -> None:
        """Adds predictions."""
        for p in predictions:
            known = p.skipped is not None
            row = [1, p.correct, p.correct_lenient, p.extracted is None, not p.finished, p.new_tokens]
            row += [*(p.correct_at.get(budget, False) for budget in self.budgets), known or p.chunks is not None, known]
            self.counts += torch.tensor(row, dtype=torch.int64, device=self.counts.device)
        self.shares += sum(p.skipped or 0.0 for p in predictions)

    def compute(self) -> dict[str, Tensor]:
        """The shares and means over all predictions of all ranks, float64 on the CPU."""
        names = ["accuracy", "accuracy_lenient", "no_answer", "unfinished", "new_tokens"]
        names += [f"accuracy_at_{budget}" for budget in self.budgets]
        total, *sums, staged, known = self.counts.cpu().double()
        means = {name: value / total.clamp_min(1) for name, value in zip(names, sums, strict=True)}
        if staged:
            means["skipped_known"] = known / staged
        if known:
            means["skipped"] = self.shares.cpu().double() / known
        return means
