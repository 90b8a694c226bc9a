"""The splits of a run: joins sources, removes test questions from training, and splits validation examples off."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from skipthinking.annotate.runner import say
from skipthinking.data.importing import Loaded, count
from skipthinking.data.phrases import question_key
from skipthinking.data.questions import read_questions
from skipthinking.data.sources import Source
from skipthinking.data.store import ExampleStore, characters, ids_of, is_large, joined, questions_of, select
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import get_task

__all__ = ["HELD_OUT", "Splits", "drop_overlap", "join", "split_off"]

HELD_OUT = "held_out"
"""Name of the test set of ``test_size``."""


class Splits:
    """Training, validation and test examples, and questions for ``predict``; each source is read when first needed.

    Args:
        train: Sources of training examples.
        test: Test sets by name.
        val_size: Number of validation examples, or a fraction below 1.
        test_size: Number of training examples held out as the test set ``held_out``, or a fraction below 1.
        seed: Seed of the validation split.
        question: A question for ``predict``.
        questions: A file of questions for ``predict``.
        task: Task of these questions; by default that of the first source.
    """

    def __init__(
        self, train: Sequence[Source], test: Mapping[str, Source], *, val_size: float, test_size: float = 0, seed: int,
        question: str | None, questions: str | None, task: str | None,
    ) -> None:  # fmt: skip
        self.sources, self.test_sources, self.seed = train, test, seed
        self.val_size, self.test_size = (int(n) if n == int(n) else n for n in (val_size, test_size))
        if self.test_size and HELD_OUT in test:
            raise UserError(
                f"Expected another name for a test set beside data.test_size, got data.test.{HELD_OUT}. Rename it."
            )
        self.question, self.questions, self.task = question, questions, task
        self.examples: dict[str, Sequence[Example]] = {}
        self.report: list[str] = []

    def load(self, stage: str) -> None:
        """Reads every source that a Trainer stage (fit, validate, test or predict) or annotate needs, once.

        Raises:
            UserError: A source cannot be read, or a split is empty.
        """
        if stage in {"fit", "test"}:
            self.load_tests()
        if stage in {"fit", "validate", "annotate"} or (stage == "test" and self.test_size):
            self.load_train()
        if stage == "predict" and "predict" not in self.examples:
            self.examples["predict"] = self._load_questions()
        if stage == "validate" and not self.examples["val"]:
            raise DataError(
                f"Expected validation examples, got data.val_size={self.val_size}. Set data.val_size: 0.1, for example."
            )
        if stage == "test" and not self.test_sets:
            raise DataError(
                "Expected at least one test set, got none. Set data.test: {arithmetic: {class_path: Generated, "
                "init_args: {task: arithmetic, split: test, size: 100}}}, for example."
            )

    @property
    def test_sets(self) -> dict[str, Sequence[Example]]:
        """The test sets by name."""
        return {name.removeprefix("test/"): rows for name, rows in self.examples.items() if name.startswith("test/")}

    def load_tests(self) -> None:
        """Reads the test sets."""
        seen: dict[str, str] = {}
        for name, source in self.test_sources.items():
            key = f"test/{name}"
            if key in self.examples:
                continue
            loaded = self._read(key, source)
            if not loaded.examples:
                raise DataError(f"Expected at least one test example, got none in data.test.{name}. Remove it.")
            for example in loaded.examples:
                if seen.setdefault(example.id, name) != name:
                    raise DataError(
                        f"Expected each id in one test set, got {example.id!r} in data.test.{seen[example.id]} and "
                        f"data.test.{name}. Rename or remove one of them."
                    )
            self.examples[key] = loaded.examples

    def load_train(self) -> None:
        """Reads the training sources, removes the questions of test sets, and splits validation examples off."""
        if "train" in self.examples:
            return
        if not self.sources:
            raise DataError(
                "Expected at least one training source, got none. Set data.train: [{class_path: Generated, init_args: "
                "{task: arithmetic}}], for example."
            )
        self.load_tests()  # in every stage, because their questions leave the training set
        examples = join([self._read("train", source) for source in self.sources])
        total, tested = len(examples), list[str]()
        for name, rows in self.test_sets.items():
            examples, overlap = drop_overlap(examples, rows)
            if overlap:
                tested.append(f"{count(overlap, 'example')} left out, their question is in test set {name}")
        if not examples:
            reason = f", got none of {total}: {'; '.join(tested)}" if tested else ", got none"
            raise DataError(
                f"Expected at least one training example{reason}. Use other rows for data.train or for data.test."
            )
        self.report += [f"train: {line}" for line in tested]
        if self.test_size:
            examples = self._hold_out(examples)
        self.examples["train"], self.examples["val"] = split_off(examples, self.val_size, self.seed, "data.val_size")

    def _hold_out(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Splits a test set off; the same for every seed, so that runs can be compared."""
        rest, held_out = split_off(examples, self.test_size, "test", "data.test_size")
        others = {row.id: name for name, rows in self.test_sets.items() for row in rows}
        if shared := next((row.id for row in held_out if row.id in others), None):
            raise DataError(
                f"Expected each id in one test set, got {shared!r} in data.test.{others[shared]} and in the training "
                "examples that data.test_size holds out. Rename or remove one of them."
            )
        self.examples[f"test/{HELD_OUT}"] = held_out
        self.report.append(
            f"test/{HELD_OUT}: {count(len(held_out), 'example')} of the training sources (data.test_size), chosen by "
            "a hash of the question, the same for every seed; none of their questions is in training or validation"
        )
        return rest

    def _read(self, split: str, source: Source) -> Loaded:
        """Reads a source; columns that were not read are printed at once, because the next step may fail."""
        loaded = source.load()
        if not isinstance(loaded.examples, ExampleStore) and is_large(sum(map(characters, loaded.examples))):
            loaded = replace(loaded, examples=ExampleStore.of(loaded.examples))
        if loaded.unread:
            say(f"{split}: {loaded.unread}")
        unread = f", {loaded.unread}" if loaded.unread else ""
        self.report.append(f"{split}: {loaded.description.replace(unread, '')}")
        return loaded

    def _load_questions(self) -> list[Example]:
        tasks = [source.task for source in (*self.sources, *self.test_sources.values()) if hasattr(source, "task")]
        task = self.task or (tasks[0] if tasks else None)
        if task is None:
            raise UserError("Expected the task of the questions, got none. Set data.task: gsm8k, for example.")
        get_task(task)
        trained = dict.fromkeys(source.task for source in self.sources if hasattr(source, "task"))
        if trained and task not in trained:
            say(f"note: the questions are of task {task}; the student was trained on {', '.join(trained)}")
        if self.question is None and self.questions is None:
            raise UserError("Expected a question or a file of questions, got none. Give --question or --questions.")
        if self.question is not None and self.questions is not None:
            raise UserError(
                "Expected a question or a file of questions, got both. Leave out --question and data.question, or "
                "--questions and data.questions."
            )
        if self.question is not None and not self.question.strip():
            raise UserError("Expected a question, got an empty text in --question. Write the question in quotes.")
        questions = read_questions(Path(self.questions)) if self.questions else [("question-1", str(self.question))]
        return [Example(id=id, question=text, rationale="", answer="", task=task) for id, text in questions]


