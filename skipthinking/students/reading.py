"""Texts that share contexts: a context is read once, and what may follow it is scored again and again.

Shape suffixes: B rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.data.batches import collate
from skipthinking.data.instances import instance
from skipthinking.records import Instance
from skipthinking.students.base import Student
from skipthinking.students.kv_cache import KVCache
from skipthinking.students.kv_cache import can_cache as keeps_keys
from skipthinking.students.measures import nll_and_hit

__all__ = ["CachedReader", "PlainReader", "Reader", "keeps_keys", "reader"]

Tokens = NDArray[np.int64]
Found = NDArray[np.float32]
Enough = Callable[[int, Found], bool]

_PIECE = 24  # tokens of a text behind which it is asked whether to go on; what is lost is mostly lost there
_LONGER = 4  # times as many until it is asked again
_PASS = {"cpu": 96}  # tokens that cost as much time as another pass: as much padding is worth it
_PASS_ELSEWHERE = 4096


class Reader(ABC):
    """Rows of contexts that grow. Use it with the student frozen.

    Args:
        student: Who reads.
        prompts: Where the contexts begin, ids of shape (P,) each.
    """

    @abstractmethod
    def __init__(self, student: Student, prompts: Sequence[Tokens]) -> None: ...

    @abstractmethod
    def grow(self, row: int, tokens: Tokens) -> None:
        """Appends tokens to a context."""

    @abstractmethod
    def narrow(self, rows: Sequence[int]) -> None:
        """Forgets all rows but these; they are counted from 0 again, in the order given."""

    @abstractmethod
    def score(self, texts: Sequence[Tokens], first: Sequence[int], enough: Enough | None = None) -> list[Found]:
        """What the student says of texts that may follow; the contexts stay as they are.

        Args:
            texts: A text for each row, none empty.
            first: Where in each text the tokens begin that are asked for; at least one is.
            enough: Is shown what was found for a row so far, and says whether the rest of it may be left out.

        Returns:
            Per text an array of shape (N, 2): NLL in nats, and 1 where greedy decoding would choose the token.
        """


class PlainReader(Reader):
    """Reads the whole context each time; for any student."""

    def __init__(self, student: Student, prompts: Sequence[Tokens]) -> None:
        self.student = student
        self._prompts, self._contexts = list(prompts), [np.empty(0, dtype=np.int64) for _ in prompts]

    def grow(self, row: int, tokens: Tokens) -> None:
        """Appends tokens to a context."""
        self._contexts[row] = np.concatenate([self._contexts[row], tokens])

    def narrow(self, rows: Sequence[int]) -> None:
        """Forgets all rows but these."""
        self._prompts, self._contexts = [self._prompts[row] for row in rows], [self._contexts[row] for row in rows]

    def score(self, texts: Sequence[Tokens], first: Sequence[int], enough: Enough | None = None) -> list[Found]:
        """One pass over contexts and texts, to the end."""
        asked = [self._instance(row, text, start) for row, (text, start) in enumerate(zip(texts, first, strict=True))]
        batch = collate(asked, pad_id=self.student.pad_id, encoder_decoder=self.student.encoder_decoder)
        found = self.student.measure(batch.to(self.student.device), nll_and_hit).cpu().numpy()
        return _parts(found, [len(text) - start for text, start in zip(texts, first, strict=True)])

    def _instance(self, row: int, text: Tokens, start: int) -> Instance:
        return instance(str(row), self._prompts[row], [self._contexts[row], text[:start], text[start:]], {2})


class CachedReader(Reader):
    """Keeps keys and values of the contexts, for causal students that are told positions.

    A context's last token predicts a text's first one; it is read again where that is asked for.

    Args:
        student: Who reads.
        prompts: Where the contexts begin.
        longest: Most tokens of a context and a text behind it.
    """

    def __init__(self, student: Student, prompts: Sequence[Tokens], longest: int) -> None:
        self._worth = _PASS.get(student.device.type, _PASS_ELSEWHERE)
        self._keys = KVCache(student, len(prompts), longest)
        self._contexts = list(prompts)
        self._seen = [0] * len(prompts)  # tokens of each whose keys are kept

    def grow(self, row: int, tokens: Tokens) -> None:
        """Appends tokens to a context; they are read with the next text."""
        self._contexts[row] = np.concatenate([self._contexts[row], tokens])

    def narrow(self, rows: Sequence[int]) -> None:
        """Forgets all rows but these."""
        self._contexts, self._seen = [self._contexts[row] for row in rows], [self._seen[row] for row in rows]
        self._keys = self._keys.select(rows)

    def score(self, texts: Sequence[Tokens], first: Sequence[int], enough: Enough | None = None) -> list[Found]:
        """Reads in pieces that end where rows end, so that little is padding and a row can stop where it is enough."""
        before = [
            min(seen, len(context) - (not start))
            for seen, context, start in zip(self._seen, self._contexts, first, strict=True)
        ]
        new = [context[seen:] for context, seen in zip(self._contexts, before, strict=True)]
        lines = [np.concatenate(parts) for parts in zip(new, texts, strict=True)]
        begin = [len(part) - 1 + start for part, start in zip(new, first, strict=True)]
        ends = [len(line) - 1 for line in lines]
        found = [np.empty((0, 2), dtype=np.float32) for _ in texts]
        rows, at = list(range(len(texts))), 0
        piece = max(_PIECE, self._worth // len(rows))
        most = max(begin) + piece if enough else None
        while rows:
            width = _width([ends[row] - at for row in rows], most, self._worth)
            stops = [min(at + width, ends[row]) for row in rows]
            starts = [min(max(at, begin[row]), stop) for row, stop in zip(rows, stops, strict=True)]
            scores = self._keys.read(
                rows,
                [lines[row][at:stop] for row, stop in zip(rows, stops, strict=True)],
                [before[row] + at for row in rows],
                [start - at for start in starts],
                nll_and_hit,
                np.concatenate([lines[row][a + 1 : b + 1] for row, a, b in zip(rows, starts, stops, strict=True)]),
            )
            for row, part in zip(rows, scores, strict=True):
                found[row] = np.concatenate([found[row], part])
            at, most = at + width, _LONGER * piece if enough else None
            piece *= _LONGER
            rows = [
                row for row in rows
                if at < ends[row] and not (enough and len(found[row]) and enough(row, found[row]))
            ]  # fmt: skip
        self._seen = [len(context) for context in self._contexts]
        return found


def _width(left: Sequence[int], most: int | None, worth: int) -> int:
    """Columns of a pass over rows with so many tokens left: to the end of as many of them as padding allows."""
    ends_B = np.sort(left)
    padding_B = np.arange(len(ends_B)) * ends_B - (np.cumsum(ends_B) - ends_B)  # of a pass to that end
    width = int(ends_B[padding_B <= worth].max())
    return width if most is None else min(width, most)


def _parts(found: NDArray[Any], lengths: Sequence[int]) -> list[Found]:
    return np.split(found, np.cumsum(lengths)[:-1])


def reader(student: Student, prompts: Sequence[Tokens], longest: int) -> Reader:
    """The reader that fits a student; see :func:`keeps_keys`.

    Args:
        student: Who reads; its weights are there.
        prompts: Where the contexts begin.
        longest: Bound of a row's tokens.
    """
    if keeps_keys(student, longest):
        return CachedReader(student, prompts, longest)
    return PlainReader(student, prompts)
