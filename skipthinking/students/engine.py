"""The engine of all searches: it scores and completes texts after contexts, with a KV cache if the student allows one.

Shape suffixes: N tokens, K numbers per token, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skipthinking.data.instances import instance
from skipthinking.records import Instance
from skipthinking.students.base import Student
from skipthinking.students.completions import until_end
from skipthinking.students.kv_cache import KVCache, say_without_cache, why_no_cache
from skipthinking.students.measures import Measure, greedy, nll, nll_and_hit
from skipthinking.students.memory import padding_worth, pass_tokens
from skipthinking.students.scoring import Measured, score

__all__ = ["Completion", "Engine", "StopEarly"]

Tokens = NDArray[np.int64]
StopEarly = Callable[[int, Measured], bool]

_PIECE = 24  # tokens of a text after which ``stop_early`` is first asked; most texts that fail do so in these
_LONGER = 4  # each piece is so many times longer than the one before


class Completion(NamedTuple):
    """What a student writes.

    Attributes:
        tokens: Ids, up to and including the end token.
        nll: NLL of all of them together in nats; None unless requested.
    """

    tokens: list[int]
    nll: float | None


class Engine:
    """Contexts that grow, one per row, and what a student says after them.

    With a KV cache, each context is read once. Without one it is read again by every call, with the same results to
    rounding. The student's weights must not change while the engine is in use; its training state is untouched.

    Args:
        student: The student, built.
        prompts: Prompt ids of each row, shape (P,), P > 0; the contexts start with them.
        longest: Most tokens of a context and what is scored after it. None for no KV cache; otherwise there is one if
            the student can use it, see :func:`skipthinking.students.kv_cache.why_no_cache`.
    """

    def __init__(self, student: Student, prompts: Sequence[Tokens], longest: int | None = None) -> None:
        self.student = student
        self._prompts, self._contexts = list(prompts), list(prompts)  # contexts include their prompts
        self._cache = None
        if longest is not None:
            if why := why_no_cache(student, longest):
                say_without_cache("searches read each context again in every pass", why)
            else:
                self._cache = KVCache(student, len(prompts), longest)
        self._cached = [0] * len(prompts)  # tokens of each context that are in the cache

    @property
    def has_cache(self) -> bool:
        """Whether contexts are read once."""
        return self._cache is not None

    def extend(self, row: int, tokens: Tokens) -> None:
        """Appends tokens to a context."""
        self._contexts[row] = np.concatenate([self._contexts[row], tokens])

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all rows but these, which are numbered from 0 again in the order given."""
        self._prompts, self._contexts = [self._prompts[row] for row in rows], [self._contexts[row] for row in rows]
        self._cached = [self._cached[row] for row in rows]
        if self._cache is not None:
            self._cache = self._cache.select(rows)

    def score(
        self,
        texts: Sequence[Tokens],
        measure: Measure = nll_and_hit,
        *,
        first: Sequence[int] | None = None,
        stop_early: StopEarly | None = None,
    ) -> list[Measured]:
        """Measures texts that may follow the contexts, which stay as they are.

        Args:
            texts: One text per row, none empty.
            measure: What is measured.
            first: The first token of each text that is measured, by default 0; each text is longer.
            stop_early: Called with a row and its measures so far, and returns whether the rest of the row may be left
                out. Without a KV cache nothing is left out.

        Returns:
            Per row the measures of its text from ``first`` on, shape (N, K), shorter where it was stopped early.
        """
        first = [0] * len(texts) if first is None else first
        with self.student.frozen():
            if self._cache is not None:
                return self._score_cached(self._cache, texts, measure, first, stop_early)
            rows = [
                instance(str(row), self._prompts[row], [self._written(row), text[:start], text[start:]], {2})
                for row, (text, start) in enumerate(zip(texts, first, strict=True))
            ]
            measured = score(self.student, rows, measure)
        return [measured[row.id] for row in rows]

    def _score_cached(
        self,
        cache: KVCache,
        texts: Sequence[Tokens],
        measure: Measure,
        first: Sequence[int],
        stop_early: StopEarly | None,
    ) -> list[Measured]:
        """Reads in pieces that end where rows end, so that little is padding and a row can stop early."""
        # A context's last token predicts a text's first one, so it is read again where that is measured.
        before = [
            min(cached, len(context) - (start == 0))
            for cached, context, start in zip(self._cached, self._contexts, first, strict=True)
        ]
        new = [context[cached:] for context, cached in zip(self._contexts, before, strict=True)]
        lines = [np.concatenate(parts) for parts in zip(new, texts, strict=True)]
        begin = [len(part) - 1 + start for part, start in zip(new, first, strict=True)]  # predicts token ``start``
        ends = [len(line) - 1 for line in lines]  # a line's last token predicts nothing that is measured
        measured: dict[int, Measured] = {}
        rows, at = list(range(len(texts))), 0
        worth = padding_worth(self.student)
        piece = max(_PIECE, worth // len(rows))
        most = max(begin) + piece if stop_early else None
        fitting = pass_tokens(self.student)
        while rows:
            columns = max(1, fitting // len(rows))
            width = _width([ends[row] - at for row in rows], columns if most is None else min(most, columns), worth)
            stops = [min(at + width, ends[row]) for row in rows]
            starts = [min(max(at, begin[row]), stop) for row, stop in zip(rows, stops, strict=True)]
            parts = cache.read(
                rows,
                [lines[row][at:stop] for row, stop in zip(rows, stops, strict=True)],
                [before[row] + at for row in rows],
                [start - at for start in starts],
                measure,
                np.concatenate([lines[row][a + 1 : b + 1] for row, a, b in zip(rows, starts, stops, strict=True)]),
            )
            for row, part in zip(rows, parts, strict=True):
                measured[row] = np.concatenate([measured[row], part]) if row in measured else part
            at, most = at + width, _LONGER * piece if stop_early else None
            piece *= _LONGER
            rows = [
                row for row in rows
                if at < ends[row] and not (stop_early and len(measured[row]) and stop_early(row, measured[row]))
            ]  # fmt: skip
        self._cached = [len(context) for context in self._contexts]
        return [measured[row] for row in range(len(texts))]

    def complete(
        self,
        prefixes: Sequence[Tokens],
        drafts: Sequence[Tokens],
        max_new_tokens: Sequence[int],
        *,
        lengths: Sequence[int] | None = None,
        with_nll: bool = False,
    ) -> list[Completion]:
        """What the student writes greedily after each context and its prefix; the contexts stay as they are.

        Drafts are verified in one pass (Leviathan et al., arXiv 2211.17192, without sampling): up to the first token
        that greedy decoding would not choose, the draft is the completion, and only from there on is anything
        generated. The outcome is that of plain greedy decoding.

        Args:
            prefixes: Tokens that are given after each context; may be empty.
            drafts: What may follow, none empty.
            max_new_tokens: Most tokens after the prefix; the student's context may leave less room.
            lengths: Tokens of each context to continue from, prompt included, by default all; at least 1, and of an
                encoder-decoder student at least the prompt.
            with_nll: Whether to compute the NLL of the completions. It is free with a KV cache only.
        """
        lengths = [len(context) for context in self._contexts] if lengths is None else lengths
        rooms = []
        for row, (length, part, limit) in enumerate(zip(lengths, prefixes, max_new_tokens, strict=True)):
            before = length - len(self._prompts[row]) if self.student.encoder_decoder else length
            rooms.append(max(0, min(limit, self.student.context_length - before - len(part))))
        with self.student.frozen():
            if self._cache is not None:
                completions = self._complete_cached(self._cache, lengths, prefixes, drafts, rooms)
            else:
                completions = self._complete_plain(lengths, prefixes, drafts, rooms, with_nll)
        return completions if with_nll else [row._replace(nll=None) for row in completions]

    def _complete_cached(
        self,
        cache: KVCache,
        lengths: Sequence[int],
        prefixes: Sequence[Tokens],
        drafts: Sequence[Tokens],
        rooms: Sequence[int],
    ) -> list[Completion]:
        if unread := [row for row, context in enumerate(self._contexts) if self._cached[row] < len(context)]:
            self._read(cache, unread)
        # A prefix's last token is read again, because it predicts the first one after it.
        before = [length - 1 for length in lengths]
        lines = [
            np.concatenate([context[at : at + 1], part, draft[:-1]])
            for context, at, part, draft in zip(self._contexts, before, prefixes, drafts, strict=True)
        ]
        columns = max(
            length + len(part) + max(len(draft), room)
            for length, part, draft, room in zip(lengths, prefixes, drafts, rooms, strict=True)
        )
        rows = list(range(len(lines)))
        cache = cache.select(rows, columns)  # a copy: a prefix is continued in the columns of what followed it
        measured = cache.read(rows, lines, before, [len(part) for part in prefixes], greedy)
        ends = set(self.student.model.generation_config.eos_token_id)
        verified = [_verified(row, draft, ends) for row, draft in zip(measured, drafts, strict=True)]
        while rows := [n for n in rows if len(verified[n]) < rooms[n] and int(verified[n][-1, 0]) not in ends]:
            # Columns that a rejected part of a draft was read into are overwritten.
            at = [before[row] + len(prefixes[row]) + len(verified[row]) for row in rows]
            last = [verified[row][-1:, 0].astype(np.int64) for row in rows]
            for row, token in zip(rows, cache.read(rows, last, at, [0] * len(rows), greedy), strict=True):
                verified[row] = np.concatenate([verified[row], token])
        shown = [written[:room] for written, room in zip(verified, rooms, strict=True)]
        return [Completion(part[:, 0].astype(int).tolist(), float(part[:, 1].sum())) for part in shown]

    def _read(self, cache: KVCache, rows: Sequence[int]) -> None:
        """Reads what is new in the contexts of some rows, in passes that fit into memory."""
        columns = max(1, pass_tokens(self.student) // len(rows))
        while rows:
            new = [self._contexts[row][self._cached[row] :][:columns] for row in rows]
            cache.read(rows, new, [self._cached[row] for row in rows], list(map(len, new)), greedy)
            for row, part in zip(rows, new, strict=True):
                self._cached[row] += len(part)
            rows = [row for row in rows if self._cached[row] < len(self._contexts[row])]

    def _complete_plain(
        self,
        lengths: Sequence[int],
        prefixes: Sequence[Tokens],
        drafts: Sequence[Tokens],
        rooms: Sequence[int],
        with_nll: bool,
    ) -> list[Completion]:
        inputs = [
            np.concatenate([self._written(row, length), part])
            for row, (length, part) in enumerate(zip(lengths, prefixes, strict=True))
        ]

        def instances(texts: dict[int, Tokens]) -> list[Instance]:
            return [instance(str(row), self._prompts[row], [inputs[row], text], {1}) for row, text in texts.items()]

        measured = score(self.student, instances(dict(enumerate(drafts))), nll_and_hit)
        ends = set(self.student.model.generation_config.eos_token_id)
        completions, open_ = [], []
        for row, (draft, room) in enumerate(zip(drafts, rooms, strict=True)):
            hits = measured[str(row)][:, 1] > 0
            agreed = until_end(draft[: len(draft) if hits.all() else int(hits.argmin())][:room].tolist(), ends)
            completions.append(Completion(agreed, float(measured[str(row)][: len(agreed), 0].sum())))
            if len(agreed) < room and not (agreed and agreed[-1] in ends):
                open_.append(row)
        texts = self.student.generate(
            [torch.from_numpy(self._prompts[row]) for row in open_],
            [rooms[row] - len(completions[row].tokens) for row in open_],
            [
                torch.from_numpy(np.concatenate([inputs[row], drafts[row][: len(completions[row].tokens)]]))
                for row in open_
            ],
        )
        for row, text in zip(open_, texts, strict=True):
            completions[row] = Completion([*completions[row].tokens, *text], None)
        if with_nll:
            again = {row: np.array(one.tokens) for row, one in enumerate(completions) if one.nll is None}
            for id, values in score(self.student, instances(again), nll).items():
                completions[int(id)] = completions[int(id)]._replace(nll=float(values.sum()))
        return completions

    def _written(self, row: int, length: int | None = None) -> Tokens:
        """A context, or so many tokens of it, without its prompt."""
        return self._contexts[row][len(self._prompts[row]) : length]


def _verified(measured: Measured, draft: Tokens, ends: set[int]) -> Measured:
    """What the student said up to its first disagreement with the draft, which is included, or up to an end token."""
    same = measured[:, 0] == draft
    agreed = len(measured) if same.all() else int(same.argmin()) + 1
    return measured[: len(until_end(measured[:agreed, 0].astype(int).tolist(), ends))]


def _width(left: Sequence[int], most: int | None, worth: int) -> int:
    """Columns of a pass over rows with so many tokens left: to the end of as many of them as padding allows."""
    ends_B = np.sort(left)
    padding_B = np.arange(len(ends_B)) * ends_B - (np.cumsum(ends_B) - ends_B)  # of a pass to that end
    width = int(ends_B[padding_B <= worth].max())
    return width if most is None else min(width, most)
