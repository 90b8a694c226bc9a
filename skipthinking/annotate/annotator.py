"""The interface of a search over training examples, and the notes that it leaves for the method."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.sampling import StageSampling, draw_stage
from skipthinking.records import Encoded

__all__ = ["Annotator", "Context", "Drawing", "Notes"]

Value = TypeVar("Value")


class Drawing(TypedDict, total=False):
    """How an annotation looks: keys that it adds to an example's row of ``annotations.jsonl``.

    ``show``, the HTML page and W&B draw these keys; a row has id, question, steps and answer already.

    Attributes:
        steps: Token span of every step, in place of the steps' texts, for rows with ``per_token`` or ``weights``.
        tokens: Tokens of every step; with ``per_token`` or ``weights`` the text of every rationale token.
        ids: Id of every rationale token.
        chunks: Step spans of every chunk.
        kept: Indices of the chunks that are not skipped.
        nll: Mean token NLL of every step, nats.
        cut: Number of steps that a pruned trace keeps; None where it was dropped.
        pair: Log-likelihoods of a preference pair under the reference, nats: chosen, rejected.
        weights: Weight of every rationale token, 0 to 1.
        difficulty: Difficulty of every step, nats.
        given: Number of steps given as input, per progress stage.
        per_step: Other numbers per step, by name.
        per_token: Other numbers per rationale token, by name.
        lines: Texts that are printed as they are.
    """

    steps: list[list[int]]
    tokens: list[Any]
    ids: list[int]
    chunks: list[list[int]]
    kept: list[int]
    nll: list[float]
    cut: int | None
    pair: list[float] | None
    weights: list[float]
    difficulty: list[float]
    given: list[int]
    per_step: dict[str, list[float]]
    per_token: dict[str, list[float]]
    lines: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """What is known of one example at the start of an epoch: the input of ``make_instances`` beside the tokens.

    Attributes:
        epoch: The epoch.
        seed: The seed of the data.
        stage_sampling: How stages are drawn, see :func:`skipthinking.annotate.sampling.draw_stage`.
        values: Annotations by annotator name; read them by the annotator itself, ``notes[self.chunks]``.

    >>> Notes(values={"entropy": 1.5}).values["entropy"]
    1.5
    """

    epoch: int = 0
    seed: int = 0
    stage_sampling: StageSampling = "cycle"
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, annotator: Annotator[Value]) -> Value:
        """The value that an annotator gave the example.

        Raises:
            KeyError: The annotator has not run yet.
        """
        value: Value = self.values[annotator.name]
        return value

    def get(self, annotator: Annotator[Value]) -> Value | None:
        """The value that an annotator gave the example; None if it has not run yet."""
        return self.values.get(annotator.name)

    def random(self, purpose: str, id: str) -> random.Random:
        """A generator that depends on nothing but (purpose, seed, epoch, id)."""
        return random.Random(f"{purpose}/{self.seed}/{self.epoch}/{id}")

    def draw_stage(self, stages: int, id: str, losses: Sequence[float] | None = None) -> int | None:
        """The stage that an example shows in this epoch; None for all of them in one instance."""
        return draw_stage(self.stage_sampling, stages, seed=self.seed, epoch=self.epoch, id=id, losses=losses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What an annotator may use.

    Attributes:
        student: The student, frozen, with whole weights.
        codec: Turns text into tokens and back.
        notes: Per example id the notes so far: the annotations of ``needs``, and the annotator's own earlier value.
        seed: The seed of the data.
    """

    student: Any
    codec: Any
    notes: Mapping[str, Notes]
    seed: int


class Annotator(ABC, Generic[Value]):
    """Finds out one value per training example, with the student as it is at the start of an epoch.

    A subclass says what it finds (:meth:`annotate`) and when (:meth:`due`). Cache, resume after a kill, several
    processes, progress bar, checkpoints, the command ``annotate``, ``show`` and the HTML page come from
    :class:`skipthinking.annotate.runner.Runner`.
    """

    name: ClassVar[str]
    """Key in :class:`Notes` and in checkpoints; the values are cached in ``annotations/NAME.jsonl``."""
    needs: tuple[str, ...] = ()
    """Names of the annotations that must come first."""
    title: str = ""
    """Label of the progress bar; the name by default."""
    block_tokens: int | None = 8192
    """Most padded tokens of the rows that :meth:`annotate` gets at once; None for all rows in one call."""
    dtype: str = "float64"
    """Type of the numbers of encoded values."""
    uses_student: bool = True
    """Whether values depend on the student. If not, they are not cached on disk."""
    for_display: bool = False
    """Whether the value is found out for drawings only, with the student as it then is."""
    for_training: bool = False
    """Whether the command ``annotate`` leaves the value out where training has not come to it."""

    once: bool = False
    """Whether it runs a single time, so that values of ``start_from`` take the place of that run."""

    for_validation: bool = False
    """Whether validation examples are drawn too."""

    def due(self, epoch: int) -> bool:
        """Whether the values are found out, again or for the first time, at the start of an epoch; the first one."""
        return epoch == 0

    def settings(self) -> Mapping[str, Any]:
        """All that the values depend on beside the data, the student and the annotations of ``needs``."""
        return {}

    def initial(self, encoded: Encoded) -> Value | None:
        """The value before the first run, where there is one; needs no student."""
        return None

    @abstractmethod
    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Value]:
        """Finds out the values of a block of rows of similar length.

        Args:
            rows: The rows. Blocks do not depend on the number of processes.
            context: The frozen student, the codec, and the notes so far.

        Returns:
            A value per example id.
        """

    def finish(self, values: dict[str, Value], rows: Sequence[Encoded], context: Context) -> dict[str, Value]:
        """Changes the values of all rows together, on every process alike, before they are cached."""
        return values

    def report(self, values: Mapping[str, Value], rows: Sequence[Encoded], context: Context) -> str:
        """One line on the outcome for the log; raises UserError where training can't go on with it.

        Args:
            values: The values of all rows.
            rows: The rows.
            context: As in :meth:`annotate`; its notes still have the earlier values.
        """
        return ""

    def accepts(self, settings: Mapping[str, Any]) -> bool:
        """Whether values that the run of ``start_from`` found with these settings are taken over."""
        return False

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """Tokens of a row in a pass; rows that do not fit into the student's context are left out."""
        return encoded.length

    def encode(self, value: Value) -> NDArray[Any]:
        """A value as a one-dimensional array, for disk and checkpoint."""
        return np.asarray(value, dtype=self.dtype).reshape(-1)

    def decode(self, array: NDArray[Any]) -> Value:
        """The value that :meth:`encode` made an array of; the array itself by default."""
        value: Any = array
        return value

    def draw(self, value: Value, encoded: Encoded, codec: Any) -> Drawing:
        """How the value is drawn; by default a number per step, a number per token, or a line of text."""
        numbers = self.encode(value).tolist()
        if len(numbers) == len(encoded.steps):
            return {"per_step": {self.name: numbers}}
        if len(numbers) == encoded.answer[0]:
            return {
                "per_token": {self.name: numbers},
                "tokens": codec.token_texts(encoded.tokens[: encoded.answer[0]]),
                "steps": [list(span) for span in encoded.steps],
            }
        return {"lines": [f"{self.name}: {value}"]}
