"""The short help of the training commands is true: what it names exists, and the full help is one option away."""

from __future__ import annotations

import re

import lightning as L
import pytest

from skipthinking.__main__ import HELP, TRAINING, main
from skipthinking.command_line.class_paths import find_class, public_classes
from skipthinking.data.module import RationaleDataModule
from skipthinking.diagnosis.gradients import GradientShares
from skipthinking.diagnosis.sharpness import Sharpness
from skipthinking.methods import Distiller
from skipthinking.settings import parameters
from skipthinking.students import LoRA, Student


def _settings_of(base: type) -> set[str]:
    kinds = [kind for path in public_classes().values() if issubclass(kind := find_class(path) or object, base)]
    return {name for kind in (base, *kinds) for name in parameters(kind)}


@pytest.mark.parametrize("command", TRAINING)
def test_every_option_of_the_short_help_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    short = capsys.readouterr().out
    assert short.startswith(f"usage: skipthinking {command} ")
    assert len(short.splitlines()) < 60
    with pytest.raises(SystemExit) as stop:
        main([command, "--help=all"])
    assert stop.value.code == 0
    full = capsys.readouterr().out
    assert "__main__" not in full
    assert full.startswith("usage: skipthinking ")
    heads = [("model.student.lora.", LoRA), ("model.student.", Student), ("model.", Distiller),
             ("data.", RationaleDataModule), ("trainer.", L.Trainer),
             ("gradients.", GradientShares), ("sharpness.", Sharpness)]  # fmt: skip
    names = set(re.findall(r"--([a-z_.]+)", short))
    assert len(names) > 20
    for name in names - {"help", "model.optimizer.lr"}:
        head, kind = next(((head, kind) for head, kind in heads if name.startswith(head)), ("", None))
        leaf = name.removeprefix(head)
        # Settings of the class that a setting names; the others are options of the parser.
        assert leaf in _settings_of(kind) if kind and leaf != "help" else f"--{name}" in full, name


def test_the_methods_of_the_short_help_are_all_public_ones(capsys: pytest.CaptureFixture[str]) -> None:
    import skipthinking.methods as methods

    main(["fit", "--help"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  --model CLASS"))
    found = {getattr(methods, name) for name in methods.__all__}
    kinds = {kind.__name__ for kind in found if issubclass(kind, Distiller)} - {"Distiller", "KeypointWeighter"}
    assert set(re.findall(r"[A-Z]\w+", line.split("CLASS")[1])) == kinds
    assert "--help=all" in HELP
