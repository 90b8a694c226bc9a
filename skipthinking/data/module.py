"""RationaleDataModule: owns the examples, their encoding, the annotations, the stage sampling and the batches."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from skipthinking.annotate.rows import Joined
from skipthinking.annotate.runner import Runner, say
from skipthinking.annotate.sampling import StageSampling
from skipthinking.checkpoints import read_checkpoint
from skipthinking.data.batches import EvalBatch, PlannedBatches, ResumableLoader
from skipthinking.data.chunkers import AverageChunks, Chunker
from skipthinking.data.encoded_store import EncodedStore, unknown_tokens
from skipthinking.data.encoding import Codec, Plain, Template
from skipthinking.data.epoch_instances import SIZES, EpochInstances, survey
from skipthinking.data.packing import Layout
from skipthinking.data.planning import Plan, Planning
from skipthinking.data.position import Epoch, align_batches, position_of, restore_progress
from skipthinking.data.prompts import Prompts
from skipthinking.data.protocol import Method
from skipthinking.data.sources import Source
from skipthinking.data.splits import Splits
from skipthinking.data.steps import Sentences, StepSplitter
from skipthinking.data.store import ExampleStore, cache_report
from skipthinking.ranks import broadcast
from skipthinking.records import DataError, Encoded, Example, Instance, UserError
from skipthinking.settings import Configurable
from skipthinking.tasks import get_task

__all__ = ["RationaleDataModule", "check_annotates"]


def check_annotates(method: Any, annotates: bool) -> None:
    """Raises UserError for the command ``annotate`` with a method that has no annotators."""
    if not annotates:
        raise UserError(
            f"Expected a method with annotations, got {type(method).__name__}, which needs none. Choose another "
            "--model, for example CWT."
        )


class RationaleDataModule(Configurable, L.LightningDataModule):
    """Reads and encodes examples, and provides batches of training instances and of prompts.

    The method (the LightningModule) makes instances from encoded examples and their notes. The data module also owns
    the annotation runner: annotators run when the loader of an epoch is built.

    Args:
        train: Sources of training examples, which are concatenated.
        val_size: Validation examples, split from training by a seeded hash of the question: a count, or a share
            below 1. Never taken from a test set.
        test: Test sets by name.
        test_size: Training examples held out as one more test set, ``held_out``: a count, or a share below 1. They are
            split off by a hash of the question, before the validation examples and the same for every seed.
        template: Prompt template; Plain by default.
        splitter: Splits rationales into steps; Sentences by default.
        chunker: Groups steps into chunks, for methods that use them; AverageChunks by default.
        stage_sampling: How to draw the stage that an example trains on in an epoch, for methods that use stages.
        batch_size: Training instances per micro-batch (with ``batch_tokens``: at most); a preference pair counts once.
        batch_tokens: Maximum number of padded tokens per micro-batch; null for no limit.
        packing: Whether instances share rows of the student's input, where each sees itself only: the results of
            padding, to rounding. "auto" packs with flash attention (student setting ``attention``), which takes the
            lengths of sequences and needs no padding. Elsewhere, and on CPUs, masks keep instances apart, in rows as
            long as the longest of the micro-batch. This saves nothing in batches of similar length (2.3% padding, no
            row is shared); without ``bucket``, at 48% padding, a step took 0.7 of the time on a CPU.
        eval_batch_size: Maximum number of answers that are written together; memory may allow fewer.
        bucket: Whether to batch instances of similar length together.
        max_length: Maximum number of tokens per instance; the student's context by default. Longer instances are left
            out and counted. Applies to prompt and completion separately for encoder-decoder students.
        without_steps: For methods that need steps: whether a training example whose rationale has no steps is an error,
            or is left out and counted.
        num_workers: Number of processes that build batches; the result does not depend on it. None is enough where an
            instance is quickly made: 16 of 200 to 4,096 tokens are collated in 0.3 to 2 ms, while the device computes.
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
        packing: bool | Literal["auto"] = "auto",
        eval_batch_size: int = 32,
        bucket: bool = True,
        max_length: int | None = None,
        without_steps: Literal["error", "leave_out"] = "error",
        num_workers: int = 0,
        seed: int | None = None,
        question: str | None = None,
        questions: str | None = None,
        task: str | None = None,
        test_size: float = 0,
    ) -> None:
        super().__init__()
        if min(batch_size, eval_batch_size) < 1 or (batch_tokens is not None and batch_tokens < 1):
            raise UserError(
                f"Expected batches of at least 1, got data.batch_size={batch_size}, "
                f"data.eval_batch_size={eval_batch_size}, data.batch_tokens={batch_tokens}. Raise each to 1 or more."
            )
        if num_workers < 0:
            raise UserError(
                f"Expected 0 processes or more, got data.num_workers={num_workers}. Set data.num_workers: 0."
            )
        # A copy, because it holds the date of this run.
        self.template, self.splitter = copy.copy(template or Plain()), splitter or Sentences()
        self.chunker, self.stage_sampling = chunker or AverageChunks(), stage_sampling
        self.batch_size, self.batch_tokens, self.eval_batch_size = batch_size, batch_tokens, eval_batch_size
        self.bucket, self.max_length, self.num_workers, self.packing = bucket, max_length, num_workers, packing
        self.without_steps = without_steps
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.splits = Splits(
            train or [],
            test or {},
            val_size=val_size,
            test_size=test_size,
            seed=self.seed,
            question=question,
            questions=questions,
            task=task,
        )
        self.encoded: Sequence[Encoded] = []
        self.report = self.splits.report
        self.codec: Codec | None = None
        self.runner = Runner([])
        self.annotating = False  # set by the command annotate
        self._prompts = Prompts()
        self.without_rationale = 0
        self.first: Instance | None = None
        self._layout: Layout | None = None
        self._too_long = 0  # examples left out of the last epoch
        self.epoch: Epoch | None = None
        self._position: dict[str, Any] | None = None  # of a checkpoint, until its epoch is planned

    def load(self, stage: str) -> None:
        """Reads all sources of a Trainer stage (fit, validate, test or predict); repeated calls do nothing.

        Raises:
            UserError: A source cannot be read, or a split is empty.
        """
        self.splits.load(stage)

    @property
    def examples(self) -> dict[str, Sequence[Example]]:
        """Examples by split: train, val, predict, and test/NAME."""
        return self.splits.examples

    @property
    def teacher(self) -> dict[tuple[str, str], Encoded]:
        """Encoded examples of the evaluated splits that have a rationale, by id and question."""
        return self._prompts.teacher

    @property
    def test_sets(self) -> dict[str, Sequence[Example]]:
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
            self._begin()
            method.prepare_student(self._texts, getattr(self.chunker, "n_chunks", 32))
            self.codec = Codec(
                tokenizer=method.student.tokenizer,
                template=self.template,
                splitter=self.splitter,
                prefixes=method.prompt_prefixes,
                encodes_conclusion=method.encodes_conclusion,
                closes_thinking=not method.marks_thinking,
            )
            self.runner = Runner(method.connect(self.codec, self.chunker, self.stage_sampling))
        if stage in {"fit", "annotate"} and not self.encoded:
            self._encode_train()
            self._attach_runner()
        self._encode_prompts()

    def _encode_prompts(self) -> None:
        assert self.codec is not None
        for name, rows in self.examples.items():
            if name != "train":
                self._prompts.encode(self.codec, name, rows, self.method.prompt_prefixes[0])

    def _begin(self) -> None:
        """Sets the date of the prompts: that of the run in ``start_from``, whose annotations are reused, or now."""
        if self.template.run_date is None:
            run_date = self._earlier().get("run_date") or broadcast(datetime.now().isoformat())
            self.template.run_date = datetime.fromisoformat(run_date)

    def resume(self, state: dict[str, Any]) -> None:
        """Takes the date of the prompts from the state in a checkpoint; encodes again what shows another date."""
        run_date = state.get("run_date")
        if run_date is None or datetime.fromisoformat(run_date) == self.template.run_date:
            return
        self.template.run_date = datetime.fromisoformat(run_date)
        if self.codec is not None and self.template.shows_date(self.codec.tokenizer):
            if self.encoded:
                self._encode_train()
                self._attach_runner()
            self._prompts.clear()
            self._encode_prompts()

    def _earlier(self) -> dict[str, Any]:
        """The data's state in the checkpoint of ``start_from``."""
        start = self.method.start_from
        return read_checkpoint(start, "model.start_from").get(type(self).__qualname__, {}) if start else {}

    def _attach_runner(self) -> None:
        trainer, method = self.trainer, self.method
        assert trainer is not None
        self.runner.attach(
            self.encoded,
            module=trainer.lightning_module,
            student=method.student,
            codec=self.codec,
            folder=Path(trainer.default_root_dir),
            seed=self.seed,
            stage_sampling=self.stage_sampling,
            limit=self.limit,
            earlier=self._earlier().get("annotations"),
            earlier_name=str(method.start_from),
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
        how = {"rationales": method.needs_rationale, "leave_out": self.without_steps == "leave_out"}
        if isinstance(rows, ExampleStore):
            self.encoded = stored = EncodedStore.of(self.codec, rows, **how)
            unknown = stored.unknown
            self.report.append(cache_report())
        else:
            stream = tqdm(
                self.codec.encode(rows, **how),
                total=len(rows), desc="Tokenizing", delay=3, leave=False, disable=self.trainer.global_rank > 0,
            )  # fmt: skip
            self.encoded = list(stream)
            unknown = sum(unknown_tokens(row, self.codec.tokenizer) for row in self.encoded)
        self.without_rationale = len(rows) - len(self.encoded)
        line = f"{unknown} completion tokens are unknown to the tokenizer and cannot be learned"
        if unknown and line not in self.report:
            self.report.append(line)

    def rationale_lengths(self) -> list[int]:
        """Number of tokens before the answer of every training example."""
        if isinstance(self.encoded, EncodedStore):
            return self.encoded.answers.tolist()
        return [row.answer[0] for row in self.encoded]

    # -------------------------------------------------------------------------------------- training

    def instances(self, epoch: int) -> EpochInstances:
        """All training instances of an epoch, identical on every rank; instances above the limit are left out."""
        self.runner.update(epoch)
        method, limit, make = self.method, self.limit, partial(self._make, epoch)
        result = survey(
            make, len(self.encoded), limit=limit, encoder_decoder=method.student.encoder_decoder,
            workers=self.num_workers,
        )  # fmt: skip
        too_long = len(result.left_out)
        if too_long and too_long == len(self.encoded) and not len(result.sizes):
            raise self.all_too_long(result.needed[result.needed > 0].tolist())
        if not len(result.sizes):
            raise DataError(
                f"Expected training instances, got none in epoch {epoch}: {type(method).__name__}.make_instances "
                f"returned nothing for {len(self.encoded)} examples."
            )
        if self.first is None:
            self._report_kept(too_long, limit)
        elif too_long != self._too_long:
            say(f"epoch {epoch}: {too_long} examples left out, longer than {limit} tokens")
        self._too_long = too_long
        return EpochInstances(make, self.runner.ids, result.sizes)

    def all_too_long(self, needed: Sequence[int]) -> DataError:
        """The error that no training example is within the limit.

        Args:
            needed: Tokens of the examples, as far as they are known.
        """
        limit, context = self.limit, self.method.student.context_length
        raised = limit < context and min(needed, default=limit + 1) <= context
        remedy = f"Set data.max_length: {min(context, max(needed, default=context))}, or use" if raised else "Use"
        return DataError(
            f"Expected training examples of at most {limit} tokens, got {len(self.encoded)} and all are longer. "
            f"{remedy} a student with a longer context."
        )

    def _make(self, epoch: int, index: int) -> list[Instance] | None:
        """All instances of an example in an epoch; None if an annotator left the example out."""
        encoded = self.encoded[index]
        if self.runner.lacks(encoded):
            return None
        return self.method.make_instances(encoded, self.runner.notes(encoded, epoch))

    def annotation_rows(self) -> Sequence[dict[str, Any]]:
        """A row with all annotations per training example, and per validation example if annotators ask for them.

        Each is made when it is asked for.

        Raises:
            UserError: The method has no annotators.
        """
        check_annotates(self.method, bool(self.runner.annotators))
        self.runner.run_all()
        extra = [self.teacher.get((row.id, row.question)) for row in self.examples.get("val", ())]
        drawn = [row for row in extra if row] if any(a.for_validation for a in self.runner.annotators) else []
        return self.runner.drawings(Joined(self.encoded, drawn))

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
                "normalized over planned optimizer steps. Remove it, and set trainer.accumulate_grad_batches."
            )
        position, self._position = self._position, None
        number = trainer.current_epoch if position is None else restore_progress(trainer, position)
        if trainer.fit_loop.done:  # a finished run, resumed: no search for an epoch that does not begin
            nothing = EpochInstances(lambda example: None, [], np.empty(0, SIZES))
            return ResumableLoader(
                PlannedBatches(nothing, Plan(steps=[]), rank=0, pad_id=0, encoder_decoder=False, terms=1)
            )
        with trainer.precision_plugin.forward_context():  # annotators run in training precision
            if self.first is None:
                self._layout, line = method.student.layout(self.packing)
            instances = self.instances(number)
        planning = Planning(
            seed=self.seed, batch_size=self.batch_size, batch_tokens=self.batch_tokens, bucket=self.bucket,
            ranks=trainer.world_size, accumulate=trainer.accumulate_grad_batches,
        )  # fmt: skip
        middle = position is not None and position["epoch"] == number
        self.epoch = epoch = Epoch(number, instances, planning, position if middle else None)
        if epoch.offset:
            align_batches(trainer, epoch.offset)
        if self.first is None:
            self.report += [epoch.describe(), *([line] if line else [])]
            (self.first,) = instances.take([0])
        batches = PlannedBatches(
            instances, epoch.plan, rank=trainer.global_rank, pad_id=method.student.pad_id,
            encoder_decoder=method.student.encoder_decoder, terms=len(method.term_weights), packing=self._layout,
        )  # fmt: skip
        return ResumableLoader(batches, epoch.offset, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Annotations, position in the epoch and date of the prompts: a resumed run repeats and loses nothing."""
        assert self.trainer is not None
        position = None if self.epoch is None else position_of(self.epoch, self.trainer)
        return {
            "annotations": self.runner.state_dict(), "position": position, "ids": self._ids(),
            "run_date": self.template.run_date and self.template.run_date.isoformat(), "prompt": self.sample_prompt(),
        }  # fmt: skip

    def sample_prompt(self) -> str | None:
        """The prompt of a fixed question, to be compared with that of another run."""
        return self.template.sample(self.codec.tokenizer) if self.codec else None

    def _ids(self) -> str:
        return hashlib.blake2b("\n".join(self.runner.ids).encode(), digest_size=16).hexdigest()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the date of the prompts, and annotations and position if training examples are loaded.

        Raises:
            UserError: The checkpoint is from an earlier version.
        """
        self.resume(state_dict)
        then, now = state_dict.get("prompt"), self.sample_prompt()
        if then is not None and then != now:
            say(f"note: a prompt is {now!r} here and {then!r} in the checkpoint")
        if not self.encoded:
            return
        if "position" not in state_dict:
            raise UserError(
                "Expected a checkpoint of this version, got one of an earlier version, which has no position in the "
                "epoch. Finish that run with its own version; this one tests and exports its student."
            )
        self.runner.load_state_dict(state_dict["annotations"])
        self._position = state_dict["position"]
        if state_dict["ids"] != self._ids():
            say("note: the training examples differ from those of the checkpoint; later epochs train on these")

    # ------------------------------------------------------------------------------------ evaluation

    def _prompt_loader(self, names: Sequence[str]) -> DataLoader[EvalBatch]:
        assert self.trainer is not None
        return self._prompts.loader(names, self.eval_batch_size, self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[EvalBatch] | list[Any]:
        """Prompts of the validation examples."""
        return self._prompt_loader(["val"]) if self.examples.get("val") else []

    def test_dataloader(self) -> DataLoader[EvalBatch]:
        """Prompts of all test sets."""
        return self._prompt_loader([f"test/{name}" for name in self.test_sets])

    def predict_dataloader(self) -> DataLoader[EvalBatch]:
        """Prompts of the questions for ``predict``; none for ``annotate``."""
        return self._prompt_loader([] if self.annotating else ["predict"])
