"""Distiller: the short base of every method. A method says how an instance is cut; all else is here."""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from skipthinking.annotate.store import digest
from skipthinking.checkpoints import check_shapes, read_checkpoint
from skipthinking.data.batches import Batch, EvalBatch
from skipthinking.data.encoding import Codec
from skipthinking.evaluation.answers import graded, latency
from skipthinking.evaluation.metrics import AnswerScores
from skipthinking.losses import weighted_likelihood
from skipthinking.methods.schedules import Warmup
from skipthinking.ranks import gather
from skipthinking.records import Encoded, Example, Instance, Prediction, Span, UserError
from skipthinking.students import Student

if TYPE_CHECKING:
    from skipthinking.data.module import RationaleDataModule

__all__ = ["Distiller"]


class Distiller(L.LightningModule, ABC):
    """Trains a student on instances that a method cuts from encoded examples.

    Args:
        student: The student.
        optimizer: Optimizer, by class path; it gets the trainable parameters.
        scheduler: Learning-rate schedule, by class path, stepped after every optimiser step.
        max_new_tokens: Most tokens that an answer may have in evaluation.
        latency_examples: Test examples that are answered one at a time, after the test, to measure latency.
        start_from: Checkpoint of another run, of any method, whose student this one begins with.
    """

    prefixes: tuple[str, ...] = ("",)
    """Texts in front of the question that training prompts come with."""
    answering_prefix: str = ""
    """The one that evaluation uses."""
    term_weights: tuple[float, ...] = (1.0,)
    """Weight of every loss term."""
    needs: tuple[str, ...] = ()
    """Notes that :meth:`cut` looks at: "chunks", "stage"."""
    needs_rationale: bool = True
    """Whether every training example must have a rationale."""
    stage_marks: str | None = None
    """Regular expression of what a completion has beside its text, such as stage markers."""
    concludes: bool = False
    """Whether what a teacher says between its thinking and the answer is encoded too."""

    def __init__(
        self,
        student: Student,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        max_new_tokens: int = 256,
        latency_examples: int = 20,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        if max_new_tokens < 1:
            raise UserError(f"Expected at least 1 new token, got model.max_new_tokens={max_new_tokens}.")
        self.student = student
        self.optimizer, self.scheduler = optimizer, scheduler
        self.max_new_tokens, self.latency_examples = max_new_tokens, latency_examples
        self.start_from = start_from
        self.scores = AnswerScores()
        self.predictions: list[Prediction] = []
        self.latency: float | None = None
        self.target_tokens = self.context_tokens = self.steps_before = 0  # as a checkpoint has them
        self.codec: Codec | None = None
        self.steps_per_epoch: int | None = None  # as counted in the first epoch
        self._texts: dict[str, str] | None = None  # that something was found out about

    # ------------------------------------------------------------------------------ what a method is

    @abstractmethod
    def cut(self, encoded: Encoded, notes: Mapping[str, Any]) -> list[Instance]:
        """Cuts the instances of an example for one epoch: a pure function of its arguments.

        Args:
            encoded: The example's tokens.
            notes: The annotations that the method needs, by name.
        """

    def room(self, encoded: Encoded, chunks: Sequence[Span]) -> int:
        """Tokens of the longest instance that :meth:`cut` can make of an example, prompt included."""
        return max(map(len, encoded.prompts.values())) + len(encoded.tokens)

    def keep(
        self, epoch: int, encoded: Sequence[Encoded], chunks: Mapping[str, Sequence[Span]]
    ) -> Mapping[str, Sequence[int]] | None:
        """Indices of the chunks that each example shows in an epoch; None where all show all."""
        return None

    def first_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> dict[str, Any] | None:
        """Config of a run of ``fit`` that must come before this one; None where there is none to come.

        Called once the data is read and before anything is written: the place to refuse settings that make no sense.

        Args:
            config: The whole config of this run.
            folder: Its run folder.
            data: Its data module, with all examples.
        """
        return None

    def own_notes(self, epoch: int, encoded: Sequence[Encoded]) -> Mapping[str, Mapping[str, Any]]:
        """More notes for :meth:`cut` in an epoch, per example id: what the method has found out with the student."""
        return {}

    def grouped(self, epoch: int) -> int:
        """How many instances that :meth:`cut` makes of an example share a micro-batch, as preference pairs must."""
        return 1

    def share(self, nll_N: Tensor, batch: Batch) -> Tensor:
        """A micro-batch's share of the step's loss, from the NLL of its target tokens."""
        return weighted_likelihood(nll_N, batch.weights_BL, batch.terms_B, batch.totals_K, self.term_weights)

    def skipped_share(self, completion: str, chunks: int) -> float | None:
        """Share of the teacher's chunks that the student left out; None where it names no stages."""
        return None

    def answer_text(self, completion: str) -> str:
        """The part of a completion that is graded."""
        return completion

    def stages_of(self, completion: str) -> list[tuple[str, str]]:
        """The stages of a completion, as (name, text) pairs."""
        return [("rationale", completion)]

    def words(self, chunks: int) -> list[str]:
        """Texts of the method's own that a tokenizer trained for it should have as tokens."""
        return []

    def use_codec(self, codec: Codec) -> None:
        """Tells the method how text is encoded, before the first cut."""
        self.codec = codec

    # ---------------------------------------------------------------------------------------- set-up

    @property
    def data(self) -> RationaleDataModule:
        """The data module of the running trainer."""
        trainer: Any = self.trainer
        return trainer.datamodule

    @property
    def annotations(self) -> Path:
        """Folder of the annotations' files."""
        return Path(self.trainer.default_root_dir) / "annotations"

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        if self.trainer.is_global_zero:
            tqdm.write(text)

    def known_before(self, encoded: Sequence[Encoded]) -> dict[str, Any] | None:
        """The checkpoint of ``start_from``, if what it has annotated is these very examples."""
        if self.start_from is None:
            return None
        saved = read_checkpoint(self.start_from, "model.start_from")
        texts = saved["skipthinking"].get("texts") or {}
        return saved if all(texts.get(row.id) == digest(row) for row in encoded) else None

    def know(self, encoded: Sequence[Encoded]) -> None:
        """Notes which examples are annotated, or sees that they are those that a checkpoint has annotations of.

        Raises:
            UserError: They are not.
        """
        texts = {row.id: digest(row) for row in encoded}
        self._texts = self._texts or texts
        strange = [id for id, text in texts.items() if self._texts.get(id) != text]
        if strange:
            raise UserError(
                f"Expected the examples that the checkpoint knows, got {len(strange)} of {len(texts)} that are new or "
                f"have other steps, such as {strange[0]!r}. Go on with the same data and data.splitter, or start a new "
                "run."
            )

    def prepare_student(self, texts: Callable[[], Sequence[str]], chunks: int) -> None:
        """Gives the student its tokenizer: that of ``start_from``, or its own.

        Args:
            texts: Training texts, for a student that trains its tokenizer.
            chunks: Most chunks of a rationale.
        """
        if self.start_from is not None:
            own = read_checkpoint(self.start_from, "model.start_from")["skipthinking"]
            self.student.restore_tokenizer(own["tokenizer"])
        if not self.student.has_tokenizer:
            self.student.prepare(texts() if self.student.trains_tokenizer else (), self.words(chunks))

    def configure_model(self) -> None:
        """Builds the student, in the strategy's context."""
        if self.student.built:
            return
        self.student.build()
        if self.start_from is not None:
            saved = read_checkpoint(self.start_from, "model.start_from")["state_dict"]
            weights = {name[8:]: value for name, value in saved.items() if name.startswith("student.")}
            trained = {name for name, parameter in self.student.named_parameters() if parameter.requires_grad}
            if self.student.lora is not None and trained != set(weights):
                raise UserError(
                    f"Expected an adapter like this student's, with {len(trained)} tensors, got {len(weights)}, "
                    f"{len(trained & set(weights))} of them with its names ({self.start_from}). Give model.student the "
                    "lora settings of that run; to put an adapter on the student of a run, name its exported folder "
                    "in model.student.name."
                )
            try:
                self.student.load_state_dict(weights, strict=self.student.lora is None)
            except RuntimeError as error:
                remedy = "Mend model.start_from or model.student."
                check_shapes(weights, self.student.state_dict(), remedy)
                raise UserError(
                    "Expected the weights of this student, got those of another architecture "
                    f"({self.start_from}). {remedy}"
                ) from error

    def configure_optimizers(self) -> Any:
        """The optimizer over the trainable parameters, and its schedule."""
        try:
            optimizer = self.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        except ValueError as error:
            raise UserError(f"Expected settings that fit the optimizer, got: {error}. Mend model.optimizer.") from error
        if self.scheduler is None:
            return optimizer
        schedule = self.scheduler(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            monitor = getattr(schedule, "monitor", None)
            if monitor is None:
                raise UserError(
                    "Expected a plateau schedule that names what it watches, got torch's own. Set model.scheduler to "
                    "lightning.pytorch.cli.ReduceLROnPlateau with a monitor, for example val/accuracy."
                )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": monitor}}
        if isinstance(schedule, Warmup) and max(self.trainer.max_steps, self.trainer.max_epochs or -1) < 0:
            schedule.set_run_length(None)  # a run without an end is refused before anything is written
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Tells the schedule how long the run is.

        Lightning's own estimate, asked for earlier, would build the loader before a resumed run knows where it is.
        """
        if self.steps_per_epoch is None:
            self.steps_per_epoch = self._steps()
        bounds = [self.trainer.max_steps, self.steps_per_epoch * (self.trainer.max_epochs or -1)]
        total = min((bound for bound in bounds if bound > 0), default=None)
        for schedule in self._warmups():
            schedule.set_run_length(total)

    def on_train_epoch_start(self) -> None:
        """Tells the schedule how long the epoch is, where epochs and not steps end the run."""
        first, epochs, steps = self.steps_per_epoch, self.trainer.max_epochs or -1, self.trainer.max_steps
        assert first is not None
        if epochs > 0 and not 0 < steps < first * epochs:
            for schedule in self._warmups():
                schedule.begin_epoch(self.current_epoch, self._steps(), first)

    def _steps(self) -> int:
        """Optimiser steps of the epoch."""
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

    def _warmups(self) -> list[Warmup]:
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return [schedule for schedule in schedules if isinstance(schedule, Warmup)]

    # -------------------------------------------------------------------------------------- training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout from (seed, epoch, micro-batch, rank): a resumed run draws what the first one would have."""
        seed = os.environ.get("PL_GLOBAL_SEED", "0")
        place = f"{seed}/{self.current_epoch}/{batch_idx}/{self.global_rank}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(place.encode(), digest_size=7).digest(), "big"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """This micro-batch's share of the step's loss."""
        loss = self.summed(self.share(self.student.token_nll(batch), batch), batch, batch_idx)
        self.log("train/target_tokens", float(self.target_tokens), batch_size=len(batch.ids))
        self.log("train/context_tokens", float(self.context_tokens), batch_size=len(batch.ids))
        return loss

    def summed(self, share: Tensor, batch: Batch, batch_idx: int) -> Tensor:
        """Counts and logs a micro-batch, and scales its share of the step's loss so that shares add up."""
        self.check_finite(share, batch, batch_idx)
        self.target_tokens += batch.targets
        self.context_tokens += batch.contexts
        # DDP takes the mean over ranks and Lightning over accumulated micro-batches; the share wants the sum.
        loss = share * self.trainer.world_size * self.trainer.accumulate_grad_batches
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.ids))
        return loss

    def check_finite(self, share: Tensor, batch: Batch, batch_idx: int) -> None:
        """Stops the run where a loss is not finite.

        Raises:
            UserError: It is not.
        """
        if not torch.isfinite(share):
            raise UserError(
                f"Expected a finite loss, got {share.item()} at step {self.global_step} (epoch {self.current_epoch}, "
                f"micro-batch {batch_idx}), examples {', '.join(batch.ids)}. Lower the learning rate, or train in "
                "float32 or bfloat16."
            )

    # ------------------------------------------------------------------------------------ evaluation

    def answer(self, batch: EvalBatch, examples: Mapping[str, Example]) -> list[Prediction]:
        """Generates and grades the answers to a batch of prompts."""
        made = self.student.generate(batch.prompts, self.max_new_tokens) if batch.ids else []
        ends = set(self.student.model.generation_config.eos_token_id)
        return [
            self._grade(examples[id], ids, bool(ids) and ids[-1] in ends)
            for id, ids in zip(batch.ids, made, strict=True)
        ]

    def _grade(self, example: Example, ids: list[int], finished: bool) -> Prediction:
        assert self.codec is not None
        completion = self.codec.decode(ids)
        made = graded(example, completion, self.answer_text(completion), new_tokens=len(ids), finished=finished)
        _, chunks = self.data.teacher.get((example.id, example.question), (0, 0))
        skipped = self.skipped_share(completion, chunks) if made.extracted is not None else None
        return replace(made, stages=self.stages_of(completion), skipped=skipped)

    def on_validation_epoch_start(self) -> None:
        """Forgets the predictions of the last evaluation."""
        self.predictions = []
        self.scores.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> None:
        """Answers a batch of validation prompts."""
        self._evaluate(batch, {example.id: example for example in self.data.examples["val"]})

    def test_step(self, batch: EvalBatch, batch_idx: int) -> None:
        """Answers a batch of test prompts."""
        self._evaluate(batch, {row.id: row for rows in self.data.test_sets.values() for row in rows})

    def on_predict_epoch_start(self) -> None:
        """Forgets the predictions of the last evaluation."""
        self.predictions = []

    def predict_step(self, batch: EvalBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Answers a batch of questions; as plain dictionaries, because Lightning moves what it is given."""
        predictions = self.answer(batch, {example.id: example for example in self.data.examples.get("predict", ())})
        self.predictions += predictions
        return [asdict(prediction) for prediction in predictions]

    def _evaluate(self, batch: EvalBatch, examples: Mapping[str, Example]) -> None:
        predictions = self.answer(batch, examples)
        self.predictions += predictions
        self.scores.update(predictions)

    def on_validation_epoch_end(self) -> None:
        """Logs the scores over all ranks."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the scores over all ranks, and measures latency on the first one."""
        self._log_scores("test")
        if self.trainer.is_global_zero:
            self.latency = self._measure_latency()
        self.trainer.strategy.barrier("latency")

    def _log_scores(self, stage: str) -> None:
        values = {f"{stage}/{name}": float(value) for name, value in self.scores.compute().items()}
        self.log_dict(values, sync_dist=True, prog_bar=False)
        whole = gather({prediction.id: prediction for prediction in self.predictions})
        self.predictions = [whole[id] for id in sorted(whole)]

    def _measure_latency(self) -> float | None:
        asked = [row for rows in self.data.test_sets.values() for row in rows][: self.latency_examples]
        if not asked or self.codec is None:
            return None
        prompts = [torch.from_numpy(prompt) for prompt in self.codec.prompts(asked, self.answering_prefix)]
        with self.trainer.precision_plugin.forward_context():
            return latency(self.student, prompts, self.max_new_tokens)

    # ----------------------------------------------------------------------------------- checkpoints

    @property
    def strict_loading(self) -> bool:
        """Whether a checkpoint must hold every weight; with LoRA it holds the adapter only."""
        return self.student.lora is None

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        raise UserError("Expected strict_loading to follow from the student, got a setting. Remove it.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the method, the tokenizer and the token counts; with LoRA keeps the trained weights only."""
        if self.student.lora is not None:
            trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint.setdefault("skipthinking", {}).update(
            method=type(self).__name__,
            tokenizer=self.student.tokenizer_state(),
            tokens=[self.target_tokens, self.context_tokens],
            steps_per_epoch=self.steps_per_epoch,
            texts=self._texts,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the token counts.

        Raises:
            UserError: The checkpoint holds an adapter that does not fit this student.
        """
        self.target_tokens, self.context_tokens = checkpoint["skipthinking"]["tokens"]
        self.steps_per_epoch = checkpoint["skipthinking"]["steps_per_epoch"]
        self.steps_before = checkpoint["global_step"]
        self._texts = checkpoint["skipthinking"].get("texts")
        check_shapes(checkpoint["state_dict"], self.state_dict())
        if self.student.lora is None and any(".lora_" in name for name in checkpoint["state_dict"]):
            raise UserError(
                "Expected the weights of a whole student, got a checkpoint that holds an adapter. Set "
                "model.student.lora as its run has it: use the run's own config.yaml."
            )
        if self.student.lora is not None:
            trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
            if trained != set(checkpoint["state_dict"]):
                raise UserError(
                    f"Expected an adapter with {len(trained)} tensors, got a checkpoint with "
                    f"{len(checkpoint['state_dict'])} that differ. Use the run's own config.yaml."
                )
