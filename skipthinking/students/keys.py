"""Keys and values that stand where their tokens stand: token t of a row in column t, whatever the other rows hold.

A pass writes those of its tokens over what was there, and a token sees the columns up to its own. So a row can go back
to any of its tokens and on from there with others, and nothing is copied that has not changed. Rows need not be at the
same token, nor do they read equally many: a pass takes their tokens one behind the other, as one line without padding,
and only attention, which needs no weights, lays them out by row.

Shape suffixes: B rows, C columns, N tokens of a pass, W most of them in a row, H heads, D size of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from skipthinking.students.base import Student
from skipthinking.students.heads import Score, target_scores

__all__ = ["Keys", "written_out"]

Tokens = NDArray[np.int64]

_BY_ROW = "skipthinking_by_row"  # the attention of our passes, among those of transformers


@dataclass(frozen=True, eq=False)
class _Pass:
    """Where the tokens of a pass belong.

    Attributes:
        attention: The student's own, "sdpa" or "eager".
        rows_B: The rows; None for all.
        slots_N: Where each token is kept, among those of all rows one behind the other.
        cells_N: Where it stands among those of the pass by row, (B, W).
        tokens_BW: The other way round; a row with fewer tokens repeats its last.
        reach: Columns that there are to see.
        mask: Is added to the logits of attention, (B, 1, W, C); None where each row sees what it reads, as it reads it.
    """

    attention: str
    rows_B: Tensor | None
    slots_N: Tensor
    cells_N: Tensor
    tokens_BW: Tensor
    reach: int
    mask: Tensor | None

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        """Queries (1, H, N, D) see keys and values (B, H, C, D) of their rows; gives (1, N, H, D)."""
        attend = sdpa_attention_forward if self.attention == "sdpa" else written_out(module)
        query_BWHD = (
            query[0].transpose(0, 1).index_select(0, self.tokens_BW.flatten()).unflatten(0, self.tokens_BW.shape)
        )
        found, _ = attend(module, query_BWHD.transpose(1, 2), key, value, self.mask, **kwargs)
        return found.flatten(0, 1).index_select(0, self.cells_N)[None]


class Keys(Cache):
    """Keys and values of rows of tokens, as a causal model of transformers takes them and adds to them.

    For the students of :func:`skipthinking.students.reading.keeps_keys`. Use it with the student frozen.

    Args:
        student: Who reads.
        rows: Number of rows.
        columns: Tokens that a row has room for.
    """

    _pass: _Pass  # that is going on

    def __init__(self, student: Student, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.student, self.rows, self.columns = student, rows, columns
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, (B, C, H, D) each

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
            lines: The tokens of each, at least one.
            at: Where they stand: a row's tokens before that have been read.
            first: From which of its new tokens on a row is scored; none of them if there are fewer.
            score: Of the logits at these tokens, see :func:`skipthinking.students.heads.target_scores`.
            targets: What it is asked of them, of all rows one behind the other; nothing by default.

        Returns:
            Scores of each row's tokens.
        """
        student, device, config = self.student, self.student.device, self.student.model.config
        sizes = [len(line) for line in lines]
        places = [np.arange(size) for size in sizes]
        columns = [start + place_W for start, place_W in zip(at, places, strict=True)]
        slots = [row * self.columns + column_W for row, column_W in zip(rows, columns, strict=True)]
        cells = [row * max(sizes) + place_W for row, place_W in enumerate(places)]
        told = np.stack([np.concatenate(parts) for parts in (lines, columns, slots, cells)])
        ids_N, columns_N, slots_N, cells_N = torch.from_numpy(told).to(device)
        ends_B = np.cumsum(sizes)
        tokens_BW = np.minimum((ends_B - sizes)[:, None] + np.arange(max(sizes)), ends_B[:, None] - 1)
        index_BW, reach, attention = (
            torch.from_numpy(tokens_BW).to(device),
            int(told[1].max()) + 1,
            config._attn_implementation,
        )
        # sdpa needs no mask where all begin at their beginnings
        causal = attention == "sdpa" and not any(at)
        self._pass = _Pass(
            attention=attention,
            rows_B=None if len(rows) == self.rows else torch.tensor(rows, device=device),
            slots_N=slots_N,
            cells_N=cells_N,
            tokens_BW=index_BW,
            reach=reach,
            mask=None if causal else _mask(columns_N[index_BW], reach, student.model.dtype),
        )
        inputs = {
            "input_ids": ids_N[None],
            "position_ids": columns_N[None],
            "past_key_values": self,
            "use_cache": True,
            "by_row": self._pass,
        }
        if hasattr(config, "output_router_logits"):
            inputs["output_router_logits"] = False  # their loss, which nobody asks for, reads the mask otherwise
        keep = np.concatenate([place_W >= start for place_W, start in zip(places, first, strict=True)])
        lengths = [max(0, size - start) for size, start in zip(sizes, first, strict=True)]
        asked = np.zeros(sum(lengths), dtype=np.int64) if targets is None else targets
        keep_1N, asked_N = (torch.from_numpy(told).to(device) for told in (keep[None], asked))
        config._attn_implementation = _BY_ROW
        try:
            scores = target_scores(student.model, keep_1N, asked_N, inputs, score)
        finally:
            config._attn_implementation = self._pass.attention
        return np.split(scores.cpu().numpy(), np.cumsum(lengths)[:-1])

    # ------------------------------------------------------------------------- what a model asks of it

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes those of a pass, (1, H, N, D); gives those of its rows up to the last token, (B, H, C, D)."""
        if layer_idx not in self._kept:
            self._kept[layer_idx] = self._room(key_states), self._room(value_states)
        keys, values = self._kept[layer_idx]
        return self._written(keys, key_states), self._written(values, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before those of the pass, if all rows were at the same token."""
        return self._pass.reach - self._pass.tokens_BW.shape[1]

    def _room(self, states: Tensor) -> Tensor:
        return states.new_zeros(self.rows, self.columns, states.shape[1], states.shape[3])

    def _written(self, kept: Tensor, states: Tensor) -> Tensor:
        kept.flatten(0, 1).index_copy_(0, self._pass.slots_N, states[0].transpose(0, 1))
        shown, rows_B = kept[:, : self._pass.reach], self._pass.rows_B
        return (shown if rows_B is None else shown.index_select(0, rows_B)).transpose(1, 2)


def written_out(module: nn.Module) -> Any:
    """The attention that an architecture has written out in the file of its layers, "eager"; None if there is none."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


def _by_row(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *, by_row: _Pass, **kwargs: Any
) -> tuple[Tensor, None]:
    return by_row.attend(module, query, key, value, **kwargs), None


AttentionInterface.register(_BY_ROW, _by_row)


def _mask(columns_BW: Tensor, reach: int, dtype: torch.dtype) -> Tensor:
    """Each token sees the columns up to its own."""
    hidden_BWC = torch.arange(reach, device=columns_BW.device) > columns_BW[..., None]
    floor = torch.full((), -torch.inf, dtype=dtype, device=columns_BW.device)
    return torch.where(hidden_BWC, floor, 0)[:, None]


def _chosen(kept: Tensor, rows_B: Tensor, more: int) -> Tensor:
    """Some rows, with more columns behind."""
    chosen = kept[rows_B]
    return torch.nn.functional.pad(chosen, (0, 0, 0, 0, 0, more)) if more else chosen
