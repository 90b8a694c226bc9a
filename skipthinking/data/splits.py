"""The splits of a run: what is read when, and that they do not overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from skipthinking.data.questions import read_questions
from skipthinking.data.sources import Source, drop_overlap, join, split_validation
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import get_task

__all__ = ["Splits"]


class Splits:
    """Training, validation and test examples and questions to predict, each read when it is first needed.

    Args:
        train: Sources of training examples.
        test: Test sets by name.
        val_size: Validation examples, a count or a share below 1.
        seed: Seed of the validation split.
        question: A question to predict.
        questions: A file of such questions.
        task: Their task; that of the first source by default.
    """

    def __init__(
        self, train: Sequence[Source], test: Mapping[str, Source], *, val_size: float, seed: int,
        question: str | None, questions: str | None, task: str | None,
    ) -> None:  # fmt: skip
        self.sources, self.test_sources, self.seed = train, test, seed
        self.val_size = int(val_size) if val_size == int(val_size) else val_size
        self.question, self.questions, self.task = question, questions, task
        self.examples: dict[str, list[Example]] = {}
        self.report: list[str] = []

    def load(self, stage: str) -> None:
        """Reads every source that the stage (fit, validate, test or predict) needs; later calls do nothing.

        Raises:
            UserError: A source cannot be read, or a split is empty.
        """
        if stage in {"fit", "test"}:
            self.load_tests()
        if stage in {"fit", "validate", "annotate"}:
            self.load_train()
        if stage == "predict" and "predict" not in self.examples:
            self.examples["predict"] = self._load_questions()
        if stage == "validate" and not self.examples["val"]:
            raise DataError(f"Expected validation examples, got data.val_size={self.val_size}. Set data.val_size.")
        if stage == "test" and not self.test_sets:
            raise DataError("Expected at least one test set, got none. Set data.test.")

    @property
    def test_sets(self) -> dict[str, list[Example]]:
        """The test sets by name."""
        return {name[5:]: rows for name, rows in self.examples.items() if name.startswith("test/")}

    def load_tests(self) -> None:
        """Reads the test sets."""
        seen: dict[str, str] = {}
        for name, source in self.test_sources.items():
            key = f"test/{name}"
            if key in self.examples:
                continue
            loaded = source.load()
            self.report.append(f"{key}: {loaded.description}")
            if not loaded.examples:
                raise DataError(f"Expected at least one test example, got none in data.test.{name}.")
            for example in loaded.examples:
                if seen.setdefault(example.id, name) != name:
                    raise DataError(
                        f"Expected each id in one test set, got {example.id!r} in data.test.{seen[example.id]} and "
                        f"data.test.{name}. Rename or remove one of them."
                    )
            self.examples[key] = loaded.examples

    def load_train(self) -> None:
        """Reads the training sources, drops what a test set asks, and splits validation off."""
        if "train" in self.examples:
            return
        if not self.sources:
            raise DataError("Expected at least one training source, got none. Set data.train.")
        self.load_tests()  # whatever the stage: their questions leave the training set
        loaded = [source.load() for source in self.sources]
        self.report += [f"train: {part.description}" for part in loaded]
        examples = join(loaded)
        for name, rows in self.test_sets.items():
            examples, overlap = drop_overlap(examples, rows)
            if overlap:
                self.report.append(f"train: {overlap} examples left out, their question is in test set {name}")
        train, val = split_validation(examples, self.val_size, self.seed)
        if not train:
            raise DataError(f"Expected at least one training example, got none from {len(self.sources)} source(s).")
        self.examples["train"], self.examples["val"] = train, val

    def _load_questions(self) -> list[Example]:
        tasks = [source.task for source in (*self.sources, *self.test_sources.values()) if hasattr(source, "task")]
        task = self.task or (tasks[0] if tasks else None)
        if task is None:
            raise UserError("Expected the task of the questions, got none. Set data.task, for example gsm8k.")
        get_task(task)
        if (self.question is None) == (self.questions is None):
            raise UserError("Expected either a question or a file of questions. Set --question or --questions.")
        if self.question is not None and not self.question.strip():
            raise UserError("Expected a question, got an empty text in --question.")
        asked = read_questions(Path(self.questions)) if self.questions else [("question-1", str(self.question))]
        return [Example(id=id, question=text, rationale="", answer="", task=task) for id, text in asked]
