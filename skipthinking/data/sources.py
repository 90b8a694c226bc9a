"""Sources of examples: a built-in task, files, or the Hugging Face hub."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from skipthinking.data.finding import find_files
from skipthinking.data.importing import BadRows, Loaded, count, import_rows
from skipthinking.data.rows import read_rows, rows_of
from skipthinking.data.store import ExampleStore, ExampleWriter, MappedTable, complete, is_large, key_of
from skipthinking.files import parse_json, read_text, write_json
from skipthinking.records import Example, UserError
from skipthinking.settings import Configurable
from skipthinking.tasks import Task, generate, get_task

__all__ = ["Files", "Generated", "Hub", "Source"]

_REPORTED = ("description", "duplicates", "bad_rows", "unread")  # what is kept of a source beside its examples


class Source(Configurable, ABC):
    """Loads examples."""

    @abstractmethod
    def load(self) -> Loaded:
        """Reads all examples.

        Raises:
            UserError: The source cannot be reached.
            DataError: A row cannot be used.
        """


class Generated(Source):
    """Examples of a built-in task; the same arguments give the same examples on every machine.

    Args:
        task: Name of the task.
        split: Part of the problem space; no problem is in two splits.
        size: Number of examples. Another size gives the same problems in other words.
        seed: Another seed gives other examples of the same split.
        levels: Lowest and highest number of operations; by default those of the task, with larger ones for "ood".
        limit: Number of examples to take, from the first; all by default. Sets of one size and several limits share
            their first examples.
    """

    def __init__(
        self,
        task: str,
        split: Literal["train", "test", "ood"] = "train",
        size: int = 1000,
        seed: int = 0,
        levels: list[int] | None = None,
        limit: int | None = None,
    ) -> None:
        self.task, self.split, self.size, self.seed, self.levels = task, split, size, seed, levels
        self.limit = limit

    def load(self) -> Loaded:
        """Generates the examples."""
        examples = generate(
            self.task, split=self.split, size=self.size, seed=self.seed, levels=self.levels, limit=self.limit
        )
        task = get_task(self.task)
        for example in examples:
            task.check_gold(example.answer, example.id)
        levels = "" if self.levels is None else f", levels {self.levels}"
        first = "" if self.limit is None else f" (the first of {self.size})"
        text = (
            f"{self.task}: {count(len(examples), 'generated example')}{first}, split {self.split}, seed "
            f"{self.seed}{levels}"
        )
        return Loaded(examples=examples, description=text)


class Files(Source):
    """Examples from files: JSONL, JSON, CSV, TSV (also as .gz, .zst, .bz2, .xz), Parquet, Arrow, or saved ``datasets``.

    More than 64 MB are imported once, row by row (JSON, CSV and TSV file by file), then mapped from the cache folder
    of ``datasets``, see :mod:`skipthinking.data.store`.

    Args:
        path: A file, a glob, a folder (all data files directly in it, of one kind and split), or a list of these.
        task: Name of the task, whose grader must be able to read the answers.
        format: Name of the rows' format, see :mod:`skipthinking.data.formats`; "auto" detects it for each file. In
            formats without a name for it, the question is under question, problem, query, instruction, prompt, input,
            sQuestion or original_text; the answer under answer, final_answer, expected_answer, correct_answer,
            gold_answer, ground_truth, reference_answer, final_ans, gold, answerKey, label, target or ans; a text with
            rationale and answer under completion, response, output, generation or content; a conversation under
            messages or conversations.
        limit: Number of rows to read, from the first; all by default.
        bad_rows: Whether a row with a fault (an empty value, no readable answer, a second question) is an error, or is
            left out and counted in the start report.
        rationale_key: Key of the rationale. By default the format's, or one of rationale, reasoning, reasoning_content,
            reasoning_trace, thinking, think, thoughts, thought, cot, chain_of_thought, cot_content, explanation, steps,
            thinking_trajectories, deepseek_thinking_trajectory, gemini_thinking_trajectory, deepseek_reasoning,
            generated_solution, solution. Two of them with different texts are an error.
    """

    def __init__(
        self,
        path: str | list[str],
        task: str,
        format: str = "auto",
        limit: int | None = None,
        bad_rows: BadRows = "error",
        rationale_key: str | None = None,
    ) -> None:
        self.path = path
        self.task, self.format, self.limit = task, format, limit
        self.bad_rows, self.rationale_key = bad_rows, rationale_key

    def paths(self) -> list[Path]:
        """Returns the files that ``path`` matches."""
        return find_files([self.path] if isinstance(self.path, str) else list(self.path))

    def load(self) -> Loaded:
        """Reads the files."""
        paths = self.paths()
        names = [_short_name(path) for path in paths]
        listed = ", ".join(names if len(names) < 9 else [*names[:3], "...", names[-1]])
        name = names[0] if len(names) == 1 else f"{len(names)} files ({listed})"
        task = get_task(self.task)

        def read(add: Callable[[Example], None] | None) -> Loaded:
            return import_rows(
                map(read_rows, paths),
                name=name, task=task, format=self.format, limit=self.limit, bad_rows=self.bad_rows,
                rationale_key=self.rationale_key, add=add,
            )  # fmt: skip

        inside = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in inside]
        settings = {**vars(self), "path": stats}
        return _imported(read, settings, task, size=sum(size for _, size, _ in stats) if self.limit is None else 0)


class Hub(Source):
    """Examples of a benchmark from the Hugging Face hub.

    Args:
        task: Name of the task, whose grader must be able to read the answers.
        split: "train" or "test", which the task maps to the hub's names; or the name of a split on the hub.
        name: Id of the data set on the hub; that of the task by default.
        config: Configuration of the data set.
        format: Name of the rows' format, see :mod:`skipthinking.data.formats`; "auto" detects it.
        limit: Number of rows to read, from the first; all by default.
        revision: Commit, branch or tag of the data set.
        bad_rows: Whether a row with a fault (an empty value, no readable answer, a second question) is an error, or is
            left out and counted in the start report.
        rationale_key: Key of the rationale. By default the format's, or one of rationale, reasoning, reasoning_content,
            reasoning_trace, thinking, think, thoughts, thought, cot, chain_of_thought, cot_content, explanation, steps,
            thinking_trajectories, deepseek_thinking_trajectory, gemini_thinking_trajectory, deepseek_reasoning,
            generated_solution, solution. Two of them with different texts are an error.
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
        bad_rows: BadRows = "error",
        rationale_key: str | None = None,
    ) -> None:
        self.task, self.split, self.name, self.config = task, split, name, config
        self.format, self.limit, self.revision = format, limit, revision
        self.bad_rows, self.rationale_key = bad_rows, rationale_key

    def load(self) -> Loaded:
        """Downloads the rows, or reads them from the cache of ``datasets``."""
        task = get_task(self.task)
        name, config, split = self._place(task)
        shown = f"{name}{f'/{config}' if config else ''}, split {split}"
        data = _download(name, config, split, self.revision, shown)

        def read(add: Callable[[Example], None] | None) -> Loaded:
            return import_rows(
                [rows_of(data, shown, self.limit)],
                name=shown, task=task, format=self.format, limit=self.limit, bad_rows=self.bad_rows,
                rationale_key=self.rationale_key, add=add,
            )  # fmt: skip

        settings = {**vars(self), "data": data._fingerprint}
        return _imported(read, settings, task, size=0 if self.limit is not None else data.data.nbytes)

    @property
    def hub_name(self) -> str:
        """Id of the data set on the hub."""
        return self._place(get_task(self.task))[0]

    def _place(self, task: Task) -> tuple[str, str | None, str]:
        if self.name is not None:
            return self.name, self.config, self.split
        if task.hub is None:
            raise UserError(
                f"Expected the id of a data set on the hub, got none (name), and task {task.name} has none. "
                "Give a name, or read a local file with the source Files."
            )
        if self.split in ("train", "test") and self.split not in task.hub.splits:
            raise UserError(
                f"Expected a split with answers, got {self.split!r} ({task.hub.path} has "
                f"{', '.join(sorted(task.hub.splits)) or 'none'}). Choose another split, give a name, or use Files."
            )
        split = task.hub.splits.get(self.split, self.split)
        return task.hub.path, self.config or task.hub.config, split


