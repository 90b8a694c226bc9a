"""The interface of annotators, which compute one value per training example, and the notes that methods read."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.sampling import StageSampling, draw_in_phase, draw_stage
from skipthinking.records import Encoded
from skipthinking.settings import Configurable

__all__ = ["Annotator", "Context", "Drawing", "Notes"]

Value = TypeVar("Value")


class Drawing(TypedDict, total=False):
    """Keys that an annotation adds to an example's row of ``annotations.jsonl``, for ``show``, the HTML page and W&B.

    Every row already has id, question, steps, tokens and answer.

    Attributes:
        steps: Token span of every step, in place of the steps' texts, for rows with ``per_token`` or ``weights``.
        tokens: Tokens of every step; with ``per_token`` or ``weights`` the text of every rationale token.
        ids: Id of every rationale token.
        chunks: Step spans of every chunk.
        kept: Indices of the chunks that are not skipped.
        nll: Mean token NLL of every step, nats.
        cut: Number of steps that a pruned trace keeps; None if the trace was dropped.
        pair: Log-likelihoods of a preference pair under the reference, nats: chosen, rejected.
        weights: Weight of every rationale token, 0 to 1.
        difficulty: Difficulty of every step, nats.
        given: Number of steps given as input, per progress stage.
        per_step: Other numbers per step, by name.
        per_token: Other numbers per rationale token, by name.
        lines: Texts to print unchanged.
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
    """Annotations of one example at the start of an epoch; with the tokens, the input of ``make_instances``.

    Attributes:
        epoch: The epoch.
        seed: The seed of the data module.
        stage_sampling: See :func:`skipthinking.annotate.sampling.draw_stage`.
        values: Annotations by annotator name; index the notes by the annotator to read one: ``notes[self.chunks]``.

    >>> Notes(values={"entropy": 1.5}).values["entropy"]
    1.5
    """

    epoch: int = 0
    seed: int = 0
    stage_sampling: StageSampling = "cycle"
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, annotator: Annotator[Value]) -> Value:
        """The example's value of an annotator.

        Raises:
            KeyError: The annotator has not run yet.
        """
        value: Value = self.values[annotator.name]
        return value

    def get(self, annotator: Annotator[Value]) -> Value | None:
        """The example's value of an annotator; None if the annotator has not run yet."""
        return self.values.get(annotator.name)

    def random(self, purpose: str, id: str) -> random.Random:
        """A random generator that depends only on (purpose, seed, epoch, id)."""
        return random.Random(f"{purpose}/{self.seed}/{self.epoch}/{id}")

    def draw_stage(self, phase: Sequence[Sequence[int]], id: str, losses: Sequence[float] | None = None) -> int | None:
        """Draws the stage that an example trains on in this epoch; None for all stages in one instance.

        Args:
            phase: The example's stages in every epoch of the present phase of training, up to this epoch.
            id: Example id.
            losses: Summed NLL of each stage of this epoch, for the stage sampling ``loss``.
        """
        if self.stage_sampling == "cycle":
            return draw_in_phase(phase, seed=self.seed, start=self.epoch + 1 - len(phase), id=id)
        shown = phase[-1]
        drawn = draw_stage(self.stage_sampling, len(shown), seed=self.seed, epoch=self.epoch, id=id, losses=losses)
        return None if drawn is None else shown[drawn]


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Input of annotators.

    Attributes:
        student: The student, in evaluation mode without gradients; sharded weights are gathered.
        codec: Converts text to tokens and back.
        notes: Current notes by example id: the annotations of ``needs``, and the annotator's previous value.
        seed: The seed of the data module.
    """

    student: Any
    codec: Any
    notes: Mapping[str, Notes]
    seed: int


class Annotator(Configurable, ABC, Generic[Value]):
    """Computes one value per training example, with the student as of the start of an epoch.

    A subclass defines the values (:meth:`annotate`) and when to compute them (:meth:`due`).
    :class:`skipthinking.annotate.runner.Runner` adds caching, resuming, several processes, a progress bar, checkpoints
    and drawings.
    """

    name: ClassVar[str]
    """Key in :class:`Notes` and in checkpoints; the values are cached in ``annotations/NAME.jsonl``, more than 64 MB of
    them in ``annotations/NAME.KEY.values``."""
    needs: tuple[str, ...] = ()
    """Names of annotations that must be computed before this one."""
    title: str = ""
    """Label of the progress bar; the name by default."""
    block_tokens: int | None = 2**17
    """Maximum number of padded tokens per call of :meth:`annotate`; memory may allow fewer, see :meth:`most_tokens`.
    None for all rows in one call."""
    dtype: str = "float64"
    """Numpy type of encoded values."""
    uses_student: bool = True
    """Whether values depend on the student. If not, they are not cached on disk."""
    for_display: bool = False
    """Whether values are computed for drawings only, with the student at the time of drawing."""
    for_training: bool = False
    """Whether the command ``annotate`` skips this annotator unless training has already run it."""
    once: bool = False
    """Whether the annotator runs only once, so that accepted values of ``start_from`` replace that run."""
    for_validation: bool = False
    """Whether validation examples are drawn, too."""

    def due(self, epoch: int) -> bool:
        """Whether to compute the values at the start of an epoch; by default only in the first one."""
        return epoch == 0

    def settings(self) -> Mapping[str, Any]:
        """All settings that the values depend on, besides data, student and the annotations of ``needs``.

        By default all attributes that are numbers, strings, or None.
        """
        plain = (bool, int, float, str, type(None))
        return {name: value for name, value in vars(self).items() if isinstance(value, plain)}

    def most_tokens(self, student: Any) -> int | None:
        """Maximum number of padded tokens per call of :meth:`annotate` that this process can hold; None for all rows.

        By default those of a scoring pass. The runner takes the smallest number of all processes.
        """
        if self.block_tokens is None or not self.uses_student:
            return self.block_tokens
        return min(self.block_tokens, student.block_tokens())

    def initial(self, encoded: Encoded) -> Value | None:
        """The value before the first run, computed without the student; None if there is none."""
        return None

    @abstractmethod
    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Value]:
        """Computes the values of a block of rows of similar length.

        Args:
            rows: The rows. Where there are few blocks, they depend on the number of processes; values must not.
            context: The frozen student, the codec, and the current notes.

        Returns:
            A value per example id.
        """

    def finish(self, values: dict[str, Value], rows: Sequence[Encoded], context: Context) -> dict[str, Value]:
        """Adjusts the values of all rows together, identically on every process, before they are cached."""
        return values

    def report(self, values: Mapping[str, Value], rows: Sequence[Encoded], context: Context) -> str:
        """One line for the log about the result; raises UserError if training cannot continue with it.

        Args:
            values: The values of all rows.
            rows: The rows.
            context: As in :meth:`annotate`; its notes still contain the previous values.
        """
        return ""

    def accepts(self, settings: Mapping[str, Any]) -> bool:
        """Whether to reuse values that the run of ``start_from`` computed with these settings."""
        return False

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """Number of tokens that the student reads for a row; rows longer than its context are left out."""
        return encoded.length

    def encode(self, value: Value) -> NDArray[Any]:
        """Converts a value to a one-dimensional array of finite numbers, for disk and checkpoint."""
        return np.atleast_1d(np.asarray(value, dtype=self.dtype))

    def decode(self, array: NDArray[Any]) -> Value:
        """Converts an array back to the value, the inverse of :meth:`encode`; by default returns the array."""
        value: Any = array
        return value

    def draw(self, value: Value, encoded: Encoded, codec: Any) -> Drawing:
        """Drawing of the value; by default a number per step, a number per token, or a line of text."""
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
