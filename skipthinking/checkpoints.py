"""Reading checkpoints of this framework."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipthinking.records import UserError

__all__ = ["check_shapes", "read_checkpoint"]


def read_checkpoint(path: str | Path, option: str) -> dict[str, Any]:
    """A checkpoint, its tensors still on disk.

    Args:
        path: The file.
        option: The option that named it, for errors.

    Raises:
        UserError: It is missing, damaged, or not from this framework.
    """
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise UserError(f"Expected a checkpoint file, got {str(path)!r}, which {what}. Mend {option}.")
    try:
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        if not isinstance(found, dict):
            raise TypeError(type(found).__name__)
        own = found["skipthinking"]
        own["method"], own["tokenizer"]
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        kind = "one of something else" if isinstance(error, (KeyError, TypeError)) else "no checkpoint or a damaged one"
        raise UserError(
            f"Expected a checkpoint of this framework, got {kind} ({path}). Mend {option}, or remove the file and "
            "train anew."
        ) from error
    return found


def check_shapes(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], remedy: str = "Use the run's own config.yaml."
) -> None:
    """Sees that the weights of a checkpoint fit a student.

    Raises:
        UserError: One has another shape.
    """
    for name, value in found.items():
        if name in expected and expected[name].shape != value.shape:
            raise UserError(
                f"Expected the weights of this student, got a checkpoint with {name} of shape {tuple(value.shape)}, "
                f"here {tuple(expected[name].shape)}. {remedy}"
            )
