"""Errors of a command line in one line, with the place in a config file and the nearest valid key or class.

jsonargparse says what is wrong only in the text of its messages, over many lines; for ``--trainer.max_epochs abc``::

    Parser key "trainer.max_epochs":
      Does not validate against any of the Union subtypes
      ...
      - Expected a <class 'int'>
      - Expected a <class 'NoneType'>
      Given value: abc
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from skipthinking.command_line.class_paths import find_class, public_classes
from skipthinking.command_line.layers import line_of
from skipthinking.records import did_you_mean
from skipthinking.settings import Configurable, parameters

__all__ = ["OneLineErrors"]

_KEY = re.compile(r"""(?:Parser key|[Oo]ption|[Uu]nrecognized arguments:) ['"]?(?:--)?([\w.]+)""")
_VALUE = re.compile(r"(?:Got value|Given value): (.*)\s*$")
_TYPE = re.compile(r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*?)\])")
_CLASS = re.compile(r"(?:given class_path '|dot import path string: )([\w.]+)(?:':\s*(.*))?")
_REQUIRED = re.compile(r"the following arguments are required: (?:(\w+)\.)?(.*)")
_CONFIG = re.compile(r"""Parser key "config": (?:Path is not a file|File does not exist): '?([^'\n]+)'?""")
_STRAY = re.compile(r"unrecognized arguments: ([^-\s]\S*)")
_UNKNOWN_SETTING = re.compile(r"Option '(\w+)' is not accepted")
_SETTING = re.compile(r"NestedArg\(key='([\w.]+)', val=(.*)\)")


class OneLineErrors:
    """Makes a parser report an error in one line and exit with code 2."""

    # Config files of the command line; of the class, because jsonargparse makes a parser for each class in a config.
    files: ClassVar[Mapping[Path, str]] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits."""
        key, value = _KEY.search(message), _VALUE.search(message)
        located = key and (value or not message.startswith(("Parser key", "unrecognized")))
        place = line_of(key[1], value and value[1], self.files) if key and located else ""
        unknown = _UNKNOWN_SETTING.fullmatch(message)
        if answer := unknown and _of_another_class(unknown[1], self):
            text, hint = answer
        else:
            words = _of_words(message)
            text, hint = (words, "") if words else (in_one_line(message), _nearest(message, self))
        print(f"error: {text.removesuffix('.')}{place}.{hint}", file=sys.stderr)
        sys.exit(2)


def in_one_line(message: str) -> str:
    """A parser's message as a sentence, or at least without line breaks."""
    key, value = _KEY.search(message), _VALUE.search(message)
    types = ["null" if name == "NoneType" else name or choices for name, choices in _TYPE.findall(message)]
    if key and (unknown := _unknown_class(message)):
        return f"Unknown class {unknown[1]!r} for {key[1]}{f': {unknown[2]}' if unknown[2] else ''}."
    if key and value and key[1].rpartition(".")[2] == "test" and re.match(r"[\[{'\"\s]*class_path", value[1]):
        return (
            f"Expected test sets by name for {key[1]}, got a source alone. Give it a name: "
            "data.test: {mine: {class_path: ..., init_args: ...}}."
        )
    if key and value and types == ["null"]:  # all that is left of a type whose class could not be made
        return _without_class(key[1], value[1])
    if key and value and types == ["str"] and value[1].startswith("{"):
        return (
            f"Expected a text for {key[1]}, got {value[1]}. A text with a colon is YAML on the command line: give it "
            "in a file, by --config."
        )
    if key and value and types:
        return f"Expected {' or '.join(types)} for {key[1]}, got {value[1]!r}."
    if message.startswith("Unexpected config:"):
        content = message.partition(":")[2].strip()
        kind = f"one with {content[:80]!r}" if content else "an empty one"
        return f"Expected a config file of keys and values, got {kind}."
    return " ".join(message.split())


