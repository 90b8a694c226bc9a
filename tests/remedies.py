"""Messages in the package's source that name a setting, and the settings that the remedy in a message gives."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import lightning as L
import pytest
import yaml
from conftest import ROOT, TINY
from jsonargparse import Namespace
from lightning.pytorch.accelerators import CPUAccelerator

from skipthinking.__main__ import TOOLS, main
from skipthinking.command_line.checks import check_settings
from skipthinking.command_line.class_paths import find_class, public_classes
from skipthinking.command_line.cli import SkipCLI
from skipthinking.command_line.trainer import SkipTrainer
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Files, Generated
from skipthinking.data.splits import Splits
from skipthinking.methods import Distiller
from skipthinking.records import Example, UserError
from skipthinking.settings import parameters
from skipthinking.students import FromScratch, LoRA
from skipthinking.teacher.choosing import Keep
from skipthinking.teacher.client import Client
from skipthinking.teacher.prompts import Prompt

HEADS: dict[str, type] = {
    "data": RationaleDataModule, "model": Distiller, "trainer": L.Trainer, "client": Client, "prompt": Prompt,
    "keep": Keep,
}  # fmt: skip
DOTTED = re.compile(rf"(?<![\w./])(?:{'|'.join(HEADS)})(?:\.[a-z]\w*)+")
OPTION = re.compile(r"(?<![\w-])--([a-z]\w*)")
VARIABLE = re.compile(r"\b(?:TMPDIR|[A-Z]{2,}(?:_[A-Z]+)+)\b")
VALUE = r"\{.*\}|\[.*\]|'[^']*'|\"[^\"]*\"|[^\s,;)]+?"
PAIR = re.compile(rf"(?:\A|(?<=, )|(?<=or )|(with ))([a-z][\w.]*)(?:: |=)({VALUE})(?=[.,;)]*(?: |$))")
WORDS = re.compile(r"--([a-z][\w.]*) (\S+?)(?=[.,;]?(?: |$))")


# ---------------------------------------------------------------------------------------- what a message says


def remedies(message: str) -> list[dict[str, Any]]:
    """The alternatives that a message gives with their values: "Set a.b: 2 or more, or c: 1" -> [{a.b: 2}, {c: 1}]."""
    for start in re.finditer(r"\b(?:[Ss]et|Use) (?=--|[a-z][\w.]*[:=])", message):
        rest = message[start.end() :]
        if rest.startswith("--"):
            return [{name: yaml.safe_load(value) for name, value in WORDS.findall(rest)}]
        found: list[dict[str, Any]] = []
        for joined, name, value in PAIR.findall(rest):
            pair = {name: yaml.safe_load(value)}
            if joined:
                found[-1] |= pair
            else:
                found.append(pair)
        return found
    return []


# -------------------------------------------------------------------------------------- what the source says


def _text(node: ast.AST) -> str | None:
    """A text in the source, with {} for each value in it; None for what is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = _text(node.left), _text(node.right)
        return None if sides == (None, None) else "".join("{}" if side is None else side for side in sides)
    return None


def _texts(node: ast.AST) -> Iterator[str]:
    """All texts below a node but docstrings, those within another text included."""
    text = _text(node)
    if text is not None:
        yield text
    for child in ast.iter_child_nodes(node):
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not docstring and not (text is not None and isinstance(child, ast.Constant)):
            yield from _texts(child)


@cache
def messages() -> dict[str, str]:
    """All sentences of the package that name a setting, with the file that each is in."""
    bare = "|".join(sorted(_parameters()))
    named = [DOTTED, OPTION, VARIABLE, re.compile(rf"\((?:{bare})\)|\b[Ss]et (?:{bare})\b")]
    named.append(re.compile(rf"\b(?:{'|'.join(name for name in sorted(_parameters()) if '_' in name)})\b"))
    found = {}
    for path in sorted((ROOT / "skipthinking").rglob("*.py")):
        for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            sentence = re.search(r"\w \w", text) and re.search(r"[.:] |[.)]$|\)\.\{", text) and "(?" not in text
            if sentence and any(pattern.search(text) for pattern in named):
                found[text] = str(path.relative_to(ROOT))
    return found


