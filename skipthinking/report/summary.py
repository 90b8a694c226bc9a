"""The command ``summary``, which every finished run prints too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from skipthinking.records import UserError
from skipthinking.report.run_folders import read_json_lines, read_summary

__all__ = ["print_summary", "skipped_text", "summary"]


def print_summary(folder: Path) -> None:
    """Prints accuracy with its interval, answer lengths, latency, training tokens, and one answer."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    values, console = read_summary(folder), Console(highlight=False)
    try:
        tests = values["test"].values()
        rows = {heading: [show(row) for row in tests] for heading, show in _ROWS.items()}
        for budget in dict.fromkeys(budget for row in tests for budget in row.get("accuracy_at", ())):
            shares = [row.get("accuracy_at", {}).get(budget) for row in tests]
            rows[f"accuracy within {budget} tokens"] = [None if share is None else f"{share:.1%}" for share in shares]
        lines = [
            f"trained on {values['target_tokens']:,} target and {values['context_tokens']:,} context tokens in "
            f"{values['fit_seconds']:.0f} s"
        ]
        if values["test"]:
            lines.append("the intervals are over test examples; they say nothing about other seeds")
        if values["latency_seconds"] is not None:
            latency = f"{values['latency_seconds'] * 1000:.0f} ms per answer ({values['device']})"
            lines.insert(0, f"latency at batch size 1: {latency}")
        heading = f"\n{values['method']} in {folder}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"Expected a summary as this version writes it, got {type(error).__name__}: {error} "
            f"({folder / 'summary.json'}). Run `test` again."
        ) from error
    console.print(heading, style="bold", markup=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("test set")
    for name in values["test"]:
        table.add_column(Text(name), justify="right")
    for label, cells in rows.items():
        if set(cells) != {None}:
            table.add_row(label, *(cell or "-" for cell in cells))
    console.print(table)
    for line in lines:
        console.print(line, markup=False)
    _print_answer(console, folder / "predictions.jsonl")


def skipped_text(skipped: float | None, known: float | None, unit: str = "") -> str:
    """The mean share of chunks that answers skip, in percent, and of how many answers it is known.

    >>> skipped_text(0.573, 0.88), skipped_text(0.573, 1.0), skipped_text(None, 0.0), skipped_text(None, None)
    ('57.3 (of 88%)', '57.3', 'unknown', '')
    """
    if skipped is None:
        return "" if known is None else "unknown"
    return f"{100 * skipped:.1f}{unit}" + ("" if known in (None, 1.0) else f" (of {known:.0%})")


_ROWS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "examples": lambda row: str(row["n"]),
    "accuracy": lambda row: f"{row['accuracy']:.1%}",
    "  95% interval": lambda row: f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}",
    "  lenient extraction": lambda row: f"{row['accuracy_lenient']:.1%}",
    "no answer": lambda row: f"{row['no_answer']:.1%}",
    "unfinished": lambda row: f"{row['unfinished']:.1%}" if "unfinished" in row else None,
    "new tokens per answer": lambda row: f"{row['new_tokens']:.1f}",
    "  the teacher's": lambda row: None if row.get("teacher_tokens") is None else f"{row['teacher_tokens']:.1f}",
    "chunks skipped": lambda row: skipped_text(row.get("skipped"), row.get("skipped_known"), "%") or None,
}


def _print_answer(console: Any, path: Path) -> None:
    """Prints the first prediction."""
    _, row = next(read_json_lines(path, "test"), (path, None))
    if row is None:
        raise UserError(f"Expected predictions beside the summary, got none ({path}). Run `test` again.")
    console.print("\nan answer:", style="bold")
    console.print(row["question"], style="dim", markup=False)
    console.print(row["completion"], markup=False)
    size = f"{row['new_tokens']} new tokens{'' if row.get('finished', True) else ', unfinished'}"
    console.print(f"gold {row['gold']}, {'right' if row['correct'] else 'wrong'}, {size}\n")


def summary(*runs: str, run: str | None = None) -> None:
    """Prints the summaries of finished runs.

    Args:
        runs: Run folders, or names of runs under runs.
        run: One more of them.

    Raises:
        UserError: No run is named, or one is not finished.
    """
    named = [*runs, *([run] if run is not None else [])]
    if not named:
        raise UserError("Expected a run folder, got none. Name one: python -m skipthinking summary runs/NAME")
    for name in named:
        folder = Path(name)
        known = folder.exists() or not (Path("runs") / name).exists()
        print_summary(folder if known else Path("runs") / name)
