"""Curves from metrics.csv."""

from __future__ import annotations

import csv
import math
from pathlib import Path

__all__ = ["Curve", "last_value", "read_curve"]

Curve = list[tuple[float, float]]
"""(step, value) pairs."""
_MOST = 150  # points of a curve; more cannot be seen


def read_curve(path: Path, column: str) -> Curve:
    """A column of a run's log over the steps, thinned to means of neighbours; empty if there is none."""
    points = _points(path, column)
    size = math.ceil(len(points) / _MOST)
    parts = [points[start : start + size] for start in range(0, len(points), size)] if points else []
    return [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def last_value(path: Path, column: str) -> float | None:
    """The last value of a column of a run's log; None if there is none."""
    points = _points(path, column)
    return points[-1][1] if points else None


def _points(path: Path, column: str) -> Curve:
    """A column; lines that a kill cut short, and values that are not finite, are passed over."""
    points: Curve = []
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as lines:
            for row in csv.DictReader(lines):
                try:
                    point = (float(row["step"]), float(row[column]))
                except (KeyError, TypeError, ValueError):
                    continue
                points += [point] if all(map(math.isfinite, point)) else []
    except (OSError, csv.Error):
        return []
    return points