@cache
def _own(head: type) -> set[str]:
    """Names of the settings of a class and of its public subclasses."""
    paths = [path for path in public_classes().values() if issubclass(find_class(path) or object, head)]
    return {name for kind in (*map(find_class, paths), head) for name in parameters(kind or object)}


@cache
def _tools() -> dict[str, inspect.Parameter]:
    functions = [getattr(importlib.import_module(path.split(":")[0]), path.split(":")[1]) for path in TOOLS.values()]
    return {name: given for function in functions for name, given in inspect.signature(function).parameters.items()}


@cache
def _parameters() -> set[str]:
    """Every setting's own name: those of all classes that a config can name, of the tools, and of the commands."""
    own: set[str] = {"config", "ckpt_path", "model", "data", "trainer", "seed_everything", *_tools()}

    class Recorder:
        def add_argument(self, name: str, **_: Any) -> None:
            own.add(name.removeprefix("--"))

    SkipCLI.add_arguments_to_parser(None, Recorder())
    return own | _own(object) | _own(L.Trainer) | set(LoRA.__dataclass_fields__) - {"args", "kwargs"}


def unknown_names(text: str) -> list[str]:
    """Settings in a text that no parser takes."""
    wrong = [f"--{name}" for name in OPTION.findall(text) if name not in {*_parameters(), *HEADS}]
    for dotted in DOTTED.findall(text):
        head, *names = dotted.replace(".init_args", "").split(".")
        if names and (names[0] not in _own(HEADS[head]) or any(name not in _parameters() for name in names[1:])):
            wrong.append(dotted)
    return wrong


# --------------------------------------------------------------------------------------- how to bring it about

LEAVE_OUT = object()
Provoke = Callable[[Path, dict[str, Any]], Any]  # a folder of its own, and settings in place of the wrong ones


def heard(provoke: Provoke, world: Path, settings: dict[str, Any]) -> str:
    """The message that something gives with these settings; empty if it works."""
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(err):
            said = provoke(world, settings)
    except UserError as error:
        return str(error)
    if type(said) is int and said:
        return err.getvalue().strip().splitlines()[-1]
    return said if isinstance(said, str) else ""


def build(function: Callable[..., Any], then: Callable[[Any], Any] = lambda _: None, /, **wrong: Any) -> Provoke:
    """Calls a class or a function with wrong settings, and perhaps does something with the result."""

    def provoke(world: Path, settings: dict[str, Any]) -> Any:
        path = f"{function.__module__}.{function.__qualname__}"
        known = parameters(function) if inspect.isclass(function) else inspect.signature(function).parameters
        given = {name: value(world) if isinstance(value, FunctionType) else value for name, value in wrong.items()}
        for name, value in settings.items():
            leaf = name.rpartition(".")[2]
            assert leaf in known, f"{path} has no {leaf}"
            given[leaf] = value
        return then(function(**{name: value for name, value in given.items() if value is not LEAVE_OUT}))

    return provoke


def method(kind: type, then: Callable[[Any], Any] = lambda _: None, /, **wrong: Any) -> Provoke:
    """Makes a method with a small student."""
    return build(kind, then, student=FromScratch(), **wrong)


def prior(kind: type, epochs: int | None, /, **wrong: Any) -> Provoke:
    """Makes a method and begins a run of N epochs on three examples."""

    def provoke(world: Path, settings: dict[str, Any]) -> Any:
        own = dict(settings)
        number = own.pop("trainer.max_epochs", epochs)
        rows = [Example(id=str(n), question=f"{n}?", rationale="", answer="", task="gsm8k") for n in range(3)]
        init = {"weighter": "KeypointWeighter", "predictor": None, "student": {}, "start_from": None}
        config = {
            "trainer": {"max_epochs": number}, "model": {"init_args": init}, "data": {}, "seed_everything": 0,
            "checkpoint_every": 9,
        }  # fmt: skip
        data = SimpleNamespace(examples={"train": rows})
        return method(kind, lambda made: made.prior_run(config, world, data) and None, **wrong)(world, own)

    return provoke


