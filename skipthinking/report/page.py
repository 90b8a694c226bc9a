"""A comparison as one HTML page that needs no other file and no network."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from skipthinking.records import UserError
from skipthinking.report.annotations import LOSS_COLORS, Drawing, draw, read_annotations
from skipthinking.report.answers import paired_counts, sample
from skipthinking.report.canvas import COLORS, SHAPES, inline_svg
from skipthinking.report.charts import draw_charts
from skipthinking.report.comparing import Comparison
from skipthinking.report.headline import facts, title
from skipthinking.report.tables import cells, notes, settings_rows

__all__ = ["page"]

_ANNOTATED = 12  # training examples
_DETAILS = {"lenient", "no answer", "unfinished", "within", "E3", "targets", "context", "train s"}  # a second table


def page(comparison: Comparison, examples: int) -> str:
    """Renders the page.

    Args:
        comparison: The comparison.
        examples: Maximum number of examples per test set whose answers are shown.

    Raises:
        UserError: matplotlib is not installed.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    tests = list(dict.fromkeys(row.test for row in comparison.rows))
    charts = [(chart, inline_svg(chart)) for chart in draw_charts(comparison)]
    differences = [drawn for drawn in charts if drawn[0].name.startswith("difference_")]
    annotated = _annotated(comparison)
    lines = [line for example in annotated for _, drawing in example.drawings for line in drawing.steps]
    counts = [(test, pairs) for test in tests if (pairs := paired_counts(comparison, test))]
    return environment.get_template("page.html.j2").render(
        title=title(comparison),
        facts=facts(comparison),
        comparison=comparison,
        methods=comparison.methods,
        numbers={method: number for number, method in enumerate(comparison.methods)},
        colors={method: number % len(COLORS) for number, method in enumerate(comparison.methods)},
        shapes={method: number // len(COLORS) % len(SHAPES) for number, method in enumerate(comparison.methods)},
        tables=_tables(comparison),
        notes=notes(replace(comparison, differences={})),  # a table of the page has them
        settings=settings_rows(comparison),
        charts=[drawn for drawn in charts if drawn not in differences],
        pairs=list(zip(counts, differences, strict=True)),
        samples={test: sample(comparison, test, examples) for test in tests},
        annotated=annotated,
        losses=LOSS_COLORS if any(piece.color for line in lines for piece in line.pieces) else {},
    )


class _Table(NamedTuple):
    """Some columns of the table, after those that name its rows."""

    title: str
    headings: list[str]
    rows: list[tuple[Any, list[str]]]  # row of the comparison, cells


def _tables(comparison: Comparison) -> list[_Table]:
    """The columns that answer most questions, and the others; the title names the test set if there is one only."""
    headings, rows = cells(comparison)
    names = ["test set", "method"] if len({row.test for row in comparison.rows}) > 1 else ["method"]
    tables = []
    for name, is_detail in (("Accuracy and length", False), ("Answers and training in detail", True)):
        columns = names + [heading for heading in headings[2:] if (heading in _DETAILS) == is_detail]
        shown = [headings.index(heading) for heading in columns]
        chosen = [[row[place] for place in shown] for row in rows]
        pairs = list(zip(comparison.rows, chosen, strict=True))
        tables.append(_Table(name, columns, pairs))
    return tables


class _Annotated(NamedTuple):
    """A training example as the methods annotated it."""

    question: str
    drawings: list[tuple[str, Drawing]]  # method, drawing


def _annotated(comparison: Comparison) -> list[_Annotated]:
    """Random training examples side by side, those that most methods annotated first."""
    drawings: dict[tuple[str, str], list[tuple[str, Drawing]]] = {}
    for method, rows in _annotations(comparison):
        for row in heapq.nsmallest(_ANNOTATED, rows, key=_lot):
            drawings.setdefault((row["id"], row["question"]), []).append((method, draw(row)))
    examples = [_Annotated(question, drawn) for (_, question), drawn in drawings.items()]
    return sorted(examples, key=lambda example: -len(example.drawings))[:_ANNOTATED]


def _lot(row: Mapping[str, Any]) -> float:
    """A random number per example, the same for all methods."""
    return random.Random(row["id"]).random()


def _annotations(comparison: Comparison) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of every method's first run that was annotated, one method at a time."""
    methods: set[str] = set()
    for group in comparison.groups:
        for run in group.runs:
            path = run.folder / "annotations.jsonl"
            if group.method not in methods and path.is_file():
                try:
                    rows = read_annotations(path)
                except UserError:
                    continue  # `show` names the line; the page does without these examples
                methods.add(group.method)
                yield group.method, rows
