"""Runs side by side: grouped by method over seeds, on the same test examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skipthinking.evaluation.intervals import accuracy_interval, spread
from skipthinking.records import UserError
from skipthinking.report.against import against, pareto_front
from skipthinking.report.grouping import Group, check_tests, group_runs, settings_that_differ
from skipthinking.report.run_folders import Run, read_runs

__all__ = ["Comparison", "Group", "Row", "compare_runs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the table: a method on a test set. Rates are fractions of 1; intervals are at 95%.

    Attributes:
        test: The test set, after the name of the task if a suite named the task otherwise.
        method: The method.
        seeds: Seeds of its runs.
        n: Number of test examples.
        accuracy: Fraction of right answers, mean over seeds.
        accuracy_low: Lower end of its interval: over test examples, and over seeds if there are several.
        accuracy_high: Upper end.
        interval: "wilson" (one run, or all answers equal) or "components" (of variance).
        difference: This and the fields up to ``e3`` are those of ``Against``; None for the baseline itself.
        accuracy_lenient: Fraction of right answers if any last number or word counts as the answer.
        no_answer: Fraction of completions without an answer in the method's format.
        new_tokens: Tokens per answer.
        new_tokens_low: Lower end of its interval.
        new_tokens_high: Upper end.
        pareto: Whether no other row of the test set has at least its accuracy with at most its new tokens; None if
            there is no other row.
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
    detectable: float | None
    seeds_paired: bool
    no_worse: bool | None
    saved: float | None
    saved_low: float | None
    saved_high: float | None
    e3: float | None
    accuracy_lenient: float
    no_answer: float
    new_tokens: float
    new_tokens_low: float
    new_tokens_high: float
    pareto: bool | None
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
class Comparison:
    """The result of a comparison.

    Attributes:
        rows: The table, by test set.
        groups: The runs of each row, in the same order.
        baseline: The method that differences are taken against.
        margin: The loss of accuracy that still counts as no worse, as a fraction of 1.
        differences: Settings in which methods on the same test set differ: key, then value by method.
        left_out: Folders that are not compared, and why.
    """

    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    baseline: str | None
    margin: float | None
    differences: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the table."""
        return list(dict.fromkeys(group.method for group in self.groups))


def compare_runs(
    folders: Iterable[str],
    baseline: str | None = None,
    allow_different_tests: bool = False,
    margin: float | None = None,
    across_tasks: bool = False,
) -> Comparison:
    """Compares run folders.

    Args:
        folders: The folders; those that cannot be read are left out and named.
        baseline: Method to take differences against.
        allow_different_tests: Whether runs may differ in the examples of a test set; differences are then those on the
            examples that both sides answered.
        margin: Points of accuracy (1 is 1%) by which a method may be worse than the baseline and count as no worse.
        across_tasks: Whether tasks of a suite that share a test set are compared, as methods TASK-METHOD.

    Raises:
        UserError: No run is left, no run is of the baseline, test examples differ, or the margin is none.
    """
    if margin is not None and baseline is None:
        raise UserError(f"Expected a baseline for --margin {margin:g}, got none. Add --baseline METHOD.")
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"Expected a margin in points above 0, got --margin {margin:g}. Use --margin 2, for example.")
    runs, left_out = read_runs(list(folders))
    groups = group_runs(runs, left_out, across_tasks)
    if not groups:
        reasons = "; ".join(f"{folder}: {reason}" for folder, reason in left_out.items()) or "no folder"
        raise UserError(f"Expected finished runs, got none. {reasons}")
    methods = list(dict.fromkeys(group.method for group in groups))
    if baseline is not None and baseline not in methods:
        raise UserError(f"Expected a baseline out of {', '.join(methods)}, got {baseline!r}. Fix --baseline.")
    if not allow_different_tests:
        check_tests(groups)
    bases = {group.test: group for group in groups if group.method == baseline}
    share = None if margin is None else margin / 100
    return Comparison(
        rows=_mark_front([_row(group, bases.get(group.test), share) for group in groups]),
        groups=tuple(groups),
        baseline=baseline,
        margin=share,
        differences=settings_that_differ(groups),
        left_out=left_out,
    )


def _mark_front(rows: list[Row]) -> tuple[Row, ...]:
    """The rows with their ``pareto`` set, by test set."""
    marked = list(rows)
    for test in dict.fromkeys(row.test for row in rows):
        places = [place for place, row in enumerate(rows) if row.test == test]
        front = pareto_front([(rows[place].accuracy, rows[place].new_tokens) for place in places])
        for place, on_front in zip(places, front, strict=True):
            marked[place] = replace(rows[place], pareto=on_front if len(places) > 1 else None)
    return tuple(marked)


def _row(group: Group, base: Group | None, margin: float | None) -> Row:
    ids, scores = group.ids, [run.summary["test"][group.name] for run in group.runs]
    correct_SN, tokens_SN = group.values("correct", ids), group.values("new_tokens", ids)
    low, high = accuracy_interval(correct_SN)
    tokens, tokens_half = float(tokens_SN.mean()), float(spread(tokens_SN).half)
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
        accuracy_low=float(low),
        accuracy_high=float(high),
        interval="wilson" if len(group.runs) == 1 or correct_SN.min() == correct_SN.max() else "components",
        **against(group, base, margin)._asdict(),
        accuracy_lenient=float(group.values("correct_lenient", ids).mean()),
        no_answer=float(np.mean([row["no_answer"] for row in scores])),
        new_tokens=tokens,
        new_tokens_low=max(0.0, tokens - tokens_half),
        new_tokens_high=tokens + tokens_half,
        pareto=None,
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
