"""STT: skip-thinking training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skipthinking.annotate.annotator import Annotator, Notes
from skipthinking.data.module import RationaleDataModule
from skipthinking.methods.skip_thinking.cwt import CWT
from skipthinking.methods.skip_thinking.skips import Skips, Solved
from skipthinking.methods.skip_thinking.surprisal import FirstTokens, Perplexity  # noqa: F401  found by class path
from skipthinking.methods.skip_thinking.verifiers import Likelihood, Verifier
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.tasks import get_task

__all__ = ["SKIP", "STT"]

SKIP = "[skip] "
"""The control text before a question that asks for skip mode."""


class STT(CWT):
    """Skip-thinking training (Skip-Thinking, Chen et al., arXiv 2505.18642): learn to leave out chunks.

    1. Warm-up by CWT. In its last epochs random chunks are left out, so that the student knows gaps before the search
       judges them; the name of the stage after a gap (its marker, or its first token without markers) is not a target.
    2. Skip search with the current student, on those training examples that pass ``gate``; the others keep all chunks.
    3. Training on the kept chunks: the student learns to continue after a gap with the next kept chunk.

    With ``replay``, part 3 teaches two modes: ``[skip] `` before the question asks for the kept chunks, a question
    without it for all of them. ``mode`` chooses one at inference. As full mode has no text, warm-up and search are the
    same for every ``replay``, and a warm-up by CWT serves both. Validation uses ``mode``, too; before the search the
    student does not know the text yet. Without ``replay`` there is no text.

    Without markers (``stage_marker: null``) answers are as short as what they keep, but nobody can tell which chunks an
    answer leaves out: ``skipped`` is unknown.

    Departures: the paper's text was not available; the gap epochs, the default verifier, the control text and its place
    are ours. In the paper, a skip control chooses the mode at inference.

    Args:
        warmup_epochs: Epochs before the skip search; 0 if ``start_from`` is a checkpoint of CWT.
        gap_epochs: Number of epochs at the end of the warm-up that leave out random chunks.
        gap_shares: Expected shares of left-out chunks in these epochs; each instance draws one.
        verifier: Judges whether a chunk can be left out; Likelihood by default.
        cumulative: Whether a removed chunk stays removed while later ones are judged.
        gate: Whose text precedes the answer that must be right for an example to be searched: the teacher's full
            rationale, which states the result, or the student's own, written greedily. By the student's own, examples
            that it does not solve yet keep all chunks, and it then learns both; on arithmetic stories that cost 16.5
            points (experiments/README.md). Some verifiers have no gate.
        replay: Share of instances after the search that have all chunks (full mode).
        mode: Whether the student is asked to skip chunks or for the full rationale, in evaluation and ``predict``.
        control: ``random_skip`` removes the same number of chunks at random, ``first_skip`` the same number from the
            start; ``no_skip`` removes none.
        kwargs: See CWT.
    """

    answer_settings = ("mode",)

    def __init__(
        self,
        warmup_epochs: int = 6,
        gap_epochs: int = 2,
        gap_shares: list[float] | None = None,
        verifier: Verifier | None = None,
        cumulative: bool = True,
        gate: Literal["student", "teacher"] = "teacher",
        replay: float = 0.0,
        mode: Literal["skip", "full"] = "skip",
        control: Literal["random_skip", "first_skip", "no_skip"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        shares = [0.0, 0.15, 0.3, 0.5] if gap_shares is None else gap_shares
        if warmup_epochs < 0:
            raise UserError(
                f"Expected a warm-up of 0 epochs or more, got model.warmup_epochs={warmup_epochs}. Leave it out for "
                "its default."
            )
        if not 0 <= gap_epochs <= warmup_epochs:
            raise UserError(
                "Expected gap epochs to be a part of the warm-up, got "
                f"model.gap_epochs={gap_epochs}, model.warmup_epochs={warmup_epochs}. "
                f"Set model.gap_epochs: {max(0, min(gap_epochs, warmup_epochs))}."
            )
        if not (shares and all(0 <= share < 1 for share in (replay, *shares))):
            raise UserError(
                f"Expected shares from 0 to below 1, got model.replay={replay}, model.gap_shares={shares}. "
                "Leave out what is outside of its range, for its default."
            )
        if mode == "full" and not replay and control != "no_skip":
            raise UserError(
                "Expected a student with two modes, got model.mode=full and model.replay=0: without replay it only "
                "learns to skip. Set model.mode: skip, or train with model.replay: 0.3"
            )
        self.warmup_epochs, self.gap_epochs, self.gap_shares = warmup_epochs, gap_epochs, shares
        self.verifier, self.cumulative, self.gate = verifier or Likelihood(), cumulative, gate
        self.replay, self.control = replay, control
        if replay and control != "no_skip":
            self.choose_prompt("mode", {"skip": SKIP, "full": ""}, mode)
        self.skips: Skips | None = None

    # ----------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds whether the student has two modes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["skipthinking"]["two_modes"] = len(self.prompt_prefixes) > 1

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if a student with one mode is to answer in two."""
        super().on_load_checkpoint(checkpoint)
        two = len(self.prompt_prefixes) > 1
        if two and not self.fitting and not checkpoint["skipthinking"].get("two_modes", True):
            raise UserError(
                f"Expected a student with two modes, got model.replay={self.replay} for one that was trained without: "
                "it does not know the control text. Leave out model.replay and model.mode."
            )

    # ----------------------------------------------------------------------------------- the schedule

    def prior_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> None:
        """Checks that the run includes the skip search; no prior run is needed.

        Raises:
            UserError: The run ends before the search.
        """
        epochs = config["trainer"]["max_epochs"]
        if epochs is not None and 0 <= epochs <= self.warmup_epochs and self.control != "no_skip":
            raise UserError(
                f"Expected epochs after the warm-up, got trainer.max_epochs={epochs} and "
                f"model.warmup_epochs={self.warmup_epochs}. Set trainer.max_epochs: {self.warmup_epochs + 1} or more, "
                "or "
                f"model.warmup_epochs: {epochs - 1} or less with model.gap_epochs: {min(self.gap_epochs, epochs - 1)}."
            )

    def may_search_chunks(self, epoch: int) -> bool:
        """Whether no gap was trained yet: the search must judge the same chunks that were trained."""
        return epoch < self.warmup_epochs and epoch <= self.warmup_epochs - self.gap_epochs

    def phase_start(self, epoch: int) -> int:
        """The first epoch of all chunks, of random gaps, or of the kept chunks."""
        starts = [0, self.warmup_epochs - self.gap_epochs] if self.gap_epochs else [0]
        if self.gap_epochs or self.control != "no_skip":
            starts.append(self.warmup_epochs)
        return max(start for start in starts if start <= epoch)

    def annotators(self) -> Sequence[Annotator[Any]]:
        """The annotators of CWT, and the skip search."""
        annotators = super().annotators()
        if self.control == "no_skip":
            return annotators
        gate = None
        if self.gate == "student" and self.verifier.gated:
            gate = Solved(self.warmup_epochs, self.chunks, self.stages, self._right, self.max_new_tokens)
        self.skips = Skips(
            self.warmup_epochs, self.chunks, self.stages, self.verifier, self._right, self.max_new_tokens,
            self.cumulative, self.control, gate,
        )  # fmt: skip
        return [*annotators, *([gate] if gate else []), self.skips]

    def _right(self, encoded: Encoded, tokens: list[int]) -> bool:
        assert self.codec is not None
        text = self.read_completion(self.codec.decode(tokens), None).text
        return get_task(encoded.example.task).grade(text, encoded.example.answer).correct

    # ------------------------------------------------------------------------------------ the instances

    def kept_chunks(self, encoded: Encoded, notes: Notes) -> list[int] | None:
        """Indices of the chunks that an example keeps in an epoch; None for all chunks, as in CWT."""
        everything = list(range(len(notes[self.chunks])))
        if notes.epoch < self.warmup_epochs - self.gap_epochs:
            return None
        if notes.epoch < self.warmup_epochs:
            rng = notes.random("gaps", encoded.id)
            share = rng.choice(self.gap_shares)
            return [chunk for chunk in everything if rng.random() >= share]
        if self.skips is None:
            return None
        return everything if self.in_full_mode(encoded, notes) else notes[self.skips]

    def in_full_mode(self, encoded: Encoded, notes: Notes) -> bool:
        """Whether an example trains without the control text in an epoch."""
        searched = self.skips is not None and notes.epoch >= self.warmup_epochs
        return not searched or notes.random("replay", encoded.id).random() < self.replay

    def prompt_prefix(self, encoded: Encoded, notes: Notes) -> str:
        """The control text in skip mode, if the student has two modes."""
        return SKIP if self.replay and not self.in_full_mode(encoded, notes) else ""

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """CWT's instance of the kept stages; after random gaps, the name of the next stage is not a target."""
        (result,) = super().make_instances(encoded, notes)
        kept, chunks = self.kept_chunks(encoded, notes), notes[self.chunks]
        if kept is not None and notes.epoch < self.warmup_epochs:
            stages, shown = self.stages.tokens(encoded, chunks), [*kept, len(chunks)]
            starts = np.cumsum([0, *(len(stages[m]) for m in shown[:-1])])
            for m, before, start in zip(shown, [-1, *shown], starts, strict=False):
                if m != before + 1:  # after a gap
                    result.weights[start : start + self.stages.opening(m, len(chunks))] = 0
        return [result]
