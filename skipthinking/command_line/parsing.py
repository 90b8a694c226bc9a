"""The command line of a tool, from its function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from skipthinking.command_line.class_paths import current_class_paths
from skipthinking.command_line.hints import OneLineErrors

__all__ = ["call"]


class ToolParser(OneLineErrors, ArgumentParser):
    """Reads options of older versions too, and reports errors in one line, with the nearest valid key."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parses a file of options."""
        return super().parse_string(current_class_paths(content), *args, **kwargs)


def call(function: Callable[..., Any], prog: str, words: Sequence[str]) -> Any:
    """Calls a function with the words of a command line.

    Parameters are options, ``*names`` are the words without one. A bare ``--name`` sets a bool. Where the function has
    no ``config`` of its own, ``--config FILE`` gives options in YAML.

    Raises:
        SystemExit: An option is wrong (code 2), or help was asked for.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    about = (inspect.getdoc(function) or "").split("\n")[0]
    parser = ToolParser(prog=prog, description=about, allow_abbrev=False)
    if "config" not in parameters:
        parser.add_argument("--config", action="config", help="Options from a YAML file.")
    rest = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_POSITIONAL]
    for name in rest:
        parser.add_argument(name, nargs="*", type=str)
    parser.add_function_arguments(function, as_group=False)
    flags = {f"--{name}" for name, parameter in parameters.items() if parameter.annotation is bool}
    bare = [
        word in flags and words[place + 1 : place + 2] not in (["true"], ["false"]) for place, word in enumerate(words)
    ]
    given = [f"{word}=true" if alone else word for word, alone in zip(words, bare, strict=True)]
    settings = parser.instantiate(parser.parse_args([current_class_paths(word) for word in given])).as_dict()
    named = {name: settings[name] for name in parameters if name not in rest}
    return function(*(word for name in rest for word in settings[name]), **named)