def settings_of(**wrong: Any) -> Provoke:
    """Checks the settings of any command."""

    def provoke(world: Path, settings: dict[str, Any]) -> None:
        right = {"run": "a", "seed_everything": 0, "checkpoint_every": 9, "trainer": Namespace(max_epochs=1)}
        check_settings(Namespace(**{**right, **wrong, **settings}), lambda _: None)

    return provoke


def checked(check: Callable[[Any, Any], None], **wrong: Any) -> Provoke:
    """Checks the settings of ``fit``, with dots as two underscores."""
    right = {
        "run": "a", "runs_dir": "runs", "trainer.max_epochs": 1, "trainer.max_steps": -1,
        "trainer.gradient_clip_val": None, "trainer.limit_train_batches": None, "trainer.accumulate_grad_batches": 1,
    }  # fmt: skip

    def provoke(world: Path, settings: dict[str, Any]) -> None:
        values = {**right, **{name.replace("__", "."): value for name, value in wrong.items()}, **settings}
        own = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("trainer.")}
        rest = {name: value for name, value in values.items() if not name.startswith("trainer.")}
        trainer = SimpleNamespace(accelerator=CPUAccelerator(), num_devices=values.get("trainer.devices", 1))
        check(SimpleNamespace(trainer=SimpleNamespace(**own), **rest), trainer)

    return provoke


def command(name: str, *words: str, before: Callable[[Path], Any] = lambda _: None) -> Provoke:
    """Runs a command on tests/conf/tiny.yaml; without fast_dev_run it stops where the Trainer would begin."""

    def provoke(world: Path, settings: dict[str, Any]) -> int:
        before(world)
        line = [word.replace("WORLD", str(world)) for word in words]
        for setting, value in settings.items():
            if f"--{setting}" in line:
                at = line.index(f"--{setting}")
                del line[at : at + 2]
            if value is not LEAVE_OUT:
                line += [f"--{setting}", value if isinstance(value, str) else json.dumps(value)]
        runs = [] if "--runs_dir" in line else ["--runs_dir", str(world / "runs")]
        test = ["--evaluate", "false"] if name == "fit" else []
        with pytest.MonkeyPatch.context() as patch:
            for verb in () if "--trainer.fast_dev_run" in line else ("fit", "validate", "predict", "annotate"):
                patch.setattr(SkipTrainer, verb, lambda *_, **__: None)
            try:
                return main([name, "--config", str(TINY), *runs, *test, *line])
            except SystemExit as stop:
                return int(stop.code or 0)

    return provoke


def source(*rows: dict[str, Any] | str, **wrong: Any) -> Provoke:
    """Reads rows from a file of JSON lines."""

    def path(world: Path) -> str:
        file = world / "rows.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return str(file)

    return build(Files, lambda files: files.load().unread, path=path, **{"task": "gsm8k", **wrong})


def splits(stage: str, **wrong: Any) -> Provoke:
    """Reads the examples of a stage."""
    none = {"train": [], "test": {}, "val_size": 0, "seed": 0, "question": None, "questions": None, "task": None}

    def made(given: Any) -> Any:
        return Generated(**given["init_args"]) if isinstance(given, dict) and "init_args" in given else given

    def provoke(world: Path, settings: dict[str, Any]) -> None:
        values = {**none, **wrong, **{name.rpartition(".")[2]: value for name, value in settings.items()}}
        values["train"] = [made(one) for one in values["train"]]
        values["test"] = {name: made(one) for name, one in values["test"].items()}
        Splits(**{name: none[name] if value is LEAVE_OUT else value for name, value in values.items()}).load(stage)

    return provoke
