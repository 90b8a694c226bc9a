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
from skipthinking.report.reading import Run, read_runs

__all__ = ["Comparison", "Group", "Row", "compare_runs"]

# Settings that say where and how a run is run, not what it learns; those of one method may differ in them.
_APART = {
    "seed_everything", "run", "runs_dir", "ckpt_path", "weights_only", "evaluate", "checkpoint_every", "untrained",
    "question", "questions", "trainer.logger", "trainer.enable_progress_bar", "trainer.default_root_dir",
    "trainer.check_val_every_n_epoch", "trainer.log_every_n_steps", "data.init_args.num_workers",
    "data.init_args.eval_batch_size",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the table: a method on a test set. Shares are of 1; an interval is one of 95%.

    Attributes:
        test: The test set; with the task in front where a suite gave it another name.
        method: The method.
        seeds: Seeds of its runs.
        n: Test examples.
        accuracy: Share of right answers, mean over seeds.
        accuracy_low: Lower end of its interval: Wilson's for one run, else the bootstrap over examples and seeds.
        accuracy_high: Upper end.
        interval: "wilson" or "bootstrap".
        difference: Accuracy less that of the baseline on the same examples; None for the baseline itself.
        difference_low: Lower end of its interval, a paired bootstrap.
        difference_high: Upper end.
        accuracy_lenient: Share of right answers where any last number or word counts as the answer.
        no_answer: Share of completions without an answer in the method's format.
        new_tokens: Tokens per answer.
        new_tokens_low: Lower end of its interval, a bootstrap.
        new_tokens_high: Upper end.
        latency: Seconds per answer at batch size 1, None if not measured.
        skipped: Mean share of the teacher's chunks that answers leave out.
        target_tokens: Tokens trained on as targets, those of the runs that it started from included.
        context_tokens: The same for context.
        tokens_known: Whether the logs of all of those runs were there to be counted.
        seconds: Wall time of training, that of a run it started from not included.
        devices: Where it ran.
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
        name: Its name in the run folders.
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
        """A number of every answer, shape (S, N)."""
        return np.array([[run.answers[self.name][id][key] for id in ids] for run in self.runs], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was compared.

    Attributes:
        rows: The table, by test set.
        groups: The runs behind each row, in the same order.
        baseline: The method that differences are taken against.
        differences: Settings in which methods on the same test set differ: key, then value by method.
        left_out: Folders that are not in it, and why.
    """

    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    baseline: str | None
    differences: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]


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
        UserError: No run is left, the baseline is none of them, or test examples differ.
    """
    runs, left_out = read_runs(list(folders))
    groups = _grouped(runs, left_out)
    if not groups:
        reasons = "; ".join(f"{folder}: {reason}" for folder, reason in left_out.items()) or "no folder"
        raise UserError(f"Expected finished runs, got none. {reasons}")
    methods = list(dict.fromkeys(group.method for group in groups))
    if baseline is not None and baseline not in methods:
        raise UserError(f"Expected a baseline out of {', '.join(methods)}, got {baseline!r}. Mend --baseline.")
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


def _grouped(runs: Sequence[Run], left_out: dict[str, str]) -> list[Group]:
    """Groups by test set, in the order in which runs come."""
    found: dict[tuple[str, str, str, str], dict[int, Run]] = {}
    for run in runs:
        for name in run.answers:
            if not run.answers[name]:
                continue
            test = name if run.task in ("", name) else f"{run.task}/{name}"
            alike = json.dumps([_learnt(run), sorted(_asked(run, name))], sort_keys=True, default=str)
            seeds = found.setdefault((test, name, run.method, alike), {})
            if run.seed in seeds:
                left_out[str(run.folder)] = f"The same settings and seed as {seeds[run.seed].folder}."
            seeds.setdefault(run.seed, run)
    tests = list(dict.fromkeys(test for test, *_ in found))
    names = [(test, method) for test, _, method, _ in found]
    firsts = [(test, method, seeds[min(seeds)].folder.resolve().name) for (test, _, method, _), seeds in found.items()]
    groups = []
    for (test, name, method, _), seeds in sorted(found.items(), key=lambda item: tests.index(item[0][0])):
        ordered = tuple(seeds[seed] for seed in sorted(seeds))
        folder, label = ordered[0].folder.resolve(), method
        if names.count((test, method)) > 1:
            label = f"{method} ({folder.name if firsts.count((test, method, folder.name)) == 1 else folder})"
        groups.append(Group(test=test, name=name, method=label, runs=ordered))
    return groups


def _learnt(run: Run) -> dict[str, Any]:
    """The settings that make a method; in place of a checkpoint it started from, the settings that made that.

    A suite's name of a method says already what it needs, and from where token weights come.
    """
    start, weights = "model.init_args.start_from", "model.init_args.weights"
    own, *before = (
        {key: value for key, value in settings.items() if key not in _APART and key != start}
        for settings in (run.settings, *run.origins)
    )
    if own.get(weights) is not None:  # then there is nothing for a weighter to do
        own = {key: value for key, value in own.items() if not key.startswith("model.init_args.weighter")}
        own[weights] = run.task != "" or own[weights]
    told: object = run.settings.get(start) is not None
    if told and not run.task:
        key = hashlib.blake2b(json.dumps(before, sort_keys=True, default=str).encode(), digest_size=3).hexdigest()
        told = " after ".join(str(settings.get("model.class_path")).rpartition(".")[2] for settings in before)
        told = f"{told or 'a run that is gone'} ({key})"
    return {**own, start: told}


def _asked(run: Run, name: str) -> set[tuple[str, str, str]]:
    return {(id, row["question"], row["gold"]) for id, row in run.answers[name].items()}


def _check_tests(groups: Sequence[Group]) -> None:
    first: dict[str, Group] = {}
    for group in groups:
        other = first.setdefault(group.test, group)
        ours, theirs = (_asked(g.runs[0], g.name) for g in (group, other))
        if ours != theirs:
            raise UserError(
                f"Expected runs on the same test examples, got {len(ours)} of {group.test!r} in {group.runs[0].folder} "
                f"and {len(theirs)} in {other.runs[0].folder}, {len(ours & theirs)} in common. Compare them apart, or "
                "say --allow_different_tests."
            )


def _differences(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Settings that are not the same in all groups; what only a task says is no difference between methods."""
    found: dict[str, dict[str, Any]] = {}
    for test in dict.fromkeys(group.test for group in groups):
        settings = {group.method: _learnt(group.runs[0]) for group in groups if group.test == test}
        for key in sorted({key for values in settings.values() for key in values}):
            values = {method: values.get(key) for method, values in settings.items()}
            if len({json.dumps(value, sort_keys=True, default=str) for value in values.values()}) > 1:
                found[key] = {**found.get(key, {}), **values}
    return found


# --------------------------------------------------------------------------------------------------- rows


def _row(group: Group, base: Group | None) -> Row:
    ids, scores = group.ids, [run.summary["test"][group.name] for run in group.runs]
    correct_SN, tokens_SN = group.values("correct", ids), group.values("new_tokens", ids)
    # Where all answers are alike the bootstrap has nothing to draw, and would claim to know exactly.
    plain = len(group.runs) == 1 or correct_SN.min() == correct_SN.max()
    low, high = wilson(int(correct_SN[0].sum()), len(ids)) if plain else bootstrap(correct_SN)
    tokens_low, tokens_high = bootstrap(tokens_SN)
    difference = _difference(group, base) if base is not None and base is not group else (None, None, None)
    latencies = [run.summary["latency_seconds"] for run in group.runs]
    shares = [row["skipped"] for row in scores if row.get("skipped") is not None]

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
        difference=difference[0],
        difference_low=difference[1],
        difference_high=difference[2],
        accuracy_lenient=float(group.values("correct_lenient", ids).mean()),
        no_answer=float(np.mean([row["no_answer"] for row in scores])),
        new_tokens=float(tokens_SN.mean()),
        new_tokens_low=tokens_low,
        new_tokens_high=tokens_high,
        latency=None if None in latencies else float(np.mean(latencies)),
        skipped=float(np.mean(shares)) if shares else None,
        target_tokens=mean(lambda run: run.tokens[0]),
        context_tokens=mean(lambda run: run.tokens[1]),
        tokens_known=all(run.complete for run in group.runs),
        seconds=mean(lambda run: run.summary["fit_seconds"]),
        devices=tuple(sorted({run.summary["device"] for run in group.runs})),
    )


def _difference(group: Group, base: Group) -> tuple[float | None, float | None, float | None]:
    ids = sorted({id for id, *_ in _asked(group.runs[0], group.name) & _asked(base.runs[0], base.name)})
    if not ids:
        return (None, None, None)
    ours_SN, theirs_SN = group.values("correct", ids), base.values("correct", ids)
    difference = float(ours_SN.mean() - theirs_SN.mean())
    if len(np.unique(ours_SN.mean(axis=0) - theirs_SN.mean(axis=0))) == 1:
        return (difference, None, None)
    return (difference, *paired_bootstrap(ours_SN, theirs_SN))
