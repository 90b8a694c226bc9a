"""A comparison as one HTML page that needs no other file and no network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skipthinking.records import UserError
from skipthinking.report.annotations import LOSS_COLORS, Drawing, draw, read_annotations
from skipthinking.report.charts import COLORS, draw_charts, inline_svg
from skipthinking.report.comparing import Comparison
from skipthinking.report.tables import cells, notes, settings_rows

__all__ = ["page"]

_ANNOTATED = 12  # examples per method


Answers = dict[str, Mapping[str, Any]]
"""Lines of predictions.jsonl on the same example by method, each of the run with the lowest seed."""


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
    headings, rows = cells(comparison)
    answered = {test: _answered(comparison, test) for test in dict.fromkeys(row.test for row in comparison.rows)}
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        methods=comparison.methods,
        numbers={method: number for number, method in enumerate(comparison.methods)},
        colors={method: number % len(COLORS) for number, method in enumerate(comparison.methods)},
        headings=headings,
        table=list(zip(comparison.rows, rows, strict=True)),
        notes=notes(comparison),
        settings=settings_rows(comparison),
        charts=[(chart.title, inline_svg(chart)) for chart in draw_charts(comparison)],
        answered={test: _varied(rows, examples) for test, rows in answered.items()},
        counts={test: len(rows) for test, rows in answered.items()},
        annotated=_annotated(comparison),
        losses=LOSS_COLORS,
    )


def _answered(comparison: Comparison, test: str) -> list[Answers]:
    """The answers to every example of a test set, in its order."""
    by_id: dict[str, Answers] = {}
    for group in (group for group in comparison.groups if group.test == test):
        for id, answer in group.runs[0].answers[group.name].items():
            by_id.setdefault(id, {})[group.method] = answer
    return list(by_id.values())


def _kind(answers: Answers) -> str:
    correct = {answer["correct"] for answer in answers.values()}
    return "mixed" if len(correct) > 1 else "right" if True in correct else "wrong"


def _varied(rows: Sequence[Answers], count: int) -> list[tuple[str, Answers]]:
    """Some examples with their kind: in turns one on which methods differ, one all wrong, and one all right."""
    kinds = [[(kind, row) for row in rows if _kind(row) == kind] for kind in ("mixed", "wrong", "right")]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*kinds))
    return list(itertools.islice((row for row in turns if row is not None), count))


def _annotated(comparison: Comparison) -> dict[str, list[Drawing]]:
    """The first annotated training examples of every method that has some."""
    drawings: dict[str, list[Drawing]] = {}
    for group in comparison.groups:
        for run in group.runs:
            path = run.folder / "annotations.jsonl"
            if group.method not in drawings and path.is_file():
                try:
                    drawings[group.method] = [draw(row) for row in read_annotations(path)[:_ANNOTATED]]
                except UserError:
                    continue  # `show` names the line; the page does without these examples
    return drawings
