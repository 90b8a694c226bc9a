"""The order in which annotators run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from skipthinking.annotate.annotator import Annotator
from skipthinking.records import UserError

__all__ = ["in_order"]


def in_order(annotators: Sequence[Annotator[Any]]) -> list[Annotator[Any]]:
    """Sorts annotators so that each follows those that it needs.

    Raises:
        UserError: Two have the same name, a name is not an identifier, or ``needs`` are missing or circular.
    """
    names = [str(getattr(annotator, "name", "")) for annotator in annotators]
    wrong = [name for name in names if not re.fullmatch(r"[A-Za-z]\w*", name)]
    if wrong:
        raise UserError(f"Expected annotators with names of letters, digits and _, got {wrong[0]!r}. Rename it.")
    if len(set(names)) < len(names):
        raise UserError(f"Expected annotators with different names, got {', '.join(names)}. Rename one.")
    ordered: list[Annotator[Any]] = []
    waiting = list(annotators)
    while waiting:
        done = {annotator.name for annotator in ordered}
        ready = [annotator for annotator in waiting if done.issuperset(annotator.needs)]
        if not ready:
            missing = {need for annotator in waiting for need in annotator.needs} - set(names)
            raise UserError(
                f"Expected annotators that can follow one another, got {', '.join(a.name for a in waiting)}, which "
                + (f"need {', '.join(sorted(missing))}, computed by no annotator." if missing else "need each other.")
            )
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered
