"""The results in a model card: written from the summaries of a run folder, and again after each test."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipthinking.annotate.runner import say
from skipthinking.files import parse_json, read_jsonl, read_text, write_text

__all__ = ["Conditions", "results_metadata", "results_section", "update_card"]

_SECTION = re.compile(r"<!-- results of (\{.*\}) -->\n.*?<!-- end of results -->", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What a test must have in common with an exported student, so that its results are the student's.

    Attributes:
        steps: Optimizer steps of the student.
        max_new_tokens: Limit of an answer.
        prompt: Prompt of a fixed question.
    """

    steps: int
    max_new_tokens: int
    prompt: str

    def hold(self, summary: Mapping[str, Any]) -> bool:
        """Whether a summary is of a test under these conditions."""
        return all(summary.get(name) == getattr(self, name) for name in self.__slots__)


def _summaries(folder: Path, conditions: Conditions) -> list[tuple[Path, dict[str, Any]]]:
    """Summaries of the run's own test, and of those with other answer settings, such as RUN/mode=full."""
    paths = [folder / "summary.json", *sorted(folder.glob("*=*/summary.json"))]
    summaries = [(path.parent, json.loads(read_text(path))) for path in paths if path.is_file()]
    return [(home, summary) for home, summary in summaries if conditions.hold(summary)]


def _percent(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.1%} ({row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%})"


def _row(home: Path, folder: Path, name: str, row: Mapping[str, Any], latency: float | None) -> list[str]:
    tokens = f"{row['new_tokens']:.1f}"
    if "new_tokens_low" in row:
        tokens += f" ({row['new_tokens_low']:.1f} to {row['new_tokens_high']:.1f})"
    skipped = row.get("skipped")
    return [
        name if home == folder else f"{name}, {home.name}",
        str(row["n"]),
        _percent(row, "accuracy"),
        _percent(row, "accuracy_lenient"),
        f"{row['unfinished']:.1%}",
        tokens,
        "" if row.get("teacher_tokens") is None else f"{row['teacher_tokens']:.1f}",
        "" if skipped is None else f"{skipped:.1%} (of {row['skipped_known']:.0%})",
        "" if latency is None else f"{1000 * latency:.0f} ms",
    ]


_HEADINGS = (
    "test set", "questions", "accuracy", "lenient accuracy", "unfinished", "new tokens", "teacher's tokens",
    "chunks skipped", "latency",
)  # fmt: skip


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table without the columns that are empty."""
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    lines = [[headings[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def results_section(folder: Path, conditions: Conditions) -> str:
    """The section of a card with the results of a run folder, between comments by which it is found again."""
    summaries = _summaries(folder, conditions)
    tests = [(home, name, row, summary) for home, summary in summaries for name, row in summary["test"].items()]
    lines = ["No test ran on this student."]
    if tests:
        rows = [_row(home, folder, name, row, summary["latency_seconds"]) for home, name, row, summary in tests]
        device = summaries[0][1]["device"]
        lines = [
            *_table(_HEADINGS, rows),
            "",
            "In brackets: 95% intervals over test questions. They say nothing about other seeds. Accuracy counts "
            "answers after the answer phrase, lenient accuracy also others; unfinished answers were cut off. "
            f"Latency is one answer at a time on {device}.",
        ]
        lines += _budgets(folder, tests) + _answer(summaries[0][0] / "predictions.jsonl")
    # ">" in a prompt would end the comment.
    about = json.dumps({name: getattr(conditions, name) for name in conditions.__slots__}).replace(">", "\\u003e")
    return "\n".join([f"<!-- results of {about} -->", *lines, "<!-- end of results -->"])


def _budgets(folder: Path, tests: Sequence[tuple[Path, str, Mapping[str, Any], Any]]) -> list[str]:
    """Accuracy if generation stops earlier."""
    budgets = list(dict.fromkeys(budget for _, _, row, _ in tests for budget in row.get("accuracy_at", ())))
    if not budgets:
        return []
    rows = []
    for home, name, row, _ in tests:
        shares = [row.get("accuracy_at", {}).get(budget) for budget in budgets]
        shown = ["" if share is None else f"{share:.1%}" for share in shares]
        rows.append([name if home == folder else f"{name}, {home.name}", *shown])
    headings = ["accuracy within", *(f"{budget} tokens" for budget in budgets)]
    return ["", *_table(headings, rows)]


def _answer(path: Path) -> list[str]:
    """The first answer of a test."""
    _, row = next(read_jsonl(path), ("", None)) if path.is_file() else ("", None)
    if row is None:
        return []
    verdict = "right" if row["correct"] else "wrong"
    text = f"{row['question']}\n\n{row['completion']}".replace("```", "'''")
    return ["", f"The first answer of the test, {row['new_tokens']} tokens, {verdict}:", "", "```text", text, "```"]


def results_metadata(folder: Path, conditions: Conditions, hub_names: Mapping[str, str]) -> list[Any] | None:
    """The results for the metadata of a card, as huggingface_hub has them; None without a test.

    Args:
        folder: The run folder.
        conditions: Those of the exported student.
        hub_names: Names of data sets on the hub, by test set.
    """
    from huggingface_hub import EvalResult

    results = []
    for home, summary in _summaries(folder, conditions):
        with_settings = "" if home == folder else f", {home.name}"
        for name, row in summary["test"].items():
            for metric, key in (("accuracy", "accuracy"), ("new tokens per answer", "new_tokens")):
                if f"{key}_low" not in row:
                    continue
                low, high = (f"{row[f'{key}_{end}']:.4g}" for end in ("low", "high"))
                results.append(
                    EvalResult(
                        task_type="text-generation",
                        dataset_type=hub_names.get(name, name),
                        dataset_name=name,
                        metric_type=metric,
                        metric_value=round(row[key], 4),
                        metric_name=f"{metric}{with_settings} (95% interval {low} to {high}, n = {row['n']})",
                    )
                )
    return results or None


def update_card(folder: Path, hub_names: Mapping[str, str]) -> None:
    """Writes the results of a run folder into the card of its exported student, if there is one.

    Everything else in the card stays as it is. So do the results if the test was of another student than the exported
    one, or had another prompt or limit, and the line that says so is printed.
    """
    from huggingface_hub import ModelCard

    path = folder / "student" / "README.md"
    if not path.is_file():
        return
    card = ModelCard(read_text(path), ignore_metadata_errors=True)
    section = _SECTION.search(card.text)
    try:
        conditions = Conditions(**parse_json(section[1])) if section else None
    except (json.JSONDecodeError, TypeError):
        conditions = None
    if section is None or conditions is None:
        say(f"note: {path} has no results as `fit` writes them, and stays as it is")
        return
    if not (folder / "summary.json").is_file() or not conditions.hold(json.loads(read_text(folder / "summary.json"))):
        say(
            f"note: {path} stays as it is: the last test was not of this student (step {conditions.steps}), or had "
            "another prompt or limit of new tokens"
        )
        return
    card.text = card.text[: section.start()] + results_section(folder, conditions) + card.text[section.end() :]
    about: Any = card.data
    about.model_name = about.get("model_name") or folder.name
    about.eval_results = results_metadata(folder, conditions, hub_names)
    write_text(path, str(card))
