"""LongCoT: long traces pruned by the student's own judgment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from skipthinking.annotate.annotator import Annotator, Notes
from skipthinking.data.batches import Batch
from skipthinking.data.instances import instance
from skipthinking.data.module import RationaleDataModule
from skipthinking.evaluation.answers import Completion
from skipthinking.losses import dpo, row_sums
from skipthinking.methods.base import Distiller
from skipthinking.methods.long_cot.annotators import Cuts, References, TraceLosses
from skipthinking.methods.long_cot.cuts import BinaryCut, Cutter, Trace
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.tasks import get_task

__all__ = ["LongCoT"]

CHOSEN, REJECTED = 0, 1  # loss terms


class LongCoT(Distiller):
    """Efficient long CoT (Wang et al., arXiv 2505.18440): SFT on pruned traces, then DPO against the full ones.

    A trace consists of thinking in steps, a conclusion and the answer.

    0. Warm-up: ``warmup_epochs`` on full traces, for a student that cannot answer yet. A share of the traces skips from
       a random step to the answer, so that the student knows early answers before pruning judges them; the end of the
       thinking is not a target there.
    1. Pruning: each trace keeps the shortest prefix of steps from which the current student gives the answer. A trace
       without a valid prefix is dropped.
    2. SFT: ``sft_epochs`` on question -> prefix and conclusion.
    3. DPO in the remaining epochs: pairs of the pruned (chosen) and the full trace (rejected), plus ``sft_weight``
       times the likelihood of the pruned trace. The reference is the student at the end of step 2; its
       log-probabilities are computed once, so no second model is needed. A trace that was not shortened makes no pair.

    The steps can run separately: ``trainer.max_epochs`` ends a run after one of them, and ``start_from`` in the next
    run loads its checkpoint, including the cuts if they are from the same cutter. DPO alone has ``sft_epochs: 0``.

    Departures: only a summary of the paper was available. The warm-up, beta, and the forced answer phrase and optional
    confidence in validation are ours. The likelihood is a mean over the tokens of the optimizer step, and the
    preference loss is a mean over its pairs.

    Args:
        warmup_epochs: Epochs with full traces before pruning.
        early_share: Share of warm-up instances that skip from a random step to the answer.
        sft_epochs: Epochs with pruned traces.
        cutter: Chooses how many steps are kept; BinaryCut by default.
        beta: Strength of the penalty for moving away from the reference policy in DPO.
        sft_weight: Weight of the likelihood in DPO.
        open_thinking: Text before the thinking, for example "<think>"; none by default.
        close_thinking: Text after the thinking, for example "</think>"; by default the end of the tag with which the
            prompt opens the thinking, if it does.
        kwargs: See Distiller.
    """

    rows_per_place = 2  # a pair of the DPO stage
    term_weights = (1.0, 0.0)  # the likelihood term of rejected traces has weight 0
    encodes_conclusion = True
    marks_thinking = True

    def __init__(
        self,
        warmup_epochs: int = 0,
        early_share: float = 0.0,
        sft_epochs: int = 3,
        cutter: Cutter | None = None,
        beta: float = 0.1,
        sft_weight: float = 0.3,
        open_thinking: str = "",
        close_thinking: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min(warmup_epochs, sft_epochs) < 0:
            raise UserError(
                "Expected epochs of at least 0, got "
                f"model.warmup_epochs={warmup_epochs}, model.sft_epochs={sft_epochs}. Raise each to 0 or more."
            )
        if not (0 < beta < math.inf and 0 <= sft_weight < math.inf and 0 <= early_share <= 1):
            raise UserError(
                "Expected a finite beta above 0, sft_weight of at least 0 and early_share from 0 to 1, got "
                f"model.beta={beta}, model.sft_weight={sft_weight}, model.early_share={early_share}. "
                "Leave out what is outside of its range, for its default."
            )
        self.warmup_epochs, self.early_share, self.sft_epochs = warmup_epochs, early_share, sft_epochs
        self.cutter, self.beta, self.sft_weight = cutter or BinaryCut(), beta, sft_weight
        self.marks = (open_thinking, close_thinking)
        self.cuts = Cuts(warmup_epochs, self.cutter, self)
        self.references = References(warmup_epochs + sft_epochs, self.cuts, self)
        self.losses = TraceLosses(self.cuts, self)

    def added_tokens(self, chunks: int) -> list[str]:
        """The marks that open and close the thinking."""
        return [mark for mark in self.marks if mark]

    def annotators(self) -> Sequence[Annotator[Any]]:
        """Pruned lengths, reference log-likelihoods, and step losses for display.

        Raises:
            UserError: The prompt opens the thinking, and ``open_thinking`` would open it again.
        """
        assert self.codec is not None
        closing = self.codec.template.closing(self.codec.tokenizer).rstrip()
        if closing and self.marks[0].strip():
            raise UserError(
                f"Expected thinking that is opened once, got model.open_thinking={self.marks[0]!r} after a prompt that "
                'opens it. Set model.open_thinking: "".'
            )
        self.marks = (self.marks[0], self.marks[1] or closing)
        encode = self.codec.inline
        self._inline = cache(lambda text: encode(text) if text else np.empty(0, dtype=np.int64))
        return super().annotators()

    # ----------------------------------------------------------------------------------- the schedule

    def prefers(self, epoch: int) -> bool:
        """Whether an epoch trains by DPO."""
        return epoch >= self.warmup_epochs + self.sft_epochs

    def prior_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> None:
        """Checks that the run includes the warm-up; no prior run is needed.

        Raises:
            UserError: The run ends within the warm-up.
        """
        epochs = config["trainer"]["max_epochs"]
        if epochs is not None and 0 <= epochs < self.warmup_epochs:
            raise UserError(
                f"Expected at least the warm-up, got trainer.max_epochs={epochs} and "
                f"model.warmup_epochs={self.warmup_epochs}. Set trainer.max_epochs: {self.warmup_epochs} or more, or "
                f"model.warmup_epochs: {epochs} or less."
            )

    def on_train_start(self) -> None:
        """Disables dropout when a run resumes within an epoch of DPO, too."""
        super().on_train_start()
        if self.prefers(self.current_epoch):
            self.student.disable_dropout()

    def on_train_epoch_start(self) -> None:
        """Disables dropout for DPO: the reference has none, so noise would count as a move away from it."""
        super().on_train_epoch_start()
        if self.prefers(self.current_epoch):
            self.student.disable_dropout()

    # ----------------------------------------------------------------------------------- the instances

    def trace(self, encoded: Encoded) -> Trace:
        """Splits a long rationale into its parts."""
        end, answer = encoded.steps[-1][1], encoded.tokens[slice(*encoded.answer)]
        phrase = self._inline(f" {get_task(encoded.example.task).answer.partition('{answer}')[0].rstrip()}")
        same = phrase[: len(answer)] == answer[: len(phrase)]
        opening, closing = map(self._inline, self.marks)
        return Trace(
            id=encoded.id,
            prompt=encoded.prompts[""],
            opening=opening,
            steps=[encoded.tokens[slice(*span)] for span in encoded.steps],
            closing=closing,
            conclusion=encoded.tokens[end : encoded.answer[0]],
            answer=answer,
            phrase=len(same) if same.all() else int(same.argmin()),
        )

    def instance_of(self, encoded: Encoded, steps: int | None, term: int = CHOSEN) -> Instance:
        """Question -> the first steps (None for all) and the conclusion."""
        trace = self.trace(encoded)
        tokens = trace.completion(len(trace.steps) if steps is None else steps)
        return instance(encoded.id, encoded.prompts[""], [tokens], {0}, term=term)

    def _broken_off(self, encoded: Encoded, steps: int) -> Instance:
        """Question -> the first steps and the answer; closing mark and answer phrase between them are no targets."""
        trace = self.trace(encoded)
        parts = [trace.prefix(steps), trace.answer_cue, trace.answer[trace.phrase :]]
        return instance(encoded.id, encoded.prompts[""], parts, {0, 2})

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """The full trace (warm-up), the pruned trace (SFT), or a pair of both (DPO); none for a dropped example."""
        if notes.epoch < self.warmup_epochs:
            rng = notes.random("early", encoded.id)
            early = rng.randrange(1, len(encoded.steps) + 1) if rng.random() < self.early_share else None
            return [self._broken_off(encoded, early) if early else self.instance_of(encoded, None)]
        steps = notes[self.cuts]
        if not self.prefers(notes.epoch):
            return [] if steps is None else [self.instance_of(encoded, steps)]
        pair = notes[self.references]
        if pair is None:
            return []
        sides = [self.instance_of(encoded, steps), self.instance_of(encoded, None, term=REJECTED)]
        return [replace(side, reference=value) for side, value in zip(sides, pair, strict=True)]

    def micro_batch_loss(self, nll_N: Tensor, batch: Batch) -> Tensor:
        """Likelihood of the trace; in DPO, preference loss plus ``sft_weight`` times the likelihood."""
        likelihood = super().micro_batch_loss(nll_N, batch)
        if not batch.pairs:
            return likelihood
        rows = len(batch.ids)
        moved_B = -row_sums(nll_N, batch.where.rows_N, rows) - batch.references_B
        # Each rejected trace is the row after its chosen one. A row without a partner stands in for no instance.
        chosen_P, rejected_P = moved_B[: rows // 2 * 2].view(-1, 2).unbind(1)
        if rows > 1:
            margin = self.beta * (chosen_P - rejected_P).detach()
            self.log("train/margin", margin.mean(), batch_size=len(margin))
            self.log("train/preferred", (margin > 0).float().mean(), batch_size=len(margin))
        return self.sft_weight * likelihood + dpo(chosen_P, rejected_P, self.beta).sum() / batch.pairs

    # ------------------------------------------------------------------------------------- evaluation

    def read_completion(self, completion: str, teacher: Encoded | None) -> Completion:
        """Splits thinking and conclusion at the closing mark, if the completion has one; grades the full text."""
        thinking, close, rest = completion.partition(self.marks[1].strip() or "\0")
        if not close:
            return super().read_completion(completion, teacher)
        return Completion(text=completion, stages=[("thinking", thinking), ("conclusion", rest)])
