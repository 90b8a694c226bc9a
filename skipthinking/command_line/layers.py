"""Config files that stand on others: the key ``config`` names the files to read first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonargparse import ActionConfigFile, get_loader

from skipthinking.records import UserError

__all__ = ["LayeredConfigs", "layers"]

KEY = "config"


def layers(path: Path) -> list[Path]:
    """A config file behind the files that it names, and these behind what they name themselves.

    Names are relative to the file that has them; a file that cannot be read names none, and is left to the parser.

    Raises:
        UserError: A file is no YAML, has a key twice, names one that does not exist, or files form a circle.
    """
    return _layers(path, ())


def _layers(path: Path, above: tuple[Path, ...]) -> list[Path]:
    if path.resolve() in above:
        circle = " names ".join(file.name for file in (*above[above.index(path.resolve()) :], path))
        raise UserError(f"Expected config files one on top of the other, got {circle}. Remove a `config`.")
    try:
        text = path.read_text(encoding="utf-8")
        found = _mapping(text)
    except OSError:
        return [path]
    except UnicodeDecodeError as error:
        raise UserError(f"Expected a text file in UTF-8, got one with other bytes ({path}). Mend the file.") from error
    except yaml.YAMLError as error:
        raise UserError(f"Expected YAML, got {' '.join(str(error).split())} ({path}). Mend the file.") from error
    _check_keys(yaml.compose(text, yaml.SafeLoader), path)
    given = found.get(KEY) or []
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"Expected a file or a list of files, got config: {given!r} ({path}). Mend it.")
    for name in names:
        if not (path.parent / name).is_file():
            raise UserError(f"Expected a config file, got config: {name}, which is none ({path}). Mend its path.")
    below = [_layers(path.parent / name, (*above, path.resolve())) for name in names]
    return [*(file for files in below for file in files), path]


def _check_keys(node: yaml.Node | None, path: Path) -> None:
    """Of two values for a key the parser takes the last, without a word.

    Raises:
        UserError: A mapping has a key twice.
    """
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise UserError(
                    f"Expected every key once, got {name} in lines {lines[name]} and {line} ({path}). Remove one."
                )
            lines[name] = line
            _check_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value, path)


def _entries(node: yaml.Node | None, above: str = "") -> Iterator[tuple[str, str | None, int]]:
    """Dotted key, value if it is one, and line of all that a config says; places in a list are no part of the key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{above}{key.value}"
            yield name, value.value if isinstance(value, yaml.ScalarNode) else None, key.start_mark.line + 1
            yield from _entries(value, f"{name}.")
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _entries(value, above)


def _mapping(text: str) -> dict[str, Any]:
    """A config's keys as the parser reads them; none where it is going to refuse the text."""
    found = get_loader("yaml")(text)
    return found if isinstance(found, dict) else {}


class Layered(ActionConfigFile):
    """``--config FILE`` as if the files that it stands on had been given before it, by ``--config`` each."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Reads them all, later ones over earlier ones."""
        if os.path.isfile(values):  # a pipe can be read only once
            files = layers(Path(values))
            LayeredConfigs.files += [file for file in files if os.access(file, os.R_OK)]
            for file in files[:-1]:
                super().__call__(parser, cfg, str(file), option_string)
        elif KEY in _mapping(str(values)):
            raise UserError("Expected `config` in a file, got it in a text. Give these files by --config each.")
        super().__call__(parser, cfg, values, option_string)


class LayeredConfigs:
    """Gives a parser's config files layers, and says in which of them an error is."""

    files: ClassVar[list[Path]] = []  # of the command line that is parsed; a class has a parser of its own for its keys

    def parse_args(self: Any, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parses a command line, or one key of a class in a class, whose value jsonargparse read and wrote again."""
        if "namespace" in kwargs:
            args = [re.sub("=None$", "=null", word) for word in args]
        else:
            LayeredConfigs.files.clear()
        return super().parse_args(args, *more, **kwargs)  # type: ignore[misc]

    def place(self, message: str) -> str:
        """The file and line of the key, and of the value if there is one, that a parser's message complains of."""
        named = re.search(r"""(?:Parser key|[Oo]ption) ['"]([\w.]+)""", message)
        value = re.search(r"(?:Got value|Given value): (.*)\s*$", message)
        if not named:
            return ""
        found = {
            f" ({file}:{line})"
            for file in self.files
            for key, text, line in _entries(yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader))
            if f".{key}".endswith(f".{named[1]}") and (value is None or value[1] == text)
        }
        return found.pop() if len(found) == 1 else ""

    def add_argument(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Adds an option; that of config files as :class:`Layered`."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = Layered
        return super().add_argument(*args, **kwargs)  # type: ignore[misc]

    def parse_string(self: Any, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parses a config's own keys; what it stands on was read before it."""
        found = _mapping(content) if KEY in content else {}
        if KEY in found:
            # Everything in quotes with its type: the parser reads numbers otherwise than PyYAML writes texts.
            del found[KEY]
            content = yaml.safe_dump(found, default_style='"', sort_keys=False)
        return super().parse_string(content, *args, **kwargs)  # type: ignore[misc]
