"""The short summary that closes a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skipthinking.records import UserError

__all__ = ["print_summary", "read_summary", "summary"]


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads ``summary.json`` of a run folder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"Expected a finished run, got {str(folder)!r} without summary.json. Run `test` on it first.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"Expected text, got {error.reason} ({path}). Run `test` on it again.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"Expected JSON, got {error.msg} ({path}:{error.lineno}). Run `test` on it again.") from error
    if not isinstance(found, dict) or "test" not in found:
        raise UserError(f"Expected the summary of a run, got something else ({path}). Run `test` on it again.")
    return found


def print_summary(folder: Path) -> None:
    """Prints accuracy with its interval, answer lengths, latency, an example, and what to do next."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found, console = read_summary(folder), Console(highlight=False)
    try:
        names = list(found["test"])
        rows = {heading: [show(row) for row in found["test"].values()] for heading, show in _ROWS.items()}
        told = [
            f"trained on {found['target_tokens']:,} target and {found['context_tokens']:,} context tokens in "
            f"{found['fit_seconds']:.0f} s"
        ]
        if found["latency_seconds"] is not None:
            each = f"{found['latency_seconds'] * 1000:.0f} ms per answer ({found['device']})"
            told.insert(0, f"latency at batch size 1: {each}")
        head = f"\n{found['method']} in {folder}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"Expected a summary as this version writes it, got {type(error).__name__}: {error} "
            f"({folder / 'summary.json'}). Run `test` again."
        ) from error
    console.print(head, style="bold", markup=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("test set")
    for name in names:
        table.add_column(Text(name), justify="right")
    for heading, cells in rows.items():
        if set(cells) != {None}:
            table.add_row(heading, *(cell or "-" for cell in cells))
    console.print(table)
    for line in told:
        console.print(line, markup=False)
    _print_example(console, folder / "predictions.jsonl")


def _tokens(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value:.1f}"


_ROWS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "examples": lambda row: str(row["n"]),
    "accuracy": lambda row: f"{row['accuracy']:.1%}",
    "  95% interval": lambda row: f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}",
    "  lenient extraction": lambda row: f"{row['accuracy_lenient']:.1%}",
    "no answer": lambda row: f"{row['no_answer']:.1%}",
    "new tokens per answer": lambda row: _tokens(row, "new_tokens"),
    "  the teacher's": lambda row: _tokens(row, "teacher_tokens"),
    "chunks skipped": lambda row: f"{row['skipped']:.1%}" if "skipped" in row else None,
}


def _print_example(console: Any, path: Path) -> None:
    try:
        with path.open(encoding="utf-8") as lines:
            row = json.loads(next(lines))
    except (OSError, StopIteration, ValueError) as error:
        raise UserError(f"Expected predictions beside the summary, got none ({path}). Run `test` again.") from error
    console.print("\nan answer:", style="bold")
    console.print(row["question"], style="dim", markup=False)
    console.print(row["completion"], markup=False)
    console.print(f"gold {row['gold']}, {'right' if row['correct'] else 'wrong'}, {row['new_tokens']} new tokens\n")


def summary(run: str) -> None:
    """Prints the summary of a finished run.

    Args:
        run: Run folder, or the name of a run under runs.
    """
    folder = Path(run)
    print_summary(folder if folder.exists() else Path("runs") / run)
