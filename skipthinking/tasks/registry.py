"""Looks tasks up by name, and generates examples of the built-in ones."""

from __future__ import annotations

from collections.abc import Sequence

from skipthinking.records import Example, UserError, did_you_mean
from skipthinking.tasks.arithmetic import ARITHMETIC
from skipthinking.tasks.base import Task
from skipthinking.tasks.benchmarks import BENCHMARKS
from skipthinking.tasks.coin_flip import COIN_FLIP
from skipthinking.tasks.date_understanding import DATE_UNDERSTANDING
from skipthinking.tasks.generation import Split, draw_examples
from skipthinking.tasks.last_letter import LAST_LETTER
from skipthinking.tasks.long_arithmetic import LONG_ARITHMETIC
from skipthinking.tasks.shuffled_objects import SHUFFLED_OBJECTS

__all__ = ["generate", "get_task", "task_names"]

_BUILT_IN = (ARITHMETIC, COIN_FLIP, LAST_LETTER, SHUFFLED_OBJECTS, DATE_UNDERSTANDING, LONG_ARITHMETIC)
_TASKS = {task.name: task for task in (*_BUILT_IN, *BENCHMARKS)}


def task_names() -> tuple[str, ...]:
    """Returns the names of all tasks, the built-in ones first."""
    return tuple(_TASKS)


def get_task(name: str) -> Task:
    """Returns the task of that name.

    Raises:
        UserError: No task has this name; the message names the nearest ones.
    """
    if name in _TASKS:
        return _TASKS[name]
    hint = did_you_mean(str(name), _TASKS) or f" Choose one of {', '.join(_TASKS)}."
    raise UserError(f"Expected the name of a task, got {name!r} (task).{hint}")


def generate(
    task: str | Task, *, split: Split, size: int, seed: int = 0, levels: Sequence[int] | None = None,
    limit: int | None = None,
) -> list[Example]:  # fmt: skip
    """Generates examples of a built-in task, the same ones on every platform.

    No problem is in two splits, whatever the seeds, sizes and levels.

    Args:
        task: The task or its name.
        split: "train", "test", or "ood" with longer problems than the other two.
        size: Number of examples. Another size gives the same problems in other words, because all problems are drawn
            before the first is put into words.
        seed: Another seed gives other examples of the same split.
        levels: Lowest and highest number of operations; by default those of the task, with larger ones for "ood".
        limit: Number of examples to return, from the first; all by default.

    Raises:
        UserError: The task has no generator, or an argument is invalid.
        DataError: The split has fewer than ``size`` problems.
    """
    task = get_task(task) if isinstance(task, str) else task
    if task.generator is None:
        built_in = ", ".join(known.name for known in _BUILT_IN)
        raise UserError(
            f"Expected a task that can be generated, got {task.name} (task). "
            f"Choose one of {built_in}, or read {task.name} from a file or the hub."
        )
    if limit is not None and not 1 <= limit <= size:
        raise UserError(f"Expected a limit from 1 to the size, got limit={limit}, size={size}. Set limit: {size}.")
    return draw_examples(task.name, task.generator, split=split, size=size, seed=seed, levels=levels)[:limit]
