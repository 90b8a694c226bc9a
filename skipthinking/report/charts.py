"""Charts of a comparison by matplotlib (extra ``report``), drawn for the page, or saved as files for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skipthinking.files import replacing, write_text
from skipthinking.records import UserError
from skipthinking.report.canvas import INK, STYLE, Chart, add_legend, file_svg, new_chart
from skipthinking.report.comparing import Comparison
from skipthinking.report.logs import Curve, read_curve, read_marks
from skipthinking.report.run_folders import Run

__all__ = ["LOSS_AXIS", "draw_charts", "save_charts"]

LOSS_AXIS = (0.05, 10.0)
"""Nats; the ends of the loss axis of every page, so that pages can be compared. Losses outside make it longer."""
_MARKS = {"warm-up ends": "o", "search": "D"}


def draw_charts(comparison: Comparison) -> list[Chart]:
    """Draws accuracy against new tokens and within budgets per test set, and the curves that were logged.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise UserError(
            f"Expected matplotlib for charts, got {error}. Install it: pip install 'skipthinking[report]'."
        ) from error
    with rc_context(STYLE):
        tests = list(dict.fromkeys(row.test for row in comparison.rows))
        by_test = [draw(comparison, test) for draw in (_scatter, _within, _differences) for test in tests]
        curves = [_loss(comparison), _validation(comparison)]
        return [chart for chart in by_test + curves if chart is not None]


def _name(kind: str, test: str) -> str:
    return f"{kind}_{re.sub(r'[^a-zA-Z0-9_.-]+', '_', test)}"


def _scatter(comparison: Comparison, test: str) -> Chart:
    """Every method with its intervals, its runs as small dots where there are several, and a line along the front."""
    rows = [row for row in comparison.rows if row.test == test]
    front = sorted((row.new_tokens, 100 * row.accuracy) for row in rows if row.pareto)
    note = "Crosses are 95% intervals, small dots single runs."
    if front:
        note += " Full dots, with the dotted line, are the Pareto front: no method is as accurate with fewer tokens."
    title = f"{test}: accuracy and length"
    chart, looks = new_chart(comparison, _name("accuracy", test), title, "new tokens per answer", "accuracy %", note)
    (axes,) = chart.figure.axes
    for row, group in zip(comparison.rows, comparison.groups, strict=True):
        if row.test != test:
            continue
        (color, marker, _), x, y = looks[row.method], row.new_tokens, 100 * row.accuracy
        for run in group.runs if len(group.runs) > 1 else ():
            scores = run.summary["test"][group.name]
            tip = f"{row.method}, seed {run.seed}: {scores['accuracy']:.1%}, {scores['new_tokens']:.1f} new tokens"
            point = (scores["new_tokens"], 100 * scores["accuracy"])
            chart.plot(*point, marker, tip=tip, color=color, markersize=3, alpha=0.5)
        axes.hlines(y, row.new_tokens_low, row.new_tokens_high, colors=color)
        axes.vlines(x, 100 * row.accuracy_low, 100 * row.accuracy_high, colors=color)
        interval = f"{row.accuracy:.1%} ({row.accuracy_low:.1%} to {row.accuracy_high:.1%})"
        label = f"{row.method} ({len(row.seeds)} seed{'s' if len(row.seeds) > 1 else ''})"
        tip = f"{row.method}: {interval}, {x:.1f} new tokens{', on the front' if row.pareto else ''}"
        fill = "#ffffff" if row.pareto is False else color
        chart.plot(x, y, marker, tip=tip, color=color, markerfacecolor=fill, label=label)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), ":", color=INK, linewidth=0.8, zorder=0, drawstyle="steps-post")
    add_legend(chart)
    return chart


def _within(comparison: Comparison, test: str) -> Chart | None:
    """Accuracy of every method if generation stops at a budget; None if no method has two budgets."""
    rows = [row for row in comparison.rows if row.test == test and len(row.accuracy_at) > 1]
    if not rows:
        return None
    title, note = f"{test}: accuracy within a budget", "Accuracy if generation stops after so many new tokens."
    chart, looks = new_chart(comparison, _name("within", test), title, "limit on new tokens", "accuracy %", note)
    for row in rows:
        budgets = sorted(row.accuracy_at, key=int)
        tip = f"{row.method}: " + ", ".join(f"{row.accuracy_at[b]:.1%} within {b}" for b in budgets)
        values = [100 * row.accuracy_at[b] for b in budgets]
        color, *shape = looks[row.method]
        chart.plot(list(map(int, budgets)), values, "".join(shape), tip=tip, color=color, label=row.method)
    (axes,) = chart.figure.axes
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    add_legend(chart)
    return chart


