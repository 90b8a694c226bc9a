"""Charts as numbers: data in, places in pixels out. The page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from skipthinking.report.comparing import Comparison, Group, Row
from skipthinking.report.curves import Curve, read_curve

__all__ = ["Axis", "Chart", "Dot", "Line", "curves", "log_ticks", "scatter", "ticks"]

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 44


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One side of a chart: values to pixels.

    Attributes:
        low: The lowest value.
        high: The highest value.
        start: Pixel of the lowest value.
        end: Pixel of the highest value.
        label: What it shows.
        log: Whether equal ratios, not equal differences, take equal room.
    """

    low: float
    high: float
    start: float
    end: float
    label: str
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value.

        >>> Axis(low=0, high=10, start=50, end=150, label="").at(5)
        100.0
        """
        low, high, place = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        share = (place - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Pixels and texts of the ticks."""
        values = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)
        return [(self.at(value), f"{value:g}") for value in values]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A point, in pixels, with its interval if it has one.

    Attributes:
        x: Place from the left.
        y: Place from the top.
        colour: Number of the method's colour.
        title: What is said of it.
        label: What stands beside it; empty for a lesser dot.
        cross: Ends of its intervals: left, right, bottom, top.
    """

    x: float
    y: float
    colour: int
    title: str
    label: str = ""
    cross: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A curve.

    Attributes:
        points: As SVG writes them.
        colour: Number of the method's colour.
        title: What is said of it.
    """

    points: str
    colour: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        title: Its heading.
        x: The lower axis.
        y: The left axis.
        dots: Points.
        lines: Curves.
    """

    title: str
    x: Axis
    y: Axis
    dots: list[Dot] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two ends.

    >>> ticks(0, 100), ticks(1, 2.2)
    ([0, 20, 40, 60, 80, 100], [1.0, 1.5, 2.0])
    """
    raw = (high - low) / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two ends.

    >>> log_ticks(0.15, 3)
    [0.2, 0.5, 1.0, 2.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _axes(xs: Iterable[float], ys: Iterable[float], x_label: str, y_label: str, log: bool = False) -> tuple[Axis, Axis]:
    """Axes with a little room around the values; ``log`` for the upright one."""
    found = []
    places = ((_LEFT, WIDTH - _RIGHT, x_label, False), (HEIGHT - _BOTTOM, _TOP, y_label, log))
    for values, (start, end, label, ratios) in zip((list(xs), list(ys)), places, strict=True):
        low, high = min(values), max(values)
        if ratios:
            low, high = low / 1.1, high * 1.1
        else:
            room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
            low, high = low - room, high + room
        found.append(Axis(low=low, high=high, start=start, end=end, label=label, log=ratios))
    return found[0], found[1]


def scatter(rows: Sequence[Row], groups: Sequence[Group], colours: dict[str, int]) -> Chart:
    """Accuracy against new tokens per answer on one test set: methods with their intervals, and their runs."""
    xs = [end for row in rows for end in (row.new_tokens_low, row.new_tokens_high)]
    ys = [100 * end for row in rows for end in (row.accuracy_low, row.accuracy_high)]
    x, y = _axes(xs, ys, "new tokens per answer", "accuracy %")
    dots = []
    for row, group in zip(rows, groups, strict=True):
        colour = colours[row.method]
        for run in group.runs if len(group.runs) > 1 else ():
            scores = run.summary["test"][group.name]
            told = f"{row.method}, seed {run.seed}: {scores['accuracy']:.1%}, {scores['new_tokens']:.1f} new tokens"
            dots.append(Dot(x=x.at(scores["new_tokens"]), y=y.at(100 * scores["accuracy"]), colour=colour, title=told))
        dots.append(
            Dot(
                x=x.at(row.new_tokens),
                y=y.at(100 * row.accuracy),
                colour=colour,
                title=f"{row.method}: {row.accuracy:.1%} ({row.accuracy_low:.1%} to {row.accuracy_high:.1%}), "
                f"{row.new_tokens:.1f} new tokens",
                label=row.method,
                cross=(
                    x.at(row.new_tokens_low),
                    x.at(row.new_tokens_high),
                    y.at(100 * row.accuracy_low),
                    y.at(100 * row.accuracy_high),
                ),
            )
        )
    return Chart(title=rows[0].test, x=x, y=y, dots=dots)


def curves(comparison: Comparison, column: str, title: str, colours: dict[str, int]) -> Chart | None:
    """A column of every run's metrics.csv over the steps; None where no run has two values of it."""
    found: list[tuple[Curve, str, int]] = []
    seen = set()
    for group in comparison.groups:
        for run in group.runs:
            curve = read_curve(run.folder / "metrics.csv", column)
            if len(curve) > 1 and run.folder not in seen:
                found.append((curve, f"{group.method}, seed {run.seed}", colours[group.method]))
            seen.add(run.folder)
    if not found:
        return None
    points = [point for curve, _, _ in found for point in curve]
    values = [value for _, value in points]
    log = min(values) > 0 and max(values) > 10 * min(values)
    x, y = _axes((step for step, _ in points), values, "optimiser steps", column, log)
    lines = [
        Line(points=" ".join(f"{x.at(step)},{y.at(value)}" for step, value in curve), colour=colour, title=told)
        for curve, told, colour in found
    ]
    return Chart(title=title, x=x, y=y, lines=lines)
