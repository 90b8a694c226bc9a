"""Config files that build on others: the key ``config`` of a file names files that are read before it.

config: [methods/stt.yaml, students/gpt2.yaml]   # relative to this file
data: {init_args: {batch_size: 8}}               # wins over both
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from skipthinking.records import UserError

__all__ = ["KEY", "expand", "layers", "line_of"]

KEY = "config"


def expand(words: Sequence[str]) -> tuple[list[str], dict[Path, str]]:
    """Replaces each ``--config FILE`` of a command line by one ``--config`` per file that FILE builds on, and itself.

    Returns:
        The new words, and all these files with their texts.

    Raises:
        UserError: See :func:`layers`; or YAML given in place of a file has the key.
    """
    expanded, files, rest = list[str](), dict[Path, str](), iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c") and not equals:
            value = next(rest, "")
        if option not in ("--config", "-c") or not value:
            expanded.append(word)
        elif os.path.isfile(value):  # not a pipe, which can be read only once
            stack = layers(Path(value))
            expanded += [f"--config={file}" for file in stack]
            files |= {file: file.read_text(encoding="utf-8") for file in stack if os.access(file, os.R_OK)}
        else:
            if any(key.value == KEY for key, _ in _items(_compose(value))):
                raise UserError("Expected `config` in a file, got it in a text. Give these files by --config each.")
            expanded.append(f"--config={value}")
    return expanded, files


def layers(path: Path) -> list[Path]:
    """A config file, preceded by the files that it names, each preceded by those that it names itself.

    Names are relative to the file that has them. A file that cannot be read names none; the parser will report it.

    Raises:
        UserError: A file is not YAML, has a key twice, names a file that does not exist, or files name each other.
    """
    return _layers(path, ())


def _layers(path: Path, above: tuple[Path, ...]) -> list[Path]:
    if path.resolve() in above:
        circle = " names ".join(file.name for file in (*above[above.index(path.resolve()) :], path))
        raise UserError(f"Expected config files that build on each other, got {circle}. Remove a `config`.")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError:
        return [path]
    except UnicodeDecodeError as error:
        raise UserError(f"Expected a text file in UTF-8, got one with other bytes ({path}). Fix the file.") from error
    except yaml.YAMLError as error:
        raise UserError(f"Expected YAML, got {' '.join(str(error).split())} ({path}). Fix the file.") from error
    _check_keys(root, path)
    below = []
    for name in _names(root, path):
        if not (path.parent / name).is_file():
            raise UserError(f"Expected a config file, got config: {name}, which does not exist ({path}). Fix its path.")
        below += _layers(path.parent / name, (*above, path.resolve()))
    return [*below, path]


def _names(root: yaml.Node | None, path: Path) -> list[str]:
    """The files that a config names."""
    for key, value in _items(root):
        if key.value == KEY:
            given = yaml.safe_load(yaml.serialize(value)) or []
            names = [given] if isinstance(given, str) else given
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UserError(f"Expected a file or a list of files, got config: {given!r} ({path}). Fix it.")
            return names
    return []


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return None  # the parser will report it


def _items(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _check_keys(node: yaml.Node | None, path: Path) -> None:
    """Refuses a mapping with the same key twice, of which YAML parsers silently take the last."""
    lines: dict[str, int] = {}
    for key, value in _items(node):
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            raise UserError(
                f"Expected every key once, got {name} in lines {lines[name]} and {line} ({path}). Remove one."
            )
        lines[name] = line
        _check_keys(value, path)
    for value in node.value if isinstance(node, yaml.SequenceNode) else ():
        _check_keys(value, path)


def line_of(key: str, value: str | None, files: Mapping[Path, str]) -> str:
    """Where a key stands in config files, as " (FILE:LINE)"; empty if that is nowhere or in several places.

    Args:
        key: The key, or its last names, dotted.
        value: Its value, or None for any.
        files: Their texts; a parser may have changed the folder that their names are relative to.
    """
    places = {
        f" ({file}:{line})"
        for file, written in files.items()
        for name, text, line in _entries(_compose(written))
        if f".{name}".endswith(f".{key}") and value in (None, text)
    }
    return places.pop() if len(places) == 1 else ""


def _entries(node: yaml.Node | None, above: str = "") -> Iterator[tuple[str, str | None, int]]:
    """Dotted key, value if it is a scalar, and line of everything in a config; list items share the key of the list."""
    for key, value in _items(node):
        name = f"{above}{key.value}"
        yield name, value.value if isinstance(value, yaml.ScalarNode) else None, key.start_mark.line + 1
        yield from _entries(value, f"{name}.")
    for value in node.value if isinstance(node, yaml.SequenceNode) else ():
        yield from _entries(value, above)
