"""The evaluation half of a LightningModule: validation, test and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning as L
import torch

from skipthinking.data.batches import EvalBatch
from skipthinking.data.encoding import Codec
from skipthinking.data.module import RationaleDataModule
from skipthinking.evaluation.answers import Completion, budgets_up_to, grade, latency
from skipthinking.evaluation.metrics import AnswerScores
from skipthinking.ranks import gather
from skipthinking.records import Encoded, Example, Prediction, UserError
from skipthinking.students import Student
from skipthinking.students.completions import Completions

__all__ = ["AnsweringModule"]


class AnsweringModule(L.LightningModule):
    """Generates and grades a student's answers; every example counts once on any number of ranks.

    Args:
        student: The student.
        max_new_tokens: Maximum number of new tokens per answer.
        latency_examples: Number of test examples that are answered one at a time after a test, to measure latency.
        budgets: Numbers of new tokens at which accuracy is reported, too; by default 32, 64, 128 and 256 as far as
            ``max_new_tokens`` allows.
    """

    prompt_prefixes: tuple[str, ...] = ("",)
    """Texts before the question in training prompts; evaluation uses the first one."""
    prompt_choice: tuple[str, Mapping[Any, str]] = ("", {})
    """What chooses among these texts, such as "mode", and the text by its value: a variable of the exported student's
    chat template."""
    answer_settings: tuple[str, ...] = ()
    """Settings that choose how a trained student answers, besides ``max_new_tokens``; the command line keeps results
    for each choice."""

    def __init__(
        self, student: Student, max_new_tokens: int, latency_examples: int, budgets: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        if max_new_tokens < 1:
            raise UserError(
                f"Expected at least 1 new token, got model.max_new_tokens={max_new_tokens}. Set model.max_new_tokens: "
                "256, for example."
            )
        self.student, self.max_new_tokens, self.latency_examples = student, max_new_tokens, latency_examples
        self.codec: Codec | None = None
        self.budgets = budgets_up_to(max_new_tokens, budgets)
        self.scores = AnswerScores(self.budgets)
        self.predictions: list[Prediction] = []
        self._completions: Completions | None = None
        self._examples: list[Example] = []  # of the prompts that were given to ``_completions``
        self.latency: float | None = None

    @property
    def data(self) -> RationaleDataModule:
        """The trainer's data module."""
        trainer: Any = self.trainer
        return trainer.datamodule

    def choose_prompt(self, name: str, prefixes: Mapping[Any, str], value: Any) -> None:
        """Sets the texts before the question, and the value that chooses the one of evaluation."""
        others = (prefix for other, prefix in prefixes.items() if other != value)
        self.prompt_choice, self.prompt_prefixes = (name, prefixes), (prefixes[value], *others)

    def read_completion(self, completion: str, teacher: Encoded | None) -> Completion:
        """Parses a completion: the part to grade, and its stages.

        Args:
            completion: The student's text.
            teacher: The teacher's rationale for this question, if there is one.
        """
        return Completion(text=completion, stages=[("rationale", completion)])

    def _graded(self, example: Example, ids: list[int]) -> Prediction:
        """Grades a completion, and what is left of it if generation stops at each budget."""
        answer = self._graded_once(example, ids)
        if not example.answer:
            return answer
        # Greedy decoding with a lower limit generates a prefix of the same tokens.
        cut = {b: answer if len(ids) <= b else self._graded_once(example, ids[:b]) for b in self.budgets}
        return replace(answer, correct_at={budget: part.correct for budget, part in cut.items()})

    def _graded_once(self, example: Example, ids: list[int]) -> Prediction:
        assert self.codec is not None
        text = self.codec.decode(ids)
        completion = self.read_completion(text, self.data.teacher.get((example.id, example.question)))
        finished = bool(ids) and ids[-1] in self.student.model.generation_config.eos_token_id
        return grade(example, text, completion, new_tokens=len(ids), finished=finished)

    def on_validation_epoch_start(self) -> None:
        """Clears the predictions of the previous evaluation."""
        self.predictions, self._examples = [], []
        self._completions = self.student.completions(self.data.eval_batch_size)
        self.scores.reset()

    on_test_epoch_start = on_validation_epoch_start
    on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> None:
        """Answers a batch of validation prompts."""
        self._evaluate(batch, batch_idx, self.data.examples["val"])

    def test_step(self, batch: EvalBatch, batch_idx: int) -> None:
        """Answers a batch of test prompts."""
        self._evaluate(batch, batch_idx, [row for rows in self.data.test_sets.values() for row in rows])

    def predict_step(self, batch: EvalBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Answers questions; returns dictionaries, because Lightning cannot move frozen dataclasses.

        They are the answers that were finished; those to questions of this batch may be among a later batch's.
        """
        examples = self.data.examples.get("predict", ())
        return [asdict(prediction) for prediction in self._evaluate(batch, batch_idx, examples)]

    def _evaluate(self, batch: EvalBatch, batch_idx: int, examples: Sequence[Example]) -> list[Prediction]:
        """Gives a batch of prompts to the student, and grades the answers that it finished."""
        assert self._completions is not None
        known = {example.id: example for example in examples}
        for id, prompt in zip(batch.ids, batch.prompts, strict=True):
            self._completions.add(len(self._examples), prompt, self.max_new_tokens)
            self._examples.append(known[id])
        # Until the last batch, unfinished answers wait for prompts of the next one to join them.
        done = self._completions.run(finish=batch_idx + 1 == self._number_of_batches())
        predictions = [self._graded(self._examples[place], ids) for place, ids in sorted(done.items())]
        self.predictions += predictions
        self.scores.update(predictions)
        return predictions

    def _number_of_batches(self) -> int:
        trainer = self.trainer
        if trainer.predicting:
            return int(trainer.num_predict_batches[0])
        if trainer.testing:
            return int(trainer.num_test_batches[0])
        return int((trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)[0])

    def on_validation_epoch_end(self) -> None:
        """Logs the scores over all ranks, and gives the memory of generation back."""
        self._log_scores("val")
        self.student.release_memory()

    def on_test_epoch_end(self) -> None:
        """As for validation; measures latency on rank 0."""
        self._log_scores("test")
        if self.trainer.is_global_zero:
            self.latency = self._measure_latency()
        self.student.release_memory()
        self.trainer.strategy.barrier("latency")

    def _log_scores(self, stage: str) -> None:
        values = {f"{stage}/{name}": float(value) for name, value in self.scores.compute().items()}
        self.log_dict(values, sync_dist=True, prog_bar=False)
        by_id = gather({prediction.id: prediction for prediction in self.predictions})
        self.predictions = [by_id[id] for id in sorted(by_id)]

    def _measure_latency(self) -> float | None:
        rows = [row for rows in self.data.test_sets.values() for row in rows][: self.latency_examples]
        if not rows or self.codec is None:
            return None
        prompts = [torch.from_numpy(prompt) for prompt in self.codec.prompts(rows, self.prompt_prefixes[0])]
        with self.trainer.precision_plugin.forward_context():
            return latency(self.student, prompts, self.max_new_tokens)
