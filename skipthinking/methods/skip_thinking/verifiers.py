"""Verifiers: can the student do without a chunk? Exchangeable by class path."""

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
from skipthinking.students.engine import Engine

__all__ = ["Answer", "Likelihood", "Rationale", "Rollout", "Trial", "Verifier"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rationale:
    """An example in stages.

    Attributes:
        encoded: The example.
        stages: Tokens of every stage, markers included; the answer is the last.
        openings: Tokens at the head of every stage that name it.
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
        """The tokens of all stages."""
        return np.concatenate(self.stages)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where in the text every stage begins."""
        return np.cumsum([0, *map(len, self.stages[:-1])])

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """Of the tokens of the text, those that do not name a stage."""
        parts = zip(self.stages, self.openings, strict=True)
        return np.concatenate([np.arange(len(stage)) >= opening for stage, opening in parts])

    def join(self, stages: Sequence[int]) -> NDArray[np.int64]:
        """The tokens of some stages."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(self.stages[stage] for stage in stages)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A question to a verifier: can a rationale do without a stage?

    Attributes:
        row: The rationale.
        before: Its stages before the one in question, as far as they are still there.
        drop: The stage.
        after: All stages behind it, the answer the last; the first of them opens at once.
    """

    row: Rationale
    before: list[int]
    drop: int
    after: list[int]

    @property
    def start(self) -> int:
        """Where in the rationale's text the stages behind it begin."""
        return int(self.row.starts[self.after[0]])

    @property
    def text(self) -> NDArray[np.int64]:
        """The tokens of the stages behind it."""
        return self.row.text[self.start :]

    @property
    def forced(self) -> int:
        """Tokens that name the first stage behind the gap; they are given, so they are not judged."""
        return self.row.openings[self.after[0]]


class Verifier(ABC):
    """Judges whether the student can do without chunks of a block of rationales."""

    block_tokens: int = 16384
    """Padded tokens of a block."""

    @abstractmethod
    def begin(self, rows: Sequence[Rationale], context: SearchContext) -> list[bool]:
        """Looks at the whole rationales of a new block, and says which ones the student answers correctly."""

    @abstractmethod
    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """Whether each rationale can do without a stage.

        Args:
            trials: One per rationale, each time of fewer rationales of the block; chunks come in order.
        """

    def settle(self, trials: Sequence[Trial], removed: Sequence[bool]) -> None:
        """Is told what became of the trials: whether the stage is gone from the text for good."""
        return

    def end(self) -> None:
        """Forgets the block."""
        return

    def settings(self) -> dict[str, Any]:
        """What the judgement depends on."""
        return {"verifier": type(self).__name__, **{k: v for k, v in vars(self).items() if not k.startswith("_")}}


class _Contexts(Verifier):
    """Verifiers that score the teacher's own text behind contexts that grow chunk by chunk: they are read once."""

    _engine: Engine
    _ids: list[str]  # of the engine's rows

    def begin(self, rows: Sequence[Rationale], context: SearchContext) -> list[bool]:
        """One pass over the whole rationales."""
        longest = max(len(row.prompt) + sum(map(len, row.stages)) for row in rows)
        self._engine = Engine(context.student, [row.prompt for row in rows], longest)
        self._ids = [row.id for row in rows]
        return self._look(rows)

    def end(self) -> None:
        """Keys and values go, so that training has their memory."""
        del self._engine

    @abstractmethod
    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        """Scores the whole rationales."""

    def _only(self, trials: Sequence[Trial]) -> None:
        """Forgets the rationales that are not tried any more."""
        ids = [trial.row.id for trial in trials]
        if ids != self._ids:
            place = {id: row for row, id in enumerate(self._ids)}
            self._engine.keep([place[id] for id in ids])
            self._ids = ids

    def settle(self, trials: Sequence[Trial], removed: Sequence[bool]) -> None:
        """A stage that stays becomes context."""
        for row, (trial, gone) in enumerate(zip(trials, removed, strict=True)):
            if not gone:
                self._engine.extend(row, trial.row.stages[trial.drop])


class Likelihood(_Contexts):
    """Default: the teacher's remaining text stays likely (ours).

    With the name of the next stage forced and the teacher's remaining text following, the answer must still be right
    greedily, and the mean NLL of the remaining tokens must rise by less than ``max_rise`` against the same text with
    the chunk. So that small losses do not add up, two bounds hold against the whole rationale: no token of the answer
    may rise by more than ``max_rise``, and no other that the student was sure of (more likely than not) by more than
    ten times as much. Of tokens that it was not sure of, such as the first word of one of many phrasings, the
    likelihood changes with anything. The names of stages are not judged: the training that follows teaches them anew.

    Nothing is generated, no context is read twice, and no text is read on when it is lost.

    Args:
        max_rise: Nats per token.
    """

    def __init__(self, max_rise: float = 0.05) -> None:
        if max_rise <= 0:
            raise UserError(f"Expected a rise above 0, got model.verifier.init_args.max_rise={max_rise}.")
        self.max_rise = max_rise
        self._nll: dict[str, NDArray[np.float32]] = {}  # per token, as the text now is; what is gone has none
        self._most: dict[str, NDArray[np.float32]] = {}  # that each token may have
        self._tried: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []  # what was behind the gap, and now is

    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        found = self._engine.score([row.text for row in rows])
        self._nll = {row.id: scores[:, 0] for row, scores in zip(rows, found, strict=True)}
        self._most = {row.id: self._bounds(row, self._nll[row.id]) for row in rows}
        return [_answered(row, scores) for row, scores in zip(rows, found, strict=True)]

    def _bounds(self, row: Rationale, nll: NDArray[np.float32]) -> NDArray[np.float32]:
        of_answer = np.arange(len(nll)) >= row.starts[-1]
        rise = np.where(of_answer, self.max_rise, np.where(nll < np.log(2), 10 * self.max_rise, np.inf))
        return (nll + np.where(row.judged, rise, np.inf)).astype(np.float32)

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """One pass over the texts without the chunks, each as far as they may still be kept."""
        self._only(trials)
        places = [(trial.row, slice(trial.start + trial.forced, None)) for trial in trials]
        was = [self._nll[row.id][behind] for row, behind in places]
        most = [self._most[row.id][behind] for row, behind in places]
        judged = [row.judged[behind] for row, behind in places]
        bounds = [
            nll[asked].sum(dtype=np.float64) + self.max_rise * asked.sum()
            for nll, asked in zip(was, judged, strict=True)
        ]

        def lost(row: int, scores: NDArray[np.float32]) -> bool:
            """As far as the text was read; what is still to come has an NLL of at least nothing."""
            nll = scores[:, 0]
            total = nll[judged[row][: len(nll)]].sum(dtype=np.float64)
            return bool(total >= bounds[row] or (nll > most[row][: len(nll)]).any())

        found = self._engine.score(
            [trial.text for trial in trials], first=[trial.forced for trial in trials], stop_early=lost
        )
        self._tried = [(before, scores[:, 0]) for before, scores in zip(was, found, strict=True)]
        return [
            len(scores) == len(was[row]) and _answered(trials[row].row, scores) and not lost(row, scores)
            for row, scores in enumerate(found)
        ]

    def settle(self, trials: Sequence[Trial], removed: Sequence[bool]) -> None:
        """The text without the chunk is what the next one is compared with."""
        super().settle(trials, removed)
        for (before, now), gone in zip(self._tried, removed, strict=True):
            if gone:
                before[:] = now  # a view of the whole text's


class Answer(_Contexts):
    """The answer stage, given the question and all remaining chunks of the teacher, is right greedily.

    That it comes next is not judged. A last chunk that states the result makes every earlier one look skippable.
    """

    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        return self._right(rows, [row.text for row in rows])

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """The answer behind what remains."""
        self._only(trials)
        return self._right([trial.row for trial in trials], [trial.text for trial in trials])

    def _right(self, rows: Sequence[Rationale], texts: Sequence[NDArray[np.int64]]) -> list[bool]:
        first = [len(text) - len(row.stages[-1]) for row, text in zip(rows, texts, strict=True)]
        found = self._engine.score(texts, first=first)
        return [_answered(row, scores) for row, scores in zip(rows, found, strict=True)]


class Rollout(Verifier):
    """With the name of the next stage forced, what the student writes from there on is graded (a reading of the paper).

    Without the forced name it would write the chunk again, and everything would look skippable. The teacher's remaining
    text is the draft, see :meth:`skipthinking.students.engine.Engine.complete`.
    """

    block_tokens = 65536
    _context: SearchContext

    def begin(self, rows: Sequence[Rationale], context: SearchContext) -> list[bool]:
        """What the student writes from the question alone."""
        self._context = context
        return self._right([(row, row.join([]), row.text) for row in rows])

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """What the student writes from the next stage on."""
        asked = []
        for trial in trials:
            text = trial.text
            begun = np.concatenate([trial.row.join(trial.before), text[: trial.forced]])
            asked.append((trial.row, begun, text[trial.forced :]))
        return self._right(asked)

    def _right(self, asked: Sequence[tuple[Rationale, NDArray[np.int64], NDArray[np.int64]]]) -> list[bool]:
        # Without a KV cache, which would need columns for all tokens that might be written.
        made = Engine(self._context.student, [row.prompt for row, _, _ in asked]).complete(
            [begun for _, begun, _ in asked],
            [draft for _, _, draft in asked],
            [self._context.max_new_tokens - len(begun) for _, begun, _ in asked],
        )
        return [
            self._context.right(row.id, begun.tolist() + one.tokens)
            for (row, begun, _), one in zip(asked, made, strict=True)
        ]


def _answered(row: Rationale, scores: NDArray[np.float32]) -> bool:
    """Whether the answer stage is right greedily; that it comes next is not judged."""
    return bool(scores[len(scores) - len(row.stages[-1]) + row.openings[-1] :, 1].all())
