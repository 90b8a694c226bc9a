"""Distiller: the base class of every method. A method makes instances from examples; everything else is shared."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor

from skipthinking.annotate.annotator import Annotator, Notes
from skipthinking.annotate.sampling import StageSampling
from skipthinking.checkpoints import read_checkpoint
from skipthinking.data.batches import Batch
from skipthinking.data.chunkers import AverageChunks, Chunker
from skipthinking.data.encoding import Codec
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.position import reopen_epoch
from skipthinking.evaluation.module import AnsweringModule
from skipthinking.losses import weighted_likelihood
from skipthinking.methods.finite import FiniteChecks
from skipthinking.methods.loading import load_method
from skipthinking.methods.schedules import (
    begin_epoch,
    begin_run,
    logs_step,
    optimizers,
    resume_epoch,
    step_plateaus,
    steps_of_epoch,
)
from skipthinking.methods.tensor_cores import use_tensor_cores
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.settings import Configurable, run_config
from skipthinking.students import Student
from skipthinking.students.tokenizing import same_tokens
from skipthinking.students.weights import check_adapter, load_start, trained_only

__all__ = ["Distiller"]


class Distiller(Configurable, AnsweringModule, ABC):
    """Trains a student on the instances that a method makes from encoded examples.

    A method implements :meth:`make_instances` and overrides the other hooks as needed: :meth:`annotators`,
    :meth:`micro_batch_loss`, :meth:`read_completion`, :meth:`added_tokens`, :meth:`prior_run`.

    Args:
        student: The student.
        optimizer: Optimizer, by class path; it gets the trainable parameters.
        scheduler: Learning-rate schedule, by class path, stepped after every optimizer step.
        max_new_tokens: Maximum number of new tokens per answer in evaluation.
        latency_examples: Number of test examples that are answered one at a time after the test, to measure latency.
        start_from: Checkpoint of another run, of any method, that initializes the student.
        budgets: Numbers of new tokens at which evaluation reports accuracy, too; by default those of 32, 64, 128 and
            256 up to ``max_new_tokens``, and none for an empty list.
    """

    term_weights: tuple[float, ...] = (1.0,)
    """Weight of every loss term."""
    rows_per_place: int = 1
    """The most instances that count as one of a micro-batch: 2 for preference pairs."""
    needs_rationale: bool = True
    """Whether every training example must have a rationale."""
    encodes_conclusion: bool = False
    """Whether to encode the teacher's conclusion, the text between its thinking and the answer."""
    marks_thinking: bool = False
    """Whether the method closes the thinking that a prompt opens; else the encoding does, before the answer."""
    completion_marks: str | None = None
    """Regular expression for non-text parts of a completion, such as stage markers."""
    HOOKS: ClassVar[frozenset[str]] = frozenset(
        ("annotators", "make_instances", "micro_batch_loss", "read_completion", "added_tokens", "prior_run")
    )

    def __init__(
        self,
        student: Student,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        max_new_tokens: int = 256,
        latency_examples: int = 20,
        start_from: str | None = None,
        budgets: list[int] | None = None,
    ) -> None:
        super().__init__(student, max_new_tokens, latency_examples, budgets)
        self.optimizer, self.scheduler, self.start_from = optimizer, scheduler, start_from
        self.chunker: Chunker = AverageChunks()  # replaced by the data's in connect()
        self.stage_sampling: StageSampling = "cycle"
        self.target_tokens = self.context_tokens = self.steps_before = self.epoch_before = 0  # of a checkpoint
        self.steps_per_epoch: int | None = None  # optimizer steps of the first epoch
        self._step_loss = torch.zeros(())
        self._checks = FiniteChecks()
        self._step_tokens = (0, 0)  # target and context tokens of the step so far

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises TypeError for an attribute with the name of a hook, because it would shadow the hook."""
        if name in self.HOOKS:
            raise UserError(f"{type(self).__name__}.{name} is a hook of Distiller. Give the setting another name.")
        super().__setattr__(name, value)

    # --------------------------------------------------------------------------------------- hooks

    @abstractmethod
    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """Makes an example's instances for one epoch; must be a pure function of its arguments.

        Args:
            encoded: The example's tokens.
            notes: The epoch, the seed, and the values of :meth:`annotators`.
        """

    def annotators(self) -> Sequence[Annotator[Any]]:
        """Annotators to run on the training examples; by default every attribute that is an annotator.

        Called once, after codec and chunker are set.
        """
        attributes = [own if isinstance(own, (list, tuple)) else [own] for own in vars(self).values()]
        return [value for own in attributes for value in own if isinstance(value, Annotator)]

    def micro_batch_loss(self, nll_N: Tensor, batch: Batch) -> Tensor:
        """The micro-batch's share of the step's loss, given the NLL of its N target tokens, shape (N,)."""
        index = batch.where
        return weighted_likelihood(
            nll_N, index.weights_N, batch.terms_B[index.rows_N], batch.totals_K, self.term_weights
        )

    def added_tokens(self, chunks: int) -> list[str]:
        """Texts that become single tokens of a tokenizer trained for rationales of up to ``chunks`` chunks."""
        return []

    def prior_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> dict[str, Any] | None:
        """Config of a ``fit`` run that must precede this one; None if no run is needed.

        Called after the data is read and before anything is written, so invalid settings are best rejected here.

        Args:
            config: The full config of this run.
            folder: Run folder of this run.
            data: Data module of this run, with all examples loaded.
        """
        return None

    # -------------------------------------------------------------------------------------- set-up

    def connect(
        self, codec: Codec, chunker: Chunker, stage_sampling: StageSampling = "cycle"
    ) -> Sequence[Annotator[Any]]:
        """Stores the data module's codec, chunker and stage sampling; returns the annotators."""
        self.codec, self.chunker, self.stage_sampling = codec, chunker, stage_sampling
        return self.annotators()

    def prepare_student(self, texts: Callable[[], Sequence[str]], chunks: int) -> None:
        """Gives the student a tokenizer: from ``start_from``, or trained on the texts with markers for N chunks."""
        if self.start_from is not None:
            own = read_checkpoint(self.start_from, "model.start_from")["skipthinking"]
            self.student.restore_tokenizer(own["tokenizer"])
        if not self.student.has_tokenizer:
            self.student.prepare(texts() if self.student.trains_tokenizer else (), self.added_tokens(chunks))

    def setup(self, stage: str) -> None:
        """Sets the precision of float32 products on a GPU."""
        use_tensor_cores(self.trainer.strategy.root_device)

    def configure_model(self) -> None:
        """Builds the student, in the strategy's context."""
        if not self.student.built:
            self.student.build()
            if self.start_from is not None:
                load_start(self.student, self.start_from)

    def configure_optimizers(self) -> Any:
        """Creates the optimizer over the trainable parameters, and its schedule."""
        trainable = (parameter for parameter in self.parameters() if parameter.requires_grad)
        return optimizers(trainable, self.optimizer, self.scheduler, self.trainer)

    def on_train_start(self) -> None:
        """Passes the length of the run to the schedule."""
        self.steps_per_epoch = self.steps_per_epoch or steps_of_epoch(self.trainer)
        begin_run(self.trainer, self.steps_per_epoch)
        resume_epoch(self.trainer, self.steps_per_epoch)

    def on_train_epoch_start(self) -> None:
        """Passes the length of the epoch to the schedule."""
        begin_epoch(self.trainer, self.steps_per_epoch or 1)

    def on_train_epoch_end(self) -> None:
        """Steps plateau schedules."""
        self._checks.read()
        step_plateaus(self.trainer)

    def on_validation_model_eval(self) -> None:
        """Raises UserError if a loss or a gradient was not finite, before anything is prepared for a validation."""
        self._checks.read()
        super().on_validation_model_eval()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps a schedule; one with a metric, a plateau schedule, has been stepped by :meth:`on_train_epoch_end`."""
        if metric is None:
            super().lr_scheduler_step(scheduler, metric)

    # ------------------------------------------------------------------------------------ training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout from (seed, epoch, micro-batch, rank), so that a resumed run draws the same masks."""
        seed = os.environ.get("PL_GLOBAL_SEED", "0")
        place = f"{seed}/{self.current_epoch}/{batch_idx}/{self.global_rank}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(place.encode(), digest_size=7).digest(), "big"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the micro-batch's share of the step's loss, and logs the token counts."""
        loss = self.scale_and_log(self.micro_batch_loss(self.student.token_nll(batch), batch), batch, batch_idx)
        # Tensors of the host: Lightning would make tensors of the device of plain numbers, and wait.
        targets, contexts = self._step_tokens
        counts = {"target": self.target_tokens + targets, "context": self.context_tokens + contexts}
        for name, count in counts.items():
            self.log(f"train/{name}_tokens", torch.tensor(count, dtype=torch.float64), batch_size=len(batch.ids))
        return loss

    def scale_and_log(self, share: Tensor, batch: Batch, batch_idx: int) -> Tensor:
        """Counts tokens, logs the step's loss so far, and scales the share so that all shares add up to the loss."""
        trainer: Any = self.trainer
        accumulate = trainer.accumulate_grad_batches
        first = batch_idx % accumulate == 0
        targets, contexts = (0, 0) if first else self._step_tokens
        self._step_tokens = targets + batch.targets, contexts + batch.contexts
        self._step_loss = share.detach() if first else self._step_loss + share.detach()
        self._checks.loss(self, self._step_loss, batch.ids, batch_idx)
        # A step's loss is the sum over its micro-batches and ranks. Ranks are summed only for steps that are logged.
        last = (batch_idx + 1) % accumulate == 0 or trainer.is_last_batch
        logged = last and logs_step(trainer, self.global_step + 1)
        total = trainer.strategy.reduce(self._step_loss.clone(), reduce_op="sum") if logged else self._step_loss
        self.log("train/loss", total, batch_size=len(batch.ids))
        if self._checks.last_loss is not None:  # the bar would wait for this micro-batch's
            self.log("loss", torch.tensor(self._checks.last_loss), prog_bar=True, logger=False, batch_size=1)
        # DDP averages over ranks and Lightning over accumulated micro-batches; multiplying turns both into sums.
        return share * trainer.world_size * accumulate

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Takes the step, and counts its tokens only then: a checkpoint has those of its complete steps."""
        super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)
        optimizer.zero_grad()  # Lightning would keep gradients through the next forward pass: 4 bytes a weight
        targets, contexts = self._step_tokens
        self.target_tokens += targets
        self.context_tokens += contexts

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips gradients, those of fused optimizers too.

        Lightning's plugin for bf16-mixed refuses fused optimizers, because a loss scaler could not unscale their
        gradients before the clipping. Only float16 has a loss scaler.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Watches the gradients."""
        self._checks.gradients(self)

    # --------------------------------------------------------------------------------- checkpoints

    @property
    def strict_loading(self) -> bool:
        """Whether a checkpoint must contain every weight; False with LoRA, whose checkpoints hold the adapter only."""
        return self.student.lora is None

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        raise UserError("Expected strict_loading to follow from the student, got a setting. Remove it.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds method, tokenizer and token counts; with LoRA, drops the weights that are not trained.

        Raises:
            UserError: A loss or a gradient of the steps so far was not finite.
        """
        self._checks.read()
        reopen_epoch(self.data.epoch, self.trainer, checkpoint)
        checkpoint["state_dict"] = trained_only(self, self.student, checkpoint["state_dict"])
        own = checkpoint.setdefault("skipthinking", {})
        own.setdefault("config", json.dumps(run_config(self, self.data)[0]))  # of a run from Python
        own.update(
            method=type(self).__name__,
            tokenizer=self.student.tokenizer_state(),
            tokens=[self.target_tokens, self.context_tokens],
            steps_per_epoch=self.steps_per_epoch,
        )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, **changes: Any
    ) -> Any:
        """The method of a checkpoint, with its tokenizer and weights, on the CPU.

        Args:
            checkpoint_path: The checkpoint, of a run from Python or from the command line.
            changes: Arguments of the class that replace those of the run.

        Raises:
            UserError: The checkpoint is of another method, or does not fit the changes.
        """
        return load_method(cls, Distiller, checkpoint_path, **changes)

    @property
    def fitting(self) -> bool:
        """Whether a trainer fits this method now."""
        return self._trainer is not None and self._trainer.training

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the token counts; raises UserError if tokenizer or weights do not fit the student."""
        own = checkpoint["skipthinking"]
        if own["tokenizer"] is not None and not same_tokens(own["tokenizer"], self.student.tokenizer_state()):
            raise UserError(
                "Expected the tokenizer of the checkpoint, got one that was trained on other examples. Make the "
                f"method by {type(self).__name__}.load_from_checkpoint, and give it to the trainer."
            )
        self.target_tokens, self.context_tokens = own["tokens"]
        self.steps_per_epoch, self.steps_before = own["steps_per_epoch"], checkpoint["global_step"]
        self.epoch_before = checkpoint["epoch"]
        check_adapter(self, self.student, checkpoint["state_dict"])
