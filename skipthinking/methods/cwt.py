"""CWT: chunk-wise training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.scoring import score_tokens
from skipthinking.methods.base import Distiller
from skipthinking.methods.cutting import instance, stage_tokens
from skipthinking.records import Encoded, Instance, Span, UserError

__all__ = ["CWT"]


class CWT(Distiller):
    """Chunk-wise training (Skip-Thinking, Chen et al., arXiv 2505.18642): one stage of a rationale per iteration.

    A rationale of M chunks has M + 1 stages, the answer being the last. Each epoch an example shows the stage that the
    data module drew: the context is the question and the earlier stages, the target is that stage. A marker opens every
    chunk and is part of its target, so the student learns to name the stage it goes to; the answer stage opens with the
    answer phrase.

    Departures: the paper's text was not at hand. The form of the marker and the stage sampling ``cycle`` are ours.

    Args:
        stage_marker: Text that opens stage m, with one ``{}`` for m, counted from 1; null leaves markers out.
        kwargs: See Distiller.
    """

    needs = ("chunks", "stage")

    def __init__(self, stage_marker: str | None = " [{}]", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if stage_marker is not None and (stage_marker.count("{}") != 1 or not stage_marker.startswith(" ")):
            raise UserError(
                f"Expected a marker with one {{}} that begins with a blank, got model.stage_marker={stage_marker!r}."
            )
        self.stage_marker = stage_marker
        self._marker = cache(self._encode_marker)

    def _encode_marker(self, stage: int) -> NDArray[np.int64]:
        assert self.codec is not None
        assert self.stage_marker is not None
        return self.codec.inline(self.stage_marker.format(stage))

    def markers(self, chunks: int) -> list[NDArray[np.int64]]:
        """The marker tokens of stages 1..chunks; empty without markers."""
        return [self._marker(m) for m in range(1, chunks + 1)] if self.stage_marker else []

    def cut(self, encoded: Encoded, notes: Mapping[str, Any]) -> list[Instance]:
        """One instance: the drawn stage behind the question and the earlier stages."""
        stages = stage_tokens(encoded, notes["chunks"], self.markers(len(notes["chunks"])))
        return [instance(encoded.id, encoded.prompts[""], stages, {notes["stage"]})]

    def room(self, encoded: Encoded, chunks: Sequence[Span]) -> int:
        """The whole rationale with all its markers."""
        return super().room(encoded, chunks) + sum(map(len, self.markers(len(chunks))))

    def stage_losses(self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]) -> dict[str, list[float]]:
        """Summed NLL of every stage of every example under the student as it is, from one pass per example."""
        stages = {row.id: stage_tokens(row, chunks[row.id], self.markers(len(chunks[row.id]))) for row in encoded}
        whole = [instance(row.id, row.prompts[""], stages[row.id], range(len(stages[row.id]))) for row in encoded]
        nlls = score_tokens(
            self.student, whole, rank=self.global_rank, ranks=self.trainer.world_size, what="Stage losses"
        )
        return {
            id: np.add.reduceat(nlls[id], np.cumsum([0, *map(len, parts[:-1])])).tolist()
            for id, parts in stages.items()
        }

    def answer_text(self, completion: str) -> str:
        """The completion without stage markers, whose numbers are no answers."""
        return completion if self.stage_marker is None else re.sub(rf"\s?{self._pattern}", "", completion)

    def stages_of(self, completion: str) -> list[tuple[str, str]]:
        """The stages that the student named, and their text."""
        if self.stage_marker is None:
            return super().stages_of(completion)
        before, *parts = re.split(self._pattern, completion)
        stages = [("rationale", before.strip())] if before.strip() else []
        names = re.findall(self._pattern, completion)
        return stages + [(name, part.strip()) for name, part in zip(names, parts, strict=True)]

    @property
    def _pattern(self) -> str:
        assert self.stage_marker is not None
        before, _, after = self.stage_marker.strip().partition("{}")
        return rf"{re.escape(before)}\d+{re.escape(after)}"
