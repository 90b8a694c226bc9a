"""Runs grouped by method and test set: groups differ in their settings, the runs of a group in their seeds only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.records import UserError
from skipthinking.report.run_folders import Run

__all__ = ["Group", "check_tests", "group_runs", "questions", "settings_that_differ"]

# Settings of where and how a run is executed, not of what it learns; runs of one method may differ in them.
_NOT_LEARNING = {
    "seed_everything", "run", "runs_dir", "ckpt_path", "weights_only", "evaluate", "checkpoint_every", "untrained",
    "question", "questions", "trainer.logger", "trainer.enable_progress_bar", "trainer.default_root_dir",
    "trainer.check_val_every_n_epoch", "trainer.log_every_n_steps", "data.init_args.num_workers",
    "data.init_args.eval_batch_size", "model.init_args.budgets", "push_to_hub", "private", "plan",
    "trainer.accelerator", "trainer.profiler", "trainer.enable_model_summary",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs of one method on one test set, which differ in their seeds only.

    Attributes:
        test: The test set.
        name: Name of the test set in the run folders.
        method: The method, with a folder's name where two groups would have the same.
        runs: The runs, by seed.
    """

    test: str
    name: str
    method: str
    runs: tuple[Run, ...]

    @property
    def ids(self) -> list[str]:
        """Ids of the test examples."""
        return sorted(self.runs[0].answers[self.name])

    def values(self, key: str, ids: Sequence[str]) -> NDArray[np.float64]:
        """One number per run and answer, shape (S, N)."""
        return np.array([[run.answers[self.name][id][key] for id in ids] for run in self.runs], dtype=np.float64)


def group_runs(runs: Sequence[Run], left_out: dict[str, str], across_tasks: bool = False) -> list[Group]:
    """Groups of runs that differ in their seeds only, by test set, in the order of the runs.

    Across the tasks of a suite, a task is a part of the method's name in place of the test set's.
    """
    by_key: dict[tuple[str, str, str, str], dict[int, Run]] = {}
    for run in runs:
        for name in run.answers:
            if not run.answers[name]:
                continue
            test = name if across_tasks or run.task in ("", name) else f"{run.task}/{name}"
            method = f"{run.task}-{run.method}" if across_tasks and run.task else run.method
            same = json.dumps([_method_settings(run), sorted(questions(run, name))], sort_keys=True, default=str)
            seeds = by_key.setdefault((test, name, method, same), {})
            if run.seed in seeds:
                left_out[str(run.folder)] = f"It has the same settings and seed as {seeds[run.seed].folder}."
            seeds.setdefault(run.seed, run)
    tests = list(dict.fromkeys(test for test, *_ in by_key))
    names = [(test, method) for test, _, method, _ in by_key]
    firsts = [(test, method, seeds[min(seeds)].folder.resolve().name) for (test, _, method, _), seeds in by_key.items()]
    groups = []
    for (test, name, method, _), seeds in sorted(by_key.items(), key=lambda item: tests.index(item[0][0])):
        ordered = tuple(seeds[seed] for seed in sorted(seeds))
        folder, label = ordered[0].folder.resolve(), method
        if names.count((test, method)) > 1:  # CWT (a), CWT (b); with paths if the folders' names are equal too
            label = f"{method} ({folder.name if firsts.count((test, method, folder.name)) == 1 else folder})"
        groups.append(Group(test=test, name=name, method=label, runs=ordered))
    return groups


def _method_settings(run: Run) -> dict[str, Any]:
    """The settings that define a method; in place of a checkpoint that it started from, the settings of that run.

    A suite's name of a method already implies what it starts from and where its token weights come from.
    """
    start, weights = "model.init_args.start_from", "model.init_args.weights"
    own, *origins = (
        {key: value for key, value in settings.items() if key not in _NOT_LEARNING and key != start}
        for settings in (run.settings, *run.origins)
    )
    if own.get(weights) is not None:  # the weighter's settings have no effect then
        own = {key: value for key, value in own.items() if not key.startswith("model.init_args.weighter")}
        own[weights] = run.task != "" or own[weights]
    origin: object = run.settings.get(start) is not None
    if origin and not run.task:  # such as "CWT (3f08c1)", whatever its seed and path
        key = hashlib.blake2b(json.dumps(origins, sort_keys=True, default=str).encode(), digest_size=3).hexdigest()
        classes = " after ".join(str(settings.get("model.class_path")).rpartition(".")[2] for settings in origins)
        origin = f"{classes or 'a deleted run'} ({key})"
    return {**own, start: origin}


def questions(run: Run, name: str) -> set[tuple[str, str, str]]:
    return {(id, row["question"], row["gold"]) for id, row in run.answers[name].items()}


def check_tests(groups: Sequence[Group]) -> None:
    first: dict[str, Group] = {}
    for group in groups:
        other = first.setdefault(group.test, group)
        ours, theirs = (questions(g.runs[0], g.name) for g in (group, other))
        if ours != theirs:
            raise UserError(
                f"Expected runs on the same test examples, got {len(ours)} of {group.test!r} in {group.runs[0].folder} "
                f"and {len(theirs)} in {other.runs[0].folder}, {len(ours & theirs)} in common. Compare them "
                "separately, or add --allow_different_tests."
            )


def settings_that_differ(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Settings in which the methods on a test set differ; settings that differ only between test sets do not count."""
    differences: dict[str, dict[str, Any]] = {}
    for test in dict.fromkeys(group.test for group in groups):
        settings = {group.method: _method_settings(group.runs[0]) for group in groups if group.test == test}
        for key in sorted({key for values in settings.values() for key in values}):
            values = {method: values.get(key) for method, values in settings.items()}
            if len({json.dumps(value, sort_keys=True, default=str) for value in values.values()}) > 1:
                differences[key] = {**differences.get(key, {}), **values}
    return differences
