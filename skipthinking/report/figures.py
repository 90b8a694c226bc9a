"""Figures for papers and READMEs, by matplotlib (extra ``report``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from skipthinking.files import replacing
from skipthinking.records import UserError
from skipthinking.report.comparing import Comparison
from skipthinking.report.curves import read_curve

__all__ = ["figures"]

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "legend.frameon": False, "savefig.bbox": "tight", "svg.fonttype": "path", "svg.hashsalt": "skipthinking",
}  # fmt: skip


def figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Draws accuracy against new tokens per test set, and training loss, as SVG and PDF.

    Returns:
        The files.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"Expected matplotlib for figures, got {error}. Install it: pip install 'skipthinking[report]'."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    methods = list(dict.fromkeys(group.method for group in comparison.groups))
    colours = {method: _COLOURS[number % len(_COLOURS)] for number, method in enumerate(methods)}
    files: list[Path] = []
    with matplotlib.rc_context(_STYLE):
        for test in dict.fromkeys(row.test for row in comparison.rows):
            figure = Figure(figsize=(4.6, 3.2))
            _scatter(figure.add_subplot(), comparison, test, colours)
            files += _save(figure, folder, f"accuracy_{re.sub(r'[^a-zA-Z0-9_.-]+', '_', test)}")
        figure = Figure(figsize=(4.6, 3.2))
        if _losses(figure.add_subplot(), comparison, colours):
            files += _save(figure, folder, "loss")
    return files


def _scatter(axes: Any, comparison: Comparison, test: str, colours: dict[str, str]) -> None:
    for row in (row for row in comparison.rows if row.test == test):
        axes.errorbar(
            row.new_tokens,
            100 * row.accuracy,
            xerr=[[row.new_tokens - row.new_tokens_low], [row.new_tokens_high - row.new_tokens]],
            yerr=[[100 * (row.accuracy - row.accuracy_low)], [100 * (row.accuracy_high - row.accuracy)]],
            fmt="o",
            color=colours[row.method],
            label=f"{row.method} ({len(row.seeds)} seed{'s' if len(row.seeds) > 1 else ''})",
        )
    axes.set(xlabel="new tokens per answer", ylabel="accuracy %", title=test)
    axes.legend()


def _losses(axes: Any, comparison: Comparison, colours: dict[str, str]) -> bool:
    """Draws the loss of every run; whether there was one."""
    told: set[str] = set()
    for group in comparison.groups:
        for run in group.runs:
            curve = read_curve(run.folder / "metrics.csv", "train/loss")
            if curve:
                label = None if group.method in told else group.method
                axes.plot(*zip(*curve, strict=True), color=colours[group.method], linewidth=1, alpha=0.8, label=label)
                told.add(group.method)
    if told:
        axes.set(xlabel="optimiser steps", ylabel="training loss", yscale="log")
        axes.legend()
    return bool(told)


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Writes a figure; without a date, so that the same runs give the same bytes."""
    files = [folder / f"{name}.{kind}" for kind in ("svg", "pdf")]
    for path, dated in zip(files, ("Date", "CreationDate"), strict=True):
        with replacing(path) as partial:
            figure.savefig(partial, format=path.suffix[1:], metadata={dated: None})
    return files
