"""RationaleDataModule: owns the examples, their encoding, the chunks, the stage sampling and the batches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from skipthinking.annotate.notes import StageSampling, draw_stage
from skipthinking.data.batches import EvalBatch, PlannedBatches, ResumableLoader, instance_length
from skipthinking.data.chunkers import AverageChunks, Chunker
from skipthinking.data.encoding import Codec, Plain, Template
from skipthinking.data.planning import padding_share, plan_epoch
from skipthinking.data.sources import Source
from skipthinking.data.splits import Splits
from skipthinking.data.steps import Sentences, StepSplitter
from skipthinking.records import DataError, Encoded, Example, Instance, Span, UserError
from skipthinking.students.sharding import gathered
from skipthinking.tasks import get_task

if TYPE_CHECKING:
    from skipthinking.methods import CWT, Distiller

__all__ = ["RationaleDataModule"]


class RationaleDataModule(L.LightningDataModule):
    """Examples in, batches of training instances and of prompts out.

    The method (the LightningModule) says how an instance is cut; everything before and after the cut is done here.

    Args:
        train: Sources of training examples; several are joined.
        val_size: Validation examples, split from training by a seeded hash of the question: a count, or a share
            below 1. Never taken from a test set.
        test: Test sets by name.
        template: Prompt template; Plain by default.
        splitter: Splits rationales into steps; Sentences by default.
        chunker: Groups steps into chunks, for methods that use them; AverageChunks by default.
        stage_sampling: Which stage of a rationale an epoch shows, for methods that train one at a time.
        batch_size: Training instances per micro-batch (with ``batch_tokens``: at most); a preference pair counts once.
        batch_tokens: Padded tokens per micro-batch; null batches by count alone.
        eval_batch_size: Prompts per batch of generation.
        bucket: Whether instances of like length share a batch.
        max_length: Longest instance in tokens; the student's context by default. Longer ones are dropped and counted.
        without_steps: What to do with a training example whose rationale has no steps, for methods that need some: stop
            with an error, or leave it out and count it.
        num_workers: Processes that build batches; the result does not depend on it.
        seed: Seed of the validation split, the stages and the order; the global seed by default.
        question: For ``predict``: a question to answer.
        questions: For ``predict``: a file of questions, one a line, or JSONL with a "question" each.
        task: For ``predict``: the task of the questions; that of the first training source by default.
    """

    def __init__(
        self,
        train: list[Source] | None = None,
        val_size: float = 0,
        test: dict[str, Source] | None = None,
        template: Template | None = None,
        splitter: StepSplitter | None = None,
        chunker: Chunker | None = None,
        stage_sampling: StageSampling = "cycle",
        batch_size: int = 8,
        batch_tokens: int | None = None,
        eval_batch_size: int = 32,
        bucket: bool = True,
        max_length: int | None = None,
        without_steps: Literal["error", "leave_out"] = "error",
        num_workers: int = 0,
        seed: int | None = None,
        question: str | None = None,
        questions: str | None = None,
        task: str | None = None,
    ) -> None:
        super().__init__()
        if min(batch_size, eval_batch_size) < 1 or (batch_tokens is not None and batch_tokens < 1):
            raise UserError(
                f"Expected batches of at least 1, got data.batch_size={batch_size}, "
                f"data.eval_batch_size={eval_batch_size}, data.batch_tokens={batch_tokens}."
            )
        self.template, self.splitter = template or Plain(), splitter or Sentences()
        self.chunker, self.stage_sampling = chunker or AverageChunks(), stage_sampling
        self.batch_size, self.batch_tokens, self.eval_batch_size = batch_size, batch_tokens, eval_batch_size
        self.bucket, self.max_length, self.num_workers = bucket, max_length, num_workers
        self.without_steps = without_steps
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.splits = Splits(
            train or [],
            test or {},
            val_size=val_size,
            seed=self.seed,
            question=question,
            questions=questions,
            task=task,
        )
        self.encoded: list[Encoded] = []
        self.report = self.splits.report
        self.codec: Codec | None = None
        self.annotating = False  # set by the command annotate
        self._chunks: dict[str, tuple[Span, ...]] = {}
        self._stage_losses: tuple[int, dict[str, list[float]]] | None = None
        self._searched: int | None = None  # epoch of the last chunk search
        self._prompts: dict[str, list[np.ndarray]] = {}
        # Tokens and chunks of evaluated examples that come with a rationale; ids may come in two splits.
        self.teacher: dict[tuple[str, str], tuple[int, int]] = {}
        self.first: Instance | None = None

    def load(self, stage: str) -> None:
        """Reads every source that the stage (fit, validate, test or predict) needs; later calls do nothing.

        Raises:
            UserError: A source cannot be read, or a split is empty.
        """
        self.splits.load(stage)

    @property
    def examples(self) -> dict[str, list[Example]]:
        """Examples by split: train, val, predict, and test/NAME."""
        return self.splits.examples

    @property
    def test_sets(self) -> dict[str, list[Example]]:
        """The test sets by name."""
        return self.splits.test_sets

    @property
    def chunks(self) -> Mapping[str, tuple[Span, ...]]:
        """The chunks of every training example, as the last search left them."""
        return self._chunks

    # ---------------------------------------------------------------------------------------- tokens

    @property
    def method(self) -> Distiller:
        """The method that this data is cut for."""
        assert self.trainer is not None
        return cast("Distiller", self.trainer.lightning_module)

    @property
    def staged(self) -> CWT:
        """The same where it needs chunks or stages, which says that it is of this kind."""
        return cast("CWT", self.method)

    def setup(self, stage: str) -> None:
        """Loads and encodes what the stage needs; the student trains its tokenizer first, if it has none."""
        stage = "annotate" if self.annotating else stage
        self.load(stage)
        method = self.method
        method.prepare_student(self._texts, getattr(self.chunker, "n_chunks", 32))
        self.codec = Codec(
            tokenizer=method.student.tokenizer,
            template=self.template,
            splitter=self.splitter,
            prefixes=method.prefixes,
            conclusions=method.concludes,
        )
        method.use_codec(self.codec)
        if stage in {"fit", "annotate"} and not self.encoded:
            self._encode_train()
            if "chunks" in method.needs and self.chunker.searches:
                learned = self.staged.learned_chunks(self.encoded, self._chunks)
                if learned is not None:
                    self._chunks, self._searched = learned, -1
                    self.report.append(f"chunks: those of {method.start_from}")
        for name, rows in self.examples.items():
            if name != "train" and name not in self._prompts:
                self._prompts[name] = self.codec.prompts(rows, method.answering_prefix)
                told = [row for row in rows if self.splitter.spans(row.rationale.strip())]
                for row, encoded in zip(told, self.codec.encode(told), strict=True):
                    chunks = len(self.chunker.chunk(encoded)) if "chunks" in method.needs else 0
                    self.teacher[row.id, row.question] = len(encoded.tokens), chunks

    def _texts(self) -> list[str]:
        self.splits.load_train()
        rows = self.examples["train"]
        return [
            " ".join(
                [self.template.render(task.ask(row.question), None), row.rationale, task.answer_sentence(row.answer)]
            )
            for row in rows
            for task in [get_task(row.task)]
        ]

    def _encode_train(self) -> None:
        assert self.codec is not None
        method, rows = self.method, self.examples["train"]
        limit = min(self.max_length or method.student.context_length, method.student.context_length)
        dropped: Counter[str] = Counter()
        usable = rows
        if self.without_steps == "leave_out" and method.needs_rationale:
            usable = [row for row in rows if self.splitter.spans(row.rationale.strip())]
            dropped["no steps"] = len(rows) - len(usable)
        stream = tqdm(
            self.codec.encode(usable, rationales=method.needs_rationale),
            total=len(usable), desc="Tokenizing", delay=3, leave=False, disable=method.global_rank > 0,
        )  # fmt: skip
        unk = -1 if self.codec.tokenizer.unk_token_id is None else self.codec.tokenizer.unk_token_id
        unknown = 0
        for encoded in stream:
            chunks = self.chunker.chunk(encoded) if "chunks" in method.needs else ()
            if method.room(encoded, chunks) > limit:
                dropped[f"longer than {limit} tokens"] += 1
                continue
            unknown += int((encoded.tokens[:-1] == unk).sum())  # the last one is EOS, which some take for both
            self._chunks[encoded.id] = chunks
            self.encoded.append(encoded)
        if not self.encoded:
            raise DataError(
                f"Expected training examples of at most {limit} tokens, got {len(rows)} and all are longer. "
                "Raise data.max_length or use a student with a longer context."
            )
        self.report.append(
            f"kept {len(self.encoded)} of {len(rows)} training examples"
            + "".join(f"; dropped {n} ({n / len(rows):.1%}): {why}" for why, n in (+dropped).items())
        )
        if unknown:
            self.report.append(f"{unknown} completion tokens are unknown to the tokenizer and cannot be learned")

    # -------------------------------------------------------------------------------------- training

    def notes(self, epoch: int) -> dict[str, dict[str, Any]]:
        """What the method's cut may look at, per example id: chunks and the epoch's stage, as it needs them."""
        method, needs = self.staged, self.method.needs
        if self._searched is not None:
            method.know(self.encoded)
        if "chunks" in needs and self._search_is_due(epoch) and self._searched != epoch:
            self._chunks = method.search_chunks(self.chunker, self.encoded, self._chunks)
            self._searched = epoch
        if epoch == 0 and "chunks" in needs and self.chunker.searches and not self._searches_chunks():
            method.say("chunk search: none falls into the epochs of this run, so chunks stay of average length")
        kept = method.keep(epoch, self.encoded, self._chunks)
        losses = self._losses(epoch) if "stage" in needs and self.stage_sampling == "loss" else {}
        own = method.own_notes(epoch, self.encoded)
        notes: dict[str, dict[str, Any]] = {}
        for encoded in self.encoded:
            note: dict[str, Any] = {"epoch": epoch, **own.get(encoded.id, {})}
            if "chunks" in needs:
                note["chunks"] = self._chunks[encoded.id]
                note["kept"] = None if kept is None else kept[encoded.id]
            if "stage" in needs:
                shown = note["chunks"] if note["kept"] is None else note["kept"]
                note["stage"] = draw_stage(
                    self.stage_sampling, len(shown) + 1,
                    seed=self.seed, epoch=epoch, id=encoded.id, losses=_of_shown(losses.get(encoded.id), note["kept"]),
                )  # fmt: skip
            notes[encoded.id] = note
        return notes

    def _searches_chunks(self) -> bool:
        """Whether chunks have been searched, or will be in a run of this many epochs."""
        assert self.trainer is not None
        epochs = self.trainer.max_epochs
        return self._searched is not None or epochs in (None, -1) or any(map(self._search_is_due, range(epochs or 0)))

    def _search_is_due(self, epoch: int) -> bool:
        return self.chunker.due(epoch) and self.staged.may_search_chunks(epoch)

    def searched_chunks(self) -> dict[str, tuple[Span, ...]]:
        """The chunks of the last search; of one with the student as it is, if the chunker searches and has not yet."""
        if self._searched is None and self.chunker.searches:
            self._chunks, self._searched = self.staged.search_chunks(self.chunker, self.encoded, self._chunks), -1
        return self._chunks

    def _losses(self, epoch: int) -> Mapping[str, Sequence[float]]:
        """Stage losses under the student as it is at the start of the epoch; kept in checkpoints."""
        if self._stage_losses is None or self._stage_losses[0] != epoch:
            self._stage_losses = (epoch, self.staged.stage_losses(self.encoded, self._chunks))
        return self._stage_losses[1]

    def instances(self, epoch: int) -> list[Instance]:
        """All training instances of an epoch, the same on every rank."""
        notes, method = self.notes(epoch), self.method
        return [instance for encoded in self.encoded for instance in method.cut(encoded, notes[encoded.id])]

    def train_dataloader(self) -> ResumableLoader:
        """The loader of the trainer's current epoch; Lightning asks for a new one every epoch."""
        trainer, method = self.trainer, self.method
        assert trainer is not None
        settings: Any = trainer
        settings.reload_dataloaders_every_n_epochs = 1  # each epoch has its own instances
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in settings.callbacks):
            raise UserError(
                "Expected one accumulation for the whole run, got a GradientAccumulationScheduler: the loss is "
                "normalised over planned optimiser steps. Use trainer.accumulate_grad_batches."
            )
        epoch = trainer.current_epoch
        # For what is searched: whole weights, in the precision of training.
        with trainer.precision_plugin.forward_context(), gathered(method.student):
            instances = self.instances(epoch)
        lengths = np.array([instance_length(instance) for instance in instances])
        group = method.grouped(epoch)
        plan = plan_epoch(
            lengths.reshape(-1, group).max(axis=1), seed=self.seed, epoch=epoch, batch_size=self.batch_size,
            batch_tokens=None if self.batch_tokens is None else max(1, self.batch_tokens // group),
            ranks=trainer.world_size, accumulate=trainer.accumulate_grad_batches, bucket=self.bucket,
        ).spread(group)  # fmt: skip
        if self.first is None:
            targets = sum(int(np.count_nonzero(instance.weights)) for instance in instances)
            micro = [batch for step in plan.steps for row in step for batch in row]
            self.report.append(
                f"epoch {epoch}: {len(instances)} instances, {targets:,} target and {int(lengths.sum()) - targets:,} "
                f"context tokens, {len(plan.steps)} optimiser steps, {padding_share(micro, lengths):.1%} padding"
            )
            self.first = instances[0]
        batches = PlannedBatches(
            instances, plan, rank=trainer.global_rank, pad_id=method.student.pad_id,
            encoder_decoder=method.student.encoder_decoder, terms=len(method.term_weights),
        )  # fmt: skip
        return ResumableLoader(batches, epoch, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """What the student said: the chunks of the last search, and the stage losses of the running epoch."""
        chunks = (
            {id: [list(span) for span in spans] for id, spans in self._chunks.items()}
            if self._searched is not None
            else None
        )
        return {"stage_losses": self._stage_losses, "searched": self._searched, "chunks": chunks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores both, so that a resumed run neither searches again nor differs."""
        self._stage_losses, self._searched = state_dict["stage_losses"], state_dict["searched"]
        if state_dict["chunks"] is not None:
            self._chunks |= {id: tuple((i, j) for i, j in spans) for id, spans in state_dict["chunks"].items()}

    # ------------------------------------------------------------------------------------ evaluation

    def _prompt_loader(self, names: Sequence[str]) -> DataLoader[EvalBatch]:
        """Prompts of like length together; rank r takes every world-th batch, so each example comes once."""
        trainer = self.trainer
        assert trainer is not None
        rows = [
            (example.id, prompt)
            for name in names
            for example, prompt in zip(self.examples[name], self._prompts[name], strict=True)
        ]
        rows.sort(key=lambda row: (-len(row[1]), row[0]))  # longest first: memory trouble shows at once
        batches = [
            EvalBatch(ids=[id for id, _ in part], prompts=[torch.from_numpy(prompt) for _, prompt in part])
            for at in range(0, len(rows), self.eval_batch_size)
            for part in [rows[at : at + self.eval_batch_size]]
        ]
        mine = batches[trainer.global_rank :: trainer.world_size]
        # A rank without a batch would leave the evaluation loop and its collectives: it gets an empty one.
        return DataLoader(cast("Dataset[EvalBatch]", mine or [EvalBatch(ids=[], prompts=[])]), batch_size=None)

    def val_dataloader(self) -> DataLoader[EvalBatch] | list[Any]:
        """Prompts of the validation examples."""
        return self._prompt_loader(["val"]) if self.examples.get("val") else []

    def test_dataloader(self) -> DataLoader[EvalBatch]:
        """Prompts of all test sets."""
        return self._prompt_loader([f"test/{name}" for name in self.test_sets])

    def predict_dataloader(self) -> DataLoader[EvalBatch]:
        """Prompts of the questions asked; none to annotate."""
        return self._prompt_loader([] if self.annotating else ["predict"])


def _of_shown(losses: Sequence[float] | None, kept: Sequence[int] | None) -> Sequence[float] | None:
    """The losses of the stages that are shown: the chunks that are kept, and the answer."""
    return losses if losses is None or kept is None else [*(losses[chunk] for chunk in kept), losses[-1]]
