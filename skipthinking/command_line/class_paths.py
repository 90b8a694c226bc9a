"""Class paths of this package: the public ones, and those of older versions, whose files have moved since."""

from __future__ import annotations

import inspect
import pydoc
import re
import sys
from dataclasses import is_dataclass

__all__ = ["current_class_paths", "find_class", "public_classes"]


# Settings of older versions, in YAML or JSON.
_RENAMED = {re.compile(r"""\bunreadable(?=["']?\s*[:=]\s*["']?(?:error|leave_out)\b)"""): "bad_rows"}


def public_classes() -> dict[str, str]:
    """The shortest import path of each class that a config can name, by the class's name, as far as it is imported."""
    paths: dict[str, str] = {}
    for path, module in sorted(sys.modules.items(), key=lambda item: (len(item[0]), item[0])):
        for name in getattr(module, "__all__", ()) if path.startswith("skipthinking.") else ():
            kind = getattr(module, name)
            if inspect.isclass(kind) and not is_dataclass(kind):
                paths.setdefault(name, f"{path}.{name}")
    return paths


def find_class(path: str) -> type | None:
    """The class of an import path; None if there is none."""
    try:
        kind = pydoc.locate(path)
    except pydoc.ErrorDuringImport:
        return None
    return kind if inspect.isclass(kind) else None


def current_class_paths(text: str) -> str:
    """Replaces class paths of older versions in a config or in a word of a command line.

    A dotted path in this package that cannot be imported stands for the public class of the same name:
    ``skipthinking.annotate.chunks.SearchChunks`` is ``SearchChunks``, wherever it lives now. Of the paths of a class
    that can be imported, the shortest is taken, so that configs can be compared. Renamed settings get their new names.
    """
    for old, new in _RENAMED.items():
        text = old.sub(new, text)
    classes = public_classes() if "skipthinking." in text else {}

    def current(match: re.Match[str]) -> str:
        known, kind = classes.get(match[1]), find_class(match[0])
        return known if known and kind in (None, find_class(known)) else match[0]

    return re.sub(r"\bskipthinking(?:\.\w+)*\.([A-Z]\w*)", current, text)
