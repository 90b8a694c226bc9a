"""Pruning of long traces: cutters, exchangeable by class path, choose how many steps of each trace are kept."""

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
from skipthinking.settings import Configurable
from skipthinking.students.engine import Engine

__all__ = ["BinaryCut", "Cutter", "FirstAnswer", "FullTrace", "RandomCut", "Trace", "shortest_prefixes"]

Tokens = NDArray[np.int64]
Search = Generator[int, bool, int | None]
"""Yields a number of steps, receives whether that prefix is valid, and returns the shortest valid length, or None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """A long rationale in parts.

    Attributes:
        id: The example's id.
        prompt: Prompt ids.
        opening: Tokens that open the thinking; may be empty.
        steps: Tokens of every step of the thinking.
        closing: Tokens that close the thinking; may be empty.
        conclusion: Tokens between the thinking and the answer sentence; may be empty.
        answer: Tokens of the answer sentence, EOS included.
        phrase: Number of tokens of the answer sentence before the answer itself.
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
        """Full completion with the first N steps, the conclusion and the answer."""
        return np.concatenate([self.opening, *self.steps[:steps], self.closing, self.conclusion, self.answer])

    def prefix(self, steps: int) -> Tokens:
        """Opening and first N steps."""
        return np.concatenate([self.opening, *self.steps[:steps]])

    @property
    def answer_cue(self) -> Tokens:
        """Forced tokens after which only the answer is left to write; without the conclusion, which may reveal it."""
        return np.concatenate([self.closing, self.answer[: self.phrase]])


def bisection(steps: int) -> Search:
    """Bisects the prefix length: tries shorter prefixes after a valid one, and longer ones after an invalid one.

    It takes at most ceil(log2(steps + 1)) validations, and a returned length was itself validated. If validity is not
    monotone (a longer prefix may be invalid though a shorter one is valid), the result may not be the shortest.
    """
    invalid, valid = 0, steps + 1  # steps + 1 means "no prefix is valid"
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
    """Searches the shortest valid prefix of every trace.

    All searches advance together: each round validates one prefix of every trace whose search has not ended.

    Args:
        steps: Number of steps of every trace, at least 1, by example id.
        ask: Validates a round: maps prefix lengths to whether they are valid, both by example id.
        search: Creates the search of a trace from its number of steps.

    Returns:
        Steps to keep by example id, None if no valid prefix was found; and the number of validations.
    """
    searches = {id: search(count) for id, count in steps.items()}
    lengths = {id: next(running) for id, running in searches.items()}
    result: dict[str, int | None] = dict.fromkeys(steps)
    validations = 0
    while lengths:
        verdicts = ask(lengths)
        validations += len(lengths)
        following = {}
        for id in lengths:
            try:
                following[id] = searches[id].send(verdicts[id])
            except StopIteration as end:
                result[id] = end.value
        lengths = following
    return result, validations


class Cutter(Configurable, ABC):
    """Chooses how many steps of every trace are kept."""

    block_tokens: int = 2**20
    """Maximum number of padded tokens in a block of traces; memory may allow fewer, see :meth:`most_tokens`."""

    @abstractmethod
    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """Number of steps to keep by example id; None to drop the example.

        Args:
            traces: The traces; each has at least one step.
            context: The student, and how its answers are graded.
        """

    def most_tokens(self, student: Any) -> int:
        """Maximum number of padded tokens in a block that this process can hold with a KV cache of them."""
        return min(self.block_tokens, student.block_tokens(cached=True))

    def finish(self, cuts: dict[str, int | None], steps: Mapping[str, int]) -> dict[str, int | None]:
        """Adjusts the cuts of all traces together; by default leaves them unchanged.

        Args:
            cuts: Number of steps to keep by example id; None for dropped examples.
            steps: Number of steps of every trace.
        """
        return cuts

    def settings(self) -> dict[str, Any]:
        """All settings that the result depends on, besides data and student."""
        return {"cutter": type(self).__name__, **vars(self)}


