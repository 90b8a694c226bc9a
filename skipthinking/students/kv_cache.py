"""Position-aligned KV cache: token t of every row is stored in column t.

A pass writes the keys and values of its tokens over what was stored there, and a token sees the columns up to its own.
So a row can return to any of its tokens and continue from there with others, and rows need not be at the same token.
A pass over consecutive rows copies nothing; a pass over other rows copies the columns that these rows see.

Shape suffixes: B rows, C columns, W tokens of a pass (right-padded), H heads, D size of a head, N scored tokens, K
numbers per token.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache

from skipthinking.annotate.runner import say
from skipthinking.students.heads import measure_targets
from skipthinking.students.measures import Measure

__all__ = ["KVCache", "say_without_cache", "why_no_cache"]

Tokens = NDArray[np.int64]

_REPORTED: set[str] = set()


def why_no_cache(student: Any, longest: int) -> str:
    """Why keys and values that a student has computed do not stay valid for all that follows; empty if they do.

    They do for a causal student that takes position ids and custom masks (models on transformers' attention interface
    do, with sdpa or eager). They do not if it is an encoder used as a decoder (some count positions differently), if
    its attention slides over a window shorter than a row, or if its rotary embedding depends on the length of a pass.

    Args:
        student: The student, built.
        longest: Most tokens of a row.
    """
    config = student.config.get_text_config(decoder=True)
    model = student.model.get_base_model() if student.lora else student.model
    window = getattr(config, "sliding_window", None)
    if student.encoder_decoder or getattr(config, "is_decoder", False):
        return "it is an encoder-decoder model, or an encoder used as a decoder"
    if not model.is_backend_compatible() or model.config._attn_implementation not in ("sdpa", "eager"):
        own = model.config._attn_implementation
        return f"its attention ({own}) takes no custom masks; model.student.init_args.attention: sdpa does"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "it takes no position ids"
    if not set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
        return "it has layers without attention"
    if window and window <= longest:
        return f"its attention slides over {window:,} tokens, fewer than the {longest:,} of a row"
    if _rotation_changes(config, longest):
        return f"its rotary embedding depends on the length of a pass for rows as long as here ({longest:,} tokens)"
    return ""


def say_without_cache(what: str, why: str) -> None:
    """Prints once per process that some work does without a KV cache, and why."""
    if what not in _REPORTED:
        _REPORTED.add(what)
        say(f"note: {what}, because the student cannot use the KV cache of searches: {why}")


def _rotation_changes(config: Any, longest: int) -> bool:
    """Whether a pass beyond some length rotates its keys differently from a shorter one."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one per kind of layer
    for kind in kinds:
        bound = kind.get("original_max_position_embeddings") or config.max_position_embeddings
        if kind.get("rope_type") in ("longrope", "dynamic") and longest > bound:
            return True
    return False


