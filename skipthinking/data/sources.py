"""Sources of examples: a built-in task, files, or the Hugging Face hub."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from skipthinking.data.finding import find_files
from skipthinking.data.importing import BadRows, Loaded, count, import_rows
from skipthinking.data.rows import Located, read_rows
from skipthinking.records import UserError
from skipthinking.tasks import Task, generate, get_task

__all__ = ["Files", "Generated", "Hub", "Source"]


class Source(ABC):
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
        size: Number of examples.
        seed: Another seed gives other examples of the same split.
        levels: Lowest and highest number of operations; by default those of the task, with larger ones for "ood".
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
        """Generates the examples."""
        examples = generate(self.task, split=self.split, size=self.size, seed=self.seed, levels=self.levels)
        task = get_task(self.task)
        for example in examples:
            task.check_gold(example.answer, example.id)
        levels = "" if self.levels is None else f", levels {self.levels}"
        text = f"{self.task}: {count(len(examples), 'generated example')}, split {self.split}, seed {self.seed}{levels}"
        return Loaded(examples=examples, description=text)


class Files(Source):
    """Examples from files: JSONL, JSON, CSV, TSV (also as .gz, .zst, .bz2, .xz), Parquet, Arrow, or saved ``datasets``.

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
        task, paths = get_task(self.task), self.paths()
        names = [_short_name(path) for path in paths]
        listed = ", ".join(names if len(names) < 9 else [*names[:3], "...", names[-1]])
        name = names[0] if len(names) == 1 else f"{len(names)} files ({listed})"
        return import_rows(
            map(read_rows, paths),
            name=name, task=task, format=self.format, limit=self.limit, bad_rows=self.bad_rows,
            rationale_key=self.rationale_key,
        )  # fmt: skip


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
        return import_rows(
            _download(name, config, split, self.revision, shown),
            name=shown, task=task, format=self.format, limit=self.limit, bad_rows=self.bad_rows,
            rationale_key=self.rationale_key,
        )  # fmt: skip

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


def _download(name: str, config: str | None, split: str, revision: str | None, shown: str) -> Iterator[list[Located]]:
    """Yields the rows of one split."""
    import datasets
    import huggingface_hub.errors

    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(name, config, split=split, revision=revision)
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
    yield [(dict(row), f"{shown}: row {number}") for number, row in enumerate(rows, 1)]


def _short_name(path: Path) -> str:
    return "/".join(path.parts[-2:]) if not path.is_absolute() or len(path.parts) > 2 else str(path)
