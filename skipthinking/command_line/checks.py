"""Checks of a training command's settings that no type expresses, before anything is written."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from inspect import Parameter
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins import HalfPrecision

from skipthinking.command_line.class_paths import find_class
from skipthinking.records import UserError
from skipthinking.settings import parameters

__all__ = ["check_precision", "check_run_name", "check_settings", "check_training", "check_writable"]

_MEASURES = ("gradients", "sharpness")  # of diagnose; null leaves one out


def check_settings(settings: Any, default: Callable[[str], Any]) -> None:
    """Checks the settings of any command.

    Args:
        settings: The command's namespace.
        default: Gives the default of one of its keys.

    Raises:
        UserError: A setting has a wrong type or range, or is null where null has no meaning.
    """
    if not isinstance(settings.run, str):
        raise UserError(f"Expected a name, got run: {settings.run}. Put it in quotes.")
    if not hasattr(settings.trainer, "max_epochs"):
        raise UserError(
            f"Expected settings of the Trainer by their names, got trainer: {settings.trainer}. Write them as NAME: "
            "VALUE, for example max_epochs: 10."
        )
    seed = settings.seed_everything
    if not isinstance(seed, bool) and (seed is None or not 0 <= seed < 2**32):
        raise UserError(
            f"Expected a seed from 0 to {2**32 - 1}, got seed_everything={seed}. Set seed_everything: 0, for example."
        )
    chosen = {key: value for key, value in vars(settings).items() if key not in _MEASURES}
    empty = [key for key, value in chosen.items() if value is None and default(key) is not None]
    trainer = {"class_path": "lightning.Trainer", "init_args": settings.trainer.as_dict()}
    empty += _empty_settings({**settings.as_dict(), "trainer": trainer})
    if empty:
        raise UserError(f"Expected a value, got {empty[0]}=null. Give one, or leave it out for its default.")
    if settings.checkpoint_every < 1:
        raise UserError(
            f"Expected at least 1 step between checkpoints, got checkpoint_every={settings.checkpoint_every}. "
            "Set checkpoint_every: 500, for example."
        )


def _empty_settings(settings: Any, key: str = "") -> Iterator[str]:
    """Keys below a key of a config whose class has no use for null, but which are null; the parser accepts them."""
    if isinstance(settings, list):
        for item in settings:
            yield from _empty_settings(item, key)
    elif isinstance(settings, dict):
        path = settings.get("class_path")
        known = parameters(find_class(path) or object) if isinstance(path, str) and settings.get("init_args") else {}
        for name, value in (settings["init_args"] if known else settings).items():
            below = f"{key}.{name}" if key else name
            if value is None and name in known and not _may_be_null(known[name]):
                yield below
            yield from _empty_settings(value, below)


def _may_be_null(parameter: Parameter) -> bool:
    """Whether a parameter's type, perhaps written as text, includes null."""
    typed = parameter.annotation is not parameter.empty and parameter.default is not None
    return not typed or re.search(r"\b(None|NoneType|Optional|Any)\b", str(parameter.annotation)) is not None


def check_precision(trainer: L.Trainer) -> None:
    """Refuses half-precision weights, for any command."""
    if isinstance(trainer.precision_plugin, HalfPrecision):
        raise UserError(
            f"Expected float32, bf16-mixed or 16-mixed, got trainer.precision={trainer.precision}, which rounds all "
            "weights, loss weights, reference likelihoods and rotary frequencies. Use trainer.precision=bf16-mixed."
        )


def check_run_name(settings: Any) -> None:
    """Refuses a path in place of the name of a new run."""
    name = settings.run
    if name in ("", "..") or Path(name).name != name:
        leaf, parent = Path(name).name.strip(".") or "run", Path(settings.runs_dir) / Path(name).parent
        raise UserError(f"Expected the name of a folder, got --run {name!r}. Use --run {leaf} --runs_dir {parent}.")


def check_training(settings: Any, trainer: L.Trainer) -> None:
    """Checks the settings of ``fit``.

    Raises:
        UserError: The run has no step to train, or a setting that Lightning would ignore or misread.
    """
    own = settings.trainer
    if own.max_epochs == 0:
        raise UserError("Expected at least one epoch, got trainer.max_epochs=0. Set trainer.max_epochs: 1 or more.")
    if own.max_steps == 0:
        raise UserError(
            "Expected at least one optimizer step, got trainer.max_steps=0. Set trainer.max_steps: 1 or more."
        )
    clip = own.gradient_clip_val
    if clip is not None and clip < 0:
        raise UserError(
            f"Expected a norm of at least 0 (0: no clipping), got trainer.gradient_clip_val={clip}. Set "
            "trainer.gradient_clip_val: 1.0, for example."
        )
    limit, together = own.limit_train_batches, own.accumulate_grad_batches
    if limit is not None and together > 1 and (not isinstance(limit, int) or limit % together):
        raise UserError(
            f"Expected epochs of complete optimizer steps, got trainer.limit_train_batches={limit} with "
            f"trainer.accumulate_grad_batches={together}. Set "
            f"trainer.limit_train_batches: {max(1, int(limit // together)) * together}, or give a multiple of "
            f"{together}."
        )
    cores = os.cpu_count() or 1
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        raise UserError(
            f"Expected at most one process per core, of which there are {cores}, got "
            f"trainer.devices={trainer.num_devices} with the CPU. Set trainer.devices: {cores} or less."
        )


def check_writable(folder: Path, remedy: str = "Choose another --runs_dir.") -> None:
    """Refuses a folder that cannot be made or written to, and leaves no trace."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"Expected a run folder that can be written, got {error}. {remedy}") from error
    finally:
        for path in missing:
            if path.exists():
                path.rmdir()