def join(loaded: Sequence[Loaded]) -> Sequence[Example]:
    """Joins sources; an example that two of them share is kept once. Large ones stay in their files.

    Raises:
        DataError: Two sources have the same id for different examples.
    """
    if not loaded:
        return []
    first: dict[str, tuple[int, int]] = {}  # source and place of every id
    parts: list[Sequence[Example]] = []
    for number, source in enumerate(loaded):
        own = []
        for place, id in enumerate(ids_of(source.examples)):
            if id not in first:
                first[id] = number, place
                own.append(place)
                continue
            earlier = loaded[first[id][0]]
            if replace(earlier.examples[first[id][1]], meta={}) != replace(source.examples[place], meta={}):
                raise DataError(
                    f"Expected unique ids, got {id!r} for two different examples ({earlier.description}; and "
                    f"{source.description}). Rename the ids of one source."
                )
        parts.append(source.examples if len(own) == len(source.examples) else select(source.examples, own))
    return joined(parts)


def split_off(
    examples: Sequence[Example], size: int | float, seed: int | str, setting: str = "data.val_size"
) -> tuple[Sequence[Example], list[Example]]:
    """Splits off a set by a hash of the question, so that the order of the examples does not matter.

    All rationales of a question stay on one side. Questions are taken in the order of their hash until there are enough
    examples.

    Args:
        examples: All examples.
        size: Number of examples to split off, or a fraction below 1; 0 for none.
        seed: Another seed gives another split.
        setting: Name of the setting that gives the size.

    Returns:
        The other examples and those that are split off, each in the given order.

    Raises:
        UserError: The size is invalid, or leaves one side empty.
    """
    fraction = isinstance(size, float)
    if not (0 <= size < 1 if fraction else size >= 0):
        raise UserError(
            f"Expected a number of examples or a fraction below 1, got {size} in {setting}. Set {setting}: 0.1, for "
            "example."
        )
    goal = max(1, round(size * len(examples))) if fraction else int(size)
    if size == 0:
        return examples, []
    keys = [question_key(question) for question in questions_of(examples)]
    groups = Counter(keys)
    chosen: set[str] = set()
    taken = 0
    for key in sorted(groups, key=lambda key: (hashlib.sha256(f"{seed}\n{key}".encode()).digest(), key)):
        if taken >= goal:
            break
        chosen.add(key)
        taken += groups[key]
    train = select(examples, [place for place, key in enumerate(keys) if key not in chosen])
    held_out = list(select(examples, [place for place, key in enumerate(keys) if key in chosen]))
    if not train or not held_out:
        most = len(examples) - (groups[key] if groups else 0)  # all questions but the last one
        raise UserError(
            f"Expected examples on both sides of a split, got {len(examples)} examples of {len(groups)} questions "
            f"that are in no test set, for a set of {goal} in {setting}. Set {setting}: {most}, or add data."
        )
    return train, held_out


def drop_overlap(train: Sequence[Example], test: Sequence[Example]) -> tuple[Sequence[Example], int]:
    """Removes training examples whose question, apart from case and white space, is also in the test set.

    Returns:
        The other training examples, and the number of removed ones.
    """
    tested = {question_key(example.question) for example in test}
    kept = [place for place, question in enumerate(questions_of(train)) if question_key(question) not in tested]
    return (train if len(kept) == len(train) else select(train, kept)), len(train) - len(kept)
