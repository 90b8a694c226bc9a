"""Runs side by side: grouped by method over seeds, on the same test examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.evaluation.intervals import bootstrap, paired_bootstrap, wilson
from skipthinking.records import UserError
from skipthinking.report.run_folders import Run, read_runs

__all__ = ["Comparison", "Group", "Row", "compare_runs"]

# Settings of where and how a run is executed, not of what it learns; runs of one method may differ in them.
_NOT_LEARNING = {
    "seed_everything", "run", "runs_dir", "ckpt_path", "weights_only", "evaluate", "checkpoint_every", "untrained",
    "question", "questions", "trainer.logger", "trainer.enable_progress_bar", "trainer.default_root_dir",
    "trainer.check_val_every_n_epoch", "trainer.log_every_n_steps", "data.init_args.num_workers",
    "data.init_args.eval_batch_size", "model.init_args.budgets",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the table: a method on a test set. Rates are fractions of 1; intervals are at 95%.

    Attributes:
        test: The test set, after the name of the task if a suite named the task otherwise.
        method: The method.
        seeds: Seeds of its runs.
        n: Number of test examples.
        accuracy: Fraction of right answers, mean over seeds.
        accuracy_low: Lower end of its interval: Wilson's for one run, else the bootstrap over examples and seeds.
        accuracy_high: Upper end.
        interval: "wilson" or "bootstrap".
        difference: Accuracy minus the baseline's on the same examples; None for the baseline itself.
        difference_low: Lower end of its interval, a paired bootstrap.
        difference_high: Upper end.
        accuracy_lenient: Fraction of right answers if any last number or word counts as the answer.
        no_answer: Fraction of completions without an answer in the method's format.
        new_tokens: Tokens per answer.
        new_tokens_low: Lower end of its interval, a bootstrap.
        new_tokens_high: Upper end.
        latency: Seconds per answer at batch size 1, None if not measured.
        skipped: Mean fraction of the teacher's chunks that answers leave out, over those of which it is known.
        skipped_known: Fraction of these answers; None if the method names no stages.
        unfinished: Fraction of completions that the limit on new tokens cut off.
        accuracy_at: Accuracy if generation stops at a budget, by the number of new tokens.
        target_tokens: Tokens trained on as targets, including those of the runs that it started from.
        context_tokens: The same for context.
        tokens_known: Whether the logs of all of those runs exist.
        seconds: Wall time of training, without that of runs it started from.
        devices: Devices of its runs.
    """

    test: str
    method: str
    seeds: tuple[int, ...]
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    interval: str
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    accuracy_lenient: float
    no_answer: float
    new_tokens: float
    new_tokens_low: float
    new_tokens_high: float
    latency: float | None
    skipped: float | None
    skipped_known: float | None
    unfinished: float | None
    accuracy_at: Mapping[str, float]
    target_tokens: float
    context_tokens: float
    tokens_known: bool
    seconds: float
    devices: tuple[str, ...]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        rows: The table, by test set.
        groups: The runs of each row, in the same order.
        baseline: The method that differences are taken against.
        differences: Settings in which methods on the same test set differ: key, then value by method.
        left_out: Folders that are not compared, and why.
    """

    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    baseline: str | None
    differences: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the table."""
        return list(dict.fromkeys(group.method for group in self.groups))


def compare_runs(
    folders: Iterable[str], baseline: str | None = None, allow_different_tests: bool = False
) -> Comparison:
    """Compares run folders.

    Args:
        folders: The folders; those that cannot be read are left out and named.
        baseline: Method to take differences against.
        allow_different_tests: Whether runs may differ in the examples of a test set; differences are then those on the
            examples that both sides answered.

    Raises:
        UserError: No run is left, no run is of the baseline, or test examples differ.
    """
    runs, left_out = read_runs(list(folders))
    groups = _group_runs(runs, left_out)
    if not groups:
        reasons = "; ".join(f"{folder}: {reason}" for folder, reason in left_out.items()) or "no folder"
        raise UserError(f"Expected finished runs, got none. {reasons}")
    methods = list(dict.fromkeys(group.method for group in groups))
    if baseline is not None and baseline not in methods:
        raise UserError(f"Expected a baseline out of {', '.join(methods)}, got {baseline!r}. Fix --baseline.")
    if not allow_different_tests:
        _check_tests(groups)
    bases = {group.test: group for group in groups if group.method == baseline}
    return Comparison(
        rows=tuple(_row(group, bases.get(group.test)) for group in groups),
        groups=tuple(groups),
        baseline=baseline,
        differences=_differences(groups),
        left_out=left_out,
    )


# ------------------------------------------------------------------------------------------------- groups


