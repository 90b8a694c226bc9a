"""A comparison as text for the terminal, Markdown, LaTeX or CSV.

pandas writes LaTeX and CSV. It is imported only then, as its import (0.3 s) takes longer than the start of `compare`.
Markdown takes four lines here; pandas needs another package for it, tabulate.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from skipthinking.report.comparing import Comparison, Row
from skipthinking.report.summary import skipped_text

__all__ = ["FORMATS", "cells", "notes", "settings_rows", "settings_table"]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _accuracy(row: Row) -> str:
    return f"{_percent(row.accuracy)} ({_percent(row.accuracy_low)} to {_percent(row.accuracy_high)})"


def _difference(row: Row) -> str:
    if row.difference is None:
        return ""
    if row.difference_low is None or row.difference_high is None:
        return f"{100 * row.difference:+.1f}"
    low, high = max(-1.0, row.difference_low), min(1.0, row.difference_high)  # 12.7 standard errors may be more
    return f"{100 * row.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


_NO_SAVING = -99.0  # a lower end of a hundred times the baseline's tokens


def _saved(row: Row) -> str:
    if row.saved_low is None or row.saved_high is None or row.saved_low < _NO_SAVING:
        return _percent(row.saved)  # few seeds that differ much say nothing about others
    return f"{_percent(row.saved)} ({_percent(row.saved_low)} to {_percent(row.saved_high)})"


def _no_worse(row: Row) -> str:
    return "" if row.no_worse is None else "yes" if row.no_worse else "not shown"


def _count(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k" if value >= 1e4 else f"{value:.0f}"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "test set": lambda row: row.test,
    "method": lambda row: row.method,
    "seeds": lambda row: str(len(row.seeds)),
    "n": lambda row: str(row.n),
    "accuracy %": _accuracy,
    "difference": _difference,
    "MDE": lambda row: _percent(row.detectable),
    "no worse": _no_worse,
    "lenient": lambda row: _percent(row.accuracy_lenient),
    "no answer": lambda row: _percent(row.no_answer),
    "unfinished": lambda row: _percent(row.unfinished),
    "new tokens": lambda row: f"{row.new_tokens:.1f}",
    "saved %": _saved,
    "E3": lambda row: "" if row.e3 is None else f"{row.e3:.2f}",
    "front": lambda row: "*" if row.pareto else "",
    "within": lambda row: ", ".join(f"{budget}: {_percent(share)}" for budget, share in row.accuracy_at.items()),
    "skipped": lambda row: skipped_text(row.skipped, row.skipped_known),
    "ms": lambda row: "" if row.latency is None else f"{1000 * row.latency:.0f}",
    "targets": lambda row: _count(row.target_tokens),
    "context": lambda row: _count(row.context_tokens),
    "train s": lambda row: f"{row.seconds:.0f}",
}


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without empty columns; only the first row of a test set names it."""
    rows = [[show(row) for show in _COLUMNS.values()] for row in comparison.rows]
    used = [column for column in range(len(_COLUMNS)) if any(row[column] for row in rows)]
    headings = [list(_COLUMNS)[column] for column in used]
    shown = [[row[column] for column in used] for row in rows]
    for above, row in reversed(list(itertools.pairwise(shown))):
        if row[0] == above[0]:
            row[0] = ""
    return headings, shown


def notes(comparison: Comparison) -> list[str]:
    """What the numbers of the table mean."""
    lines = [*_interval_notes(comparison), *_baseline_notes(comparison)]
    if any(row.pareto is not None for row in comparison.rows):
        lines.append("front: no other row of the test set has at least this accuracy with at most these new tokens.")
    if any(row.accuracy_at for row in comparison.rows):
        lines.append("Within: accuracy if generation stops after so many new tokens.")
    if any(row.skipped_known is not None for row in comparison.rows):
        lines.append(
            "Skipped: share of the teacher's chunks that an answer leaves out, over the answers that name stages and "
            "are finished (of N%)."
        )
    lines.append(
        "Rates in %; ms: latency per answer at batch size 1; targets and context: tokens trained on; train s: wall "
        "time of training."
    )
    if any(run.settings.get("model.init_args.start_from") for group in comparison.groups for run in group.runs):
        lines.append(
            "If a run started from another, the tokens are those of both (the other's as last logged), the time is "
            "that of the run alone."
        )
    unknown = [row.method for row in comparison.rows if not row.tokens_known]
    if unknown:
        lines.append(f"Without the tokens of what they started from: {_names(unknown)}.")
    devices = sorted({device for row in comparison.rows for device in row.devices})
    if len(devices) > 1:
        lines.append(f"ms and train s were measured on different devices: {'; '.join(devices)}.")
    if comparison.differences:
        lines.append(f"Settings that differ: {', '.join(comparison.differences)}.")
    return lines


