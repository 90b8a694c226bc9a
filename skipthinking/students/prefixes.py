"""Texts whose prefixes are gone on from again and again: each text is read once.

Shape suffixes: B rows, C tokens of the texts (right-padded), W tokens of a pass (right-padded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipthinking.students.base import Student
from skipthinking.students.heads import target_scores
from skipthinking.students.reading import Cache, dynamic

__all__ = ["Prefixes"]

Tokens = NDArray[np.int64]


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
        empty = Cache([], torch.zeros(len(lines), 0, dtype=torch.bool, device=student.device))
        _, self._cache = self._read(empty, lines, [0] * len(lines), [len(line) for line in lines])

    def complete(
        self,
        lengths: Mapping[str, int],
        begun: Mapping[str, Tokens],
        drafts: Mapping[str, Tokens],
        max_new_tokens: Mapping[str, int],
    ) -> dict[str, list[int]]:
        """What the student writes greedily behind a prefix of each text and what is begun behind that.

        One pass scores the drafts; what disagrees with its draft is written on from there. It is what
        :func:`skipthinking.annotate.rollout.complete` gives, to rounding.

        Args:
            lengths: Tokens of each prefix, at least 1.
            begun: Tokens that are given behind it.
            drafts: What may follow, EOS included; never empty.
            max_new_tokens: Most tokens behind those begun.

        Returns:
            The tokens behind those begun, up to and including EOS.
        """
        ids = list(lengths)
        # A prefix's last token is read again, because it predicts the first one behind it.
        before = [lengths[id] - 1 for id in ids]
        lines = [
            np.concatenate([self._texts[id][at : at + 1], begun[id], drafts[id][:-1]])
            for id, at in zip(ids, before, strict=True)
        ]
        cache = self._cache.of([self._place[id] for id in ids]).shortened(before)
        columns = cache.there_BC.shape[1]
        said, cache = self._read(cache, lines, before, [len(begun[id]) for id in ids])
        made = {id: _as_far_as_agreed(tokens, drafts[id]) for id, tokens in zip(ids, said, strict=True)}
        # What was read of a draft behind the first disagreement was not written.
        cache = cache.shortened([columns + len(begun[id]) + len(made[id]) for id in ids])
        rooms = {id: min(max_new_tokens[id], self.student.context_length - lengths[id] - len(begun[id])) for id in ids}
        rows = list(range(len(ids)))
        while on := [place for place, row in enumerate(rows) if self._goes_on(made[ids[row]], rooms[ids[row]])]:
            rows, cache = [rows[place] for place in on], cache.of(on)
            last = [np.array(made[ids[row]][-1:]) for row in rows]
            seen = [before[row] + len(begun[ids[row]]) + len(made[ids[row]]) for row in rows]
            said, cache = self._read(cache, last, seen, [0] * len(rows))
            for row, tokens in zip(rows, said, strict=True):
                made[ids[row]] += tokens.tolist()
        return {id: tokens[: rooms[id]] for id, tokens in made.items()}

    def _goes_on(self, made: list[int], room: int) -> bool:
        return len(made) < room and made[-1] not in self._ends

    def _read(
        self, cache: Cache, lines: Sequence[Tokens], seen: Sequence[int], first: Sequence[int]
    ) -> tuple[list[Tokens], Cache]:
        """One pass over new tokens: the likeliest one behind each from ``first`` on, and the cache with all of them."""
        device, width = self.student.device, max(map(len, lines))
        ids_BW = torch.full((len(lines), width), self.student.pad_id)
        for row, line in enumerate(lines):
            ids_BW[row, : len(line)] = torch.from_numpy(line)
        place_W = torch.arange(width, device=device)
        here_BW = place_W < torch.tensor([len(line) for line in lines], device=device)[:, None]
        keep_BW = here_BW & (place_W >= torch.tensor(first, device=device)[:, None])
        positions_BW = torch.tensor(seen, device=device)[:, None] + place_W
        there_BC = torch.cat([cache.there_BC, here_BW], dim=1)
        grown = dynamic(cache.layers)
        inputs = {
            "input_ids": ids_BW.to(device),
            "attention_mask": there_BC.long(),
            "position_ids": positions_BW.clamp(max=self.student.context_length - 1),
            "past_key_values": grown,
            "use_cache": True,
        }
        nothing_N = torch.zeros(int(keep_BW.sum()), dtype=torch.long, device=device)
        said = target_scores(self.student.model, keep_BW, nothing_N, inputs, _likeliest).cpu().numpy()
        ends = np.cumsum([len(line) - start for line, start in zip(lines, first, strict=True)])
        return np.split(said, ends[:-1]), Cache([(layer.keys, layer.values) for layer in grown.layers], there_BC)


def _as_far_as_agreed(said: Tokens, draft: Tokens) -> list[int]:
    """The draft up to the first token that the student would not write, which is taken from the student."""
    same = said == draft
    return said[: len(said) if same.all() else int(np.argmin(same)) + 1].tolist()


def _likeliest(project: Any, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    return project(hidden_ND).float().argmax(dim=-1)