def _differences(comparison: Comparison, test: str) -> Chart | None:
    """Accuracy minus the baseline's, with intervals; None if nothing is compared with a baseline."""
    rows = [row for row in comparison.rows if row.test == test and row.difference is not None]
    if not rows:
        return None
    note = "95% intervals on the same questions; a hollow dot has 0 in its interval, or none."
    title = f"{test}: difference from {comparison.baseline}"
    name, height = _name("difference", test), 1.1 + 0.3 * len(rows)
    chart, looks = new_chart(comparison, name, title, "points of accuracy", "", note, height)
    (axes,) = chart.figure.axes
    axes.axvline(0, color=INK, linewidth=0.8)
    if comparison.margin is not None:
        axes.axvline(-100 * comparison.margin, color=INK, linewidth=0.8, linestyle=":")
        chart = chart._replace(note=f"{note} The dotted line is the margin.")
    for place, row in enumerate(rows):
        assert row.difference is not None
        (color, marker, _), tip = looks[row.method], f"{row.method}: {100 * row.difference:+.1f} points"
        shown = False
        if row.difference_low is not None and row.difference_high is not None:
            low, high = max(-1.0, row.difference_low), min(1.0, row.difference_high)
            axes.hlines(place, 100 * low, 100 * high, colors=color)
            tip, shown = f"{tip} ({100 * low:+.1f} to {100 * high:+.1f})", not low <= 0 <= high
        chart.plot(
            100 * row.difference, place, marker, tip=tip, color=color, markerfacecolor=color if shown else "#ffffff"
        )
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return chart


def _loss(comparison: Comparison) -> Chart | None:
    """Training losses on the axis of all pages, with marks on the curves."""
    from matplotlib.ticker import LogLocator

    note = (
        f"The axis spans {LOSS_AXIS[0]:g} to {LOSS_AXIS[1]:g} or more on every page. Losses of different methods are "
        "means over different targets: compare their shapes, not their heights."
    )
    chart = _curves(comparison, "train/loss", "loss", "training loss", "train/loss", note)
    if chart is None:
        return None
    (axes,) = chart.figure.axes
    low, high = axes.dataLim.intervaly
    if low > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")  # the default is mathematical text
        axes.minorticks_off()
        axes.set_ylim(min(LOSS_AXIS[0], low / 1.1), max(LOSS_AXIS[1], high * 1.1))
    return chart


def _validation(comparison: Comparison) -> Chart | None:
    chart = _curves(comparison, "val/accuracy", "validation", "validation accuracy", "accuracy %", scale=100)
    if chart is not None:
        chart.figure.axes[0].set_ylim(-2, 102)
    return chart


def _curves(
    comparison: Comparison, column: str, name: str, title: str, y_label: str, note: str = "", scale: float = 1
) -> Chart | None:
    """A column of every run's metrics.csv over the steps, with its marks; None if no run has two values of it."""
    chart, looks = new_chart(comparison, name, title, "optimizer steps", y_label, note)
    curves: dict[Path, Curve] = {}  # a run stands in a group of every test set
    methods: set[str] = set()
    marked: set[str] = set()
    for group in comparison.groups:
        for run in group.runs:
            if run.folder in curves or len(curve := read_curve(run.folder / "metrics.csv", column)) < 2:
                continue
            curves[run.folder] = curve
            steps, values = zip(*((step, scale * value) for step, value in curve), strict=True)
            (color, _, line), label = looks[group.method], None if group.method in methods else group.method
            tip = f"{group.method}, seed {run.seed}"
            chart.plot(steps, values, line, tip=tip, linewidth=1, alpha=0.8, color=color, label=label)
            methods.add(group.method)
            marked |= _mark(chart, run, tip, color, steps, values)
    if not curves:
        return None
    for kind in [kind for kind in _MARKS if kind in marked]:
        chart.figure.axes[0].plot([], [], label=kind, **_shape(kind, INK))
    add_legend(chart)
    if marked:
        names = {"warm-up ends": "hollow dots where the warm-up ends", "search": "diamonds where a search ran"}
        note = f"{note} Curves have {' and '.join(names[kind] for kind in _MARKS if kind in marked)}.".strip()
    return chart._replace(note=note)


def _mark(chart: Chart, run: Run, tip: str, color: str, steps: Sequence[float], values: Sequence[float]) -> set[str]:
    """Marks a run's end of the warm-up and searches on its curve; returns the kinds of marks."""
    marks = read_marks(run.folder / "metrics.csv", run.settings)
    kinds = {mark: next(kind for kind in _MARKS if mark.endswith(kind)) for mark in marks}
    for mark, places in marks.items():
        for step in places:
            value = float(np.interp(step, steps, values))
            chart.plot(step, value, tip=f"{tip}: {mark} at step {step:g}", **_shape(kinds[mark], color))
    return set(kinds.values())


def _shape(kind: str, color: str) -> dict[str, Any]:
    """How a mark is drawn: the end of a warm-up is hollow."""
    fill = "#ffffff" if kind == "warm-up ends" else color
    return {"marker": _MARKS[kind], "linestyle": "", "markersize": 4, "color": color, "markerfacecolor": fill}


def save_charts(comparison: Comparison, folder: Path) -> list[Path]:
    """Draws the charts as SVG and PDF files.

    Returns:
        The files.

    Raises:
        UserError: matplotlib is not installed.
    """
    files = []
    for chart in draw_charts(comparison):
        chart.figure.axes[0].set_title(chart.title)
        svg, pdf = (folder / f"{chart.name}.{suffix}" for suffix in ("svg", "pdf"))
        write_text(svg, file_svg(chart))
        with replacing(pdf) as partial:
            chart.figure.savefig(partial, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
        files += [svg, pdf]
    return files
