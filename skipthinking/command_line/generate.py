"""Writes examples of a built-in task to a file."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Literal

from skipthinking.data.importing import count
from skipthinking.files import write_jsonl
from skipthinking.records import UserError
from skipthinking.tasks import generate as generate_examples

__all__ = ["generate"]


def generate(
    task: str = "arithmetic",
    split: Literal["train", "test", "ood"] = "train",
    size: int = 1000,
    seed: int = 0,
    levels: list[int] | None = None,
    out: str = "-",
    limit: int | None = None,
) -> None:
    """Generates examples of a built-in task as JSON lines.

    Args:
        task: Name of a built-in task: arithmetic, coin_flip, last_letter, shuffled_objects,
            date_understanding or long_arithmetic.
        split: Part of the problem space to draw from. No problem is in two of them; ood has longer ones.
        size: Number of examples. Another size gives the same problems in other words.
        seed: Another seed gives other examples of the same split.
        levels: Lowest and highest number of operations, in place of the split's own.
        out: File to write, replaced if it exists; - is the standard output.
        limit: Number of examples to write, from the first; sets of one size and several limits share examples.

    Raises:
        UserError: An argument makes no sense, or the file cannot be written.
    """
    if size < 1:
        raise UserError(f"Expected a size of at least 1, got {size} (size). Set size: 1 or more.")
    examples = generate_examples(task, split=split, size=size, seed=seed, levels=levels, limit=limit)
    rows = map(dataclasses.asdict, examples)
    if out == "-":
        sys.stdout.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        try:
            write_jsonl(Path(out), rows)
        except OSError as error:
            raise UserError(f"Expected a file that can be written, got {out} ({error}). Choose another one.") from error
    where = "the standard output" if out == "-" else out
    print(f"Wrote {count(len(examples), 'example')} ({task}, {split}, seed {seed}) to {where}.", file=sys.stderr)
