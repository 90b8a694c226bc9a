"""annotations.jsonl, validated and laid out as lines of text that `show` and the page draw.

Rows have `id`, `question`, `steps` and `answer`. `steps` are texts, or spans of `tokens`; `tokens` are texts, or counts
per step. Three samples::

    {"id": "a", ..., "steps": ["We see.", "1 + 1 = 2."], "nll": [0.9, 0.1], "chunks": [[0, 1], [1, 2]], "kept": [1]}
    {"id": "a", ..., "steps": [[0, 2], [2, 5]], "tokens": ["We", " see", ...], "weights": [0.1, 0.8, ...]}
    {"id": "a", ..., "steps": ["We see.", "1 + 1 = 2."], "per_step": {"entropy": [1.2, 0.3]}, "lines": ["a note"]}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skipthinking.records import DataError, UserError
from skipthinking.report.run_folders import read_json_lines

__all__ = ["LOSS_COLORS", "Drawing", "Line", "Piece", "draw", "read_annotations"]

LOSS_COLORS = {"green": 0.05, "yellow": 0.2, "dark_orange": 0.5, "red": math.inf}
"""Colors of a step's mean token NLL, each with its upper bound in nats."""


class Piece(NamedTuple):
    """A step or a token."""

    text: str
    note: str  # its numbers
    color: str = ""  # of a step's loss; empty if the loss is unknown
    shade: float = 0.0  # a token's value, in 0..1


class Line(NamedTuple):
    """A chunk as its steps, or a step as its tokens."""

    pieces: list[Piece]
    kept: bool = True  # otherwise it is struck through
    note: str = ""  # numbers of the step, if the pieces are tokens


class Drawing(NamedTuple):
    """An annotated example, ready to be drawn."""

    id: str
    question: str
    answer: str
    extent: str  # the number of chunks, steps or tokens, and how many are kept
    steps: list[Line]  # chunks as their steps; empty if `tokens` shows the steps
    tokens: dict[str, list[Line]]  # steps as their tokens, by the name of the tokens' values
    lines: list[str]  # text under the example
    gone: str  # what happens to a line that is not kept


def draw(row: dict[str, Any]) -> Drawing:
    """Lays out a row of annotations.jsonl."""
    steps, tokens, pair = row["steps"], row.get("tokens", []), row.get("pair")
    chunks = row.get("chunks", [[step, step + 1] for step in range(len(steps))])
    kept = set(row.get("kept", range(len(chunks))))
    kept_steps = {step for chunk in kept for step in range(*chunks[chunk])}
    colors = [_loss_color(nll) for nll in row["nll"]] if "nll" in row else [""] * len(steps)
    notes = [_note(row, step) for step in range(len(steps))]
    are_spans = bool(steps) and not isinstance(steps[0], str)
    texts = ["".join(tokens[first:end]).strip() for first, end in steps] if are_spans else steps
    pieces = [Piece(*piece) for piece in zip(texts, notes, colors, strict=True)]
    by_name: dict[str, list[Line]] = {}
    weights = {"weight": row["weights"]} if "weights" in row else {}
    for name, values in {**weights, **row.get("per_token", {})}.items():
        shades = zip(tokens, values, _scaled(values), strict=True)
        shaded = [Piece(token, f"{value:g}", shade=shade) for token, value, shade in shades]
        by_name[name] = [Line(shaded)]
        if are_spans:  # the numbers of the steps stand beside the first values
            by_name[name] = [
                Line(shaded[first:end], step in kept_steps, notes[step] if len(by_name) == 1 else "")
                for step, (first, end) in enumerate(steps)
            ]
    reference = "DPO pair: log-likelihood under the reference {:.1f} as cut (chosen), {:.1f} whole (rejected)"
    lines = [reference.format(*pair)] if pair else []
    return Drawing(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        extent=_extent(row),
        steps=[] if are_spans and by_name else [Line(pieces[i:j], n in kept) for n, (i, j) in enumerate(chunks)],
        tokens=by_name,
        lines=lines + row.get("lines", []),
        gone="cut off" if "cut" in row else "skipped",
    )


def _note(row: dict[str, Any], step: int) -> str:
    numbers = [f"{row['nll'][step]:.2f}"] if "nll" in row else []
    numbers += [f"{name} {values[step]:.3g}" for name, values in row.get("per_step", {}).items()]
    if "difficulty" in row:  # KPOD: `given` counts, by progress stage, the steps that the student need not write itself
        stage = next(stage for stage, given in enumerate(row["given"]) if given <= step)
        numbers.append(f"difficulty {row['difficulty'][step]:.2f}, from stage {stage}")
    return ", ".join(numbers)


