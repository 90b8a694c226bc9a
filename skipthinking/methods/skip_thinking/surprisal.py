"""Verifiers without an answer test: the perplexity of the rest, and the surprisal of a chunk's first tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skipthinking.methods.skip_thinking.verifiers import Rationale, ScoringVerifier, Trial
from skipthinking.records import UserError

__all__ = ["FirstTokens", "Perplexity"]


class Perplexity(ScoringVerifier):
    """A chunk can be removed if the perplexity of the rest stays low (SPIRIT, Cui et al., arXiv 2502.13260).

    The rest, all tokens after the chunk with the answer among them, may have at most ``max_ratio`` times the perplexity
    that it has in the full rationale. Whether any answer is right is not judged, and there is no gate.

    Departures: read through descriptions (the abstract and summaries), not in full. SPIRIT removes the step of least
    perplexity first, compares whole completions, and merges steps; here chunks are judged in order, on the same tokens
    with and without them, and none is merged. The comparison with the full rationale, so that removals cannot add up,
    and the value of ``max_ratio`` are ours. SPIRIT finds that a stronger model's perplexity judges better than the
    student's own, which is the one used here.

    Args:
        max_ratio: Bound on the perplexity of the rest, as a multiple of that in the full rationale, above 1.
    """

    gated = False

    def __init__(self, max_ratio: float = 1.05) -> None:
        if not max_ratio > 1:
            raise UserError(
                f"Expected a ratio above 1, got model.verifier.init_args.max_ratio={max_ratio}. Set "
                "model.verifier.init_args.max_ratio: 1.05, for example."
            )
        self.max_ratio = max_ratio
        self._nll: dict[str, NDArray[np.float32]] = {}  # per token of the full rationale, by id

    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        scored = self._engine.score([row.text for row in rows])
        self._nll = {row.id: scores[:, 0] for row, scores in zip(rows, scored, strict=True)}
        return [True] * len(rows)

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """Scores the texts without the chunks in one pass."""
        self._only(trials)
        scored = self._engine.score([trial.text for trial in trials], first=[trial.forced for trial in trials])
        verdicts = []
        for trial, scores in zip(trials, scored, strict=True):
            after = slice(trial.start + trial.forced, None)
            rise = (scores[:, 0].astype(np.float64) - self._nll[trial.row.id][after])[trial.row.judged[after]]
            verdicts.append(bool(rise.mean() < np.log(self.max_ratio)))
        return verdicts


class FirstTokens(ScoringVerifier):
    """A chunk can be removed if its first tokens are no surprise (ASAP, Zeng et al., arXiv 2508.05988).

    The surprisal is the mean NLL of the first tokens after the chunk's marker, given the question and the chunks that
    remain before it. Neither the rest nor any answer is judged, and there is no gate.

    Departures: from secondary descriptions and the abstract. ASAP first prunes traces with a stronger model's direct
    solution as an anchor, which is left out here, and then keeps the steps of highest first-token surprisal within a
    budget of tokens; a bound in nats in place of the budget, chunks in place of steps, more than one first token, and
    the student as the scoring model are ours.

    Args:
        max_surprisal: Bound on the mean NLL of the first tokens, nats.
        tokens: Number of first tokens, at least 1; fewer in a shorter chunk.
    """

    gated = False

    def __init__(self, max_surprisal: float = 0.1, tokens: int = 1) -> None:
        if not max_surprisal > 0 or tokens < 1:
            raise UserError(
                "Expected a surprisal above 0 and at least 1 token, got model.verifier.init_args: "
                f"max_surprisal={max_surprisal}, tokens={tokens}. "
                "Leave out what is outside of its range, for its default."
            )
        self.max_surprisal, self.tokens = max_surprisal, tokens

    def _look(self, rows: Sequence[Rationale]) -> list[bool]:
        return [True] * len(rows)

    def verify(self, trials: Sequence[Trial]) -> list[bool]:
        """Scores the first tokens of the chunks in one pass."""
        self._only(trials)
        names = [trial.row.openings[trial.drop] for trial in trials]
        firsts = [trial.row.stages[trial.drop][: name + self.tokens] for trial, name in zip(trials, names, strict=True)]
        scored = self._engine.score(firsts, first=names)
        return [bool(scores[:, 0].mean(dtype=np.float64) < self.max_surprisal) for scores in scored]
