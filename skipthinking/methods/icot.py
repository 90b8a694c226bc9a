"""ICoT: removes more tokens from the start of the rationale in every epoch, until the answer alone is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from skipthinking.annotate import Notes
from skipthinking.annotate.runner import say
from skipthinking.data.instances import instance
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance, UserError

__all__ = ["ICoT"]


class ICoT(Distiller):
    """Stepwise internalization (ICoT-SI, Deng et al., 2024, arXiv 2405.14838): x -> the end of r, y.

    After ``full_epochs`` epochs on full rationales, each epoch removes ``remove_per_epoch`` more tokens from the start
    of every rationale; the targets are the rest of it and the answer. Removal smoothing removes o tokens more, with
    probability proportional to exp(-smoothing * o), drawn per example and epoch. When the count rises, the optimizer
    state starts from zero; the learning-rate schedule goes on.

    Departures: read were the abstract and the official code, not the full text. There the count rises by 1 token
    ``remove_per_epoch`` times within an epoch, and the optimizer is reset as often; here it rises between epochs, so
    that an instance depends only on epoch and id. The first removal comes after an epoch on full rationales (there:
    within the first epoch). Rationales here are sentences of a teacher, those of the paper equations of few tokens.

    Args:
        remove_per_epoch: Number of tokens that each epoch removes more than the epoch before, the paper's Delta.
        full_epochs: Number of first epochs that remove nothing.
        remove_all_from: Once this many tokens are removed, all are (the official code for GSM8K: 39); null for never.
        smoothing: The paper's lambda; ``.inf`` for no removal smoothing.
        reset_optimizer: Whether to reset the optimizer state when the count rises, while rationale tokens are left.
        kwargs: See Distiller.
    """

    def __init__(
        self,
        remove_per_epoch: int = 8,
        full_epochs: int = 1,
        remove_all_from: int | None = None,
        smoothing: float = 4.0,
        reset_optimizer: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min(remove_per_epoch, 1 if remove_all_from is None else remove_all_from) < 1 or full_epochs < 0:
            raise UserError(
                "Expected remove_per_epoch and remove_all_from of at least 1 and full_epochs of at least 0, got "
                f"model.remove_per_epoch={remove_per_epoch}, model.remove_all_from={remove_all_from}, "
                f"model.full_epochs={full_epochs}. Leave out what is outside of its range, for its default."
            )
        if not smoothing > 0:
            raise UserError(
                f"Expected a smoothing above 0, got model.smoothing={smoothing}. Set model.smoothing: 4.0, for example."
            )
        self.remove_per_epoch, self.full_epochs, self.remove_all_from = remove_per_epoch, full_epochs, remove_all_from
        self.smoothing, self.reset_optimizer = smoothing, reset_optimizer

    def removed(self, epoch: int) -> float:
        """Number of tokens that an epoch removes from the start of every rationale, without smoothing; inf for all."""
        count = self.remove_per_epoch * max(0, epoch + 1 - self.full_epochs)
        return math.inf if self.remove_all_from is not None and count >= self.remove_all_from else count

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: question -> the rationale without its first tokens, answer."""
        removed = self.removed(notes.epoch)
        if notes.epoch >= self.full_epochs:
            # The integer part of an exponential variable of rate lambda is o with probability ~ exp(-lambda * o).
            removed += int(notes.random("removal", encoded.id).expovariate(self.smoothing))
        start = int(min(removed, encoded.answer[0]))
        return [instance(encoded.id, encoded.prompts[""], [encoded.tokens[start:]], {0})]

    def on_train_start(self) -> None:
        """Reports rationales that the run does not remove completely."""
        super().on_train_start()
        epochs = self.trainer.max_epochs or 0
        if self.current_epoch == 0 and epochs > 0:
            say(self.shortfall(epochs, self._lengths()))

    def on_train_epoch_start(self) -> None:
        """Resets the optimizer state when the count rises: before the first step of an epoch, never after a resume."""
        super().on_train_epoch_start()
        before, now = self.removed(self.current_epoch - 1), self.removed(self.current_epoch)
        if self.reset_optimizer and before < min(now, max(self._lengths())):
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def shortfall(self, epochs: int, lengths: Sequence[int]) -> str:
        """A line about what a run of N epochs removes of rationales of these lengths, in tokens.

        To end before all is removed is partial internalization, the paper's result for 11 x 11 multiplication.
        """
        last, longest = self.removed(epochs - 1), max(lengths)
        left = sum(length > last for length in lengths)
        if not left:
            return f"internalization: epoch {epochs - 1} removes the longest rationale, {longest} tokens"
        needed = self.full_epochs + math.ceil(min(longest, self.remove_all_from or longest) / self.remove_per_epoch)
        return (
            f"internalization is partial: the last epoch removes {last} tokens, and {left} of {len(lengths)} "
            f"rationales are longer (up to {longest}). To remove all, set trainer.max_epochs: {needed}."
        )

    def _lengths(self) -> list[int]:
        return self.data.rationale_lengths()