def _of_words(message: str) -> str | None:
    """The sentence for settings that are missing, and for words of the command line that are none."""
    if required := _REQUIRED.fullmatch(message):
        command, names = required[1], re.sub(r"\b\w+\.", "", required[2])
        if command is None:
            first = names.split(", ")[0]
            return (
                f"Expected a value for {names}, got none. Set each in a config, or by an option: --{first}, or the one "
                f"that ends in .{first}."
            )
        config = "experiments/quickstart.yaml" if command == "fit" else "runs/NAME/config.yaml"
        return f"Expected settings of {names}, got none. Give them in a file: {command} --config {config}."
    if path := _CONFIG.search(message):
        file = Path(path[1]) / "config.yaml"
        if not Path(path[1]).is_dir():
            return f"Expected a config file, got {path[1]}, which does not exist. Fix its path."
        remedy = f"Give its config: {file}." if file.is_file() else "Name a file in it."
        return f"Expected a config file, got the folder {path[1]}. {remedy}"
    if stray := _STRAY.fullmatch(message):
        remedy = f"Give a config by --config {stray[1]}." if Path(stray[1]).is_file() else "Remove it."
        return f"Expected options, which begin with --, got {stray[1]!r}. {remedy}"
    return None


def _without_class(key: str, value: str) -> str:
    """The sentence for a value where a class was expected."""
    if alone := _SETTING.fullmatch(value):
        setting = f"{key}.{alone[1]}={alone[2]}"
        return (
            f"Expected a class for {key} before its settings, got {setting} alone. Name it first, even if it is "
            "the default."
        )
    if key.rpartition(".")[2] == "train" and Path(value).is_file():
        return (
            f"Expected a list of sources for {key}, got {value!r}. Name the source: "
            f"--data.train='[{{class_path: Files, init_args: {{path: {value}, task: gsm8k}}}}]', for a task "
            "like GSM8K."
        )
    return (
        f"Expected a class that can be imported and takes these settings for {key}, got "
        f"{value!r}. Check class_path, init_args, and in which order config files come."
    )


def _of_another_class(name: str, parser: Any) -> tuple[str, str] | None:
    """What is wrong and what to do, if a setting is one of another class that could stand here.

    Args:
        name: The setting.
        parser: The parser of a class, which knows no more of it than the first line of its docstring.
    """
    classes = [kind for path in public_classes().values() if (kind := find_class(path))]
    title = parser._action_groups[-1].title
    own = next((kind for kind in classes if _first_line(kind) == title.rstrip(".")), None)
    if own is None:
        return None
    *_, family = [own, *(base for base in own.__mro__ if Configurable in base.__mro__[1:])]
    others = [kind.__name__ for kind in classes if issubclass(kind, family) and name in parameters(kind)]
    if not others:
        inner = [
            f"{part}.{name}"
            for part, parameter in parameters(own).items()
            for kind in classes
            if name in parameters(kind)
            and any(re.search(rf"\b{base.__name__}\b", str(parameter.annotation)) for base in kind.__mro__[:-1])
        ]
        if not inner:
            return None
        return f"Expected a setting of {own.__name__}, got {name!r}", f" Did you mean {inner[0]!r}?"
    fault = f"Expected a setting of {own.__name__}, got {name!r}, a setting of {', '.join(sorted(others))}"
    return fault, f" Name that class before its settings, in place of {own.__name__}."


def _first_line(kind: type) -> str:
    """The first line of a class's docstring, as jsonargparse has it."""
    return (inspect.getdoc(kind) or "").split("\n")[0].rstrip(".")


def _unknown_class(message: str) -> re.Match[str] | None:
    """The class that a message complains of, and why, if there is no such class and no other type was expected."""
    path = _CLASS.search(message)
    types = {name for name, _ in _TYPE.findall(message)} - {"NoneType"}
    return path if path and not types and find_class(path[1]) is None else None


def _nearest(message: str, parser: Any) -> str:
    """A sentence that names the valid key or class nearest to the wrong one; empty if none is near."""
    if unknown := _unknown_class(message):
        package, _, name = unknown[1].rpartition(".")
        return did_you_mean(name, public_classes()) if package.startswith("skipthinking") or not package else ""
    wrong = _KEY.search(message)
    return did_you_mean(wrong[1], _options(parser)) if wrong and not message.startswith("Parser key") else ""


def _options(parser: Any) -> set[str]:
    """Dotted options of a parser and of its subcommands."""
    names: set[str] = set()
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for child in action.choices.values():
                names |= _options(child)
        names |= {option.lstrip("-") for option in action.option_strings}
    return names
