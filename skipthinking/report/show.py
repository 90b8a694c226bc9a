"""The command ``show``: draws annotated examples in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skipthinking.records import UserError
from skipthinking.report.annotations import LOSS_COLORS, Drawing, draw, read_annotations

__all__ = ["show"]

_SHADES = {"bright_black": 0.1, "default": 0.3, "yellow": 0.6, "dark_orange": 0.9, "bold white on red": 1.0}


def show(*runs: str, file: str | None = None, n: int = 3, start: int = 0, id: str | None = None) -> None:
    """Draws annotated examples.

    Chunks or steps with their numbers, such as the mean token NLL (in color); those that the method skips or cuts off
    are struck through. Tokens are colored by their weight, or by other values scaled to 0..1 within an example.

    Args:
        runs: Run folders, with the annotations.jsonl that `annotate` or KPOD's token weighter wrote.
        file: Such a file, in any place.
        n: Number of examples.
        start: Index of the first example.
        id: Id of the only example to draw.

    Raises:
        UserError: A file is missing or damaged, or no example is left to show.
    """
    files = [Path(run) / "annotations.jsonl" if Path(run).is_dir() else Path(run) for run in runs]
    files += [Path(file)] if file is not None else []
    if not files:
        raise UserError("Expected a run folder, got none. Name one: python -m skipthinking show runs/NAME")
    for path in files:
        _show(path, n, start, id)


def _show(file: Path, n: int, start: int, id: str | None) -> None:
    rows = read_annotations(file)
    chosen = [row for row in rows if row["id"] == id] if id is not None else rows[start : start + max(0, n)]
    if not chosen:
        raise UserError(f"Expected an example to show, got none of {len(rows)} ({file}). Fix --id, --start or --n.")
    from rich.console import Console

    console = Console(highlight=False)
    drawings = [draw(row) for row in chosen]
    for drawing in drawings:
        _print(console, drawing)
    if any("nll" in row for row in chosen):
        _print_legend(console, "mean token NLL", LOSS_COLORS)
    for name in dict.fromkeys(name for drawing in drawings for name in drawing.tokens):
        _print_legend(console, "token weight" if name == "weight" else f"token {name}, scaled to 0..1", _SHADES)


def _print(console: Any, drawing: Drawing) -> None:
    from rich.text import Text

    console.print(f"{drawing.id}  ({drawing.extent})", style="bold", markup=False)
    console.print(drawing.question, style="dim", markup=False)
    for number, line in enumerate(drawing.steps, 1):
        text = Text(f"  [{number}] ", style="bold" if line.kept else "dim strike")
        for piece in line.pieces:
            text.append(piece.text, style=piece.color if line.kept else "dim strike")
            text.append(f" {piece.note}  ", style="dim")
        text.append("" if line.kept else drawing.gone, style="dim")
        console.print(text)
    for name, lines in drawing.tokens.items():
        if drawing.steps or len(drawing.tokens) > 1:
            console.print(f"  {name}:", style="dim", markup=False)
        for line in lines:
            text = Text("  ", style="" if line.kept else "strike")
            for token in line.pieces:
                blank = token.text[: len(token.text) - len(token.text.lstrip())]
                text.append(blank)  # without a background
                style = next(style for style, bound in _SHADES.items() if token.shade <= bound)
                text.append(token.text[len(blank) :], style=style)
            text.append("".join(f"  {note}" for note in (line.note, "" if line.kept else drawing.gone) if note), "dim")
            console.print(text)
    console.print(f"  {drawing.answer}", style="bold", markup=False)
    for note in drawing.lines:
        console.print(f"  {note}", style="dim", markup=False)
    console.print()


def _print_legend(console: Any, name: str, bounds: dict[str, float]) -> None:
    """Prints the upper bound of every color; the last has none beside it."""
    from rich.text import Text

    parts = [(f"up to {bound:g}" if bound <= 1 else "more", style) for style, bound in bounds.items()]
    legend = Text(", ").join(Text.assemble(part) for part in parts)
    console.print(Text.assemble(f"{name}: ", legend))
