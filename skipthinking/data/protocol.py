"""The interface of a method for the data module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from skipthinking.annotate.annotator import Annotator, Notes
from skipthinking.annotate.sampling import StageSampling
from skipthinking.data.chunkers import Chunker
from skipthinking.data.encoding import Codec
from skipthinking.records import Encoded, Instance

__all__ = ["Method"]


class Method(Protocol):
    """The members of a method that the data module uses; documented in :class:`skipthinking.methods.base.Distiller`."""

    student: Any
    start_from: str | None
    prompt_prefixes: tuple[str, ...]
    needs_rationale: bool
    encodes_conclusion: bool
    marks_thinking: bool
    term_weights: tuple[float, ...]
    rows_per_place: int

    def prepare_student(self, texts: Callable[[], Sequence[str]], chunks: int) -> None:
        """Gives the student its tokenizer."""

    def connect(self, codec: Codec, chunker: Chunker, stage_sampling: StageSampling) -> Sequence[Annotator[Any]]:
        """Stores the data module's codec, chunker and stage sampling; returns the annotators in any order."""

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """Makes the training instances of an example for one epoch."""