class KVCache(Cache):
    """Keys and values of rows of tokens, in the form that a causal model of transformers reads and extends.

    For students without a reason in :func:`why_no_cache`, with their weights frozen.

    Args:
        student: The student.
        rows: Number of rows.
        columns: Most tokens of a row.
    """

    def __init__(self, student: Any, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.student, self.rows, self.columns = student, rows, columns
        # Per layer, (B, C + 1, H, D) each; padding is written into the last column, which no token sees.
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        # Of the current pass: its rows, as a slice if they are consecutive, so that nothing is copied; the same rows
        # and the column of each token as indices; the columns that its tokens see.
        self._rows: slice | None = None
        self._rows_B1 = self._columns_BW = torch.empty(0)
        self._seen = 0

    def select(self, rows: Sequence[int], columns: int | None = None) -> KVCache:
        """A copy of some rows, with as many columns, fewer or more."""
        copy = KVCache(self.student, len(rows), self.columns if columns is None else columns)
        index_B = torch.tensor(list(rows), device=self.student.device)
        copy._stored = {
            layer: (_select(keys, index_B, copy.columns), _select(values, index_B, copy.columns))
            for layer, (keys, values) in self._stored.items()
        }
        return copy

    def resize(self, rows: int, columns: int, used: int) -> None:
        """Changes the number of rows and columns, one layer at a time.

        Args:
            rows: Number of rows.
            columns: Most tokens of a row.
            used: The first rows, whose keys and values are kept.
        """
        for layer, stored in self._stored.items():
            kept = [states.new_zeros(rows, columns + 1, *states.shape[2:]) for states in stored]
            width = min(columns, self.columns)
            for new, old in zip(kept, stored, strict=True):
                new[:used, :width] = old[:used, :width]
            self._stored[layer] = kept[0], kept[1]
        self.rows, self.columns = rows, columns

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a row to another row."""
        for stored in self._stored.values():
            for states in stored:
                states[target, :tokens] = states[source, :tokens]

    def step(self, tokens_B: Tensor, at_B: Tensor, seen: int) -> Tensor:
        """Reads one more token of each of the first B rows; returns the logits of the token after it, (B, V).

        Args:
            tokens_B: The tokens, on the student's device.
            at_B: Their columns, on the student's device.
            seen: The largest of these columns, plus one.
        """
        self._enter(range(len(at_B)), at_B[:, None], seen)
        logits_B1V: Tensor = self.student.model(**self._inputs(tokens_B[:, None], at_B[:, None], masked=True)).logits
        return logits_B1V[:, -1]

    def read(
        self,
        rows: Sequence[int],
        texts: Sequence[Tokens],
        at: Sequence[int],
        first: Sequence[int],
        measure: Measure,
        targets: Tokens | None = None,
    ) -> list[NDArray[np.float32]]:
        """Runs one pass over new tokens of some rows and stores their keys and values.

        Args:
            rows: Which rows, ascending.
            texts: New tokens of each row.
            at: Column of each text's first token; the columns before it must have been read.
            first: Per text, the first token whose prediction is measured; none if the text is not longer.
            measure: See :mod:`skipthinking.students.measures`.
            targets: Tokens that the measured predictions are compared with, all rows concatenated; by default token 0,
                for measures that ignore them.

        Returns:
            Per text the measures of its predictions, shape (N, K).
        """
        lengths = [max(0, len(text) - start) for text, start in zip(texts, first, strict=True)]
        measured = self.measure(rows, texts, at, first, measure, targets)
        return np.split(measured.cpu().numpy(), np.cumsum(lengths)[:-1])

    def measure(
        self,
        rows: Sequence[int],
        texts: Sequence[Tokens],
        at: Sequence[int],
        first: Sequence[int],
        measure: Measure,
        targets: Tokens | None = None,
    ) -> Tensor:
        """As :meth:`read`, but leaves the measures of all texts, one after the other, on the device, shape (N, K)."""
        student, device, width = self.student, self.student.device, max(map(len, texts))
        ids_BW = torch.full((len(texts), width), student.pad_id)
        for row, text in enumerate(texts):
            ids_BW[row, : len(text)] = torch.from_numpy(text)
        sizes_B = torch.tensor([len(text) for text in texts])
        offset_W, at_B = torch.arange(width), torch.tensor(at)
        real_BW = offset_W < sizes_B[:, None]
        keep_BW = real_BW & (offset_W >= torch.tensor(first)[:, None])
        positions_BW = torch.minimum(at_B[:, None] + offset_W, (at_B + sizes_B)[:, None] - 1)
        self._enter(rows, positions_BW.where(real_BW, self.columns).to(device), int((at_B + sizes_B).max()))
        inputs = self._inputs(ids_BW.to(device), positions_BW.to(device), masked=any(at))
        places_N = keep_BW.flatten().nonzero()[:, 0]
        targets = np.zeros(len(places_N), dtype=np.int64) if targets is None else targets
        targets_N = torch.from_numpy(targets).to(device)
        return measure_targets(student.model, places_N.to(device), targets_N, inputs, measure)

    def _enter(self, rows: Sequence[int], columns_BW: Tensor, seen: int) -> None:
        """Prepares a pass over tokens of some rows that are stored in these columns."""
        start, end, device = rows[0], rows[0] + len(rows), columns_BW.device
        consecutive = rows == range(start, end) or list(rows) == list(range(start, end))
        self._rows = slice(start, end) if consecutive else None
        rows_B = torch.arange(start, end, device=device) if consecutive else torch.tensor(rows, device=device)
        self._rows_B1 = rows_B[:, None]
        self._columns_BW, self._seen = columns_BW, seen

    def _inputs(self, ids_BW: Tensor, positions_BW: Tensor, masked: bool) -> dict[str, Any]:
        inputs = {
            "input_ids": ids_BW,
            "attention_mask": self._mask(positions_BW) if masked else None,  # None: the model's own causal mask
            "position_ids": positions_BW,
            "past_key_values": self,
            "use_cache": True,
        }
        if hasattr(self.student.model.config, "output_router_logits"):
            inputs["output_router_logits"] = False  # the routers' loss, unused here, can't read a mask of 4 dimensions
        return inputs

    def _mask(self, positions_BW: Tensor) -> Tensor:
        """Additive mask (B, 1, W, C): each token sees the columns up to its own."""
        hidden_BWC = torch.arange(self._seen, device=positions_BW.device) > positions_BW[..., None]
        dtype = self.student.model.dtype
        return torch.zeros_like(hidden_BWC, dtype=dtype).masked_fill_(hidden_BWC, -torch.inf)[:, None]

    # ------------------------------------------------------------------------- called by the model

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores the keys and values of a pass, (B, H, W, D); returns all that its tokens may see, (B, H, C, D)."""
        if layer_idx not in self._stored:
            self._stored[layer_idx] = self._empty(key_states), self._empty(value_states)
        keys, values = self._stored[layer_idx]
        return self._store(keys, key_states), self._store(values, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before those of the pass, as if all rows were at the same token."""
        return self._seen - self._columns_BW.shape[-1]

    def _empty(self, states: Tensor) -> Tensor:
        return states.new_zeros(self.rows, self.columns + 1, states.shape[1], states.shape[3])

    def _store(self, stored: Tensor, states: Tensor) -> Tensor:
        stored[self._rows_B1, self._columns_BW] = states.transpose(1, 2)
        if self._rows is not None:
            return stored[self._rows, : self._seen].transpose(1, 2)
        return stored[:, : self._seen].index_select(0, self._rows_B1[:, 0]).transpose(1, 2)


def _select(stored: Tensor, rows_B: Tensor, columns: int) -> Tensor:
    selected = stored[:, : columns + 1].index_select(0, rows_B)
    more = columns + 1 - selected.shape[1]
    return torch.nn.functional.pad(selected, (0, 0, 0, 0, 0, more)) if more else selected
