"""An empty chart in the style of the page, and a chart as SVG: for the page, and for papers."""

from __future__ import annotations

import html
import io
import re
from typing import Any, NamedTuple

from skipthinking.report.comparing import Comparison

__all__ = ["COLORS", "INK", "SHAPES", "STYLE", "Chart", "Look", "add_legend", "file_svg", "inline_svg", "new_chart"]

# Okabe and Ito's palette, which color-blind readers can tell apart; off-black, as SVG does not name plain black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#111111", "#999999")
SHAPES, _LINES = ("o", "s", "^"), ("-", "--", ":")  # of the first methods, and of those for which no color is left
INK, _GRID = "#333333", "#bbbbbb"
# What the page has in place of each color; its variables follow the light or dark theme.
_THEME = {
    **{color: f"var(--k{number})" for number, color in enumerate(COLORS)},
    **{INK: "var(--ink)", _GRID: "var(--dim)", "#ffffff": "var(--card)"},
}
STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.color": _GRID, "legend.frameon": False, "figure.constrained_layout.use": True, "savefig.bbox": "tight",
    "svg.hashsalt": "skipthinking", "text.parse_math": False,  # names may contain "$"
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}  # fmt: skip


class Look(NamedTuple):
    """How a method is drawn in all charts."""

    color: str
    marker: str
    line: str


class Chart(NamedTuple):
    """A chart."""

    name: str  # of its files, without suffix
    title: str
    figure: Any  # of matplotlib, with one pair of axes
    tips: dict[str, str]  # text that the SVG shows over an artist, by the artist's gid
    note: str = ""  # how to read it

    def plot(self, *values: Any, tip: str, **options: Any) -> None:
        """Plots a line or a point that has a tip."""
        gid = f"tip{len(self.tips)}"
        self.tips[gid] = tip
        self.figure.axes[0].plot(*values, gid=gid, **options)


def new_chart(
    comparison: Comparison, name: str, title: str, x_label: str, y_label: str, note: str = "", height: float = 3.0
) -> tuple[Chart, dict[str, Look]]:
    """An empty chart, and the look of every method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.9, height))
    figure.add_subplot().set(xlabel=x_label, ylabel=y_label)
    looks = {}
    for number, method in enumerate(comparison.methods):
        turn = number // len(COLORS) % len(SHAPES)
        looks[method] = Look(COLORS[number % len(COLORS)], SHAPES[turn], _LINES[turn])
    return Chart(name=name, title=title, figure=figure, tips={}, note=note), looks


def add_legend(chart: Chart) -> None:
    """Names the methods under the chart."""
    chart.figure.legend(loc="outside lower center", ncols=2)


def _svg(chart: Chart, fonttype: str) -> str:
    """The chart as SVG without a date or a version, so that the same runs give the same bytes."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({**STYLE, "svg.fonttype": fonttype}):
        chart.figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()


def _add_tips(svg: str, chart: Chart) -> str:
    return re.sub(r'<g id="(tip\d+)">', lambda group: f"<g><title>{html.escape(chart.tips[group[1]])}</title>", svg)


def file_svg(chart: Chart) -> str:
    """The chart as an SVG file, whose text does not depend on fonts."""
    return _add_tips(_svg(chart, "path"), chart)


def inline_svg(chart: Chart) -> str:
    """The chart as a part of an HTML page: no namespaces, ids of its own; legend, font and colors are the page's."""
    for legend in chart.figure.legends[:]:
        legend.remove()
    axes = chart.figure.axes[0]
    label = html.escape(f"{chart.title}: {axes.get_ylabel() or 'method'} over {axes.get_xlabel()}")
    _, view, body = re.split(r'viewBox="([^"]*)".*?>', _svg(chart, "none"), maxsplit=1)
    needless = r"""<!--.*?-->|<style.*?</style>|<clipPath.*?</clipPath>| clip-path="[^"]*"| font-family: [^;"]*;"""
    body = re.sub(needless, "", body, flags=re.DOTALL)
    for color, variable in _THEME.items():
        body = body.replace(color, variable)
    body = re.sub(r'( id="| xlink:href="#)', rf"\1{chart.name}-", _add_tips(body, chart))
    return f'<svg viewBox="{view}" role="img" aria-label="{label}">{body}'