def _imported(
    read: Callable[[Callable[[Example], None] | None], Loaded], settings: dict[str, Any], task: Task, size: int
) -> Loaded:
    """The examples of a source; those of a large one are imported once, to files, see :mod:`skipthinking.data.store`.

    Args:
        read: Imports the source, to a list or to the given function.
        settings: All that the examples depend on.
        task: The task.
        size: Bytes that are read.
    """
    if not is_large(size):
        return read(None)
    key = key_of(settings, task)

    def make(folder: Path) -> None:
        with ExampleWriter(folder) as writer:
            loaded = read(writer.add)
        write_json(folder / "loaded.json", {name: getattr(loaded, name) for name in _REPORTED})

    folder = complete(key, make)
    examples = ExampleStore(MappedTable([folder / ExampleWriter.NAME]), key)
    return Loaded(examples=examples, **parse_json(read_text(folder / "loaded.json")))


def _download(name: str, config: str | None, split: str, revision: str | None, shown: str) -> Any:
    """One split, memory-mapped."""
    import datasets
    import huggingface_hub.errors

    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (
        OSError,  # no network, unknown name, gated
        ValueError,  # unknown configuration or split
        RuntimeError,  # data sets with a loading script
        datasets.exceptions.DatasetsError,
        huggingface_hub.errors.HfHubHTTPError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Expected a data set on the hub, got {type(error).__name__}: {reason} ({shown}). Check the name, split "
            "and the network, or read a local copy with the source Files."
        ) from error


def _short_name(path: Path) -> str:
    return "/".join(path.parts[-2:]) if not path.is_absolute() or len(path.parts) > 2 else str(path)
