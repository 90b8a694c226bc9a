"""Charts of a comparison by matplotlib (extra ``report``): inline SVG for the page, SVG and PDF files for papers."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from skipthinking.files import replacing, write_text
from skipthinking.records import UserError
from skipthinking.report.comparing import Comparison
from skipthinking.report.run_folders import Curve, read_curve

__all__ = ["COLORS", "Chart", "draw_charts", "inline_svg", "save_charts"]

# Okabe and Ito's palette, which color-blind readers can tell apart; off-black, as SVG does not name plain black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#111111", "#999999")
_INK, _GRID = "#333333", "#bbbbbb"
# What the page has in place of each color; its variables follow the light or dark theme.
_THEME = {
    **{color: f"var(--k{number})" for number, color in enumerate(COLORS)},
    **{_INK: "var(--ink)", _GRID: "var(--dim)", "#ffffff": "var(--card)"},
}
_STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.color": _GRID, "legend.frameon": False, "figure.constrained_layout.use": True, "savefig.bbox": "tight",
    "svg.fonttype": "path", "svg.hashsalt": "skipthinking", "text.parse_math": False,  # names may contain "$"
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}  # fmt: skip


class Chart(NamedTuple):
    """A chart."""

    name: str  # of its files, without suffix
    title: str
    figure: Any  # of matplotlib, with one pair of axes
    tips: dict[str, str]  # text that the SVG shows over an artist, by the artist's gid

    def plot(self, *values: Any, tip: str, **options: Any) -> None:
        """Plots a line or a point that has a tip."""
        gid = f"tip{len(self.tips)}"
        self.tips[gid] = tip
        self.figure.axes[0].plot(*values, gid=gid, **options)


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
    with rc_context(_STYLE):
        tests = list(dict.fromkeys(row.test for row in comparison.rows))
        charts = [_scatter(comparison, test) for test in tests]
        charts += [chart for test in tests if (chart := _within(comparison, test)) is not None]
        columns = {"train/loss": ("loss", "training loss"), "val/accuracy": ("validation", "validation accuracy")}
        curves = [_curves(comparison, column, *names) for column, names in columns.items()]
        return charts + [chart for chart in curves if chart is not None]


def _chart(comparison: Comparison, name: str, title: str, x_label: str, y_label: str) -> tuple[Chart, dict[str, str]]:
    """An empty chart, and the color of every method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.2))
    figure.add_subplot().set(xlabel=x_label, ylabel=y_label)
    colors = {method: COLORS[number % len(COLORS)] for number, method in enumerate(comparison.methods)}
    return Chart(name=name, title=title, figure=figure, tips={}), colors


def _scatter(comparison: Comparison, test: str) -> Chart:
    """Every method with its intervals, its runs as small dots where there are several, and a line along the front."""
    name = f"accuracy_{re.sub(r'[^a-zA-Z0-9_.-]+', '_', test)}"
    chart, colors = _chart(comparison, name, test, "new tokens per answer", "accuracy %")
    (axes,) = chart.figure.axes
    for row, group in zip(comparison.rows, comparison.groups, strict=True):
        if row.test != test:
            continue
        color, x, y = colors[row.method], row.new_tokens, 100 * row.accuracy
        for run in group.runs if len(group.runs) > 1 else ():
            scores = run.summary["test"][group.name]
            tip = f"{row.method}, seed {run.seed}: {scores['accuracy']:.1%}, {scores['new_tokens']:.1f} new tokens"
            point = (scores["new_tokens"], 100 * scores["accuracy"])
            chart.plot(*point, "o", tip=tip, color=color, markersize=3, alpha=0.5)
        axes.hlines(y, row.new_tokens_low, row.new_tokens_high, colors=color)
        axes.vlines(x, 100 * row.accuracy_low, 100 * row.accuracy_high, colors=color)
        interval = f"{row.accuracy:.1%} ({row.accuracy_low:.1%} to {row.accuracy_high:.1%})"
        label = f"{row.method} ({len(row.seeds)} seed{'s' if len(row.seeds) > 1 else ''})"
        chart.plot(x, y, "o", tip=f"{row.method}: {interval}, {x:.1f} new tokens", color=color, label=label)
    front = sorted((row.new_tokens, 100 * row.accuracy) for row in comparison.rows if row.test == test and row.pareto)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), ":", color=_INK, linewidth=0.8, zorder=0)
    chart.figure.legend(loc="outside lower center", ncols=2)
    return chart


