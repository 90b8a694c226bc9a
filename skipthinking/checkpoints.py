"""Checkpoint files: atomic writing, reading, and checking against a student."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from torch.serialization import get_crc32_options, set_crc32_options

from skipthinking.files import replacing
from skipthinking.records import UserError

__all__ = ["SafeCheckpointIO", "check_shapes", "read_checkpoint", "save_safely"]


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to its destination, syncs it and renames it, so that the previous one is never lost.

    Lightning writes to the system's temporary folder, often on another file system, so that the move is a copy. It does
    not sync, and it also holds the file in memory.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes the file."""
        with replacing(Path(path)) as partial:
            try:
                with partial.open("wb") as file, _without_checksums():
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # raised by torch while it handles the OSError "no space left"
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise


@contextmanager
def _without_checksums() -> Iterator[None]:
    """Leaves out CRC-32 of tensors, which ``torch.load`` does not check: 0.3 of the 0.5 s that writing 400 MB takes."""
    computed = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(computed)


@lru_cache(maxsize=1)
def _load(path: str, size: int, changed: int) -> Any:
    """A file that did not change is read once: a run asks for its tokenizer, its weights and its annotations."""
    return torch.load(path, weights_only=True, map_location="cpu", mmap=True)


def save_safely(trainer: Any) -> None:
    """Sets SafeCheckpointIO for a trainer, unless its plugins have a checkpoint IO of their own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = SafeCheckpointIO()


def read_checkpoint(path: str | Path, option: str) -> dict[str, Any]:
    """Reads a checkpoint; its tensors stay on disk until they are used.

    Args:
        path: The file.
        option: The option that names the file, for errors.

    Raises:
        UserError: The file is missing, damaged, or not from this framework.
    """
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise UserError(f"Expected a checkpoint file, got {str(path)!r}, which {what}. Fix {option}.")
    try:
        status = Path(path).stat()
        checkpoint = _load(str(path), status.st_size, status.st_mtime_ns)
        if not isinstance(checkpoint, dict):
            raise TypeError(type(checkpoint).__name__)
        own = checkpoint["skipthinking"]
        own["method"], own["tokenizer"]
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        kind = "one of something else" if isinstance(error, (KeyError, TypeError)) else "no checkpoint or a damaged one"
        raise UserError(
            f"Expected a checkpoint of this framework, got {kind} ({path}). Fix {option}, or remove the file and "
            "train again."
        ) from error
    return checkpoint


def check_shapes(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], remedy: str = "Use the run's own config.yaml."
) -> None:
    """Checks that the weights of a checkpoint fit a student.

    Raises:
        UserError: A weight has another shape.
    """
    for name, value in weights.items():
        if name in expected and expected[name].shape != value.shape:
            raise UserError(
                f"Expected the weights of this student, got a checkpoint with {name} of shape {tuple(value.shape)}, "
                f"here {tuple(expected[name].shape)}. {remedy}"
            )
