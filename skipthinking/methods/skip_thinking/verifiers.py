"""Verifiers judge whether the student needs a chunk; exchangeable by class path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.evaluation.answers import SearchContext
from skipthinking.records import Encoded, UserError
from skipthinking.settings import Configurable
from skipthinking.students.engine import Engine

__all__ = ["Answer", "Likelihood", "Rationale", "Rollout", "ScoringVerifier", "Trial", "Verifier", "answered_right"]

Tokens = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rationale:
    """An example in stages.

    Attributes:
        encoded: The example.
        stages: Tokens of every stage, markers included; the last stage is the answer.
        openings: Number of tokens at the start of every stage that name it.
    """

    encoded: Encoded
    stages: list[NDArray[np.int64]]
    openings: list[int]

    @property
    def id(self) -> str:
        """The example's id."""
        return self.encoded.id

    @property
    def prompt(self) -> NDArray[np.int64]:
        """Prompt ids."""
        return self.encoded.prompts[""]

    @cached_property
    def text(self) -> NDArray[np.int64]:
        """Tokens of all stages."""
        return np.concatenate(self.stages)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Position of every stage's first token in :attr:`text`."""
        return np.cumsum([0, *map(len, self.stages[:-1])])

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """Mask over :attr:`text`: False for tokens that name a stage."""
        parts = zip(self.stages, self.openings, strict=True)
        return np.concatenate([np.arange(len(stage)) >= opening for stage, opening in parts])

    def join(self, stages: Sequence[int]) -> NDArray[np.int64]:
        """Tokens of the given stages."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(self.stages[stage] for stage in stages)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A stage whose removal a verifier judges.

    Attributes:
        row: The rationale.
        before: Remaining stages before the judged one.
        drop: The judged stage.
        after: All stages after the judged one, including the answer; the first of them directly follows ``before``.
    """

    row: Rationale
    before: list[int]
    drop: int
    after: list[int]

    @property
    def start(self) -> int:
        """Position of the first stage of ``after`` in the rationale's text."""
        return int(self.row.starts[self.after[0]])

    @property
    def text(self) -> NDArray[np.int64]:
        """Tokens of the stages in ``after``."""
        return self.row.text[self.start :]

    @property
    def forced(self) -> int:
        """Number of tokens that name the first stage after the gap; they are given to the student and not judged."""
        return self.row.openings[self.after[0]]


class Verifier(Configurable, ABC):
    """Judges which chunks the student needs, for a block of rationales at a time."""

    block_tokens: int = 2**20
    """Maximum number of padded tokens per block; memory may allow fewer, see :meth:`most_tokens`."""
    gated: bool = True
    """Whether only examples with a correct answer are searched; see the setting ``gate`` of STT."""

    @abstractmethod
    def begin(self, rows: Sequence[Rationale], context: SearchContext) -> list[bool]:
        """Starts a new block; returns which full rationales lead the student to the correct answer."""

    @abstractmethod
    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """Whether each stage can be removed.

        Args:
            trials: One per rationale. Consecutive calls have increasing stages, and rationales with fewer stages drop
                out.
        """

    def most_tokens(self, student: Any) -> int:
        """Maximum number of padded tokens per block that this process can hold; by default with a KV cache of them."""
        return min(self.block_tokens, student.block_tokens(cached=True))

    def settle(self, trials: Sequence[Trial], removed: Sequence[bool]) -> None:
        """Receives the outcome of the trials: whether each stage is permanently removed."""
        return

    def end(self) -> None:
        """Releases the block, after an error too."""
        return

    def settings(self) -> dict[str, Any]:
        """All settings that verdicts depend on."""
        return {"verifier": type(self).__name__, **{k: v for k, v in vars(self).items() if not k.startswith("_")}}


