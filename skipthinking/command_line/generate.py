"""Writes examples of a built-in task to a file."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Literal

from skipthinking.records import Example, UserError
from skipthinking.tasks import generate as generate_examples

__all__ = ["generate"]


def generate(
    task: str = "arithmetic",
    split: Literal["train", "test", "ood"] = "train",
    size: int = 1000,
    seed: int = 0,
    levels: list[int] | None = None,
    out: str = "-",
) -> None:
    """Generates examples of a built-in task as JSON lines.

    Args:
        task: Name of a built-in task: arithmetic, coin_flip, last_letter, shuffled_objects,
            date_understanding or long_arithmetic.
        split: Part of the problem space to draw from. No problem is in two of them; ood has longer ones.
        size: Number of examples.
        seed: Another seed gives other examples of the same split.
        levels: Lowest and highest number of operations, in place of the split's own.
        out: File to write, replaced if it exists; - is the standard output.

    Raises:
        UserError: An argument makes no sense, or the file cannot be written.
    """
    if size < 1:
        raise UserError(f"Expected a size of at least 1, got {size} (size). Ask for some examples.")
    examples = generate_examples(task, split=split, size=size, seed=seed, levels=levels)
    if out == "-":
        sys.stdout.write(_lines(examples))
    else:
        _replace(Path(out), _lines(examples))
    where = "the standard output" if out == "-" else out
    print(f"Wrote {len(examples)} examples ({task}, {split}, seed {seed}) to {where}.", file=sys.stderr)


def _lines(examples: list[Example]) -> str:
    return "".join(json.dumps(dataclasses.asdict(example), ensure_ascii=False) + "\n" for example in examples)


def _replace(path: Path, text: str) -> None:
    """Writes a file in one piece: readers see the old one or the whole new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"Expected a file that can be written, got {path} ({error}). Choose another one.") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        # Temporary files are private; give this one the rights of any new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"Expected a file that can be written, got {path} ({error}). Choose another one.") from error