def _loss_color(nll: float) -> str:
    return next(color for color, bound in LOSS_COLORS.items() if nll <= bound)


def _scaled(values: Sequence[float]) -> Sequence[float]:
    """Values within 0..1 as they are, others scaled to it from their minimum to their maximum."""
    low, high = min(values, default=0), max(values, default=0)
    return values if low >= 0 and high <= 1 else [(value - low) / ((high - low) or 1) for value in values]


def _extent(row: dict[str, Any]) -> str:
    if "weights" in row:
        return f"{len(row['weights'])} tokens, mean weight {sum(row['weights']) / max(1, len(row['weights'])):.2f}"
    count = len(row.get("chunks", row["steps"]))
    kept = len(row.get("kept", range(count)))
    if "cut" in row:
        return f"{count} steps, " + ("no valid prefix, dropped" if row["cut"] is None else f"the first {kept} kept")
    skipped = f", {count - kept} skipped" if "kept" in row else ""
    return f"{count} {'chunks' if 'chunks' in row else 'steps'}{skipped}"


# ------------------------------------------------------------------------------------------------- validation


def read_annotations(path: Path) -> list[dict[str, Any]]:
    """Reads what ``annotate`` wrote.

    Raises:
        UserError: The file is missing or damaged.
    """
    if not path.is_file():
        what = "is a folder; name its annotations.jsonl" if path.is_dir() else "does not exist. Run `annotate` first"
        raise UserError(f"Expected a file of annotations, got {str(path)!r}, which {what}.")
    rows = []
    for place, row in read_json_lines(path, "annotate"):
        if expected := _fault(row):
            raise DataError(f"Expected {expected} ({place}). Name the annotations.jsonl that `annotate` wrote.")
        rows.append(row)
    return rows


def _fault(row: Any) -> str | None:
    """What a row should have, and what it has instead; None if it can be drawn."""
    needed = ("id", "question", "steps", "answer")
    missing = [key for key in needed if not isinstance(row, dict) or key not in row]
    if missing:
        return f"{', '.join(needed)}, got no {missing[0]}"
    steps, tokens = row["steps"], row.get("tokens", [])
    count = len(tokens) if _are_texts(tokens) else 0
    if not _are_texts(steps) and not _are_spans(steps, count):
        return f"steps as texts or as spans of the tokens, got {steps!r:.80}"
    if not _are_texts(tokens) and not _are_numbers(tokens, len(steps), (int,)):
        return f"tokens as texts or counts per step, got {tokens!r:.80}"
    checks: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "nll": ("a loss per step", lambda nll: _are_numbers(nll, len(steps)) and min(nll, default=0) >= 0),
        "chunks": ("spans of the steps", lambda chunks: _are_spans(chunks, len(steps))),
        "kept": ("indices of chunks, or of steps", lambda kept: _are_indices(kept, len(row.get("chunks", steps)))),
        "cut": ("a number of steps or null", lambda cut: cut is None or type(cut) is int),
        "pair": ("two log-likelihoods or null", lambda pair: pair is None or _are_numbers(pair, 2, (float,))),
        "weights": (
            "a weight from 0 to 1 per token",
            lambda weights: _are_numbers(weights, count) and all(0 <= weight <= 1 for weight in weights),
        ),
        "given": ("given steps per stage, the last of them 0", lambda given: _are_indices(given, 10**6) and 0 in given),
        "difficulty": ("a number per step, and `given`", lambda d: _are_numbers(d, len(steps)) and "given" in row),
        "per_step": ("lists of a number per step", lambda lists: _are_lists(lists, len(steps))),
        "per_token": ("lists of a number per token", lambda lists: _are_lists(lists, count)),
        "lines": ("texts", _are_texts),
    }
    for key, (expected, is_sound) in checks.items():
        if key in row and not is_sound(row[key]):
            return f"{expected} as {key!r}, got {row[key]!r:.80}"
    return None


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _are_numbers(values: Any, count: int, types: tuple[type, ...] = (int, float)) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in types and math.isfinite(value) for value in values)
    )


def _are_lists(values: Any, count: int) -> bool:
    return isinstance(values, dict) and all(_are_numbers(numbers, count) for numbers in values.values())


def _are_indices(values: Any, end: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < end for value in values)


def _are_spans(values: Any, length: int) -> bool:
    """Whether these are pairs of a first index and an end."""
    return isinstance(values, list) and all(
        _are_indices(span, length + 1) and len(span) == 2 and span[0] <= span[1] for span in values
    )