class ScoringVerifier(Verifier):
    """Base class of verifiers that score the teacher's text after contexts that grow by chunks and are read once."""

    _engine: Engine
    _ids: list[str]  # ids of the engine's rows

    def begin(self, rows: Sequence[Rationale], context: SearchContext) -> list[bool]:
        """Scores the full rationales in one pass."""
        longest = max(len(row.prompt) + sum(map(len, row.stages)) for row in rows)
        self._engine = Engine(context.student, [row.prompt for row in rows], longest)
        self._ids = [row.id for row in rows]
        return self._look(rows)

    def end(self) -> None:
        """Frees the KV cache, so that training can use its memory."""
        vars(self).pop("_engine", None)  # there is none after an error in the middle

    @abstractmethod
    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        """Scores the full rationales of the block; returns which ones lead to the correct answer."""

    def _only(self, trials: Sequence[Trial]) -> None:
        """Removes rationales without a trial from the engine."""
        ids = [trial.row.id for trial in trials]
        if ids != self._ids:
            row_of = {id: row for row, id in enumerate(self._ids)}
            self._engine.keep([row_of[id] for id in ids])
            self._ids = ids

    def settle(self, trials: Sequence[Trial], removed: Sequence[bool]) -> None:
        """Adds stages that stay to the contexts."""
        for row, (trial, was_removed) in enumerate(zip(trials, removed, strict=True)):
            if not was_removed:
                self._engine.extend(row, trial.row.stages[trial.drop])


class Likelihood(ScoringVerifier):
    """Default: a chunk can be removed if the teacher's remaining text stays likely (ours).

    Given the name of the next stage and the teacher's remaining text, the answer must still be correct greedily, and
    the mean NLL of the remaining tokens must rise by less than ``max_rise`` compared to the same text with the chunk.
    Two more bounds, relative to the full rationale, keep small increases from adding up: the NLL of no answer token may
    rise by more than ``max_rise``, and that of no other token with a probability above 1/2 by more than 10
    ``max_rise``. Less probable tokens have no such bound: their likelihood, such as that of the first word of one of
    many phrasings, changes with any change of the context. Names of stages are not judged, because the training that
    follows teaches them again.

    Nothing is generated, no context is read twice, and reading a text stops as soon as a bound is exceeded.

    Close prior work: SPIRIT (Cui et al., arXiv 2502.13260) calls a step critical if its removal raises perplexity; see
    :class:`skipthinking.methods.skip_thinking.surprisal.Perplexity`. The answer test and the bounds per token are ours.

    Args:
        max_rise: Maximum increase of the NLL, nats per token.
    """

    def __init__(self, max_rise: float = 0.05) -> None:
        if max_rise <= 0:
            raise UserError(
                f"Expected a rise above 0, got model.verifier.init_args.max_rise={max_rise}. Set "
                "model.verifier.init_args.max_rise: 0.1, for example."
            )
        self.max_rise = max_rise
        self._nll: dict[str, NDArray[np.float32]] = {}  # per token of the current text, by id
        self._bound: dict[str, NDArray[np.float32]] = {}  # maximum NLL per token, by id
        # For every trial, the NLL of the tokens after the gap, with the chunk (a view of ``_nll``) and without it.
        self._tried: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        scored = self._engine.score([row.text for row in rows])
        self._nll = {row.id: scores[:, 0] for row, scores in zip(rows, scored, strict=True)}
        self._bound = {row.id: self._bounds(row, self._nll[row.id]) for row in rows}
        return [_answered(row, scores) for row, scores in zip(rows, scored, strict=True)]

    def _bounds(self, row: Rationale, nll: NDArray[np.float32]) -> NDArray[np.float32]:
        in_answer = np.arange(len(nll)) >= row.starts[-1]
        rise = np.where(in_answer, self.max_rise, np.where(nll < np.log(2), 10 * self.max_rise, np.inf))
        return (nll + np.where(row.judged, rise, np.inf)).astype(np.float32)

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """Scores the texts without the chunks in one pass; stops reading a text at its first violated bound."""
        self._only(trials)
        places = [(trial.row, slice(trial.start + trial.forced, None)) for trial in trials]
        with_chunk = [self._nll[row.id][after] for row, after in places]
        bounds = [self._bound[row.id][after] for row, after in places]
        judged = [row.judged[after] for row, after in places]
        totals = [
            nll[mask].sum(dtype=np.float64) + self.max_rise * mask.sum()
            for nll, mask in zip(with_chunk, judged, strict=True)
        ]

        def exceeded(row: int, scores: NDArray[np.float32]) -> bool:
            """Whether the part read so far violates a bound; tokens not yet read only add to the total."""
            nll = scores[:, 0]
            total = nll[judged[row][: len(nll)]].sum(dtype=np.float64)
            return bool(total >= totals[row] or (nll > bounds[row][: len(nll)]).any())

        scored = self._engine.score(
            [trial.text for trial in trials], first=[trial.forced for trial in trials], stop_early=exceeded
        )
        self._tried = [(before, scores[:, 0]) for before, scores in zip(with_chunk, scored, strict=True)]
        return [
            len(scores) == len(with_chunk[row]) and _answered(trials[row].row, scores) and not exceeded(row, scores)
            for row, scores in enumerate(scored)
        ]

    def settle(self, trials: Sequence[Trial], removed: Sequence[bool]) -> None:
        """Updates the NLL after each removed chunk, which the next trial is compared with."""
        super().settle(trials, removed)
        for (with_chunk, without), was_removed in zip(self._tried, removed, strict=True):
            if was_removed:
                with_chunk[:] = without  # writes through the view into _nll


