"""A comparison as text: for the terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields

from skipthinking.evaluation.intervals import DRAWS
from skipthinking.report.comparing import Comparison, Row

__all__ = ["FORMATS", "cells", "notes", "settings_rows", "settings_table"]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _accuracy(row: Row) -> str:
    return f"{_share(row.accuracy)} ({_share(row.accuracy_low)} to {_share(row.accuracy_high)})"


def _difference(row: Row) -> str:
    if row.difference is None:
        return ""
    if row.difference_low is None or row.difference_high is None:
        return f"{100 * row.difference:+.1f}"
    return f"{100 * row.difference:+.1f} ({100 * row.difference_low:+.1f} to {100 * row.difference_high:+.1f})"


def _count(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k" if value >= 1e4 else f"{value:.0f}"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "test set": lambda row: row.test,
    "method": lambda row: row.method,
    "seeds": lambda row: str(len(row.seeds)),
    "n": lambda row: str(row.n),
    "accuracy %": _accuracy,
    "difference": _difference,
    "lenient": lambda row: _share(row.accuracy_lenient),
    "no answer": lambda row: _share(row.no_answer),
    "new tokens": lambda row: f"{row.new_tokens:.1f}",
    "skipped": lambda row: _share(row.skipped),
    "ms": lambda row: "" if row.latency is None else f"{1000 * row.latency:.0f}",
    "targets": lambda row: _count(row.target_tokens),
    "context": lambda row: _count(row.context_tokens),
    "train s": lambda row: f"{row.seconds:.0f}",
}


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without columns that would be empty; a test set is named once."""
    rows = [[show(row) for show in _COLUMNS.values()] for row in comparison.rows]
    used = [place for place in range(len(_COLUMNS)) if any(row[place] for row in rows)]
    headings = [list(_COLUMNS)[place] for place in used]
    shown = [[row[place] for place in used] for row in rows]
    for above, row in reversed(list(itertools.pairwise(shown))):
        if row[0] == above[0]:
            row[0] = ""
    return headings, shown


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know of the table."""
    kinds = {row.interval for row in comparison.rows}
    told = {
        "wilson": "Wilson's over test examples for one seed (it says nothing of other seeds) or where all are alike",
        "bootstrap": f"the percentile bootstrap over test examples and seeds for several ({DRAWS} draws)",
    }
    found = [f"In brackets 95% intervals: {'; '.join(text for kind, text in told.items() if kind in kinds)}."]
    if any(row.difference is not None for row in comparison.rows):
        found.append(
            f"Difference: points of accuracy against {comparison.baseline}, paired bootstrap on the same test examples."
        )
    found.append(
        "Shares in %; ms: latency per answer at batch size 1; targets and context: tokens trained on; train s: wall "
        "time of training."
    )
    if any(run.settings.get("model.init_args.start_from") for group in comparison.groups for run in group.runs):
        found.append(
            "Where a run started from another, the tokens are those of both (the other's as last logged), the time is "
            "its own alone."
        )
    unknown = [row.method for row in comparison.rows if not row.tokens_known]
    if unknown:
        found.append(f"Without the tokens of what they started from: {', '.join(dict.fromkeys(unknown))}.")
    devices = sorted({device for row in comparison.rows for device in row.devices})
    if len(devices) > 1:
        found.append(f"ms and train s were measured on different devices: {'; '.join(devices)}.")
    if comparison.differences:
        found.append(f"Settings that differ: {', '.join(comparison.differences)}.")
    return found


def _text(comparison: Comparison) -> str:
    headings, rows = cells(comparison)
    lines = _aligned([headings, *rows])
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes(comparison)]) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width; names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _markdown(comparison: Comparison) -> str:
    headings, rows = cells(comparison)
    return _markdown_table(headings, rows) + "\n" + "\n".join(notes(comparison)) + "\n"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---" if place < 2 else "--:" for place in range(len(headings))]
    table = [headings, marks, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


_LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}"}  # fmt: skip


def _latex(comparison: Comparison) -> str:
    headings, rows = cells(comparison)
    lines = []
    for place, row in enumerate([headings, *rows]):
        escaped = ["".join(_LATEX.get(sign, sign) for sign in cell).replace(" to ", "--") for cell in row]
        lines += ["\\midrule"] if place and row[0] else []
        lines.append(f"{' & '.join(escaped)} \\\\")
    told = [f"% {note}" for note in notes(comparison)]
    places = f"ll{'r' * (len(headings) - 2)}"
    head = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{places}}}", "\\toprule"]
    return "\n".join([*told, *head, *lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        writer.writerow({**asdict(row), "seeds": " ".join(map(str, row.seeds)), "devices": "; ".join(row.devices)})
    return text.getvalue()


def settings_rows(comparison: Comparison) -> list[list[str]]:
    """The settings that differ: key, then the value of every method."""
    methods = list(dict.fromkeys(group.method for group in comparison.groups))
    return [
        [key, *(json.dumps(values[method], ensure_ascii=False) if method in values else "" for method in methods)]
        for key, values in comparison.differences.items()
    ]


def settings_table(comparison: Comparison) -> str:
    """The settings that differ and their values, as Markdown."""
    methods = dict.fromkeys(group.method for group in comparison.groups)
    return _markdown_table(["setting", *methods], settings_rows(comparison))


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "table": _text, "markdown": _markdown, "latex": _latex, "csv": _csv
}  # fmt: skip
