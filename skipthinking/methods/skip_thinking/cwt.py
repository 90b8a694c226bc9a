"""CWT: chunk-wise training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from skipthinking.annotate.annotator import Annotator, Notes
from skipthinking.annotate.runner import say
from skipthinking.data.instances import instance
from skipthinking.evaluation.answers import Completion
from skipthinking.methods.base import Distiller
from skipthinking.methods.skip_thinking.chunks import Chunks, StageLosses, StepLosses
from skipthinking.methods.skip_thinking.stages import Stages
from skipthinking.records import Encoded, Instance, UserError

__all__ = ["CWT"]


class CWT(Distiller):
    """Chunk-wise training (Skip-Thinking, Chen et al., arXiv 2505.18642): one stage of a rationale per iteration.

    A rationale of M chunks has M + 1 stages; the last one is the answer. In each epoch, an example trains on one stage,
    drawn by the data module's stage sampling: the target is that stage, the context is the question and all earlier
    stages. Each chunk starts with a marker, part of the target, so that the student learns to name the next stage; the
    answer stage starts with the answer phrase.

    Departures: the paper's text was not available. The form of the marker and the stage samplings ``cycle`` and ``all``
    are ours. With ``all``, every stage of an instance is a target: the gradient of M + 1 instances in a single pass.

    Args:
        stage_marker: Text that opens stage m, with one ``{}`` for m, counted from 1; null leaves markers out.
        kwargs: See Distiller.
    """

    def __init__(self, stage_marker: str | None = " [{}]", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if stage_marker is not None:
            self.completion_marks = _marks(stage_marker)
        self.stage_marker = stage_marker
        self.stages = Stages(stage_marker, lambda text: np.empty(0, dtype=np.int64))
        self.chunks = Chunks(self.chunker, self.stages)
        self.stage_losses: StageLosses | None = None

    def added_tokens(self, chunks: int) -> list[str]:
        """The stage markers."""
        return [self.stage_marker.format(m) for m in range(1, chunks + 1)] if self.stage_marker else []

    def annotators(self) -> Sequence[Annotator[Any]]:
        """Annotators of chunks, of stage losses (stage sampling ``loss`` only), and of step losses for display."""
        assert self.codec is not None
        self.stages = Stages(self.stage_marker, self.codec.inline)
        self.chunks = Chunks(self.chunker, self.stages, self.may_search_chunks)
        self.stage_losses = StageLosses(self.chunks) if self.stage_sampling == "loss" else None
        losses = [self.stage_losses] if self.stage_losses else []
        return [self.chunks, *losses, StepLosses(self.chunks)]

    def may_search_chunks(self, epoch: int) -> bool:
        """Whether chunks may change at the start of an epoch."""
        return True

    def on_train_start(self) -> None:
        """Prints a warning if the chunker would search, but no search falls into the epochs of the run."""
        super().on_train_start()
        epochs = self.trainer.max_epochs or 0
        searches = self.data.runner.has_run(self.chunks) or epochs < 0 or any(map(self.chunks.due, range(epochs)))
        if self.current_epoch == 0 and self.chunker.searches and not searches:
            say("chunk search: none falls into the epochs of this run, so chunks stay of average length")

    def kept_chunks(self, encoded: Encoded, notes: Notes) -> list[int] | None:
        """Indices of the chunks that an example keeps in an epoch; None for all chunks."""
        return None

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: question and earlier kept stages -> the drawn stage, or question -> all kept stages."""
        chunks, kept = notes[self.chunks], self.kept_chunks(encoded, notes)
        stages = self.stages.tokens(encoded, chunks)
        shown = list(range(len(stages))) if kept is None else [*kept, len(stages) - 1]
        losses = notes.get(self.stage_losses) if self.stage_losses else None
        drawn = notes.draw_stage(len(shown), encoded.id, None if losses is None else losses[shown].tolist())
        targets = range(len(shown)) if drawn is None else {drawn}
        return [instance(encoded.id, encoded.prompts[""], [stages[m] for m in shown], targets)]

    def read_completion(self, completion: str, teacher: Encoded | None) -> Completion:
        """Removes the markers, whose numbers are not answers, and splits the completion into the named stages."""
        chunks = len(self.chunks.initial(teacher)) if teacher else 0
        if self.completion_marks is None or self.stage_marker is None:
            return super().read_completion(completion, teacher)
        before, *parts = re.split(self.completion_marks, completion)
        names = [name.strip() for name in re.findall(self.completion_marks, completion)]
        stages = [("rationale", before.strip())] if before.strip() else []
        named = {m for m in range(1, chunks + 1) if self.stage_marker.strip().format(m) in completion}
        return Completion(
            text=re.sub(self.completion_marks, "", completion),
            stages=stages + [(name, part.strip()) for name, part in zip(names, parts, strict=True)],
            skipped=1 - len(named) / chunks if chunks else None,
        )


def _marks(stage_marker: str) -> str:
    """Regular expression that matches every marker: " [{}]" -> " [1]", " [12]".

    Raises:
        UserError: Markers are indistinguishable from digits around them, so removing them would damage answers.
    """
    before, _, after = stage_marker.strip().partition("{}")
    if stage_marker.count("{}") != 1 or not stage_marker.startswith(" "):
        raise UserError(
            f"Expected a marker with one {{}} that begins with a blank, got model.stage_marker={stage_marker!r}. "
            "Set model.stage_marker: ' [{}]', for example."
        )
    if not before or not after or before[-1].isdigit() or after[0].isdigit():
        raise UserError(
            "Expected a marker with a character that is no digit before and after its number, got model.stage_marker="
            f"{stage_marker!r}: without them numbers of the text would be taken for markers. "
            "Set model.stage_marker: ' [{}]', for example."
        )
    return rf"\s?{re.escape(before)}\d+{re.escape(after)}"
