"""Texts whose prefixes are gone on from again and again: each text is read once.

Shape suffixes: N tokens that are asked for, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skipthinking.students.base import Student
from skipthinking.students.kv_cache import KVCache

__all__ = ["Prefixes", "Written"]

Tokens = NDArray[np.int64]


class Written(NamedTuple):
    """What a student wrote.

    Attributes:
        tokens: Ids, up to and including EOS.
        nll: Of all of them together, in nats.
    """

    tokens: list[int]
    nll: float


class Prefixes:
    """Keys and values of whole texts, which are those of all of their prefixes: nothing looks ahead.

    For the students of :func:`skipthinking.students.reading.keeps_keys`. Use it with the student frozen.

    Args:
        student: Who reads.
        texts: The texts by id, each of at least one token.
    """

    def __init__(self, student: Student, texts: Mapping[str, Tokens]) -> None:
        self.student, self._texts = student, dict(texts)
        self._place = {id: row for row, id in enumerate(texts)}
        self._ends = set(student.model.generation_config.eos_token_id)
        lines = list(texts.values())
        self._keys = KVCache(student, len(lines), max(map(len, lines)))
        self._keys.read(range(len(lines)), lines, [0] * len(lines), [len(line) for line in lines], _likeliest)

    def complete(
        self,
        lengths: Mapping[str, int],
        begun: Mapping[str, Tokens],
        drafts: Mapping[str, Tokens],
        max_new_tokens: Mapping[str, int],
    ) -> dict[str, Written]:
        """What the student writes greedily behind a prefix of each text and what is begun behind that.

        One pass scores the drafts; what disagrees with its draft is written on from there. It is what
        :func:`skipthinking.students.rollout.complete` gives, to rounding.

        Args:
            lengths: Tokens of each prefix, at least 1.
            begun: Tokens that are given behind it.
            drafts: What may follow, EOS included; never empty.
            max_new_tokens: Most tokens behind those begun.

        Returns:
            The tokens behind those begun, and how likely they were to it.
        """
        ids = list(lengths)
        # A prefix's last token is read again, because it predicts the first one behind it.
        before = [lengths[id] - 1 for id in ids]
        lines = [
            np.concatenate([self._texts[id][at : at + 1], begun[id], drafts[id][:-1]])
            for id, at in zip(ids, before, strict=True)
        ]
        rooms = {id: min(max_new_tokens[id], self.student.context_length - lengths[id] - len(begun[id])) for id in ids}
        room = max(lengths[id] + len(begun[id]) + max(len(drafts[id]), rooms[id]) for id in ids)
        keys = self._keys.select([self._place[id] for id in ids], room)
        rows = list(range(len(ids)))
        said = keys.read(rows, lines, before, [len(begun[id]) for id in ids], _likeliest)
        made = {id: _as_far_as_agreed(written, drafts[id]) for id, written in zip(ids, said, strict=True)}
        while rows := [row for row in rows if self._goes_on(made[ids[row]], rooms[ids[row]])]:
            # What was read of a draft behind the first disagreement is written over.
            at = [before[row] + len(begun[ids[row]]) + len(made[ids[row]]) for row in rows]
            last = [made[ids[row]][-1:, 0].astype(np.int64) for row in rows]
            for row, written in zip(rows, keys.read(rows, last, at, [0] * len(rows), _likeliest), strict=True):
                made[ids[row]] = np.concatenate([made[ids[row]], written])
        shown = {id: written[: rooms[id]] for id, written in made.items()}
        return {id: Written(part[:, 0].astype(int).tolist(), float(part[:, 1].sum())) for id, part in shown.items()}

    def _goes_on(self, made: NDArray[np.float32], room: int) -> bool:
        return len(made) < room and int(made[-1, 0]) not in self._ends


def _as_far_as_agreed(said: NDArray[np.float32], draft: Tokens) -> NDArray[np.float32]:
    """The draft up to the first token that the student would not write, which is taken from the student."""
    same = said[:, 0] == draft
    return said[: len(said) if same.all() else int(np.argmin(same)) + 1]


def _likeliest(project: Any, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """The likeliest token (exact in float32 up to 2^24) and its NLL, shape (N, 2)."""
    logits_NV = project(hidden_ND).float()
    said_N = logits_NV.argmax(dim=-1)
    return torch.stack([said_N.float(), F.cross_entropy(logits_NV, said_N, reduction="none")], dim=-1)
