"""CWT: chunk-wise training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.store import fingerprint, remembered
from skipthinking.data.chunkers import Chunker
from skipthinking.data.encoding import Codec
from skipthinking.data.instances import instance
from skipthinking.methods.base import Distiller
from skipthinking.methods.skip_thinking.stages import Stages
from skipthinking.records import Encoded, Instance, Span, UserError
from skipthinking.students.scoring import Scores, score_tokens

__all__ = ["CWT"]


class CWT(Distiller):
    """Chunk-wise training (Skip-Thinking, Chen et al., arXiv 2505.18642): one stage of a rationale per iteration.

    A rationale of M chunks has M + 1 stages, the answer being the last. Each epoch an example shows the stage that the
    data module drew: the context is the question and the earlier stages, the target is that stage. A marker opens every
    chunk and is part of its target, so the student learns to name the stage it goes to; the answer stage opens with the
    answer phrase.

    Departures: the paper's text was not at hand. The form of the marker and the stage samplings ``cycle`` and ``all``
    are ours. With ``all`` an instance has every stage as its target: the same gradient as of M + 1 instances, from one
    pass.

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
        if stage_marker is not None:
            before, _, after = stage_marker.strip().partition("{}")
            self.stage_marks = rf"\s?{re.escape(before)}\d+{re.escape(after)}"
        self.stages = Stages(stage_marker, lambda text: np.empty(0, dtype=np.int64))

    def words(self, chunks: int) -> list[str]:
        """The stage markers."""
        return [self.stage_marker.format(m) for m in range(1, chunks + 1)] if self.stage_marker else []

    def use_codec(self, codec: Codec) -> None:
        """Tokenizes the markers with it from now on."""
        super().use_codec(codec)
        self.stages = Stages(self.stage_marker, codec.inline)

    def cut(self, encoded: Encoded, notes: Mapping[str, Any]) -> list[Instance]:
        """One instance: the drawn stage, or all, behind the question and the earlier stages."""
        stages = self.stages.tokens(encoded, notes["chunks"])
        targets = range(len(stages)) if notes["stage"] is None else {notes["stage"]}
        return [instance(encoded.id, encoded.prompts[""], stages, targets)]

    def room(self, encoded: Encoded, chunks: Sequence[Span]) -> int:
        """The whole rationale with all its markers."""
        return super().room(encoded, chunks) + sum(map(len, self.stages.markers(len(chunks))))

    # ------------------------------------------------------------------------- what the student says

    def _scores(self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]], what: str) -> dict[str, Scores]:
        """Scores of all stage tokens, markers included, from one pass per example."""
        whole = []
        for row in encoded:
            stages = self.stages.tokens(row, chunks[row.id])
            whole.append(instance(row.id, row.prompts[""], stages, range(len(stages))))
        return score_tokens(self.student, whole, rank=self.global_rank, ranks=self.trainer.world_size, what=what)

    def stage_losses(self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]) -> dict[str, list[float]]:
        """Summed NLL of every stage of every example under the student as it is."""
        scores = self._scores(encoded, chunks, "Stage losses")
        losses = {}
        for row in encoded:
            lengths = [len(stage) for stage in self.stages.tokens(row, chunks[row.id])]
            losses[row.id] = np.add.reduceat(scores[row.id].nll, np.cumsum([0, *lengths[:-1]])).tolist()
        return losses

    def step_losses(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> dict[str, NDArray[np.float64]]:
        """Summed NLL of every step of every example; markers stand where the chunks begin, and do not count."""
        scores = self._scores(encoded, chunks, "Chunk search")
        losses = {}
        for row in encoded:
            stages = self.stages.tokens(row, chunks[row.id])
            nll, ends = scores[row.id].nll.astype(np.float64), np.cumsum([len(stage) for stage in stages])
            bare = [
                nll[end - len(stage) + self.stages.opening(m, len(chunks[row.id])) : end]
                for m, (stage, end) in enumerate(zip(stages[:-1], ends, strict=False))
            ]
            losses[row.id] = np.add.reduceat(np.concatenate(bare), [start for start, _ in row.steps])
        return losses

    def learned_chunks(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> dict[str, tuple[Span, ...]] | None:
        """The chunks that ``start_from`` found, if it searched, and these examples, for as many chunks."""
        saved = self.known_before(encoded)
        found = (saved or {}).get(type(self.data).__qualname__, {}).get("chunks") or {}
        if not found or any(len(found[row.id]) != len(chunks[row.id]) for row in encoded):
            return None
        return {row.id: tuple((start, end) for start, end in found[row.id]) for row in encoded}

    def may_search_chunks(self, epoch: int) -> bool:
        """Whether chunks may change at the start of an epoch."""
        return True

    def search_chunks(
        self, chunker: Chunker, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> dict[str, tuple[Span, ...]]:
        """New chunks for every example from the student as it is; those of a killed run are taken from disk."""
        self.know(encoded)
        before = {row.id: list(chunks[row.id]) for row in encoded}
        settings = {**chunker.settings(), "before": before, "marker": self.stage_marker}
        key = fingerprint(encoded, settings, self.student)
        path = self.annotations / "chunks.jsonl"
        found = remembered(path, key, lambda: dict(chunker.search(encoded, chunks, self.step_losses)))
        changed = sum(list(map(list, found[id])) != list(map(list, before[id])) for id in found)
        self.say(f"chunk search: {changed:,} of {len(found):,} rationales are cut anew")
        return {id: tuple((start, end) for start, end in spans) for id, spans in found.items()}

    def annotate(self) -> list[dict[str, Any]]:
        """Steps, their mean token NLL and tokens, chunks, and the chunks that are kept, of every training example."""
        encoded, chunks = self.data.encoded, self.data.searched_chunks()
        return self._annotated(encoded, chunks, self.kept_in_the_end(encoded, chunks))

    def chunkings(self, encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
        """The same of some training examples, as the searches so far have left them; searches nothing."""
        chunks = self.data.chunks
        return self._annotated(encoded, chunks, self.kept_so_far(encoded, chunks))

    def _annotated(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]], kept: Mapping[str, Sequence[int]]
    ) -> list[dict[str, Any]]:
        codec, losses = self.codec, self.step_losses(encoded, chunks)
        assert codec is not None
        questions = {example.id: example.question for example in self.data.examples["train"]}
        return [
            {
                "id": row.id,
                "question": questions[row.id],
                "steps": [codec.decode(row.tokens[start:end].tolist()) for start, end in row.steps],
                "nll": [
                    round(float(nll) / (end - start), 4)
                    for nll, (start, end) in zip(losses[row.id], row.steps, strict=True)
                ],
                "tokens": [end - start for start, end in row.steps],
                "chunks": [list(span) for span in chunks[row.id]],
                "kept": list(kept[row.id]),
                "answer": codec.decode(row.tokens[slice(*row.answer)].tolist()),
            }
            for row in encoded
        ]

    def kept_so_far(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> Mapping[str, Sequence[int]]:
        """The chunks that no search has taken away; here all."""
        return {row.id: range(len(chunks[row.id])) for row in encoded}

    def kept_in_the_end(
        self, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> Mapping[str, Sequence[int]]:
        """The chunks that are left after all searches, those that are still to come included."""
        return self.kept_so_far(encoded, chunks)

    # ------------------------------------------------------------------------------------ evaluation

    def answer_text(self, completion: str) -> str:
        """The completion without stage markers, whose numbers are no answers."""
        return completion if self.stage_marks is None else re.sub(self.stage_marks, "", completion)

    def stages_of(self, completion: str) -> list[tuple[str, str]]:
        """The stages that the student named, and their text."""
        if self.stage_marks is None:
            return super().stages_of(completion)
        before, *parts = re.split(self.stage_marks, completion)
        stages = [("rationale", before.strip())] if before.strip() else []
        names = re.findall(self.stage_marks, completion)
        return stages + [(name.strip(), part.strip()) for name, part in zip(names, parts, strict=True)]

    def skipped_share(self, completion: str, chunks: int) -> float | None:
        """Share of the teacher's chunks whose marker never came."""
        if self.stage_marker is None or chunks == 0:
            return None
        named = {number for number in range(1, chunks + 1) if self.stage_marker.strip().format(number) in completion}
        return 1 - len(named) / chunks
