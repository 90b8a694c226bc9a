"""Methods with the weights of their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

from skipthinking.checkpoints import read_checkpoint
from skipthinking.records import UserError

__all__ = ["load_method"]


def load_method(kind: type[Any], base: type[Any], path: str | Path, **changes: Any) -> Any:
    """A method as its run ended, with tokenizer, weights and token counts, on the CPU.

    Args:
        kind: Class of the method, or one of its bases.
        base: The base class of all methods.
        path: The checkpoint.
        changes: Arguments of the class that replace those of the run.

    Raises:
        UserError: The checkpoint is of another method, does not fit the arguments, or its settings cannot be read.
    """
    checkpoint = read_checkpoint(path, "checkpoint_path")
    own = checkpoint["skipthinking"]
    config = json.loads(own.get("config", "{}"))
    config = config.get("fit", config)  # as earlier versions nested it
    method: Any = _built(base, config["model"], path, changes) if config.get("model") else kind(**changes)
    if not isinstance(method, kind) or type(method).__name__ != own["method"]:
        raise UserError(
            f"Expected a checkpoint of {kind.__name__}, got one of {own['method']} ({path}). Use "
            f"{own['method']}.load_from_checkpoint."
        )
    method.student.restore_tokenizer(own["tokenizer"])
    method.student.prepare()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.get("seed_everything") or 0)  # initial weights that no checkpoint of an adapter has
        method.student.build()
    method.on_load_checkpoint(checkpoint)
    method.load_state_dict(checkpoint["state_dict"], strict=method.strict_loading)
    return method


def _built(base: type[Any], settings: dict[str, Any], path: str | Path, changes: dict[str, Any]) -> Any:
    """A method with the settings of a checkpoint."""
    # The run is past its own start, and that checkpoint may be gone.
    arguments = {**settings["init_args"], "start_from": None, **changes}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "model")
    try:
        parsed = parser.parse_object({"model": {"class_path": settings["class_path"], "init_args": arguments}})
    except ArgumentError as error:
        raise UserError(
            f"Expected a checkpoint with the settings of its method, got {' '.join(str(error).split())} ({path}). Give "
            "the argument after the path: student=..., for example."
        ) from error
    return parser.instantiate(parsed).model