def _group_runs(runs: Sequence[Run], left_out: dict[str, str]) -> list[Group]:
    """Groups of runs that differ in their seeds only, by test set, in the order of the runs."""
    by_key: dict[tuple[str, str, str, str], dict[int, Run]] = {}
    for run in runs:
        for name in run.answers:
            if not run.answers[name]:
                continue
            test = name if run.task in ("", name) else f"{run.task}/{name}"
            same = json.dumps([_method_settings(run), sorted(_questions(run, name))], sort_keys=True, default=str)
            seeds = by_key.setdefault((test, name, run.method, same), {})
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


def _questions(run: Run, name: str) -> set[tuple[str, str, str]]:
    return {(id, row["question"], row["gold"]) for id, row in run.answers[name].items()}


def _check_tests(groups: Sequence[Group]) -> None:
    first: dict[str, Group] = {}
    for group in groups:
        other = first.setdefault(group.test, group)
        ours, theirs = (_questions(g.runs[0], g.name) for g in (group, other))
        if ours != theirs:
            raise UserError(
                f"Expected runs on the same test examples, got {len(ours)} of {group.test!r} in {group.runs[0].folder} "
                f"and {len(theirs)} in {other.runs[0].folder}, {len(ours & theirs)} in common. Compare them "
                "separately, or add --allow_different_tests."
            )


def _differences(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Settings in which the methods on a test set differ; settings that differ only between test sets do not count."""
    differences: dict[str, dict[str, Any]] = {}
    for test in dict.fromkeys(group.test for group in groups):
        settings = {group.method: _method_settings(group.runs[0]) for group in groups if group.test == test}
        for key in sorted({key for values in settings.values() for key in values}):
            values = {method: values.get(key) for method, values in settings.items()}
            if len({json.dumps(value, sort_keys=True, default=str) for value in values.values()}) > 1:
                differences[key] = {**differences.get(key, {}), **values}
    return differences


# --------------------------------------------------------------------------------------------------- rows


def _row(group: Group, base: Group | None) -> Row:
    ids, scores = group.ids, [run.summary["test"][group.name] for run in group.runs]
    correct_SN, tokens_SN = group.values("correct", ids), group.values("new_tokens", ids)
    # If all answers are equal, the bootstrap's interval has no width, as if the accuracy were known exactly.
    plain = len(group.runs) == 1 or correct_SN.min() == correct_SN.max()
    low, high = wilson(int(correct_SN[0].sum()), len(ids)) if plain else bootstrap(correct_SN)
    tokens_low, tokens_high = bootstrap(tokens_SN)
    difference, difference_low, difference_high = _difference(group, base)
    latencies = [run.summary["latency_seconds"] for run in group.runs]
    within = [row.get("accuracy_at", {}) for row in scores]

    def mean_of(key: str) -> float | None:
        values = [row[key] for row in scores if row.get(key) is not None]
        return float(np.mean(values)) if values else None

    def mean(of: Callable[[Run], float]) -> float:
        return float(np.mean([of(run) for run in group.runs]))

    return Row(
        test=group.test,
        method=group.method,
        seeds=tuple(run.seed for run in group.runs),
        n=len(ids),
        accuracy=float(correct_SN.mean()),
        accuracy_low=low,
        accuracy_high=high,
        interval="wilson" if plain else "bootstrap",
        difference=difference,
        difference_low=difference_low,
        difference_high=difference_high,
        accuracy_lenient=float(group.values("correct_lenient", ids).mean()),
        no_answer=float(np.mean([row["no_answer"] for row in scores])),
        new_tokens=float(tokens_SN.mean()),
        new_tokens_low=tokens_low,
        new_tokens_high=tokens_high,
        latency=None if None in latencies else float(np.mean(latencies)),
        skipped=mean_of("skipped"),
        skipped_known=mean_of("skipped_known"),
        unfinished=mean_of("unfinished"),
        accuracy_at={
            budget: float(np.mean([shares[budget] for shares in within]))
            for budget in within[0]
            if all(budget in shares for shares in within)
        },
        target_tokens=mean(lambda run: run.tokens[0]),
        context_tokens=mean(lambda run: run.tokens[1]),
        tokens_known=all(run.complete for run in group.runs),
        seconds=mean(lambda run: run.summary["fit_seconds"]),
        devices=tuple(sorted({run.summary["device"] for run in group.runs})),
    )


def _difference(group: Group, base: Group | None) -> tuple[float | None, float | None, float | None]:
    """Difference of accuracy and its interval; without an interval if all examples differ alike."""
    if base is None or base is group:
        return (None, None, None)
    ids = sorted(id for id, *_ in _questions(group.runs[0], group.name) & _questions(base.runs[0], base.name))
    if not ids:
        return (None, None, None)
    ours_SN, theirs_SN = group.values("correct", ids), base.values("correct", ids)
    difference = float(ours_SN.mean() - theirs_SN.mean())
    if len(np.unique(ours_SN.mean(axis=0) - theirs_SN.mean(axis=0))) == 1:
        return (difference, None, None)
    return (difference, *paired_bootstrap(ours_SN, theirs_SN))
