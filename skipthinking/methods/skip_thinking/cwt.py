"""CWT: chunk-wise training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skipthinking.annotate.annotator import Annotator, Notes
from skipthinking.annotate.runner import say
from skipthinking.data.instances import instance
from skipthinking.evaluation.answers import Completion
from skipthinking.methods.base import Distiller
from skipthinking.methods.skip_thinking.chunks import Chunks, StageLosses, StepLosses
from skipthinking.methods.skip_thinking.stages import Stages, marker_pattern, split_stages
from skipthinking.records import Encoded, Instance, Span
from skipthinking.tasks import get_task

__all__ = ["CWT"]

_CHECKED = 1000  # rationales whose stages are looked for at the start of a run, in about a tenth of a second


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
            self.completion_marks = marker_pattern(stage_marker)
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
        if self.stage_marker and self.current_epoch == 0:
            rows = self.data.runner.rows[:_CHECKED]
            if lost := self._unreadable(rows):
                say(
                    f"stage markers: {len(lost)} of {len(rows):,} rationales, such as {lost[0]}, have text like a "
                    "marker or steps without an end, so stages of such answers are split wrongly"
                )

    def _unreadable(self, rows: Sequence[Encoded]) -> list[str]:
        """Ids of rationales whose stages :meth:`read_completion` would not find in an answer with the same text."""
        assert self.codec is not None
        ids = []
        for row in rows:
            parts = self.stages.tokens(row, self.chunks.initial(row))
            text = self.codec.decode(np.concatenate(parts).tolist())
            named = split_stages(text, str(self.stage_marker), len(parts) - 1)[1]
            if [m for m, _ in named] != list(range(1, len(parts))):
                ids.append(row.id)
        return ids

    def kept_chunks(self, encoded: Encoded, notes: Notes) -> list[int] | None:
        """Indices of the chunks that an example keeps in an epoch; None for all chunks."""
        return None

    def prompt_prefix(self, encoded: Encoded, notes: Notes) -> str:
        """Text before the question in an example's instance for an epoch, one of ``prompt_prefixes``."""
        return ""

    def phase_start(self, epoch: int) -> int:
        """The first epoch of the phase of training that an epoch belongs to; ``cycle`` starts again in each phase."""
        return 0

    def _shown(self, encoded: Encoded, notes: Notes) -> list[int]:
        """The stages of an example in an epoch; the last one is the answer."""
        chunks: tuple[Span, ...] = notes[self.chunks]
        kept = self.kept_chunks(encoded, notes)
        return [*(range(len(chunks)) if kept is None else kept), len(chunks)]

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: question and earlier kept stages -> the drawn stage, or question -> all kept stages."""
        chunks: tuple[Span, ...] = notes[self.chunks]
        stages, shown = self.stages.tokens(encoded, chunks), self._shown(encoded, notes)
        losses = notes.get(self.stage_losses) if self.stage_losses else None
        epochs = range(self.phase_start(notes.epoch) if notes.stage_sampling == "cycle" else notes.epoch, notes.epoch)
        phase = [*(self._shown(encoded, replace(notes, epoch=epoch)) for epoch in epochs), shown]
        drawn = notes.draw_stage(phase, encoded.id, None if losses is None else losses[shown].tolist())
        targets = range(len(shown)) if drawn is None else {shown.index(drawn)}
        prompt = encoded.prompts[self.prompt_prefix(encoded, notes)]
        return [instance(encoded.id, prompt, [stages[m] for m in shown], targets)]

    def read_completion(self, completion: str, teacher: Encoded | None) -> Completion:
        """Removes the markers, whose numbers are not answers, and splits the completion into the named stages."""
        if self.stage_marker is None:
            return super().read_completion(completion, teacher)
        before, named = split_stages(completion, self.stage_marker, getattr(self.chunker, "n_chunks", None))
        stages = [("rationale", before.strip())] if before.strip() else []
        chunks = len(self.chunks.initial(teacher)) if teacher else 0
        count = sum(m <= chunks for m, _ in named)
        skips_all = teacher is not None and not named and self._begins_with_answer(completion, teacher)
        return Completion(
            text=before + "".join(text for _, text in named),
            stages=stages + [(self.stage_marker.strip().format(m), text.strip()) for m, text in named],
            skipped=1 - count / chunks if chunks and (count or skips_all) else None,
            chunks=chunks or None,
        )

    def _begins_with_answer(self, completion: str, teacher: Encoded) -> bool:
        """Whether a completion begins with the answer phrase, which names the answer stage as a marker names others."""
        assert self.codec is not None
        phrase = get_task(teacher.example.task).answer.partition("{answer}")[0].strip()
        return bool(phrase) and completion.removeprefix(self.codec.closing.strip()).lstrip().startswith(phrase)
