"""Where examples come from: generated, from files, or from the hub; and how a set of them is joined and split."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from skipthinking.data.importing import Importer, Loaded, Unreadable, count
from skipthinking.data.phrases import question_key
from skipthinking.data.readers import find_files, read_rows
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import Task, generate, get_task

__all__ = ["Files", "Generated", "Hub", "Loaded", "Source", "drop_overlap", "join", "split_validation"]


class Source(ABC):
    """Something that examples come from."""

    @abstractmethod
    def load(self) -> Loaded:
        """Reads all examples.

        Raises:
            UserError: The source cannot be reached.
            DataError: A row cannot be used.
        """


class Generated(Source):
    """Examples of a built-in task, drawn anew on every machine and always the same.

    Args:
        task: Name of the task.
        split: No problem is ever in two splits.
        size: Number of examples.
        seed: Another seed gives other examples of the same split.
        levels: Lowest and highest number of operations, in place of the split's own.
    """

    def __init__(
        self,
        task: str,
        split: Literal["train", "test", "ood"] = "train",
        size: int = 1000,
        seed: int = 0,
        levels: list[int] | None = None,
    ) -> None:
        self.task, self.split, self.size, self.seed, self.levels = task, split, size, seed, levels

    def load(self) -> Loaded:
        """Draws the examples."""
        examples = generate(self.task, split=self.split, size=self.size, seed=self.seed, levels=self.levels)
        task = get_task(self.task)
        for example in examples:
            task.check_gold(example.answer, example.id)
        levels = "" if self.levels is None else f", levels {self.levels}"
        text = f"{self.task}: {count(len(examples), 'generated example')}, split {self.split}, seed {self.seed}{levels}"
        return Loaded(examples=examples, description=text)


class Files(Source):
    """Examples from files: JSONL, JSON, CSV, TSV, Parquet, Arrow, or a folder that ``datasets`` saved.

    Args:
        path: A file, a glob, a folder (all data files directly in it), or a list of these.
        task: Name of the task; it decides how answers are read.
        format: Name of the rows' format, see :mod:`skipthinking.data.formats`; "auto" detects it, per file.
        limit: Take the first rows only, this many.
        unreadable: What to do with a row whose answer cannot be found or read: stop with an error, or leave the row out
            and count it in the description.
    """

    def __init__(
        self,
        path: str | list[str],
        task: str,
        format: str = "auto",
        limit: int | None = None,
        unreadable: Unreadable = "error",
    ) -> None:
        self.path = path
        self.task, self.format, self.limit, self.unreadable = task, format, limit, unreadable

    def paths(self) -> list[Path]:
        """The files."""
        return find_files([self.path] if isinstance(self.path, str) else list(self.path))

    def load(self) -> Loaded:
        """Reads the files."""
        importer = Importer(get_task(self.task), self.format, self.limit, self.unreadable)
        paths = self.paths()
        for path in paths:
            importer.add(read_rows(path))
        names = [_short_name(path) for path in paths]
        shown = names[0] if len(names) == 1 else f"{len(names)} files ({', '.join(names)})"
        return importer.loaded(shown)


class Hub(Source):
    """Examples of a benchmark from the Hugging Face hub.

    Args:
        task: Name of the task; it decides how answers are read.
        split: "train" or "test", which stand for the hub's own names of these where the task knows them; or a split of
            the hub.
        name: The data set's id on the hub; the task's own by default.
        config: Its configuration.
        format: Name of the rows' format, see :mod:`skipthinking.data.formats`; "auto" detects it.
        limit: Take the first rows only, this many.
        revision: Commit, branch or tag of the data set.
        unreadable: What to do with a row whose answer cannot be found or read: stop with an error, or leave the row out
            and count it in the description.
    """

    def __init__(
        self,
        task: str,
        split: str = "train",
        name: str | None = None,
        config: str | None = None,
        format: str = "auto",
        limit: int | None = None,
        revision: str | None = None,
        unreadable: Unreadable = "error",
    ) -> None:
        self.task, self.split, self.name, self.config = task, split, name, config
        self.format, self.limit, self.revision, self.unreadable = format, limit, revision, unreadable

    def load(self) -> Loaded:
        """Downloads the rows, or takes them from the cache of ``datasets``."""
        task = get_task(self.task)
        name, config, split = self._place(task)
        importer = Importer(task, self.format, self.limit, self.unreadable)
        shown = f"{name}{f'/{config}' if config else ''}, split {split}"
        rows = _download(name, config, split, self.revision, shown)
        importer.add([(dict(row), f"{shown}: row {number}") for number, row in enumerate(rows, 1)])
        return importer.loaded(shown)

    def _place(self, task: Task) -> tuple[str, str | None, str]:
        if self.name is not None:
            return self.name, self.config, self.split
        if task.hub is None:
            raise UserError(
                f"Expected the id of a data set on the hub, got none (name), and task {task.name} has none of its own. "
                "Give a name, or read a local file with the source Files."
            )
        if self.split in ("train", "test") and self.split not in task.hub.splits:
            raise UserError(
                f"Expected a split with answers, got {self.split!r} ({task.hub.path} has "
                f"{', '.join(sorted(task.hub.splits)) or 'none'}). Choose another split, give a name, or use Files."
            )
        split = task.hub.splits.get(self.split, self.split)
        return task.hub.path, self.config or task.hub.config, split


def _download(name: str, config: str | None, split: str, revision: str | None, shown: str) -> Iterable[dict[str, Any]]:
    import datasets
    import huggingface_hub.errors

    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(name, config, split=split, revision=revision)
    except (
        OSError,  # no network, unknown name, gated
        ValueError,  # unknown configuration or split
        RuntimeError,  # data sets with a script of their own
        datasets.exceptions.DatasetsError,
        huggingface_hub.errors.HfHubHTTPError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Expected a data set on the hub, got {type(error).__name__}: {reason} ({shown}). Check the name, split "
            "and the network, or read a local copy with the source Files."
        ) from error
    return rows


def _short_name(path: Path) -> str:
    return "/".join(path.parts[-2:]) if not path.is_absolute() or len(path.parts) > 2 else str(path)


def join(loaded: Sequence[Loaded]) -> list[Example]:
    """Joins sources; what two of them hold identically is kept once.

    Raises:
        DataError: Two sources have the same id for different examples.
    """
    joined: dict[str, tuple[Example, str]] = {}
    for source in loaded:
        for example in source.examples:
            first, place = joined.setdefault(example.id, (example, source.description))
            if _content(first) != _content(example):
                raise DataError(
                    f"Expected unique ids, got {example.id!r} for two different examples ({place}; and "
                    f"{source.description}). Rename the ids of one source."
                )
    return [example for example, _ in joined.values()]


def _content(example: Example) -> tuple[str, ...]:
    return example.question, example.rationale, example.conclusion, example.answer, example.task


def split_validation(examples: Sequence[Example], size: int | float, seed: int) -> tuple[list[Example], list[Example]]:
    """Splits off a validation set by a hash of the question, so that the order of the files plays no role.

    All rationales of one question stay on one side. Questions are taken in the order of their hash until there are
    enough examples.

    Args:
        examples: All examples.
        size: Number of examples, or a share between 0 and 1; 0 for no validation set.
        seed: Another seed gives another split.

    Returns:
        Training and validation examples, each in the given order.

    Raises:
        UserError: The size makes no sense, or would leave one side empty.
    """
    share = isinstance(size, float)
    if not (0 <= size < 1 if share else size >= 0):
        raise UserError(f"Expected a number of examples or a share below 1, got {size} in data.val_size. Change it.")
    wanted = max(1, round(size * len(examples))) if share else int(size)
    if size == 0:
        return list(examples), []
    groups = Counter(question_key(example.question) for example in examples)
    chosen: set[str] = set()
    taken = 0
    for key in sorted(groups, key=lambda key: (hashlib.sha256(f"{seed}\n{key}".encode()).digest(), key)):
        if taken >= wanted:
            break
        chosen.add(key)
        taken += groups[key]
    train = [example for example in examples if question_key(example.question) not in chosen]
    validation = [example for example in examples if question_key(example.question) in chosen]
    if not train or not validation:
        raise UserError(
            f"Expected examples for training and validation, got {len(examples)} examples of {len(groups)} questions "
            f"that are in no test set, for a validation set of {wanted} in data.val_size. Make it smaller or add data."
        )
    return train, validation


def drop_overlap(train: Sequence[Example], test: Sequence[Example]) -> tuple[list[Example], int]:
    """Leaves out the training examples whose question, but for case and white space, is also in the test set.

    Returns:
        The other training examples, and how many were left out.
    """
    asked = {question_key(example.question) for example in test}
    kept = [example for example in train if question_key(example.question) not in asked]
    return kept, len(train) - len(kept)
