"""The frozen records that the framework passes on, from raw text to a graded prediction, and its errors.

``Example -> Encoded -> (annotations) -> Instance -> Batch -> Prediction``. Every record carries the example's id, and
records are matched by id, never by position.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DataError", "Encoded", "Example", "Instance", "Lazy", "Prediction", "Span", "UserError", "did_you_mean"]

T = TypeVar("T")

Span = tuple[int, int]
"""Half-open interval ``[start, end)``."""


class UserError(ValueError):
    """An error that the user can fix. The command line prints the message without a traceback and exits with code 2.

    The message has the form "Expected X, got Y (where). Do Z."
    """


class DataError(UserError):
    """An error in the data; the message names the file and line, or the example id."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A sentence for the end of an error message that suggests the most similar known word; empty if none is similar.

    >>> did_you_mean("coin-flop", ["coin_flip", "last_letter"]), did_you_mean("x", ["coin_flip"])
    (" Did you mean 'coin_flip'?", '')
    """
    names = {name.lower().replace("-", "_"): name for name in sorted(known)}
    near = difflib.get_close_matches(wrong.lower().replace("-", "_"), names, n=1, cutoff=0.5)
    return f" Did you mean {names[near[0]]!r}?" if near else ""


class Lazy(Sequence[T], ABC):
    """A sequence whose items are made when they are asked for, such as records in files."""

    @abstractmethod
    def at(self, place: int) -> T:
        """The item at a place from 0 to the length of the sequence."""

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        places = range(len(self))[place]
        return self.at(places) if isinstance(places, int) else [self.at(one) for one in places]

    def __iter__(self) -> Iterator[T]:
        return map(self.at, range(len(self)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A question with a teacher's rationale and the gold answer, as plain text.

    Attributes:
        id: Unique within a data set.
        question: The question, without a prompt template.
        rationale: The teacher's reasoning, without the final answer phrase. Empty where a test set has none.
        answer: The gold answer, in a form that the task's grader can read.
        task: Name of the task, see :func:`skipthinking.tasks.get_task`.
        meta: Other data of the source, such as the ground truth of the built-in tasks; methods must not read it.
        conclusion: The teacher's text between its thinking and the answer; may be empty.
    """

    id: str
    question: str
    rationale: str
    answer: str
    task: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    conclusion: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """One tokenization of an example: prompt ids, completion ids, and where each step and the answer lie.

    Attributes:
        example: The example: question, gold answer and task travel with the tokens.
        prompts: Prompt ids, special tokens included, by prompt prefix of the method (``""`` is no prefix). Input of the
            encoder for encoder-decoder students.
        tokens: Completion ids, shape (T,): all steps, then the answer sentence, then EOS.
        steps: Token span of every step in ``tokens``; contiguous, in order, starting at 0. Empty without a rationale.
        answer: Token span of the answer stage in ``tokens``, EOS included. Tokens between the last step and the answer
            are the teacher's conclusion.
    """

    example: Example
    prompts: Mapping[str, NDArray[np.int64]]
    tokens: NDArray[np.int64]
    steps: tuple[Span, ...]
    answer: Span

    @property
    def id(self) -> str:
        """The example's id."""
        return self.example.id

    @property
    def length(self) -> int:
        """Number of tokens of the longest prompt and the full completion."""
        return max(map(len, self.prompts.values())) + len(self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Instance:
    """A training instance: a prompt, completion tokens, and a loss weight per completion token.

    Attributes:
        id: The example's id.
        prompt: Prompt ids, shape (P,); never a target.
        tokens: Completion ids, shape (T,).
        weights: Loss weight per completion token, shape (T,): 0 is context, > 0 is a target. The last one is a target.
        term: Index of the instance's loss term (multi-task methods have several).
        reference: Log-probability of the targets under the reference, in nats, for one side of a preference pair.
    """

    id: str
    prompt: NDArray[np.int64]
    tokens: NDArray[np.int64]
    weights: NDArray[np.float32]
    term: int = 0
    reference: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A graded answer of the student; one line of ``predictions.jsonl``.

    Attributes:
        id: The example's id.
        task: The example's task.
        question: The question.
        gold: The gold answer.
        completion: The student's text, special tokens removed.
        extracted: The answer found by strict extraction (the method's own answer format), or None.
        extracted_lenient: The last plausible answer anywhere in the text, or None.
        correct: Whether ``extracted`` equals ``gold``.
        correct_lenient: Whether ``extracted_lenient`` equals ``gold``.
        new_tokens: Number of generated tokens, EOS included.
        finished: Whether EOS came before the limit on new tokens.
        stages: The stages of the completion, as (name, text) pairs.
        skipped: Share of the teacher's chunks that the student left out; None if it is not known, because the answer
            names none of the teacher's stages or is not finished.
        chunks: Number of the teacher's chunks; None if the method names no stages or the example has no rationale.
        correct_at: Whether the answer is right if generation stops after a number of new tokens, by that number.
    """

    id: str
    task: str
    question: str
    gold: str
    completion: str
    extracted: str | None
    extracted_lenient: str | None
    correct: bool
    correct_lenient: bool
    new_tokens: int
    finished: bool
    stages: list[tuple[str, str]] = field(default_factory=list)
    skipped: float | None = None
    chunks: int | None = None
    correct_at: dict[int, bool] = field(default_factory=dict)
