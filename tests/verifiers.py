"""A verifier with known verdicts, for use by class path."""

from __future__ import annotations

from typing import Any

from skipthinking.methods.skip_thinking.verifiers import Verifier


class EveryOther(Verifier):
    """Allows the removal of every chunk with an odd index."""

    gated = False

    def begin(self, rows: Any, context: Any) -> list[bool]:
        """Says that the student answers every example right."""
        return [True] * len(rows)

    def verify(self, trials: Any) -> list[bool]:
        """Decides by the index of the chunk alone."""
        return [trial.drop % 2 == 1 for trial in trials]
