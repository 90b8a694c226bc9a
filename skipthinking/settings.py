"""Settings of objects: what a config file would say of a method or a data module that was made in Python.

{"class_path": "skipthinking.data.sources.Generated", "init_args": {"task": "arithmetic", "size": 200, ...}}
"""

from __future__ import annotations

import copyreg
import functools
import inspect
import os
import sys
import weakref
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

__all__ = ["Configurable", "config_of", "parameters", "run_config"]

_ARGUMENTS: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}  # by id; attributes would be among the settings


class Configurable:
    """Base of classes that a config can name; the arguments of each instance can be asked for by :func:`config_of`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Notes the arguments."""
        instance = super().__new__(cls)
        _ARGUMENTS[id(instance)] = args, kwargs
        weakref.finalize(instance, _ARGUMENTS.pop, id(instance), None)
        return instance

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles have the arguments, too."""
        make, args, *state = cast("tuple[Any, ...]", super().__reduce_ex__(protocol))
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            make, args = _again, (type(self), *_ARGUMENTS[id(self)])
        return (make, args, *state)


def _again(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kind.__new__(kind, *args, **kwargs)


def config_of(value: Any, at: str = "") -> tuple[Any, list[str]]:
    """A value as a config file has it, and the settings that no config file can hold.

    Args:
        value: An object of a :class:`Configurable` class, or an argument of one.
        at: Its dotted key.

    Returns:
        The value, and the dotted keys of arguments such as functions without a name, which the value lacks.
    """
    if value is inspect.Parameter.empty:
        return None, [at]
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value, []
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value), []  # a number of numpy as one of Python
    if isinstance(value, Path):
        return str(value), []
    if isinstance(value, Mapping):
        return _each({str(name): part for name, part in value.items()}, at)
    if isinstance(value, (list, tuple)):
        parts, missing = _each({str(place): part for place, part in enumerate(value)}, at)
        return list(parts.values()), missing
    if is_dataclass(value) and not isinstance(value, (Configurable, type)):
        return _each({field.name: getattr(value, field.name) for field in fields(value)}, at)
    if id(value) in _ARGUMENTS:
        return _described(type(value), _arguments(value), at)
    if isinstance(value, functools.partial):  # jsonargparse puts the class among the arguments
        kind = next((part for part in (value.func, *value.args) if inspect.isclass(part)), None)
        return _described(kind, value.keywords, at) if kind is not None else (None, [at])
    return _described(value, {}, at) if inspect.isclass(value) else (None, [at])


def run_config(model: Any, data: Any) -> tuple[dict[str, Any], list[str]]:
    """The config of a run from Python, and the settings that no config file can hold; see :func:`config_of`."""
    config, missing = _each({"model": model, "data": data}, "")
    return {"seed_everything": int(os.environ.get("PL_GLOBAL_SEED", 0)), **config}, missing


def _each(values: Mapping[str, Any], at: str) -> tuple[dict[str, Any], list[str]]:
    """The config of each value, without those that have none."""
    parts: dict[str, Any] = {}
    missing: list[str] = []
    for name, value in values.items():
        key = f"{at}.{name}" if at else name
        part, lacks = config_of(value, key)
        missing += lacks
        if key not in lacks:
            parts[name] = part
    return parts, missing


def _described(kind: type, arguments: Mapping[str, Any], at: str) -> tuple[Any, list[str]]:
    path = _path(kind)
    if path is None:
        return None, [at]
    parts, missing = _each(arguments, f"{at}.init_args" if at else "init_args")
    return {"class_path": path, "init_args": parts}, missing


def _path(kind: type) -> str | None:
    """The shortest import path of a class; None for a class in a function."""
    packages = kind.__module__.split(".")
    for length in range(1, len(packages) + 1):
        module = ".".join(packages[:length])
        if getattr(sys.modules.get(module), kind.__name__, None) is kind:
            return f"{module}.{kind.__name__}"
    return None


def _arguments(instance: Any) -> dict[str, Any]:
    """The arguments of an object by name, with the defaults of those that were not given."""
    args, kwargs = _ARGUMENTS[id(instance)]
    known = parameters(type(instance))
    own = [*inspect.signature(type(instance).__init__).parameters][1:]
    given = dict(zip(own, args, strict=False)) | kwargs
    return {name: given.get(name, p.default) for name, p in known.items()}


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Parameters of a class by name, those that it passes on to its bases included."""
    named: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(kind):
        if "__init__" in vars(base):
            signature = inspect.signature(vars(base)["__init__"]).parameters.values()
            named = {p.name: p for p in signature if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} | named
            if not any(p.kind is p.VAR_KEYWORD for p in signature):
                break
    named.pop("self", None)
    return named
