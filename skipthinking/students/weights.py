"""Weights of a student in checkpoints: those of another run to start from, and adapters without their frozen base."""

from __future__ import annotations

from typing import Any

from torch import nn

from skipthinking.checkpoints import check_shapes, read_checkpoint
from skipthinking.records import UserError
from skipthinking.students.base import Student
from skipthinking.students.memory import is_device_error

__all__ = ["check_adapter", "load_start", "trained_only"]


def load_start(student: Student, path: str) -> None:
    """Loads the student of another run's checkpoint, of any method.

    Args:
        student: The student; its weights are built.
        path: The checkpoint.

    Raises:
        UserError: The checkpoint does not fit the student.
    """
    saved = read_checkpoint(path, "model.start_from")["state_dict"]
    weights = {name[8:]: value for name, value in saved.items() if name.startswith("student.")}
    trained = _trained(student)
    if student.lora is not None and trained != set(weights):
        raise UserError(
            f"Expected an adapter like this student's, with {len(trained)} tensors, got {len(weights)}, "
            f"{len(trained & set(weights))} of them with its names ({path}). Give model.student the lora settings of "
            "that run; to put an adapter on the student of a run, name its exported folder in model.student.name."
        )
    try:
        student.load_state_dict(weights, strict=student.lora is None)
    except RuntimeError as error:
        if is_device_error(error):
            raise
        remedy = "Fix model.start_from or model.student."
        check_shapes(weights, student.state_dict(), remedy)
        raise UserError(
            f"Expected the weights of this student, got those of another architecture ({path}). {remedy}"
        ) from error


def trained_only(module: nn.Module, student: Student, state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of a module's state: all of it, or with an adapter the trained weights."""
    if student.lora is None:
        return state
    trained = _trained(module)
    return {name: value for name, value in state.items() if name in trained}


def check_adapter(module: nn.Module, student: Student, state: dict[str, Any]) -> None:
    """Checks that a checkpoint's weights fit a module.

    Raises:
        UserError: The checkpoint holds an adapter and the student has none, or another one.
    """
    check_shapes(state, module.state_dict())
    if student.lora is None and any(".lora_" in name for name in state):
        raise UserError(
            "Expected the weights of a whole student, got a checkpoint that holds an adapter. Set model.student.lora "
            "as its run has it: use the run's own config.yaml."
        )
    if student.lora is not None and _trained(module) != set(state):
        raise UserError(
            f"Expected an adapter with {len(_trained(module))} tensors, got a checkpoint with {len(state)} that "
            "differ. Use the run's own config.yaml."
        )


def _trained(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}
