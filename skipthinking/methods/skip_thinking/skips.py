"""The skip search: finds the chunks of a rationale that the student does not need."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.annotator import Annotator, Context, Drawing, Notes
from skipthinking.evaluation.answers import SearchContext
from skipthinking.methods.skip_thinking.chunks import Chunks
from skipthinking.methods.skip_thinking.stages import Stages
from skipthinking.methods.skip_thinking.verifiers import Rationale, Rollout, Trial, Verifier, answered_right
from skipthinking.ranks import by_length
from skipthinking.records import Encoded, Span

__all__ = ["Skips", "Solved", "search_skips", "shuffled_skips", "solved"]

Value = TypeVar("Value")


class _Search(Annotator[Value]):
    """Base class of what the student is asked after the warm-up, with stage markers at the chunk boundaries.

    Args:
        epoch: The epoch at whose start the search runs.
        chunks: The chunks.
        stages: Converts stages to tokens.
        right: Whether completion tokens answer an example correctly.
        max_new_tokens: Maximum number of tokens per completion.
    """

    needs: tuple[str, ...] = ("chunks",)
    dtype = "int64"

    def __init__(
        self,
        epoch: int,
        chunks: Chunks,
        stages: Stages,
        right: Callable[[Encoded, list[int]], bool],
        max_new_tokens: int,
    ) -> None:
        self.epoch, self.chunks, self.stages = epoch, chunks, stages
        self.right, self.max_new_tokens = right, max_new_tokens

    def due(self, epoch: int) -> bool:
        """Whether this is the first epoch after the warm-up."""
        return epoch == self.epoch

    def tokens(self, encoded: Encoded, notes: Notes) -> int:
        """Number of tokens of prompt and completion with all markers."""
        return self.chunks.tokens(encoded, notes)

    def _chunks(self, rows: Sequence[Encoded], context: Context) -> dict[str, tuple[Span, ...]]:
        return {row.id: context.notes[row.id][self.chunks] for row in rows}

    def _context(self, rows: Sequence[Encoded], context: Context) -> SearchContext:
        by_id = {row.id: row for row in rows}
        return SearchContext(
            student=context.student,
            right=lambda id, tokens: self.right(by_id[id], tokens),
            max_new_tokens=self.max_new_tokens,
        )


class Solved(_Search[bool]):
    """Whether the student answers an example correctly by itself, greedily: the gate of the skip search."""

    name = "solved"
    title = "Own answers"

    def most_tokens(self, student: Any) -> int:
        """As for Rollout."""
        return Rollout().most_tokens(student)

    def settings(self) -> Mapping[str, Any]:
        """The stage marker, and the maximum length of an answer."""
        return {"marker": self.stages.marker, "max_new_tokens": self.max_new_tokens}

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, bool]:
        """Answers a block of examples of similar length."""
        chunks = self._chunks(rows, context)
        drafts = {row.id: np.concatenate(self.stages.tokens(row, chunks[row.id])) for row in rows}
        return solved(rows, drafts, self._context(rows, context))

    def decode(self, array: Any) -> bool:
        """Whether the answer is right."""
        return bool(array[0])

    def draw(self, value: bool, encoded: Encoded, codec: Any) -> Drawing:
        """A line for examples that the skip search leaves out."""
        return {} if value else {"lines": ["the student's own answer is wrong, so no chunk was judged"]}


def solved(
    encoded: Sequence[Encoded], drafts: Mapping[str, NDArray[np.int64]], context: SearchContext
) -> dict[str, bool]:
    """Whether the student's own greedy answer is right, by example id; it sees the question alone.

    The teacher's text is the draft of the student's, see :meth:`skipthinking.students.engine.Engine.complete`: one pass
    over all drafts, and generation only from where the student would write something else. The result is that of plain
    greedy generation.

    Args:
        encoded: The examples.
        drafts: Tokens of every example's stages, the answer included.
        context: The student, and how answers are graded.
    """
    questions = [(row.id, row.prompts[""], np.empty(0, dtype=np.int64), drafts[row.id]) for row in encoded]
    return dict(zip((row.id for row in encoded), answered_right(questions, context), strict=True))


class Skips(_Search[list[int]]):
    """Indices of the chunks that every example keeps (Skip-Thinking, Chen et al., arXiv 2505.18642).

    Args:
        epoch: The epoch at whose start the search runs.
        chunks: The chunks.
        stages: Converts stages to tokens.
        verifier: Judges whether a chunk can be removed.
        right: Whether completion tokens answer an example correctly.
        max_new_tokens: Maximum number of tokens per completion.
        cumulative: Whether a removed chunk stays removed while later ones are judged.
        control: ``random_skip`` removes the same number of chunks from each example at random, ``first_skip`` its
            first ones: an answer often needs the last chunk most, and a search should do better than that rule.
        solved: Whether the student's own answers are right: other examples are not searched. None leaves it to the
            verifier which examples are searched.
    """

    name = "skips"
    title = "Skip search"

    def __init__(
        self,
        epoch: int,
        chunks: Chunks,
        stages: Stages,
        verifier: Verifier,
        right: Callable[[Encoded, list[int]], bool],
        max_new_tokens: int,
        cumulative: bool,
        control: Literal["random_skip", "first_skip"] | None,
        solved: Solved | None = None,
    ) -> None:
        super().__init__(epoch, chunks, stages, right, max_new_tokens)
        self.verifier, self.cumulative, self.control = verifier, cumulative, control
        self.solved = solved
        self.needs = ("chunks", "solved") if solved else ("chunks",)

    def most_tokens(self, student: Any) -> int:
        """As many as the verifier can hold."""
        return self.verifier.most_tokens(student)

    def settings(self) -> Mapping[str, Any]:
        """Settings of the verifier and of the search."""
        return {
            **self.verifier.settings(), "cumulative": self.cumulative, "marker": self.stages.marker,
            "max_new_tokens": self.max_new_tokens, "control": self.control,
            "gate": "student" if self.solved else "teacher",
        }  # fmt: skip

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, list[int]]:
        """Searches a block of examples of similar length."""
        return search_skips(
            rows,
            self._chunks(rows, context),
            stages=self.stages,
            verifier=self.verifier,
            context=self._context(rows, context),
            cumulative=self.cumulative,
            searched={row.id for row in rows if self._searched(row, context)},
        )

    def _searched(self, row: Encoded, context: Context) -> bool:
        return self.solved is None or context.notes[row.id][self.solved]

    def finish(self, values: dict[str, list[int]], rows: Sequence[Encoded], context: Context) -> dict[str, list[int]]:
        """Replaces the result by as many random chunks, or last ones, for a control."""
        if self.control is None:
            return values
        chunks = {id: len(context.notes[id][self.chunks]) for id in values}
        if self.control == "first_skip":
            return {id: list(range(chunks[id] - len(kept), chunks[id])) for id, kept in values.items()}
        return shuffled_skips(values, chunks, context.seed)

    def report(self, values: Mapping[str, list[int]], rows: Sequence[Encoded], context: Context) -> str:
        """The share of chunks that can be skipped, and how many examples passed the gate."""
        chunks = {row.id: len(context.notes[row.id][self.chunks]) for row in rows}
        total = max(1, sum(chunks.values()))
        skipped = sum(chunks.values()) - sum(map(len, values.values()))
        if self.solved is None:
            gated = "the student answers nothing correctly yet, or needs all of them"
            why = gated if self.verifier.gated else "the verifier allows none"
            line = f"skip search: {skipped / total:.1%} of {total:,} chunks can be skipped"
            return line if skipped else f"{line}; {why}"
        passed = [row.id for row in rows if self._searched(row, context)]
        first = f"skip search: {len(passed):,} of {len(rows):,} rationales are answered right by the student"
        if not passed:
            return f"{first}; it answers nothing correctly yet, so no chunk can be skipped"
        judged = sum(chunks[id] for id in passed)
        return (
            f"{first}; {skipped / judged:.1%} of their {judged:,} chunks can be skipped ({skipped / total:.1%} of all)"
        )

    def decode(self, array: Any) -> list[int]:
        """The kept indices."""
        kept: list[int] = array.tolist()
        return kept

    def draw(self, value: list[int], encoded: Encoded, codec: Any) -> Drawing:
        """The kept chunks; skipped ones are struck through."""
        return {"kept": value}


def search_skips(
    encoded: Sequence[Encoded],
    chunks: Mapping[str, Sequence[Span]],
    *,
    stages: Stages,
    verifier: Verifier,
    context: SearchContext,
    cumulative: bool = True,
    searched: Collection[str] | None = None,
) -> dict[str, list[int]]:
    """Searches for the chunks that every example keeps (Skip-Thinking, arXiv 2505.18642).

    The verifier judges the removal of each chunk in order. An example that the student answers incorrectly keeps all
    chunks; the answer stage always stays. Examples of similar length are searched together.

    Args:
        encoded: The examples.
        chunks: Step spans of the examples' chunks.
        stages: Converts stages to tokens.
        verifier: Judges whether a chunk can be removed.
        context: The student, and how answers are graded.
        cumulative: Whether a removed chunk stays removed while later ones are judged; if not, each is judged alone.
        searched: Ids of the examples that are searched, all by default; the others keep all chunks.

    Returns:
        Indices of the chunks that are kept, ascending, by example id.
    """
    rows = [
        Rationale(
            encoded=row,
            stages=stages.tokens(row, chunks[row.id]),
            openings=[stages.opening(stage, len(chunks[row.id])) for stage in range(len(chunks[row.id]) + 1)],
        )
        for row in encoded
        if searched is None or row.id in searched
    ]
    kept = {row.id: list(range(len(chunks[row.id]))) for row in encoded}
    with context.student.frozen():
        for block in by_length(
            rows, lambda row: len(row.prompt) + len(row.text), verifier.most_tokens(context.student)
        ):
            try:
                kept |= _search_block(block, verifier, context, cumulative)
            finally:
                verifier.end()
    return kept


def _search_block(
    rows: Sequence[Rationale], verifier: Verifier, context: SearchContext, cumulative: bool
) -> dict[str, list[int]]:
    right = verifier.begin(rows, context)
    kept = {row.id: list(range(len(row.stages) - 1)) for row in rows}
    alive = [row for row, ok in zip(rows, right, strict=True) if ok]
    for drop in range(max(len(row.stages) for row in rows) - 1):
        trials = [
            Trial(
                row=row,
                before=[stage for stage in kept[row.id] if stage < drop] if cumulative else list(range(drop)),
                drop=drop,
                after=list(range(drop + 1, len(row.stages))),
            )
            for row in alive
            if drop < len(row.stages) - 1
        ]
        if not trials:
            break
        verdicts = verifier.verify(trials)
        verifier.settle(trials, [ok and cumulative for ok in verdicts])
        for trial, ok in zip(trials, verdicts, strict=True):
            if ok:
                kept[trial.row.id].remove(drop)
    return kept


def shuffled_skips(kept: Mapping[str, Sequence[int]], chunks: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Control: keeps as many chunks of every example as the search did, but random ones.

    Args:
        kept: Kept chunks by example id.
        chunks: Number of chunks of every example.
        seed: Seed.
    """
    return {id: sorted(random.Random(f"{seed}/{id}").sample(range(chunks[id]), len(left))) for id, left in kept.items()}
