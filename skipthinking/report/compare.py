"""The command ``compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from skipthinking.files import write_text
from skipthinking.records import UserError
from skipthinking.report.comparing import compare_runs
from skipthinking.report.tables import FORMATS, settings_table

__all__ = ["compare"]

_BY_SUFFIX = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".txt": "table"}


def compare(
    *runs: str,
    baseline: str | None = None,
    margin: float | None = None,
    format: Literal["table", "markdown", "latex", "csv"] | None = None,
    out: str | None = None,
    html: str | None = None,
    figures: str | None = None,
    examples: int = 60,
    differences: bool = False,
    allow_different_tests: bool = False,
    across_tasks: bool = False,
) -> None:
    """Compares finished runs: methods over seeds, with intervals, on the same test examples.

    Args:
        runs: Run folders. Unfinished and damaged ones are reported and left out.
        baseline: Method that the others are compared with: accuracy, new tokens, and both in one score.
        margin: Points of accuracy by which a method may be worse than the baseline and still count as no worse; the
            table then says for each method whether that is shown (one-sided 97.5%).
        format: Format of the table; by default that of the suffix of `out`, else plain text.
        out: File to write; by default the table is printed.
        html: File for a page with the table, charts, annotated examples of runs that `annotate` was run on, and answers
            beside the teacher's, all in one file; its charts need matplotlib: pip install 'skipthinking[report]'.
        figures: Folder for the charts as SVG and PDF files, which need matplotlib too.
        examples: Maximum number of examples per test set whose answers the page shows, drawn at random.
        differences: Also list the settings in which the methods differ.
        allow_different_tests: Compare runs that answered different examples of a test set.
        across_tasks: Compare the tasks of a suite that share a test set with each other, as methods TASK-METHOD.

    Raises:
        UserError: No run is left, no run is of the baseline, test examples differ, the margin has no baseline or is not
            above 0, matplotlib is missing, or a file cannot be written.
    """
    if not runs:
        raise UserError("Expected run folders, got none. Name some: python -m skipthinking compare runs/*")
    if examples < 0:
        raise UserError(f"Expected a number of examples, got --examples {examples}. Use --examples 5, for example.")
    for option, name in (("--out", out), ("--html", html)):
        if name is not None and (not name or Path(name).is_dir()):
            raise UserError(f"Expected a file to write, got {option} {name!r}. Name one.")
    if figures is not None and (not figures or Path(figures).is_file()):
        raise UserError(f"Expected a folder to write to, got --figures {figures!r}. Name one.")
    comparison = compare_runs(runs, baseline, allow_different_tests, margin, across_tasks)
    for folder, reason in comparison.left_out.items():
        print(f"left out: {folder}: {reason}", file=sys.stderr)
    text = FORMATS[format or _BY_SUFFIX.get(Path(out or "").suffix, "table")](comparison)
    if out is None:
        print(text, end="")
    else:
        write_text(Path(out), text)
        print(f"{len(comparison.rows)} rows in {out}", file=sys.stderr)
    if html is not None:
        from skipthinking.report.page import page

        write_text(Path(html), page(comparison, examples))
        print(f"report: {html}", file=sys.stderr)
    if figures is not None:
        from skipthinking.report.charts import save_charts

        for path in save_charts(comparison, Path(figures)):
            print(f"figure: {path}", file=sys.stderr)
    if differences:
        print(f"\n{settings_table(comparison)}", end="")
