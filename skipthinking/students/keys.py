"""Keys and values that stand where their tokens stand: token t of a row in column t, whatever the other rows hold.

A pass writes those of its tokens over what was there, and a token sees the columns up to its own. So a row can go back
to any of its tokens and on from there with others, and rows need not be at the same token. While a pass has all rows,
nothing is copied; of fewer, those are.

Shape suffixes: B rows, C columns, W tokens of a pass (right-padded), H heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache

from skipthinking.students.base import Student
from skipthinking.students.heads import Score, target_scores

__all__ = ["Keys"]

Tokens = NDArray[np.int64]


class Keys(Cache):
    """Keys and values of rows of tokens, as a causal model of transformers takes them and adds to them.

    For the students of :func:`skipthinking.students.reading.keeps_keys`. Use it with the student frozen.

    Args:
        student: Who reads.
        rows: Number of rows.
        columns: Tokens that a row has room for.
    """

    def __init__(self, student: Student, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.student, self.rows, self.columns = student, rows, columns
        # By layer, (B, C + 1, H, D) each; padding is written into the last column, which nobody sees.
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows_B: Tensor | None = None  # of the pass; None for all
        self._places_BW = torch.empty(0)
        self._reach = 0

    def of(self, rows: Sequence[int], columns: int | None = None) -> Keys:
        """A copy of these rows, with room for as many tokens or for more."""
        found = Keys(self.student, len(rows), max(columns or 0, self.columns))
        index_B, more = torch.tensor(list(rows), device=self.student.device), found.columns - self.columns
        found._kept = {
            layer: (_chosen(keys, index_B, more), _chosen(values, index_B, more))
            for layer, (keys, values) in self._kept.items()
        }
        return found

    def read(
        self,
        rows: Sequence[int],
        lines: Sequence[Tokens],
        at: Sequence[int],
        first: Sequence[int],
        score: Score,
        targets: Tokens | None = None,
    ) -> list[NDArray[Any]]:
        """One pass over tokens of some rows.

        Args:
            rows: Which rows, ascending.
            lines: The tokens of each.
            at: Where they stand: a row's tokens before that have been read.
            first: From which of its new tokens on a row is scored; none of them if there are fewer.
            score: Of the logits at these tokens, see :func:`skipthinking.students.heads.target_scores`.
            targets: What it is asked of them, of all rows one behind the other; nothing by default.

        Returns:
            Scores of each row's tokens.
        """
        student, device, width = self.student, self.student.device, max(map(len, lines))
        ids_BW = torch.full((len(lines), width), student.pad_id)
        for row, line in enumerate(lines):
            ids_BW[row, : len(line)] = torch.from_numpy(line)
        sizes_B = torch.tensor([len(line) for line in lines])
        place_W, at_B = torch.arange(width), torch.tensor(at)
        here_BW = place_W < sizes_B[:, None]
        keep_BW = here_BW & (place_W >= torch.tensor(first)[:, None])
        positions_BW = torch.minimum(at_B[:, None] + place_W, (at_B + sizes_B)[:, None] - 1)
        self._reach = int((at_B + sizes_B).max())
        self._places_BW = positions_BW.where(here_BW, self.columns).to(device)
        positions_BW = positions_BW.to(device)
        self._rows_B = None if len(rows) == self.rows else torch.tensor(rows, device=device)
        inputs = {
            "input_ids": ids_BW.to(device),
            "attention_mask": self._mask(positions_BW) if any(at) else None,  # else it is plainly causal
            "position_ids": positions_BW,
            "past_key_values": self,
            "use_cache": True,
        }
        if hasattr(student.model.config, "output_router_logits"):
            inputs["output_router_logits"] = False  # their loss, which nobody asks for, reads the mask otherwise
        lengths = [max(0, len(line) - start) for line, start in zip(lines, first, strict=True)]
        asked = np.zeros(sum(lengths), dtype=np.int64) if targets is None else targets
        scores = target_scores(student.model, keep_BW.to(device), torch.from_numpy(asked).to(device), inputs, score)
        return np.split(scores.cpu().numpy(), np.cumsum(lengths)[:-1])

    def _mask(self, positions_BW: Tensor) -> Tensor:
        """Each token sees the columns up to its own, (B, 1, W, C)."""
        unseen_BWC = torch.arange(self._reach, device=positions_BW.device) > positions_BW[..., None]
        dtype = self.student.model.dtype
        return torch.zeros_like(unseen_BWC, dtype=dtype).masked_fill_(unseen_BWC, -torch.inf)[:, None]

    # ------------------------------------------------------------------------- what a model asks of it

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes those of a pass, (B, H, W, D); gives those of its rows up to the last token, (B, H, C, D)."""
        if layer_idx not in self._kept:
            self._kept[layer_idx] = self._room(key_states), self._room(value_states)
        keys, values = self._kept[layer_idx]
        return self._written(keys, key_states), self._written(values, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before those of the pass, if all rows were at the same token."""
        return self._reach - self._places_BW.shape[-1]

    def _room(self, states: Tensor) -> Tensor:
        return states.new_zeros(self.rows, self.columns + 1, states.shape[1], states.shape[3])

    def _written(self, kept: Tensor, states: Tensor) -> Tensor:
        rows_B = torch.arange(self.rows, device=kept.device) if self._rows_B is None else self._rows_B
        kept[rows_B[:, None], self._places_BW] = states.transpose(1, 2)
        shown = kept[:, : self._reach]
        return (shown if self._rows_B is None else shown.index_select(0, rows_B)).transpose(1, 2)


def _chosen(kept: Tensor, rows_B: Tensor, more: int) -> Tensor:
    """Some rows, with more columns behind."""
    chosen = kept.index_select(0, rows_B)
    return torch.nn.functional.pad(chosen, (0, 0, 0, 0, 0, more)) if more else chosen