def _names(methods: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(methods))


def _interval_notes(comparison: Comparison) -> list[str]:
    methods = {
        "wilson": "Wilson's over test examples for one seed (it says nothing about other seeds) or if all are equal",
        "components": "over other seeds and other test examples for several (variance components, t quantiles)",
    }
    kinds = {row.interval for row in comparison.rows}
    lines = [f"In brackets 95% intervals: {'; '.join(text for kind, text in methods.items() if kind in kinds)}."]
    several = [group for group in comparison.groups if len(group.runs) > 1]
    one_start = [group.method for group in several if frozenset.intersection(*(run.lineage for run in group.runs))]
    if one_start:
        lines.append(f"All seeds come from one run, and the intervals say nothing about others: {_names(one_start)}.")
    if any(len(row.seeds) == 2 for row in comparison.rows):
        lines.append(
            "Two seeds say little about others: their t quantile is 12.7, that of three 4.3, that of five 2.8."
        )
    return lines


def _baseline_notes(comparison: Comparison) -> list[str]:
    base = comparison.baseline
    compared = [row for row in comparison.rows if row.difference is not None]
    if not compared:
        return []
    lines = [
        f"Difference: points of accuracy against {base} on the same test examples. MDE: the true difference that would "
        "be told from 0 (two-sided, 5%) in about 80% of repetitions."
    ]
    paired = [row.method for row in compared if row.seeds_paired]
    if paired:
        lines.append(f"Seed by seed against the run of {base} from the same warm-up: {_names(paired)}.")
    single = [row for row in comparison.rows if len(row.seeds) == 1 and (row in compared or row.method == base)]
    if single:
        methods = _names(row.method for row in single)
        lines.append(f"One seed, so differences hold for that run and not for other seeds: {methods}.")
    if comparison.margin is not None:
        lines.append(
            f"no worse: whether accuracy is shown to be less than {100 * comparison.margin:g} points below {base}'s "
            f"(the lower end of the difference's interval is above -{100 * comparison.margin:g}; one-sided, 97.5%)."
        )
    lines.append(
        f"saved %: new tokens saved against {base}. E3 (E3-Score of EffiReason-Bench): 1 / (A0 / odds ratio of right "
        "answers + (1 - A0) / token ratio), A0 the baseline's accuracy; above 1 does not mean as accurate as it."
    )
    return lines


def _text(comparison: Comparison) -> str:
    """Aligned columns; names to the left, numbers to the right."""
    headings, rows = cells(comparison)
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [
        "  ".join(f"{cell:{'<' if column < 2 else '>'}{widths[column]}}" for column, cell in enumerate(row))
        for row in (headings, *rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes(comparison)]) + "\n"


def _markdown(comparison: Comparison) -> str:
    return _markdown_table(*cells(comparison)) + "\n" + "\n".join(notes(comparison)) + "\n"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if column < 2 else "--:" for column in range(len(headings))]
    table = [headings, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


def _latex(comparison: Comparison) -> str:
    import pandas

    headings, rows = cells(comparison)
    frame = pandas.DataFrame(rows, columns=headings)
    table = frame.to_latex(index=False, escape=True, column_format=f"ll{'r' * (len(headings) - 2)}")
    lines = table.replace(" to ", "--").splitlines()  # 75.0 (30.1 to 95.4) is 75.0 (30.1--95.4) in print
    for place in range(len(rows) - 1, 0, -1):  # a rule above every test set; rows start after the first four lines
        if rows[place][0]:
            lines.insert(4 + place, "\\midrule")
    comments = [f"% {note}" for note in notes(comparison)]
    return "\n".join([*comments, "% needs \\usepackage{booktabs}", *lines]) + "\n"


def _flat(row: Row) -> dict[str, object]:
    """The fields of a row, with a column for every budget."""
    fields = asdict(row)
    within = fields.pop("accuracy_at")
    return {**fields, **{f"accuracy_at_{budget}": share for budget, share in within.items()}}


def _csv(comparison: Comparison) -> str:
    import pandas

    rows = [
        {**_flat(row), "seeds": " ".join(map(str, row.seeds)), "devices": "; ".join(row.devices)}
        for row in comparison.rows
    ]
    return str(pandas.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def settings_rows(comparison: Comparison) -> list[list[str]]:
    """The settings that differ: key, then the value of every method."""
    return [
        [key, *(json.dumps(values[name], ensure_ascii=False) if name in values else "" for name in comparison.methods)]
        for key, values in comparison.differences.items()
    ]


def settings_table(comparison: Comparison) -> str:
    """The settings that differ and their values, as Markdown."""
    return _markdown_table(["setting", *comparison.methods], settings_rows(comparison))


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "table": _text, "markdown": _markdown, "latex": _latex, "csv": _csv
}  # fmt: skip