class Answer(ScoringVerifier):
    """A chunk can be removed if the answer stage, given the question and all remaining chunks, is correct greedily.

    Whether the student would write the answer stage next is not judged. If the last chunk states the result, every
    earlier chunk looks removable.
    """

    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        return self._right(rows, [row.text for row in rows])

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """Scores the answer after the remaining chunks."""
        self._only(trials)
        return self._right([trial.row for trial in trials], [trial.text for trial in trials])

    def _right(self, rows: Sequence[Rationale], texts: Sequence[NDArray[np.int64]]) -> list[bool]:
        first = [len(text) - len(row.stages[-1]) for row, text in zip(rows, texts, strict=True)]
        scored = self._engine.score(texts, first=first)
        return [_answered(row, scores) for row, scores in zip(rows, scored, strict=True)]


class Rollout(Verifier):
    """A chunk can be removed if the student, given the next stage's name, answers correctly (our reading of the paper).

    Without the forced name the student would write the chunk itself, and every chunk would look removable. The
    teacher's remaining text is the draft, see :meth:`skipthinking.students.engine.Engine.complete`.
    """

    _context: SearchContext

    def most_tokens(self, student: Any) -> int:
        """Those of eight passes: a block holds no keys and values, and the more completions, the fuller the batches."""
        return min(self.block_tokens, 8 * student.block_tokens())

    def begin(self, rows: Sequence[Rationale], context: SearchContext) -> list[bool]:
        """Grades what the student writes after the question."""
        self._context = context
        return self._right([(row, row.join([]), row.text) for row in rows])

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """Grades what the student writes after the remaining earlier stages and the next stage's name."""
        questions = []
        for trial in trials:
            text = trial.text
            prefix = np.concatenate([trial.row.join(trial.before), text[: trial.forced]])
            questions.append((trial.row, prefix, text[trial.forced :]))
        return self._right(questions)

    def _right(self, questions: Sequence[tuple[Rationale, Tokens, Tokens]]) -> list[bool]:
        """Whether the student answers correctly, per rationale with a prefix and a draft of its completion."""
        rows = [(row.id, row.prompt, prefix, draft) for row, prefix, draft in questions]
        return answered_right(rows, self._context)


def answered_right(questions: Sequence[tuple[str, Tokens, Tokens, Tokens]], context: SearchContext) -> list[bool]:
    """Whether the student answers correctly, per example id, prompt, prefix and draft of the completion."""
    # Without a KV cache, which would need columns for all max_new_tokens tokens of every row.
    completions = Engine(context.student, [prompt for _, prompt, _, _ in questions]).complete(
        [prefix for _, _, prefix, _ in questions],
        [draft for _, _, _, draft in questions],
        [context.max_new_tokens - len(prefix) for _, _, prefix, _ in questions],
    )
    return [
        context.right(id, prefix.tolist() + completion.tokens)
        for (id, _, prefix, _), completion in zip(questions, completions, strict=True)
    ]


def _answered(row: Rationale, scores: NDArray[np.float32]) -> bool:
    """Whether every token of the answer stage after its opening is the student's greedy choice."""
    return bool(scores[len(scores) - len(row.stages[-1]) + row.openings[-1] :, 1].all())
