"""The grader for mathematical expressions in LaTeX, based on the library math-verify."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from skipthinking.records import UserError
from skipthinking.tasks.graders import Grader, after_cue, boxed, unwrap

__all__ = ["Expressions"]

_MARKS = '*`"'  # without the prime of a derivative and the underscore of an index


@dataclass(frozen=True, kw_only=True, slots=True)
class Expressions(Grader):
    r"""A mathematical expression, compared by meaning: ``\frac{1}{2}`` is 0.5.

    The answer is the last ``\boxed{...}``, or else the text after the answer phrase. Needs the extra ``math``. An
    expression that takes longer than five seconds counts as unreadable, or as different. The limit uses a signal, which
    works only in the main thread of a process; other threads have no limit.
    """

    def read(self, text: str) -> str | None:
        inner = boxed(text)
        inner = unwrap(text if inner is None else inner, marks=_MARKS)
        return inner if inner and _parse(inner) else None

    def last(self, text: str) -> str | None:
        inner = boxed(text)
        if inner is not None:
            return self.read(inner)
        parsed = _library().parse(text, parsing_timeout=_limit())
        return unwrap(str(parsed[-1]), marks=_MARKS) or None if parsed else None

    def same(self, a: str, b: str) -> bool:
        return a == b or bool(_library().verify(_parse(a), _parse(b), timeout_seconds=_limit()))

    def strict(self, text: str, cue: str) -> str | None:
        inner = boxed(text)
        rest = after_cue(text, cue) if inner is None else inner
        return None if rest is None else self.read(rest)


def _parse(text: str) -> list[Any]:
    # The library finds LaTeX only between dollar signs.
    return list(_library().parse(f"${text}$", parsing_timeout=_limit()))


def _limit() -> int | None:
    return 5 if threading.current_thread() is threading.main_thread() else None


def _library() -> Any:
    try:
        import math_verify
    except ImportError:
        raise UserError(
            "Expected the library math-verify for answers in LaTeX, got none installed (task math). "
            "Do pip install 'skipthinking[math]'."
        ) from None
    return math_verify
