"""RationaleDataModule: owns the examples, their encoding, the annotations, the stage sampling and the batches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from skipthinking.annotate.runner import Runner, say
from skipthinking.annotate.sampling import StageSampling
from skipthinking.checkpoints import read_checkpoint
from skipthinking.data.batches import EvalBatch, PlannedBatches, ResumableLoader, context_needed, instance_length
from skipthinking.data.chunkers import AverageChunks, Chunker
from skipthinking.data.encoding import Codec, Plain, Template
from skipthinking.data.planning import padding_share, plan_epoch
from skipthinking.data.protocol import Method
from skipthinking.data.sources import Source
from skipthinking.data.splits import Splits
from skipthinking.data.steps import Sentences, StepSplitter
from skipthinking.records import DataError, Encoded, Example, Instance, UserError
from skipthinking.tasks import get_task

__all__ = ["RationaleDataModule", "check_annotates"]


def check_annotates(method: Any, annotates: bool) -> None:
    """Raises UserError for the command ``annotate`` with a method that has no annotators."""
    if not annotates:
        raise UserError(
            f"Expected a method with annotations, got {type(method).__name__}, which needs none. Choose another "
            "--model, for example CWT."
        )


class RationaleDataModule(L.LightningDataModule):
    """Reads and encodes examples, and provides batches of training instances and of prompts.

    The method (the LightningModule) makes instances from encoded examples and their notes. The data module also owns
    the annotation runner: annotators run when the loader of an epoch is built.

    Args:
        train: Sources of training examples, which are concatenated.
        val_size: Validation examples, split from training by a seeded hash of the question: a count, or a share
            below 1. Never taken from a test set.
        test: Test sets by name.
        template: Prompt template; Plain by default.
        splitter: Splits rationales into steps; Sentences by default.
        chunker: Groups steps into chunks, for methods that use them; AverageChunks by default.
        stage_sampling: How to draw the stage that an example trains on in an epoch, for methods that use stages.
        batch_size: Training instances per micro-batch (with ``batch_tokens``: at most); a preference pair counts once.
        batch_tokens: Maximum number of padded tokens per micro-batch; null for no limit.
        eval_batch_size: Prompts per batch of generation.
        bucket: Whether to batch instances of similar length together.
        max_length: Maximum number of tokens per instance; the student's context by default. Longer instances are left
            out and counted. Applies to prompt and completion separately for encoder-decoder students.
        without_steps: For methods that need steps: whether a training example whose rationale has no steps is an error,
            or is left out and counted.
        num_workers: Number of processes that build batches; the result does not depend on it.
        seed: Seed of the validation split, the stage sampling and the order; the global seed by default.
        question: For ``predict``: a question to answer.
        questions: For ``predict``: a text file with one question per line, or rows as in training, answers optional.
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
        self.runner = Runner([])
        self.annotating = False  # set by the command annotate
        self._prompts: dict[str, list[np.ndarray]] = {}
        # Encoded evaluation examples that have a rationale, by id and question, because splits may share ids.
        self.teacher: dict[tuple[str, str], Encoded] = {}
        self.without_rationale = 0
        self.first: Instance | None = None
        self._too_long = 0  # examples left out of the last epoch

    def load(self, stage: str) -> None:
        """Reads all sources of a Trainer stage (fit, validate, test or predict); repeated calls do nothing.

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

    # ---------------------------------------------------------------------------------------- tokens

    @property
    def method(self) -> Method:
        """The method, which makes the instances."""
        assert self.trainer is not None
        return cast("Method", self.trainer.lightning_module)

    @property
    def limit(self) -> int:
        """Maximum number of tokens per instance."""
        context: int = self.method.student.context_length
        return min(self.max_length or context, context)

    def setup(self, stage: str) -> None:
        """Loads and encodes the data of a Trainer stage; first trains the student's tokenizer, if it has none."""
        stage = "annotate" if self.annotating else stage
        self.load(stage)
        method = self.method
        if self.codec is None:
            method.prepare_student(self._texts, getattr(self.chunker, "n_chunks", 32))
            self.codec = Codec(
                tokenizer=method.student.tokenizer,
                template=self.template,
                splitter=self.splitter,
                prefixes=method.prompt_prefixes,
                encodes_conclusion=method.encodes_conclusion,
            )
            self.runner = Runner(method.connect(self.codec, self.chunker, self.stage_sampling))
        if stage in {"fit", "annotate"} and not self.encoded:
            self._encode_train()
            self._attach_runner()
        for name, rows in self.examples.items():
            if name != "train" and name not in self._prompts:
                self._prompts[name] = self.codec.prompts(rows, method.prompt_prefixes[0])
                with_rationale = [row for row in rows if self.splitter.spans(row.rationale.strip())]
                for encoded in self.codec.encode(with_rationale):
                    self.teacher[encoded.id, encoded.example.question] = encoded

    def _attach_runner(self) -> None:
        trainer, method = self.trainer, self.method
        assert trainer is not None
        start = method.start_from
        earlier = read_checkpoint(start, "model.start_from").get(type(self).__qualname__, {}) if start else {}
        self.runner.attach(
            self.encoded,
            module=trainer.lightning_module,
            student=method.student,
            codec=self.codec,
            folder=Path(trainer.default_root_dir),
            seed=self.seed,
            stage_sampling=self.stage_sampling,
            limit=self.limit,
            earlier=earlier.get("annotations"),
            earlier_name=str(start),
        )

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
        assert self.trainer is not None
        method, rows = self.method, self.examples["train"]
        if method.needs_rationale and not any(row.rationale.strip() for row in rows):
            raise DataError(
                f"Expected training examples with rationales, got none of {len(rows)}. Use rows with rationales (the "
                "setting rationale_key names their column), or train with AnswerOnly."
            )
        usable = rows
        if self.without_steps == "leave_out" and method.needs_rationale:
            usable = [row for row in rows if self.splitter.spans(row.rationale.strip())]
        self.without_rationale = len(rows) - len(usable)
        stream = tqdm(
            self.codec.encode(usable, rationales=method.needs_rationale),
            total=len(usable), desc="Tokenizing", delay=3, leave=False, disable=self.trainer.global_rank > 0,
        )  # fmt: skip
        self.encoded = list(stream)
        unk = self.codec.tokenizer.unk_token_id
        # Without the last token, EOS: some tokenizers use the same id for unknown tokens.
        unknown = sum(int((row.tokens[:-1] == unk).sum()) for row in self.encoded) if unk is not None else 0
        if unknown:
            self.report.append(f"{unknown} completion tokens are unknown to the tokenizer and cannot be learned")

    # -------------------------------------------------------------------------------------- training

    def instances(self, epoch: int) -> list[Instance]:
        """All training instances of an epoch, identical on every rank; instances above the limit are left out."""
        self.runner.update(epoch)
        method, limit = self.method, self.limit
        sides = method.student.encoder_decoder
        instances: list[Instance] = []
        too_long: list[str] = []
        for encoded in self.encoded:
            if self.runner.lacks(encoded):
                too_long.append(encoded.id)
                continue
            candidates = method.make_instances(encoded, self.runner.notes(encoded, epoch))
            fitting = [row for row in candidates if context_needed(row, encoder_decoder=sides) <= limit]
            if len(fitting) < len(candidates):
                too_long.append(encoded.id)
                if any(row.reference is not None for row in candidates):
                    fitting = []  # a preference pair needs both sides
            instances += fitting
        if too_long and len(too_long) == len(self.encoded) and not instances:
            raise DataError(
                f"Expected training examples of at most {limit} tokens, got {len(self.encoded)} and all are longer. "
                "Raise data.max_length or use a student with a longer context."
            )
        if not instances:
            raise DataError(
                f"Expected training instances, got none in epoch {epoch}: {type(method).__name__}.make_instances "
                f"returned nothing for {len(self.encoded)} examples."
            )
        if self.first is None:
            self._report_kept(len(too_long), limit)
        elif len(too_long) != self._too_long:
            say(f"epoch {epoch}: {len(too_long)} examples left out, longer than {limit} tokens")
        self._too_long = len(too_long)
        return instances

    def annotation_rows(self) -> list[dict[str, Any]]:
        """A row with all annotations per training example, and per validation example if annotators ask for them.

        Raises:
            UserError: The method has no annotators.
        """
        check_annotates(self.method, bool(self.runner.annotators))
        self.runner.run_all()
        extra = [self.teacher.get((row.id, row.question)) for row in self.examples.get("val", ())]
        drawn = [row for row in extra if row] if any(a.for_validation for a in self.runner.annotators) else []
        return self.runner.drawings([*self.encoded, *drawn])

    def _report_kept(self, too_long: int, limit: int) -> None:
        total = len(self.examples["train"])
        dropped = Counter({"no steps": self.without_rationale, f"longer than {limit} tokens": too_long})
        self.report.append(
            f"kept {total - dropped.total()} of {total} training examples"
            + "".join(f"; dropped {n} ({n / total:.1%}): {why}" for why, n in (+dropped).items())
        )

    def train_dataloader(self) -> ResumableLoader:
        """The loader of the current epoch; Lightning requests a new loader in every epoch."""
        trainer, method = self.trainer, self.method
        assert trainer is not None
        settings: Any = trainer
        settings.reload_dataloaders_every_n_epochs = 1  # each epoch has its own instances
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in settings.callbacks):
            raise UserError(
                "Expected one accumulation for the full run, got a GradientAccumulationScheduler: the loss is "
                "normalized over planned optimizer steps. Use trainer.accumulate_grad_batches."
            )
        epoch = trainer.current_epoch
        with trainer.precision_plugin.forward_context():  # annotators run in training precision
            instances = self.instances(epoch)
        lengths = np.array([instance_length(instance) for instance in instances])
        group = 2 if instances and instances[0].reference is not None else 1  # preference pairs share a micro-batch
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
                f"context tokens, {len(plan.steps)} optimizer steps, {padding_share(micro, lengths):.1%} padding"
            )
            self.first = instances[0]
        batches = PlannedBatches(
            instances, plan, rank=trainer.global_rank, pad_id=method.student.pad_id,
            encoder_decoder=method.student.encoder_decoder, terms=len(method.term_weights),
        )  # fmt: skip
        return ResumableLoader(batches, epoch, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The annotations, so that a resumed run does not compute them again."""
        return {"annotations": self.runner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the annotations, if training examples are loaded.

        Raises:
            UserError: The checkpoint is from an earlier version with another format of annotations.
        """
        if self.encoded and "annotations" not in state_dict:
            raise UserError(
                "Expected a checkpoint of this version, got one of an earlier version, whose annotations have another "
                "form. Finish that run with its own version; this one tests and exports its student."
            )
        self.runner.load_state_dict(state_dict.get("annotations", {}) if self.encoded else {})

    # ------------------------------------------------------------------------------------ evaluation

    def _prompt_loader(self, names: Sequence[str]) -> DataLoader[EvalBatch]:
        """Batches prompts of similar length; rank r of R takes batches r, r + R, ..., so every example occurs once."""
        trainer = self.trainer
        assert trainer is not None
        rows = [
            (example.id, prompt)
            for name in names
            for example, prompt in zip(self.examples[name], self._prompts[name], strict=True)
        ]
        rows.sort(key=lambda row: (-len(row[1]), row[0]))  # longest first, so that a lack of memory shows immediately
        batches = [
            EvalBatch(ids=[id for id, _ in part], prompts=[torch.from_numpy(prompt) for _, prompt in part])
            for at in range(0, len(rows), self.eval_batch_size)
            for part in [rows[at : at + self.eval_batch_size]]
        ]
        mine = batches[trainer.global_rank :: trainer.world_size]
        # A rank without batches would skip the evaluation loop and its collectives, so it gets an empty batch.
        return DataLoader(cast("Dataset[EvalBatch]", mine or [EvalBatch(ids=[], prompts=[])]), batch_size=None)

    def val_dataloader(self) -> DataLoader[EvalBatch] | list[Any]:
        """Prompts of the validation examples."""
        return self._prompt_loader(["val"]) if self.examples.get("val") else []

    def test_dataloader(self) -> DataLoader[EvalBatch]:
        """Prompts of all test sets."""
        return self._prompt_loader([f"test/{name}" for name in self.test_sets])

    def predict_dataloader(self) -> DataLoader[EvalBatch]:
        """Prompts of the questions for ``predict``; none for ``annotate``."""
        return self._prompt_loader([] if self.annotating else ["predict"])