class BinaryCut(Cutter):
    """The shortest prefix from which the student itself gives the answer (arXiv 2505.18440), found by bisection.

    A prefix is valid if the student, given question, prefix, closing mark and answer phrase, greedily writes an answer
    that the grader accepts, with enough confidence. The gold answer serves as the draft, so tokens are generated only
    if the student disagrees with it.

    Each trace is read once into a KV cache that serves all of its prefixes; a validation reads the closing mark, the
    answer phrase and the answer. The cache takes memory (56 KiB per token for Qwen2.5-7B), so each block of traces
    completes all rounds before the next block begins. A student without a KV cache (see
    :mod:`skipthinking.students.kv_cache`) reads every prefix again.

    Args:
        answer_tokens: Maximum number of tokens per answer, or the length of the gold answer if that is longer.
        confidence: Minimum probability of the student's answer (ours). 0 is the paper's search, in which any correct
            answer counts, even a lucky guess.
    """

    def __init__(self, answer_tokens: int = 32, confidence: float = 0.0) -> None:
        if answer_tokens < 1:
            raise UserError(
                f"Expected at least 1 token, got model.cutter: answer_tokens={answer_tokens}. Set "
                "model.cutter.init_args.answer_tokens: 24, for example."
            )
        if not 0 <= confidence < 1:
            raise UserError(
                f"Expected a probability from 0 to below 1, got model.cutter: confidence={confidence}. Set "
                "model.cutter.init_args.confidence: 0.5, for example."
            )
        self.answer_tokens, self.confidence = answer_tokens, confidence

    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """Bisects all traces of a block together; each round is a batched pass."""
        lengths = {trace.id: len(trace.prompt) + len(trace.prefix(len(trace.steps))) for trace in traces}
        tail = max(len(trace.answer_cue) + max(self.answer_tokens, len(trace.answer)) for trace in traces)
        result: dict[str, int | None] = {}
        with context.student.frozen():
            for block in by_length(traces, lambda trace: lengths[trace.id], self.most_tokens(context.student)):
                longest = max(lengths[trace.id] for trace in block) + tail
                result |= self._search(block, context, self._engine(block, context, longest))
        return {trace.id: result[trace.id] for trace in traces}

    @staticmethod
    def _engine(traces: Sequence[Trace], context: SearchContext, longest: int) -> Engine:
        """An engine with all steps of each trace as context; completions start from prefixes of it."""
        engine = Engine(context.student, [trace.prompt for trace in traces], longest)
        for row, trace in enumerate(traces):
            engine.extend(row, trace.prefix(len(trace.steps)))
        return engine

    def _search(self, traces: Sequence[Trace], context: SearchContext, engine: Engine) -> dict[str, int | None]:
        by_id = {trace.id: trace for trace in traces}
        row_of = {id: row for row, id in enumerate(by_id)}  # rows of the engine

        def ask(lengths: Mapping[str, int]) -> dict[str, bool]:
            nonlocal row_of
            if len(lengths) < len(row_of):  # some searches have ended: their rows leave the engine
                engine.keep([row_of[id] for id in lengths])
                row_of = {id: row for row, id in enumerate(lengths)}
            return self._valid([(by_id[id], steps) for id, steps in lengths.items()], context, engine)

        return shortest_prefixes({trace.id: len(trace.steps) for trace in traces}, ask)[0]

    def _valid(self, prefixes: Sequence[tuple[Trace, int]], context: SearchContext, engine: Engine) -> dict[str, bool]:
        """Whether each prefix, a trace and its number of steps, is valid, by example id."""
        drafts = [trace.answer[trace.phrase :] for trace, _ in prefixes]
        completions = engine.complete(
            [trace.answer_cue for trace, _ in prefixes],
            drafts,
            [max(self.answer_tokens, len(draft)) for draft in drafts],
            lengths=[len(trace.prompt) + len(trace.prefix(steps)) for trace, steps in prefixes],
            with_nll=self.confidence > 0,
        )
        return {
            trace.id: context.right(trace.id, [*trace.answer[: trace.phrase], *completion.tokens])
            and (completion.nll is None or math.exp(-completion.nll) >= self.confidence)
            for (trace, _), completion in zip(prefixes, completions, strict=True)
        }


class RandomCut(BinaryCut):
    """Control: shuffles the kept shares of BinaryCut among the examples; dropped examples stay dropped.

    Args:
        answer_tokens: See BinaryCut.
        confidence: See BinaryCut.
        seed: Seed of the shuffle.
    """

    def __init__(self, answer_tokens: int = 32, confidence: float = 0.0, seed: int = 0) -> None:
        super().__init__(answer_tokens, confidence)
        self.seed = seed

    def finish(self, cuts: dict[str, int | None], steps: Mapping[str, int]) -> dict[str, int | None]:
        """Assigns the shuffled shares."""
        kept = {id: cut for id, cut in cuts.items() if cut is not None}
        shares = [cut / steps[id] for id, cut in kept.items()]
        random.Random(f"cuts/{self.seed}").shuffle(shares)
        return cuts | {id: max(1, round(share * steps[id])) for id, share in zip(kept, shares, strict=True)}


class FirstAnswer(Cutter):
    """Control: keeps steps up to the first one whose last plausible answer is the gold answer; ignores the student."""

    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """Searches the text of each trace; a trace without the gold answer is dropped."""
        return {trace.id: self._first(trace, context) for trace in traces}

    @staticmethod
    def _first(trace: Trace, context: SearchContext) -> int | None:
        for place, step in enumerate(trace.steps):
            if context.mentioned(trace.id, step.tolist()):
                return place + 1
        return None


class FullTrace(Cutter):
    """Control: keeps all steps."""

    def cut(self, traces: Sequence[Trace], context: SearchContext) -> dict[str, int | None]:
        """The number of steps of every trace."""
        return {trace.id: len(trace.steps) for trace in traces}
