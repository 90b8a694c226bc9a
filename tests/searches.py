"""Searches by the runner without a trainer, on one process or on several that threads stand for."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from skipthinking import ranks as collectives
from skipthinking.annotate import fingerprints, runner, store
from skipthinking.annotate import search as finding
from skipthinking.annotate.annotator import Annotator
from skipthinking.annotate.rows import Rows
from skipthinking.data import epoch_instances
from skipthinking.records import Encoded

T = TypeVar("T")


def search(
    annotators: Sequence[Annotator[Any]], rows: Sequence[Encoded], *, student: Any, folder: Path, **settings: Any
) -> dict[str, dict[str, Any]]:
    """What annotators find out at the start of the first epoch: per name the values by example id.

    Args:
        annotators: The annotators.
        rows: The examples.
        student: The student, the owner of all weights.
        folder: The run folder.
        settings: Others of :meth:`Runner.attach`.
    """
    made = runner.Runner(annotators)
    known = {"codec": None, "seed": 0, "stage_sampling": "cycle", "limit": 10**6, "module": student}
    made.attach(rows, student=student, folder=folder, **{**known, **settings})
    made.update(0)
    notes = {row.id: made.notes(row, 0).values for row in rows}
    return {a.name: {id: values[a.name] for id, values in notes.items() if a.name in values} for a in annotators}


def on_ranks(patch: pytest.MonkeyPatch, ranks: int, work: Callable[[int], T], sent: list[int] | None = None) -> list[T]:
    """Does a work on so many ranks at once; they gather and broadcast as processes do.

    Args:
        patch: Undoes what stands for the processes.
        ranks: Their number.
        work: The work, from the rank; ranks share no object that changes.
        sent: Gets the bytes of everything that a rank sends.

    Returns:
        The result of every rank.
    """
    here, barrier, slots = threading.local(), threading.Barrier(ranks, timeout=60), [None] * ranks

    def exchange(value: Any) -> list[Any]:
        if sent is not None:
            sent.append(len(pickle.dumps(value)))
        slots[here.rank] = value
        barrier.wait()
        values = list(slots)
        barrier.wait()  # until all have read, nobody writes again
        return values

    def one(rank: int) -> T:
        here.rank = rank
        try:
            return work(rank)
        except BaseException:
            barrier.abort()
            raise

    lock, code = threading.Lock(), fingerprints._code

    def code_of(kind: type) -> str:
        with lock:  # inspect parses the file, in Python 3.11 not in two threads at once
            return code(kind)

    patch.setattr(fingerprints, "_code", code_of)
    for module in (finding, epoch_instances):
        patch.setattr(module, "ranks", lambda: ranks)
    for module in (finding, epoch_instances, collectives):
        patch.setattr(module, "gather", lambda part: {id: value for own in exchange(part) for id, value in own.items()})
    for module in (finding, store, collectives):
        patch.setattr(module, "broadcast", lambda value: exchange(value)[0])
    for module in (runner, finding, store, epoch_instances, collectives):
        patch.setattr(module, "rank", lambda: here.rank)
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(one, range(ranks)))


class _Meta(dict[str, Any]):
    """Ground truth that can't be read."""

    def __getitem__(self, key: str) -> Any:
        raise AssertionError(f"a search read {key}")

    get = items = values = keys = __iter__ = __getitem__  # type: ignore[assignment]


def blindfold(patch: pytest.MonkeyPatch, *names: str) -> dict[str, set[str]]:
    """Hides from searches of a run what they must not look at: ground truth, and examples that are not for training.

    Args:
        patch: Undoes it.
        names: Names of the annotators.

    Returns:
        The ids that each search had values for, once it has run.
    """
    searched: dict[str, set[str]] = {}
    run = runner.Runner._run

    def blind(self: Any, annotator: Annotator[Any], epoch: int) -> None:
        if annotator.name not in names:
            return run(self, annotator, epoch)
        splits, rows = self._module.data.splits.examples, self.rows
        shown = dict(splits)
        self.rows = Rows([replace(row, example=replace(row.example, meta=_Meta())) for row in rows])
        splits.clear()
        splits["train"] = [row.example for row in self.rows]
        try:
            run(self, annotator, epoch)
        finally:
            splits.clear()
            splits.update(shown)
            self.rows = rows
        searched[annotator.name] = set(self._results[annotator.name].column)
        hidden = {row.id for name, split in shown.items() if name != "train" for row in split}
        assert hidden
        assert not hidden & searched[annotator.name]

    patch.setattr(runner.Runner, "_run", blind)
    return searched
