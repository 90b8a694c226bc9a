"""A comparison as one HTML page that needs nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipthinking.records import UserError
from skipthinking.report.charts import HEIGHT, WIDTH, Chart, curves, scatter
from skipthinking.report.comparing import Comparison, Group
from skipthinking.report.show import colour_of, extent, read_annotations
from skipthinking.report.tables import cells, notes, settings_rows

__all__ = ["page"]

_COLOURS = 8  # of the template
_ANNOTATED = 12  # examples of a run


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A test example with the answers of all methods.

    Attributes:
        test: The test set.
        question: The question.
        gold: The gold answer.
        answers: Line of predictions.jsonl by method: that of the run with the lowest seed.
        right: Numbers of the methods that were right.
        wrong: Numbers of those that were wrong.
    """

    test: str
    question: str
    gold: str
    answers: dict[str, Any]
    right: list[int]
    wrong: list[int]

    @property
    def kind(self) -> str:
        """Whether methods agree: right, wrong or mixed."""
        return "mixed" if self.right and self.wrong else "right" if self.right else "wrong"


def page(comparison: Comparison, examples: int) -> str:
    """The page.

    Args:
        comparison: What was compared.
        examples: Most test examples of a test set whose answers are shown.
    """
    import jinja2

    methods = list(dict.fromkeys(group.method for group in comparison.groups))
    colours = {method: number % _COLOURS for number, method in enumerate(methods)}
    told = {method: number for number, method in enumerate(methods)}
    tests = list(dict.fromkeys(row.test for row in comparison.rows))
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "page.html.j2"
    )
    answered = {test: _answered([g for g in comparison.groups if g.test == test], told) for test in tests}
    return template.render(
        comparison=comparison,
        methods=methods,
        colours=colours,
        numbers=told,
        headings=cells(comparison)[0],
        table=list(zip(comparison.rows, cells(comparison)[1], strict=True)),
        notes=notes(comparison),
        settings=settings_rows(comparison),
        charts=_charts(comparison, tests, colours),
        size=(WIDTH, HEIGHT),
        answered={test: _varied(rows, examples) for test, rows in answered.items()},
        asked={test: len(rows) for test, rows in answered.items()},
        annotated=_annotated(comparison),
        colour_of=colour_of,
        extent=extent,
    )


def _charts(comparison: Comparison, tests: Sequence[str], colours: dict[str, int]) -> list[Chart]:
    pairs = list(zip(comparison.rows, comparison.groups, strict=True))
    found: list[Chart | None] = []
    for test in tests:
        rows, groups = zip(*((row, group) for row, group in pairs if row.test == test), strict=True)
        found.append(scatter(rows, groups, colours))
    found.append(curves(comparison, "train/loss", "training loss", colours))
    found.append(curves(comparison, "val/accuracy", "accuracy on the validation examples", colours))
    return [chart for chart in found if chart is not None]


def _answered(groups: Sequence[Group], numbers: dict[str, int]) -> list[Answered]:
    """The examples of a test set in its order, each with every method's answer that there is."""
    rows: dict[str, dict[str, Any]] = {}
    for group in groups:
        for id, answer in group.runs[0].answers[group.name].items():
            rows.setdefault(id, {})[group.method] = answer
    found = []
    for answers in rows.values():
        first = next(iter(answers.values()))
        right = [numbers[method] for method, answer in answers.items() if answer["correct"]]
        wrong = [numbers[method] for method, answer in answers.items() if not answer["correct"]]
        found.append(
            Answered(test=groups[0].test, question=first["question"], gold=first["gold"], answers=answers, right=right,
                     wrong=wrong)
        )  # fmt: skip
    return found


def _varied(rows: Sequence[Answered], most: int) -> list[Answered]:
    """Some examples: in turns one on which methods differ, one that all got wrong, one that all got right."""
    kinds = [[row for row in rows if row.kind == kind] for kind in ("mixed", "wrong", "right")]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*kinds))
    return list(itertools.islice((row for row in turns if row is not None), most))


def _annotated(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """First annotated training examples by method, where a run has some."""
    found: dict[str, list[dict[str, Any]]] = {}
    for group in comparison.groups:
        for run in group.runs:
            path = run.folder / "annotations.jsonl"
            if group.method not in found and path.is_file():
                try:
                    found[group.method] = read_annotations(path)[:_ANNOTATED]
                except UserError:
                    continue  # `show` names the line; a picture less is no reason to have none
    return found
