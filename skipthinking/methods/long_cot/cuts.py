"""Cutting long traces: how many of their steps are kept, by cutters that can be exchanged."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.evaluation.answers import SearchContext
from skipthinking.ranks import by_length
from skipthinking.records import UserError
from skipthinking.students.engine import Engine
from skipthinking.students.kv_cache import can_cache

__all__ = ["BinaryCut", "Cutter", "FirstAnswer", "FullTrace", "RandomCut", "Trace", "shortest_prefixes"]

Tokens = NDArray[np.int64]
Search = Generator[int, bool, int | None]
"""Yields a number of steps, is sent whether that prefix is valid, returns the shortest one found valid, or None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """A long rationale in parts.

    Attributes:
        id: The example's id.
        prompt: Prompt ids.
        opening: Tokens that open the thinking; may be empty.
        steps: Tokens of every step of the thinking.
        closing: Tokens that close the thinking; may be empty.
        conclusion: Tokens of what the teacher says behind the thinking, before the answer sentence; may be empty.
        answer: Tokens of the answer sentence, EOS included.
        phrase: How many of these come before the answer itself.
    """

    id: str
    prompt: Tokens
    opening: Tokens
    steps: list[Tokens]
    closing: Tokens
    conclusion: Tokens
    answer: Tokens
    phrase: int

    def completion(self, steps: int) -> Tokens:
        """The trace with the first so many steps, and its conclusion."""
        return np.concatenate([self.opening, *self.steps[:steps], self.closing, self.conclusion, self.answer])

    def prefix(self, steps: int) -> Tokens:
        """The first so many steps."""
        return np.concatenate([self.opening, *self.steps[:steps]])

    @property
    def asking(self) -> Tokens:
        """What leaves only the answer to be said; the conclusion, which may give it away, is left out."""
        return np.concatenate([self.closing, self.answer[: self.phrase]])

    def asked(self, steps: int) -> Tokens:
        """The first so many steps, and what asks for the answer."""
        return np.concatenate([self.prefix(steps), self.asking])


def bisection(steps: int) -> Search:
    """Halves what is open: downward after a valid prefix, upward after an invalid one.

    It takes at most ceil(log2(steps + 1)) validations. Whatever it returns was itself validated. Where validity is not
    monotone (a longer prefix may be invalid though a shorter one is valid) it need not be the shortest valid one.
    """
    invalid, valid = 0, steps + 1  # one more than there are stands for "none is valid"
    while valid - invalid > 1:
        middle = (invalid + valid) // 2
        if (yield middle):
            valid = middle
        else:
            invalid = middle
    return valid if valid <= steps else None


def shortest_prefixes(
    steps: Mapping[str, int],
    ask: Callable[[Mapping[str, int]], Mapping[str, bool]],
    search: Callable[[int], Search] = bisection,
) -> tuple[dict[str, int | None], int]:
    """The shortest prefix of every trace that a search finds valid.

    All traces advance together: a round asks one question of each that is still open.

    Args:
        steps: Number of steps of every trace, at least 1, by example id.
        ask: A round: from prefix lengths to whether they are valid, both by example id.
        search: What to ask; bisection by default.

    Returns:
        Steps to keep by example id, None where no prefix was found valid; and the number of validations.
    """
    searches = {id: search(count) for id, count in steps.items()}
    asked = {id: next(questions) for id, questions in searches.items()}
    found: dict[str, int | None] = {}
    validations = 0
    while asked:
        verdicts = ask(asked)
        validations += len(asked)
        following = {}
        for id in asked:
            try:
                following[id] = searches[id].send(verdicts[id])
            except StopIteration as end:
                found[id] = end.value
        asked = following
    return {id: found[id] for id in steps}, validations


class Cutter(ABC):
    """Says how many steps of every trace are kept."""

    block_tokens: int = 16384
    """Most padded tokens of the traces that are cut together; a single longer trace is a block by itself."""

    @abstractmethod
    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """Steps to keep by example id; None to drop the example.

        Args:
            traces: The traces; each has at least one step.
            context: The student, and how its answers are graded.
        """

    def finish(self, cuts: dict[str, int | None], steps: Mapping[str, int]) -> dict[str, int | None]:
        """Changes the cuts of all traces together.

        Args:
            cuts: Steps to keep by example id; None for dropped examples.
            steps: Steps of every trace.
        """
        return cuts

    def settings(self) -> dict[str, Any]:
        """What the result depends on, beside data and student."""
        return {"cutter": type(self).__name__, **vars(self)}


