"""LongCoT: long traces made short by the student's own judgement."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from skipthinking.annotate.store import Journal, fingerprint, remembered
from skipthinking.data.batches import Batch
from skipthinking.data.encoding import Codec
from skipthinking.data.instances import instance
from skipthinking.losses import dpo, row_sums
from skipthinking.methods.base import Distiller
from skipthinking.methods.long_cot.cuts import BinaryCut, Cutter, Judge, Trace
from skipthinking.records import Encoded, Instance, Span, UserError
from skipthinking.students.scoring import score_tokens
from skipthinking.tasks import get_task

if TYPE_CHECKING:
    from skipthinking.data.module import RationaleDataModule

__all__ = ["LongCoT"]

CHOSEN, REJECTED = 0, 1  # loss terms


class LongCoT(Distiller):
    """Efficient long CoT (Wang et al., arXiv 2505.18440): SFT on pruned traces, then DPO against the full ones.

    A trace is thinking in steps, a conclusion and the answer.
    0. Full traces for ``warmup_epochs``, for a student that cannot answer yet. A share of them breaks off after a
    random step and goes on with the answer, so that an early answer is familiar before it is judged; that the thinking
    ends there is no target.
    1. Cutting: each trace keeps its shortest prefix of steps from which the student as it then is gives the answer. One
    without a valid prefix is dropped.
    2. ``sft_epochs`` on question -> prefix and conclusion.
    3. In the epochs that are left DPO on pairs of the pruned (chosen) and the full trace (rejected), plus
    ``sft_weight`` times the likelihood of the pruned one. The reference is the student at the end of step 2; its
    log-probabilities are taken once, so that no second model is needed. What was not shortened is in no pair.

    Each goes by itself too, where ``trainer.max_epochs`` ends the run: the next one begins with ``start_from`` that
    checkpoint, whose cuts are taken over if they came from the same cutter. DPO alone has ``sft_epochs: 0``.

    Departures: the paper's text was not at hand, only a digest. The warm-up, beta, the forced answer phrase of the
    validation and that it may ask for confidence are ours. The likelihood is a mean over the tokens of the optimiser
    step, the preference loss a mean over its pairs.

    Args:
        warmup_epochs: Epochs with full traces before the cut.
        early_share: Share of their instances that break off.
        sft_epochs: Epochs with pruned traces.
        cutter: Says how many steps are kept; BinaryCut by default.
        beta: How dear it is to move away from the reference in DPO.
        sft_weight: Weight of the likelihood in DPO.
        open_thinking: Text in front of the thinking, for example "<think>"; none by default.
        close_thinking: Text behind it.
        kwargs: See Distiller.
    """

    term_weights = (1.0, 0.0)  # the likelihood is that of chosen traces
    concludes = True

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
                f"model.warmup_epochs={warmup_epochs}, model.sft_epochs={sft_epochs}."
            )
        if not (0 < beta < math.inf and 0 <= sft_weight < math.inf and 0 <= early_share <= 1):
            raise UserError(
                "Expected a finite beta above 0, sft_weight of at least 0 and early_share from 0 to 1, got "
                f"model.beta={beta}, model.sft_weight={sft_weight}, model.early_share={early_share}."
            )
        self.warmup_epochs, self.early_share, self.sft_epochs = warmup_epochs, early_share, sft_epochs
        self.cutter, self.beta, self.sft_weight = cutter or BinaryCut(), beta, sft_weight
        self.marks = (open_thinking, close_thinking)
        self.cuts: dict[str, int | None] | None = None
        self.references: dict[str, list[float]] | None = None
        self._cutter: dict[str, Any] | None = None  # who made the cuts

    def words(self, chunks: int) -> list[str]:
        """What opens and closes the thinking."""
        return [mark for mark in self.marks if mark]

    def use_codec(self, codec: Codec) -> None:
        """Tokenizes marks and answer phrases with it from now on, each once."""
        super().use_codec(codec)
        self._inline = cache(lambda text: codec.inline(text) if text else np.empty(0, dtype=np.int64))

    def room(self, encoded: Encoded, chunks: Sequence[Span]) -> int:
        """The full trace with both marks."""
        trace = self._trace(encoded)
        return super().room(encoded, chunks) + len(trace.opening) + len(trace.closing)

    # ----------------------------------------------------------------------------------- the schedule

    def grouped(self, epoch: int) -> int:
        """Pairs stay together."""
        return 2 if self._prefers(epoch) else 1

    def _prefers(self, epoch: int) -> bool:
        return epoch >= self.warmup_epochs + self.sft_epochs

    def own_notes(self, epoch: int, encoded: Sequence[Encoded]) -> Mapping[str, Mapping[str, Any]]:
        """How many steps each example keeps, and in DPO the log-probabilities of both sides under the reference."""
        if epoch < self.warmup_epochs:
            return {row.id: {"early": self._early(row, epoch)} for row in encoded}
        self.cuts = self._known(encoded)
        if not self._prefers(epoch):
            return {id: {"steps": steps} for id, steps in self.cuts.items()}
        if self.references is None:
            self.references = self._reference(encoded)
        return {id: {"steps": steps, "pair": self.references.get(id)} for id, steps in self.cuts.items()}

    def _early(self, encoded: Encoded, epoch: int) -> int | None:
        """After how many steps a trace of the warm-up breaks off, drawn from (seed, epoch, id); None if it does not."""
        rng = random.Random(f"early/{self.data.seed}/{epoch}/{encoded.id}")
        return rng.randrange(1, len(encoded.steps) + 1) if rng.random() < self.early_share else None

    def first_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> None:
        """Sees that the plan fits into the run; no run is needed before this one.

        Raises:
            UserError: The run ends within the warm-up.
        """
        epochs = config["trainer"]["max_epochs"]
        if epochs is not None and 0 <= epochs < self.warmup_epochs:
            raise UserError(
                f"Expected at least the warm-up, got trainer.max_epochs={epochs} and "
                f"model.warmup_epochs={self.warmup_epochs}. Raise the first or lower the second."
            )

    # ------------------------------------------------------------------------- what the student says

    def _trace(self, encoded: Encoded) -> Trace:
        end, answer = encoded.steps[-1][1], encoded.tokens[slice(*encoded.answer)]
        phrase = self._inline(f" {get_task(encoded.task).answer.partition('{answer}')[0].rstrip()}")
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

    def _known(self, encoded: Sequence[Encoded]) -> dict[str, int | None]:
        """Steps to keep of every trace.

        Raises:
            UserError: A checkpoint has cuts of other traces, or by another cutter.
        """
        self.know(encoded)
        if self.cuts is None:
            self._cutter = self._settings()
            return self._cut_all(encoded)
        if self._cutter != self._settings():
            raise UserError(
                f"Expected the cutter of the checkpoint, {self._cutter}, got {self._settings()}. Set model.cutter "
                "back, or start a new run."
            )
        return self.cuts

    def _cut_all(self, encoded: Sequence[Encoded]) -> dict[str, int | None]:
        """Steps to keep of every trace: those of ``start_from`` or of the disk, or found with the student as it is."""
        earlier = (self.known_before(encoded) or {}).get("skipthinking", {})
        if earlier.get("cutter") == self._settings():
            self.say(f"cuts: those of {self.start_from}")
            found = {row.id: earlier["cuts"][row.id] for row in encoded}
        else:
            key = fingerprint(encoded, self._settings(), self.student)
            path = self.annotations / "cuts.jsonl"
            found = remembered(path, key, lambda: self._search(encoded, Journal(path, key, self.global_rank)))
        self._report(encoded, found)
        return found

    def _settings(self) -> dict[str, Any]:
        return {**self.cutter.settings(), "marks": list(self.marks)}

    def _search(self, encoded: Sequence[Encoded], journal: Journal) -> dict[str, int | None]:
        examples = {example.id: example for example in self.data.examples["train"]}

        def grade(id: str, tokens: list[int]) -> Any:
            assert self.codec is not None
            return get_task(examples[id].task).grade(self.codec.decode(tokens), examples[id].answer)

        judge = Judge(
            student=self.student,
            right=lambda id, tokens: grade(id, tokens).correct,
            mentioned=lambda id, tokens: grade(id, tokens).correct_lenient,
            rank=self.global_rank,
            ranks=self.trainer.world_size,
            journal=journal,
        )
        return self.cutter.cut([self._trace(row) for row in encoded], judge)

    def _report(self, encoded: Sequence[Encoded], found: Mapping[str, int | None]) -> None:
        """Says what became of the traces.

        Raises:
            UserError: Nothing is left to train on, or to prefer.
        """
        kept = [(row, steps) for row in encoded if (steps := found[row.id]) is not None]
        if not kept:
            raise UserError(
                f"Expected traces with a valid prefix, got none of {len(encoded)} by {type(self.cutter).__name__}. A "
                "student that cannot answer yet finds none: train it first (model.warmup_epochs, or model.start_from)."
            )
        short = sum(steps < len(row.steps) for row, steps in kept)
        gone = 1 - sum(row.steps[steps - 1][1] for row, steps in kept) / sum(row.steps[-1][1] for row, _ in kept)
        n = len(encoded)
        self.say(
            f"cut: {short:,} of {n:,} traces shortened ({short / n:.1%}), {len(kept) - short:,} kept whole "
            f"({(len(kept) - short) / n:.1%}), {n - len(kept):,} dropped without a "
            f"valid prefix ({(n - len(kept)) / n:.1%}); {gone:.1%} of the thinking tokens of the others are gone"
        )
        last = self.trainer.max_epochs
        if not short and (last is None or last < 0 or self._prefers(last - 1)):
            before = self.warmup_epochs + self.sft_epochs
            end = f"End the run with SFT (trainer.max_epochs={before}), or choose" if before else "Choose"
            raise UserError(f"Expected shortened traces for DPO, got none of {len(kept)}. {end} another model.cutter.")

    def _reference(self, encoded: Sequence[Encoded]) -> dict[str, list[float]]:
        """Log-probabilities of every shortened trace and of the full one under the student as it is."""
        assert self.cuts is not None
        rows = [row for row in encoded if self.cuts[row.id] not in (None, len(row.steps))]
        sides = [[self._instance(row, self.cuts[row.id]) for row in rows], [self._instance(row, None) for row in rows]]

        def score() -> dict[str, list[float]]:
            ranks = self.trainer.world_size
            scores = [
                score_tokens(self.student, side, rank=self.global_rank, ranks=ranks, what="Reference") for side in sides
            ]
            return {row.id: [-float(side[row.id].nll.sum(dtype=np.float64)) for side in scores] for row in rows}

        key = fingerprint(rows, {"cuts": self.cuts, "marks": list(self.marks)}, self.student)
        found = remembered(self.annotations / "reference.jsonl", key, score)
        self.say(f"DPO: {len(found):,} pairs; {len(encoded) - len(found):,} examples without two different traces")
        return found

    def annotate(self) -> list[dict[str, Any]]:
        """Steps with their mean token NLL, how many are kept, and DPO's reference, of every training example.

        The cuts are those of the run. Every step is written as a chunk, so that cuts are drawn as skips are.
        """
        return self._annotated(self.data.encoded, self._known(self.data.encoded))

    def chunkings(self, encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
        """The same of some examples, once they are cut."""
        return self._annotated(encoded, self.cuts) if self.cuts is not None else []

    def _annotated(self, encoded: Sequence[Encoded], cuts: Mapping[str, int | None]) -> list[dict[str, Any]]:
        codec, pairs = self.codec, self.references or {}
        assert codec is not None
        whole = [self._instance(row, None) for row in encoded]
        scores = score_tokens(self.student, whole, rank=self.global_rank, ranks=self.trainer.world_size)
        questions = {example.id: example.question for example in self.data.examples["train"]}
        rows = []
        for row in encoded:
            trace = self._trace(row)
            nll = scores[row.id].nll[len(trace.opening) :]
            end = np.concatenate([trace.conclusion, trace.answer])
            rows.append({
                "id": row.id,
                "question": questions[row.id],
                "steps": [codec.decode(step.tolist()) for step in trace.steps],
                "nll": [round(float(nll[slice(*span)].mean()), 4) for span in row.steps],
                "tokens": [stop - start for start, stop in row.steps],
                "chunks": [[place, place + 1] for place in range(len(trace.steps))],
                "kept": list(range(cuts[row.id] or 0)),
                "cut": cuts[row.id],
                "pair": pairs.get(row.id),
                "answer": codec.decode(end.tolist()),
            })  # fmt: skip
        return rows

    # ------------------------------------------------------------------------------------ the instances

    def _instance(self, encoded: Encoded, steps: int | None, term: int = CHOSEN) -> Instance:
        """Question -> the first steps (None for all) and the conclusion."""
        trace = self._trace(encoded)
        tokens = trace.completion(len(trace.steps) if steps is None else steps)
        return instance(encoded.id, encoded.prompts[""], [tokens], {0}, term=term)

    def _broken_off(self, encoded: Encoded, steps: int) -> Instance:
        """Question -> the first steps, and the answer at once; no loss on that the thinking ends there."""
        trace = self._trace(encoded)
        parts = [trace.prefix(steps), trace.asking, trace.answer[trace.phrase :]]
        return instance(encoded.id, encoded.prompts[""], parts, {0, 2})

    def cut(self, encoded: Encoded, notes: Mapping[str, Any]) -> list[Instance]:
        """The full trace, the pruned one, or a pair of both; nothing of an example that was dropped."""
        if "steps" not in notes:
            return [self._broken_off(encoded, notes["early"]) if notes["early"] else self._instance(encoded, None)]
        if "pair" not in notes:
            return [] if notes["steps"] is None else [self._instance(encoded, notes["steps"])]
        if notes["pair"] is None:
            return []
        sides = [self._instance(encoded, notes["steps"]), self._instance(encoded, None, term=REJECTED)]
        return [replace(side, reference=value) for side, value in zip(sides, notes["pair"], strict=True)]

    def share(self, nll_N: Tensor, batch: Batch) -> Tensor:
        """Likelihood of the (pruned) trace; in DPO the preference loss and a share of it."""
        likelihood = super().share(nll_N, batch)
        if not batch.pairs:
            return likelihood
        moved_B = -row_sums(nll_N, batch.weights_BL) - batch.references_B
        rejected = batch.terms_B == REJECTED
        chosen_P, rejected_P = moved_B[rejected.roll(-1)], moved_B[rejected]  # each stands right behind its partner
        if len(rejected_P):
            margin = self.beta * (chosen_P - rejected_P).detach()
            self.log("train/margin", margin.mean(), batch_size=len(margin))
            self.log("train/preferred", (margin > 0).float().mean(), batch_size=len(margin))
        return self.sft_weight * likelihood + dpo(chosen_P, rejected_P, self.beta).sum() / batch.pairs

    # ------------------------------------------------------------------------------------- evaluation

    def stages_of(self, completion: str) -> list[tuple[str, str]]:
        """Thinking and conclusion, where a text closes the thinking."""
        thinking, close, rest = completion.partition(self.marks[1].strip() or "\0")
        return [("thinking", thinking), ("conclusion", rest)] if close else super().stages_of(completion)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the cuts and what the reference says."""
        super().on_save_checkpoint(checkpoint)
        own = {"cuts": self.cuts, "references": self.references, "cutter": self._cutter}
        checkpoint["skipthinking"].update(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores both, so that a resumed run asks no other student."""
        super().on_load_checkpoint(checkpoint)
        own = checkpoint["skipthinking"]
        self.cuts, self.references, self._cutter = own["cuts"], own["references"], own["cutter"]
