"""Errors of a command line in one line, with the nearest valid key for a mistyped option."""

from __future__ import annotations

import difflib
import inspect
import pydoc
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any, NoReturn

__all__ = ["OneLineErrors", "empty_settings", "in_one_line", "nearest", "nearest_key"]


class OneLineErrors:
    """Makes a parser say what is wrong in one line, with the nearest valid key."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with code 2."""
        told = in_one_line(message).removesuffix(".")
        print(f"error: {told}{self.place(message)}.{nearest_key(message, self)}", file=sys.stderr)
        sys.exit(2)

    def place(self, message: str) -> str:
        """Where that stands which a message complains of, in brackets; empty if that is not known."""
        return ""


def in_one_line(message: str) -> str:
    """A parser's message without line breaks; of an unknown class only which option and which name."""
    unknown = _unknown_class(message)
    if unknown:
        return f"Expected a class for {unknown[0]}, got {unknown[1]!r}, which is none."
    key, value = re.search(r'Parser key "([\w.]+)"', message), re.search(r"Given value: (.*)\s*$", message)
    types = re.findall(r"Expected an? <class '([\w.]+)'>", message)
    choices = re.findall(r"Expected a typing.Literal\[(.*?)\]", message)
    if key and value and (types or choices):
        if types == ["NoneType"] and not choices:  # all that is left of a type whose class could not be made
            alone = re.fullmatch(r"NestedArg\(key='([\w.]+)', val=(.*)\)", value.group(1))
            if alone:
                told = f"{key.group(1)}.{alone.group(1)}={alone.group(2)}"
                return f"Expected a class for {key.group(1)} before its settings, got {told} alone. Name it first."
            return (
                f"Expected a class that can be imported and takes these settings for {key.group(1)}, got "
                f"{value.group(1)!r}. Check class_path, init_args, and in which order config files come."
            )
        wanted = [*choices, *("null" if name == "NoneType" else name for name in types)]
        return f"Expected {' or '.join(wanted)} for {key.group(1)}, got {value.group(1)!r}."
    if "Expected a <class 'str'>. Got value: {" in message:
        message += "\nA text with a colon is YAML on the command line: give it in a file, by --config."
    if message.startswith("Unexpected config:"):
        content = message.partition(":")[2].strip()
        found = f"one with {content[:80]!r}" if content else "an empty one"
        return f"Expected a config file of keys and values, got {found}."
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def _unknown_class(message: str) -> tuple[str, str] | None:
    types = set(re.findall(r"Expected a <class '([\w.]+)'>", message))
    if "Expected a dot import path string" not in message or types - {"NoneType"}:
        return None
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Given value|dot import path string): ([\w.]+)\s*$", message)
    return (key.group(1), value.group(1)) if key and value else None


def _classes() -> set[str]:
    """Public classes of this package that a config can name, as far as they are imported."""
    modules = [module for name, module in sys.modules.items() if name.startswith("skipthinking.")]
    found = {name: getattr(module, name) for module in modules for name in getattr(module, "__all__", ())}
    return {name for name, kind in found.items() if inspect.isclass(kind) and not is_dataclass(kind)}


def nearest_key(message: str, parser: Any) -> str:
    """A sentence that names the valid key nearest to the wrong one in a parser's message; empty if none is near."""
    unknown = _unknown_class(message)
    if unknown:
        return nearest(unknown[1], _classes())
    found = re.search(r"(?:does not accept option|[Oo]ption|[Uu]nrecognized arguments:) ['\"]?(?:--)?([\w.]+)", message)
    if not found:
        return ""
    wrong = found.group(1)
    owner = re.findall(r"class_path '([\w.]+)'", message)
    if owner:
        return nearest(wrong, _parameters(owner[-1]))
    return nearest(wrong, _options(parser))


def nearest(wrong: str, known: Iterable[str]) -> str:
    """A sentence that names the known word nearest to a wrong one; empty if none is near."""
    near = difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _parameters(path: str) -> dict[str, inspect.Parameter]:
    """Parameters of a class by name, those that it passes on to its bases included."""
    named: dict[str, inspect.Parameter] = {}
    kind = pydoc.locate(path)
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            own = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            named = {**own, **named}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break
    return {name: parameter for name, parameter in named.items() if name != "self"}


def empty_settings(settings: Any, key: str = "") -> Iterator[str]:
    """Keys of a config's classes that are null where the class has no use for null; the parser lets these through.

    Args:
        settings: What the config says below a key: a class with its settings, or a list or a dict of such.
        key: That key.
    """
    if isinstance(settings, list):
        for item in settings:
            yield from empty_settings(item, key)
    elif isinstance(settings, dict):
        path = settings.get("class_path")
        known = _parameters(path) if isinstance(path, str) and settings.get("init_args") else {}
        for name, value in (settings["init_args"] if known else settings).items():
            below = f"{key}.{name}" if key else name
            if value is None and name in known and not _may_be_null(known[name]):
                yield below
            yield from empty_settings(value, below)


def _may_be_null(parameter: inspect.Parameter) -> bool:
    """Whether a parameter's type, which may be a text that names others, has room for null."""
    typed = parameter.annotation is not parameter.empty and parameter.default is not None
    return not typed or re.search(r"\b(None|NoneType|Optional|Any)\b", str(parameter.annotation)) is not None


def _options(parser: Any) -> set[str]:
    """Dotted options of a parser and of its subcommands."""
    names: set[str] = set()
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for child in action.choices.values():
                names |= _options(child)
        names |= {option.lstrip("-") for option in action.option_strings}
    return names