def _within(comparison: Comparison, test: str) -> Chart | None:
    """Accuracy of every method if generation stops at a budget; None if no method has two budgets."""
    rows = [row for row in comparison.rows if row.test == test and len(row.accuracy_at) > 1]
    if not rows:
        return None
    name = f"within_{re.sub(r'[^a-zA-Z0-9_.-]+', '_', test)}"
    chart, colors = _chart(comparison, name, f"{test}: within a budget", "limit on new tokens", "accuracy %")
    for row in rows:
        budgets = sorted(row.accuracy_at, key=int)
        tip = f"{row.method}: " + ", ".join(f"{row.accuracy_at[b]:.1%} within {b}" for b in budgets)
        values = [100 * row.accuracy_at[b] for b in budgets]
        chart.plot(list(map(int, budgets)), values, "o-", tip=tip, color=colors[row.method], label=row.method)
    chart.figure.axes[0].set_xscale("log", base=2)
    chart.figure.axes[0].xaxis.set_major_formatter("{x:g}")
    chart.figure.legend(loc="outside lower center", ncols=2)
    return chart


def _curves(comparison: Comparison, column: str, name: str, title: str) -> Chart | None:
    """A column of every run's metrics.csv over the steps; None if no run has two values of it."""
    from matplotlib.ticker import LogLocator

    chart, colors = _chart(comparison, name, title, "optimizer steps", column)
    curves: dict[Path, Curve] = {}  # a run stands in a group of every test set
    methods: set[str] = set()
    for group in comparison.groups:
        for run in group.runs:
            if run.folder not in curves and len(curve := read_curve(run.folder / "metrics.csv", column)) > 1:
                curves[run.folder] = curve
                options = {"color": colors[group.method], "label": None if group.method in methods else group.method}
                tip = f"{group.method}, seed {run.seed}"
                chart.plot(*zip(*curve, strict=True), tip=tip, linewidth=1, alpha=0.8, **options)
                methods.add(group.method)
    if not curves:
        return None
    values = [value for curve in curves.values() for _, value in curve]
    if min(values) > 0 and max(values) > 10 * min(values):
        (axes,) = chart.figure.axes
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")  # the default is mathematical text
        axes.minorticks_off()
    chart.figure.legend(loc="outside lower center", ncols=2)
    return chart


def _svg(chart: Chart) -> str:
    """The chart as SVG without a date or a version, so that the same runs give the same bytes."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context(_STYLE):
        chart.figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()


def _add_tips(svg: str, chart: Chart) -> str:
    return re.sub(r'<g id="(tip\d+)">', lambda group: f"<g><title>{html.escape(chart.tips[group[1]])}</title>", svg)


def inline_svg(chart: Chart) -> str:
    """The chart as a part of an HTML page: no namespaces or clips, ids of its own, colors of the page's theme."""
    axes = chart.figure.axes[0]
    label = html.escape(f"{chart.title}: {axes.get_ylabel()} over {axes.get_xlabel()}")
    _, view, body = re.split(r'viewBox="([^"]*)".*?>', _svg(chart), maxsplit=1)
    body = re.sub(r'<!--.*?-->|<clipPath.*?</clipPath>| clip-path="[^"]*"', "", body, flags=re.DOTALL)
    for color, variable in _THEME.items():
        body = body.replace(color, variable)
    body = re.sub(r'( id="| xlink:href="#)', rf"\1{chart.name}-", _add_tips(body, chart))
    return f'<svg viewBox="{view}" role="img" aria-label="{label}">{body}'


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
        write_text(svg, _add_tips(_svg(chart), chart))
        with replacing(pdf) as partial:
            chart.figure.savefig(partial, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
        files += [svg, pdf]
    return files