class BinaryCut(Cutter):
    """The shortest prefix from which the student itself gives the answer (arXiv 2505.18440), found by bisection.

    A prefix is valid if, behind the question, the prefix, the close of the thinking and the answer phrase, the student
    goes on greedily with an answer that the grader accepts and that it is sure enough of. The gold answer is the draft:
    only where the student disagrees with it is anything generated.

    Each trace is read once. Its keys and values are those of all of its prefixes; a validation reads what closes the
    prefix, and the answer. They are kept (56 KiB a token for Qwen2.5-7B), so traces go through all rounds in blocks of
    so many tokens. A student that can't use a KV cache (see :mod:`skipthinking.students.kv_cache`) reads every prefix
    again; nothing is kept, so its blocks are larger.

    Args:
        answer_tokens: Most tokens of an answer; a longer gold answer has its own length.
        confidence: How likely the student must find what it answers, as a whole; 0 for the paper's search, where any
            right answer counts, a lucky guess too (ours).
    """

    def __init__(self, answer_tokens: int = 32, confidence: float = 0.0) -> None:
        if answer_tokens < 1:
            raise UserError(f"Expected at least 1 token, got model.cutter: answer_tokens={answer_tokens}.")
        if not 0 <= confidence < 1:
            raise UserError(f"Expected a probability from 0 to below 1, got model.cutter: confidence={confidence}.")
        self.answer_tokens, self.confidence = answer_tokens, confidence

    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """Bisection of all traces of a block at once; a round is a batched pass."""
        lengths = {trace.id: len(trace.prompt) + len(trace.prefix(len(trace.steps))) for trace in traces}
        tail = max(len(trace.asking) + max(self.answer_tokens, len(trace.answer)) for trace in traces)
        cached = can_cache(context.student, max(lengths.values()) + tail)
        found: dict[str, int | None] = {}
        with context.student.frozen():
            for block in by_length(traces, lambda trace: lengths[trace.id], self.block_tokens):
                longest = max(lengths[trace.id] for trace in block) + tail
                found |= self._search(block, context, self._engine(block, context, longest if cached else None))
        return {trace.id: found[trace.id] for trace in traces}

    @staticmethod
    def _engine(traces: Sequence[Trace], context: SearchContext, longest: int | None) -> Engine:
        """All steps of the traces as contexts, from whose prefixes the student goes on."""
        engine = Engine(context.student, [trace.prompt for trace in traces], longest)
        for row, trace in enumerate(traces):
            engine.extend(row, trace.prefix(len(trace.steps)))
        return engine

    def _search(self, traces: Sequence[Trace], context: SearchContext, engine: Engine) -> dict[str, int | None]:
        by_id = {trace.id: trace for trace in traces}
        place = {id: row for row, id in enumerate(by_id)}  # of the engine's rows

        def ask(asked: Mapping[str, int]) -> dict[str, bool]:
            nonlocal place
            if len(asked) < len(place):
                engine.keep([place[id] for id in asked])
                place = {id: row for row, id in enumerate(asked)}
            return self._valid([(by_id[id], steps) for id, steps in asked.items()], context, engine)

        return shortest_prefixes({trace.id: len(trace.steps) for trace in traces}, ask)[0]

    def _valid(self, asked: Sequence[tuple[Trace, int]], context: SearchContext, engine: Engine) -> dict[str, bool]:
        drafts = [trace.answer[trace.phrase :] for trace, _ in asked]
        made = engine.complete(
            [trace.asking for trace, _ in asked],
            drafts,
            [max(self.answer_tokens, len(draft)) for draft in drafts],
            lengths=[len(trace.prompt) + len(trace.prefix(steps)) for trace, steps in asked],
            with_nll=self.confidence > 0,
        )
        return {
            trace.id: context.right(trace.id, [*trace.answer[: trace.phrase], *one.tokens])
            and (one.nll is None or math.exp(-one.nll) >= self.confidence)
            for (trace, _), one in zip(asked, made, strict=True)
        }


class RandomCut(BinaryCut):
    """Control: the shares that BinaryCut keeps, dealt at random among the examples; those it drops stay dropped.

    Args:
        answer_tokens: See BinaryCut.
        confidence: See BinaryCut.
        seed: Seed of the deal.
    """

    def __init__(self, answer_tokens: int = 32, confidence: float = 0.0, seed: int = 0) -> None:
        super().__init__(answer_tokens, confidence)
        self.seed = seed

    def finish(self, cuts: dict[str, int | None], steps: Mapping[str, int]) -> dict[str, int | None]:
        """Deals the shares."""
        kept = {id: cut for id, cut in cuts.items() if cut is not None}
        shares = [cut / steps[id] for id, cut in kept.items()]
        random.Random(f"cuts/{self.seed}").shuffle(shares)
        return cuts | {id: max(1, round(share * steps[id])) for id, share in zip(kept, shares, strict=True)}


class FirstAnswer(Cutter):
    """Control: up to the first step whose last plausible answer is the gold one, whatever the student makes of it."""

    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """Reads the text alone; a trace that never mentions the answer is dropped."""
        return {trace.id: self._first(trace, context) for trace in traces}

    @staticmethod
    def _first(trace: Trace, context: SearchContext) -> int | None:
        for place, step in enumerate(trace.steps):
            if context.mentioned(trace.id, step.tolist()):
                return place + 1
        return None


class FullTrace(Cutter):
    """Control: nothing is cut."""

    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """All steps."""
        return {trace.id: len(trace.steps) for trace in traces}
