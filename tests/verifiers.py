"""A predictable verifier, by class path."""

from __future__ import annotations

from typing import Any

from skipthinking.methods.skip_thinking.verifiers import Verifier


class EveryOther(Verifier):
    """Lets the chunks at odd places go, of every example."""

    def begin(self, rows: Any, context: Any) -> list[bool]:
        """All are right."""
        return [True] * len(rows)

    def verify(self, trials: Any) -> list[bool]:
        """By place."""
        return [trial.drop % 2 == 1 for trial in trials]
