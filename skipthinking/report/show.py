"""Draws annotated examples in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skipthinking.files import lines_of
from skipthinking.records import DataError, UserError

__all__ = ["colour_of", "extent", "read_annotations", "show"]

_CHUNKED = ("id", "question", "steps", "nll", "chunks", "kept", "answer")
_WEIGHTED = ("id", "question", "steps", "tokens", "weights", "answer")
_SCALE = ((0.05, "green"), (0.2, "yellow"), (0.5, "dark_orange"), (float("inf"), "red"))  # mean token NLL up to
_WEIGHTS = (  # token weight up to
    (0.1, "bright_black"), (0.3, "default"), (0.6, "yellow"), (0.9, "dark_orange"), (1.0, "bold white on red")
)  # fmt: skip


def show(file: str, n: int = 3, start: int = 0, id: str | None = None) -> None:
    """Draws annotated examples.

    Those of CWT and STT: stages, mean token NLL of every step, skipped chunks (struck through), answer. Those of
    LongCoT: the same, what is cut off struck through, and the pair of DPO. Those of KPOD and its weighter: tokens
    coloured by weight, and where it is known the difficulty of every step and the stage from which on it is asked for.

    Args:
        file: What ``annotate``, or the token weighter, wrote.
        n: Number of examples.
        start: First of them.
        id: This example alone.

    Raises:
        UserError: The file is missing or damaged, or no example is left to show.
    """
    rows = read_annotations(Path(file))
    chosen = [row for row in rows if row["id"] == id] if id is not None else rows[start : start + max(0, n)]
    if not chosen:
        raise UserError(f"Expected an example to show, got none of {len(rows)} ({file}). Mend --id, --start or --n.")
    from rich.console import Console

    console = Console(highlight=False)
    for row in chosen:
        (_draw_weights if "weights" in row else _draw)(console, row)
    if any("weights" not in row for row in chosen):
        edges = [f"up to {bound:g}" for bound, _ in _SCALE[:-1]] + ["more"]
        styles = [style for _, style in _SCALE]
        console.print("mean token NLL: " + ", ".join(f"[{s}]{e}[/]" for s, e in zip(styles, edges, strict=True)))
    if any("weights" in row for row in chosen):
        console.print("token weight: " + ", ".join(f"[{style}]up to {bound:g}[/]" for bound, style in _WEIGHTS))


def _draw_weights(console: Any, row: dict[str, Any]) -> None:
    from rich.text import Text

    mean = sum(row["weights"]) / max(1, len(row["weights"]))
    console.print(f"{row['id']}  ({len(row['weights'])} tokens, mean weight {mean:.2f})", style="bold", markup=False)
    console.print(row["question"], style="dim", markup=False)
    for step, (first, end) in enumerate(row["steps"]):
        line = Text("  ")
        for token, weight in zip(row["tokens"][first:end], row["weights"][first:end], strict=True):
            blank = token[: len(token) - len(token.lstrip())]
            line.append(blank)
            line.append(token[len(blank) :], style=next(style for bound, style in _WEIGHTS if weight <= bound))
        if "difficulty" in row:
            asked = next(stage for stage, given in enumerate(row["given"]) if given <= step)
            line.append(f"  difficulty {row['difficulty'][step]:.2f}, from stage {asked}", style="dim")
        console.print(line)
    console.print(f"  {row['answer']}\n", style="bold", markup=False)


def _draw(console: Any, row: dict[str, Any]) -> None:
    from rich.text import Text

    gone = "cut off" if "cut" in row else "skipped"
    console.print(f"{row['id']}  ({extent(row)})", style="bold", markup=False)
    console.print(row["question"], style="dim", markup=False)
    for number, (first, end) in enumerate(row["chunks"]):
        kept = number in row["kept"]
        line = Text(f"  [{number + 1}] ", style="bold" if kept else "dim strike")
        for step in range(first, end):
            line.append(row["steps"][step], style=colour_of(row["nll"][step]) if kept else "dim strike")
            line.append(f" {row['nll'][step]:.2f}  ", style="dim")
        if not kept:
            line.append(gone, style="dim")
        console.print(line)
    console.print(f"  {row['answer']}", style="bold", markup=False)
    if row.get("pair") is not None:
        chosen, rejected = row["pair"]
        told = f"log-likelihood under the reference {chosen:.1f} as cut (chosen), {rejected:.1f} whole (rejected)"
        console.print(f"  DPO pair: {told}", style="dim", markup=False)
    console.print()


def extent(row: dict[str, Any]) -> str:
    """How many chunks or steps a row has, and how many of them are gone."""
    count, kept = len(row["chunks"]), len(row["kept"])
    if "cut" not in row:
        return f"{count} chunks, {count - kept} skipped"
    return f"{count} steps, no valid prefix, dropped" if row["cut"] is None else f"{count} steps, the first {kept} kept"


def colour_of(nll: float) -> str:
    """The colour of a mean token NLL in nats."""
    return next(name for bound, name in _SCALE if nll <= bound)


def read_annotations(path: Path) -> list[dict[str, Any]]:
    """Reads what ``annotate`` wrote.

    Raises:
        UserError: The file is missing or damaged.
    """
    if not path.is_file():
        what = "is a folder; name its annotations.jsonl" if path.is_dir() else "does not exist. Run it first"
        raise UserError(f"Expected what `annotate` wrote, got {str(path)!r}, which {what}.")
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"Expected text, got {error.reason} ({path}). Run `annotate` again.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"Expected JSON, got {error} ({path}:{number}). Run `annotate` again.") from error
        needed = _WEIGHTED if isinstance(row, dict) and "weights" in row else _CHUNKED
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            raise DataError(
                f"Expected {', '.join(needed)}, got no {missing[0]} ({path}:{number}). Name the annotations.jsonl that "
                "`annotate` wrote."
            )
        if needed is _CHUNKED and not _sound(row):
            raise DataError(f"Expected chunks of steps with a loss each, got others ({path}:{number}).")
        if needed is _WEIGHTED and not _sound_weights(row):
            raise DataError(f"Expected steps of tokens with a weight from 0 to 1 each, got others ({path}:{number}).")
        rows.append(row)
    return rows


def _sound(row: dict[str, Any]) -> bool:
    """Whether chunks are spans of the steps, kept ones are among them, and every step has its loss."""
    steps, losses, chunks, kept = (row[key] for key in ("steps", "nll", "chunks", "kept"))
    if not all(isinstance(values, list) for values in (steps, losses, chunks, kept)):
        return False
    pair = row.get("pair")
    return (
        (pair is None or (isinstance(pair, list) and [type(value) for value in pair] == [float, float]))
        and len(losses) == len(steps)
        and all(isinstance(value, (int, float)) and value >= 0 for value in losses)
        and _spans(chunks, len(steps))
        and all(type(place) is int and 0 <= place < len(chunks) for place in kept)
    )


def _sound_weights(row: dict[str, Any]) -> bool:
    """Whether steps are spans of the tokens, and every token has its weight."""
    steps, tokens, weights = (row[key] for key in ("steps", "tokens", "weights"))
    if not all(isinstance(values, list) for values in (steps, tokens, weights)):
        return False
    return (
        len(tokens) == len(weights)
        and all(isinstance(weight, (int, float)) and 0 <= weight <= 1 for weight in weights)
        and all(isinstance(token, str) for token in tokens)
        and _spans(steps, len(tokens))
    )


def _spans(values: list[Any], length: int) -> bool:
    """Whether these are spans of so many things."""
    pairs = all(isinstance(span, list) and [type(end) for end in span] == [int, int] for span in values)
    return pairs and all(0 <= first <= end <= length for first, end in values)
