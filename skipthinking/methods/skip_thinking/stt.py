"""STT: skip-thinking training."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skipthinking.annotate.store import Journal, fingerprint, remembered
from skipthinking.data.instances import instance
from skipthinking.methods.skip_thinking.cwt import CWT
from skipthinking.methods.skip_thinking.skips import Likelihood, Scene, Verifier, search_skips, shuffled_skips
from skipthinking.records import Encoded, Instance, Span, UserError
from skipthinking.tasks import get_task

if TYPE_CHECKING:
    from skipthinking.data.module import RationaleDataModule

__all__ = ["STT"]


class STT(CWT):
    """Skip-thinking training (Skip-Thinking, Chen et al., arXiv 2505.18642): learn to leave out chunks.

    1. Warm-up by CWT. In its last epochs each instance lacks random chunks, so that gaps are familiar before they are
    judged; the name of the stage behind a gap is no target there. 2. Skip search with the student as it then is, on
    training examples only. 3. On with what is kept: from the chunk before a gap the student learns to go straight to
    the one behind it.

    Departures: the paper's text was not at hand; the gap-aware epochs, ``replay`` and the default verifier are ours.

    Args:
        warmup_epochs: Epochs before the skip search; 0 with ``start_from``, a checkpoint of CWT.
        gap_epochs: How many of these, the last ones, drop chunks at random.
        gap_shares: Shares of the chunks that they drop; each instance draws one.
        verifier: Judges whether a chunk can go; Likelihood by default.
        cumulative: Whether a removed chunk stays removed while later ones are judged.
        replay: Share of instances that show the whole rationale after the search.
        control: ``random_skip`` removes as many chunks, but random ones; ``no_skip`` none.
        kwargs: See CWT.
    """

    def __init__(
        self,
        warmup_epochs: int = 6,
        gap_epochs: int = 2,
        gap_shares: list[float] | None = None,
        verifier: Verifier | None = None,
        cumulative: bool = True,
        replay: float = 0.0,
        control: Literal["random_skip", "no_skip"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        shares = [0.0, 0.15, 0.3, 0.5] if gap_shares is None else gap_shares
        if self.stage_marker is None:
            raise UserError("Expected stage markers, got model.stage_marker=null. STT needs stages that have names.")
        if not 0 <= gap_epochs <= warmup_epochs:
            raise UserError(
                "Expected gap epochs to be a part of the warm-up, got "
                f"model.gap_epochs={gap_epochs}, model.warmup_epochs={warmup_epochs}."
            )
        if not (0 <= replay <= 1 and shares and all(0 <= share < 1 for share in shares)):
            raise UserError(f"Expected shares from 0 to 1, got model.replay={replay}, model.gap_shares={shares}.")
        self.warmup_epochs, self.gap_epochs, self.gap_shares = warmup_epochs, gap_epochs, shares
        self.verifier, self.cumulative = verifier or Likelihood(), cumulative
        self.replay, self.control = replay, control
        self.kept: dict[str, list[int]] | None = None

    # ----------------------------------------------------------------------------------- the schedule

    def first_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> None:
        """Sees that the search will come; no run is needed before this one.

        Raises:
            UserError: The run ends before it.
        """
        epochs = config["trainer"]["max_epochs"]
        if epochs is not None and 0 <= epochs <= self.warmup_epochs and self.control != "no_skip":
            raise UserError(
                f"Expected epochs after the warm-up, got trainer.max_epochs={epochs} and "
                f"model.warmup_epochs={self.warmup_epochs}. Raise the first or lower the second."
            )

    def may_search_chunks(self, epoch: int) -> bool:
        """Not once gaps have been taught: what is judged must be what was trained on."""
        return epoch < self.warmup_epochs and epoch <= self.warmup_epochs - self.gap_epochs

    def keep(
        self, epoch: int, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> Mapping[str, Sequence[int]] | None:
        """The chunks that each example shows in an epoch; None for all of them."""
        if epoch < self.warmup_epochs - self.gap_epochs:
            return None
        if epoch < self.warmup_epochs:
            return {row.id: self._with_gaps(row.id, epoch, len(chunks[row.id])) for row in encoded}
        if self.control == "no_skip":
            return None
        self.know(encoded)
        if self.kept is None:
            self.kept = self._search(encoded, chunks)
        everything = super().kept_so_far(encoded, chunks)
        return {
            row.id: everything[row.id] if self._replayed(row.id, epoch) else self.kept.get(row.id, everything[row.id])
            for row in encoded
        }

    def kept_so_far(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> Mapping[str, Sequence[int]]:
        """What the skip search of the run kept; all before it."""
        return {**super().kept_so_far(encoded, chunks), **(self.kept or {})}

    def kept_in_the_end(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> Mapping[str, Sequence[int]]:
        """The same, after a search with the student as it is if there was none."""
        everything = self.kept_so_far(encoded, chunks)
        if self.kept is not None or self.control == "no_skip":
            return everything
        return {**everything, **self._search(encoded, chunks)}

    def _with_gaps(self, id: str, epoch: int, chunks: int) -> list[int]:
        rng = random.Random(f"gaps/{self.data.seed}/{epoch}/{id}")
        share = rng.choice(self.gap_shares)
        return [chunk for chunk in range(chunks) if rng.random() >= share]

    def _replayed(self, id: str, epoch: int) -> bool:
        return random.Random(f"replay/{self.data.seed}/{epoch}/{id}").random() < self.replay

    def _search(self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]) -> dict[str, list[int]]:
        examples = {example.id: example for example in self.data.examples["train"]}

        def right(id: str, tokens: list[int]) -> bool:
            assert self.codec is not None
            example, text = examples[id], self.answer_text(self.codec.decode(tokens))
            return get_task(example.task).grade(text, example.answer).correct

        def search() -> dict[str, list[int]]:
            scene = Scene(
                student=self.student, right=right, max_new_tokens=self.max_new_tokens,
                rank=self.global_rank, ranks=self.trainer.world_size, journal=Journal(path, key, self.global_rank),
            )  # fmt: skip
            return search_skips(
                encoded, chunks, stages=self.stages, verifier=self.verifier, scene=scene, cumulative=self.cumulative
            )

        settings = {
            **self.verifier.settings(), "cumulative": self.cumulative, "marker": self.stage_marker,
            "max_new_tokens": self.max_new_tokens, "chunks": {row.id: list(chunks[row.id]) for row in encoded},
        }  # fmt: skip
        key = fingerprint(encoded, settings, self.student)
        path = self.annotations / "skips.jsonl"
        found = remembered(path, key, search)
        counts = {row.id: len(chunks[row.id]) for row in encoded}
        self.skipped_in_training = 1 - sum(map(len, found.values())) / max(1, sum(counts.values()))
        why = "" if self.skipped_in_training else "; the student answers nothing rightly yet, or needs all of them"
        self.say(f"skip search: {self.skipped_in_training:.1%} of {sum(counts.values()):,} chunks can go{why}")
        return shuffled_skips(found, counts, self.data.seed) if self.control == "random_skip" else found

    # ------------------------------------------------------------------------------------ the instances

    def cut(self, encoded: Encoded, notes: Mapping[str, Any]) -> list[Instance]:
        """One instance of the stages that are kept: the drawn one, or all, behind those before it."""
        if notes.get("kept") is None:
            return super().cut(encoded, notes)
        stages, kept = self.stages.tokens(encoded, notes["chunks"]), [*notes["kept"], len(notes["chunks"])]
        targets = range(len(kept)) if notes["stage"] is None else {notes["stage"]}
        found = instance(encoded.id, encoded.prompts[""], [stages[stage] for stage in kept], targets)
        if notes["epoch"] < self.warmup_epochs:
            self._forgive(found, kept, [len(stages[stage]) for stage in kept], len(notes["chunks"]))
        return [found]

    def _forgive(self, found: Instance, kept: Sequence[int], lengths: Sequence[int], chunks: int) -> None:
        """No loss on the name of a stage that comes right after a random gap."""
        starts = np.cumsum([0, *lengths[:-1]])
        for place, (stage, start) in enumerate(zip(kept, starts, strict=True)):
            if stage != (kept[place - 1] + 1 if place else 0):
                found.weights[start : start + self.stages.opening(stage, chunks)] = 0

    # ------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the search kept."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["skipthinking"]["kept"] = self.kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what the search kept, so that a resumed run does not search again."""
        super().on_load_checkpoint(checkpoint)
        self.kept = checkpoint["skipthinking"]["kept"]
