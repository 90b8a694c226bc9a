"""Cutters with known results, for use by class path."""

from __future__ import annotations

from typing import Any

from skipthinking.methods.long_cot.cuts import BinaryCut, Cutter


class ByPlace(Cutter):
    """Drops every fifth trace, keeps the next one complete, and keeps the first half of the steps of the others."""

    def cut(self, traces: Any, context: Any) -> dict[str, int | None]:
        """Keeps all steps; :meth:`finish` decides."""
        return {trace.id: len(trace.steps) for trace in traces}

    def finish(self, cuts: Any, steps: Any) -> dict[str, int | None]:
        """Decides by the position among all examples alone."""
        return {
            id: None if place % 5 == 0 else steps[id] if place % 5 == 1 else max(1, steps[id] // 2)
            for place, id in enumerate(cuts)
        }


class Indulgent(BinaryCut):
    """Lets the student answer and accepts every answer as right."""

    def _valid(self, *asked: Any) -> dict[str, bool]:
        return dict.fromkeys(super()._valid(*asked), True)
