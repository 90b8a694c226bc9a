"""metrics.csv of a run, read as far as it is sound: curves, and the steps at which a warm-up ends or a search runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Curve", "column", "read_curve", "read_marks"]

Curve = list[tuple[float, float]]
"""(step, value) pairs."""
_CURVE_POINTS = 150  # more cannot be seen in a chart
_WARM_UP = "model.init_args.warmup_epochs"


def read_curve(path: Path, name: str) -> Curve:
    """A column of a run's metrics.csv over the steps, thinned to means of neighbors; empty if there is none."""
    points = column(path, name)
    size = math.ceil(len(points) / _CURVE_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)] if points else []
    return [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def read_marks(path: Path, settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Steps of a run at which something else than a usual step happened, by its name.

    Args:
        path: The run's metrics.csv.
        settings: The run's settings by dotted key.

    Returns:
        "warm-up ends" with the first logged step after ``warmup_epochs``, and "NAME search" with the first step after
        each run of an annotator that needs the student. Runs of earlier versions did not log searches.
    """
    rows = _rows(path)
    marks: dict[str, list[float]] = {}
    warm_up = settings.get(_WARM_UP)
    if isinstance(warm_up, int) and warm_up > 0:
        after = [step for row in rows if (step := _number(row, "step")) is not None and _trains(row, warm_up)]
        marks |= {"warm-up ends": after[:1]} if after else {}
    for name in dict.fromkeys(name for row in rows for name in row if name and name.startswith("search/")):
        marks[f"{name.removeprefix('search/')} search"] = [step for step, _ in _points(rows, name)]
    return marks


def _trains(row: Mapping[str, str], epoch: int) -> bool:
    """Whether this is the row of a training step in this epoch or a later one."""
    return _number(row, "train/loss") is not None and (_number(row, "epoch") or 0) >= epoch


def column(path: Path, name: str) -> Curve:
    """A column of metrics.csv; ignores lines that a kill cut short, and values that are not finite."""
    return _points(_rows(path), name)


def _points(rows: list[dict[str, str]], name: str) -> Curve:
    pairs = ((_number(row, "step"), _number(row, name)) for row in rows)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _number(row: Mapping[str, str], name: str) -> float | None:
    try:
        value = float(row[name])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _rows(path: Path) -> list[dict[str, str]]:
    """All rows; none if the file is missing or no CSV."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as lines:
            return list(csv.DictReader(lines))
    except (OSError, csv.Error):
        return []
