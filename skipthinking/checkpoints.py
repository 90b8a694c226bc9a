"""Reading checkpoints of this framework."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from skipthinking.records import UserError

__all__ = ["read_checkpoint"]


def read_checkpoint(path: str | Path, option: str) -> dict[str, Any]:
    """A checkpoint, its tensors still on disk.

    Args:
        path: The file.
        option: The option that named it, for errors.

    Raises:
        UserError: It is missing, damaged, or not from this framework.
    """
    if not Path(path).is_file():
        raise UserError(f"Expected a checkpoint file, got {str(path)!r}, which does not exist. Mend {option}.")
    try:
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        found["skipthinking"]["method"]
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Expected a checkpoint of this framework, got {str(path)!r}: {reason} Mend {option}."
        ) from error
    return found
