"""Continuous batching: greedy completions of which finished ones leave the batch, and waiting prompts take their place.

Every token that the model computes is a token of a prompt or of a completion, apart from padding among prompts that
are read in one pass. Rows of the batch are consecutive rows of a position-aligned KV cache: the last row moves to the
place of a row that is finished.

Shape suffixes: B rows of a pass, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipthinking.students.kv_cache import KVCache
from skipthinking.students.measures import Project
from skipthinking.students.memory import cache_tokens, padding_worth, pass_tokens

__all__ = ["ContinuousBatch"]

_REFILL = 8  # prompts are read when 1/8 of the rows are free: 1/16 idle on average, 8 passes per batch of completions
_SPARE = 64  # columns for new tokens at first; more are added when they are needed


@dataclass(kw_only=True, eq=False, slots=True)
class _Row:
    """A completion: the index of its prompt, the prompt, its most new tokens, and the new tokens so far."""

    index: int
    prompt: Tensor
    room: int
    tokens: list[int] = field(default_factory=list)

    @property
    def longest(self) -> int:
        return len(self.prompt) + self.room

    @property
    def column(self) -> int:
        """Column of the newest token, which the next pass reads."""
        return len(self.prompt) + len(self.tokens) - 1


class ContinuousBatch:
    """Completions of a queue of prompts. The student's weights must not change until all are finished.

    Args:
        student: The student, in evaluation mode; it can use a KV cache for all prompts and completions.
        at_once: Most completions that are written together; memory may allow fewer. None for memory alone.
        choose: Changes the scores from which the best next token is chosen.
    """

    def __init__(
        self, student: Any, at_once: int | None = None, choose: Callable[[list[int], Tensor], Tensor] | None = None
    ) -> None:
        self.student, self.at_once, self.choose = student, at_once, choose
        self._ends = set(student.model.generation_config.eos_token_id)
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []  # row i of the batch is row i of the cache
        self._cache: KVCache | None = None
        self._limit = 0  # most tokens of the cache, by memory

    def add(self, index: int, prompt: Tensor, room: int) -> None:
        """Appends a prompt to the queue.

        Args:
            index: Names the completion.
            prompt: Prompt ids on the CPU, at least one.
            room: Most new tokens, at least 1.
        """
        self._waiting.append(_Row(index=index, prompt=prompt, room=room))

    @torch.no_grad()
    def run(self, finish: bool = True) -> dict[int, list[int]]:
        """Writes until no prompt waits; returns the completions that were finished, by index.

        Args:
            finish: Whether to finish all completions; if not, those that are left wait for more prompts to join them.
        """
        done: dict[int, list[int]] = {}
        while self._waiting or (finish and self._rows):
            allowed = self._allowed()
            free = allowed - len(self._rows)
            if self._waiting and (free >= min(-(-allowed // _REFILL), len(self._waiting)) or not self._rows):
                self._admit(max(1, free), done)
            else:
                self._step(done)
        if not self._rows:
            self._cache = None
        return done

    def _allowed(self) -> int:
        """Most rows if the next prompt joins those in the batch, so that all could be written to their ends."""
        if self._cache is None:
            self._limit = cache_tokens(self.student)
        longest = max(row.longest for row in (*self._rows, *list(self._waiting)[:1]))
        rows = max(1, self._limit // longest)
        return rows if self.at_once is None else min(rows, self.at_once)

    def _admit(self, free: int, done: dict[int, list[int]]) -> None:
        """Reads waiting prompts in one pass, as many as are free, as memory allows, and as need little padding."""
        new, start, most = list[_Row](), len(self._rows), pass_tokens(self.student)
        padding = padding_worth(self.student)
        width, read, longest = 0, 0, max((row.longest for row in self._rows), default=0)
        while self._waiting and len(new) < free:
            row = self._waiting[0]
            width, read, longest = max(width, len(row.prompt)), read + len(row.prompt), max(longest, row.longest)
            tokens = width * (len(new) + 1)
            too_many = tokens > most or tokens - read > padding or longest * (start + len(new) + 1) > self._limit
            if new and too_many:
                break
            new.append(self._waiting.popleft())
        self._rows += new
        scores_BV = self._reserve(start).measure(
            range(start, len(self._rows)),
            [row.prompt.numpy() for row in new],
            [0] * len(new),
            [len(row.prompt) - 1 for row in new],
            _logits,
        )
        self._take(new, scores_BV, done)

    def _step(self, done: dict[int, list[int]]) -> None:
        """Reads the newest token of every row."""
        cache, seen = self._reserve(len(self._rows)), 1 + max(row.column for row in self._rows)
        # One copy to the device per step, and one back.
        newest_B2 = torch.tensor([[row.tokens[-1], row.column] for row in self._rows]).to(self.student.device)
        self._take(list(self._rows), cache.step(newest_B2[:, 0], newest_B2[:, 1], seen), done)

    def _take(self, rows: Sequence[_Row], scores_BV: Tensor, done: dict[int, list[int]]) -> None:
        """Appends the best next token to each of these rows; finished rows leave."""
        if self.choose:
            scores_BV = self.choose([row.index for row in rows], scores_BV)
        ended = False
        for row, token in zip(rows, scores_BV.argmax(dim=-1).tolist(), strict=True):
            row.tokens.append(token)
            if token in self._ends or len(row.tokens) == row.room:
                done[row.index], ended = row.tokens, True
        if ended:
            self._leave(done)

    def _leave(self, done: dict[int, list[int]]) -> None:
        assert self._cache is not None
        place = 0
        while place < len(self._rows):
            if self._rows[place].index not in done:
                place += 1
                continue
            last = self._rows.pop()
            if place < len(self._rows):
                if last.index not in done:
                    self._cache.move(len(self._rows), place, last.column)  # its newest token was not read yet
                self._rows[place] = last

    def _reserve(self, used: int) -> KVCache:
        """The cache with a row for every completion and a column for every token so far; keeps the first rows.

        It has spare columns, because each change copies it, but not those of all new tokens: most completions end
        before their limit.
        """
        if self._cache is None:
            self._cache = KVCache(self.student, 0, 0)
        cache, rows = self._cache, len(self._rows)
        columns = 1 + max(row.column for row in self._rows)
        spare = max(row.longest for row in self._rows) - columns
        if rows > cache.rows:
            all_rows = max(rows, min(self._allowed(), rows + len(self._waiting)))
            cache.resize(all_rows, columns + min(spare, _SPARE), used)
        elif columns > cache.columns:
            columns += min(spare, max(_SPARE, cache.columns // 2))
            cache.resize(max(rows, min(cache.rows, self._limit // columns)), columns, used)
        return cache


def _logits(project: Project, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """The measure of all logits, shape (N, V)."""
    return project(hidden_ND).float()
