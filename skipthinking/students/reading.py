"""Texts that share contexts: a context is read once, and what may follow it is scored again and again.

Shape suffixes: B rows, C cached tokens (with holes), W tokens of a pass (right-padded).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipthinking.data.batches import collate
from skipthinking.records import Instance
from skipthinking.students.base import Student
from skipthinking.students.heads import nll_and_hit, target_scores

__all__ = ["CachedReader", "PlainReader", "Reader", "reader"]

Tokens = NDArray[np.int64]
Found = NDArray[np.float32]


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
    def score(self, rows: Sequence[int], texts: Sequence[Tokens], first: Sequence[int]) -> list[Found]:
        """What the student says of texts that may follow.

        Args:
            rows: Rows of contexts, each at most once.
            texts: A text for each, none empty.
            first: Where in each text the tokens begin that are asked for; at least one is.

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

    def score(self, rows: Sequence[int], texts: Sequence[Tokens], first: Sequence[int]) -> list[Found]:
        """One pass over contexts and texts."""
        asked = [self._instance(row, text, start) for row, text, start in zip(rows, texts, first, strict=True)]
        batch = collate(asked, pad_id=self.student.pad_id, encoder_decoder=self.student.encoder_decoder)
        moved: dict[str, Any] = {
            name: value.to(self.student.device) for name, value in batch._asdict().items() if torch.is_tensor(value)
        }
        found = self.student.token_scores(batch._replace(**moved)).cpu().numpy()
        return _parts(found, texts, first)

    def _instance(self, row: int, text: Tokens, start: int) -> Instance:
        context = self._contexts[row]
        weights = np.repeat(np.array([0, 1], dtype=np.float32), [len(context) + start, len(text) - start])
        return Instance(id=str(row), prompt=self._prompts[row], tokens=np.concatenate([context, text]), weights=weights)


class CachedReader(Reader):
    """Keeps keys and values of the contexts, for causal students that are told positions.

    The rows of a pass have different lengths, so the cache has holes behind the shorter ones: a mask hides them, and
    every row counts its own positions. A context's last token is read again with each text, because it predicts the
    first one.
    """

    def __init__(self, student: Student, prompts: Sequence[Tokens]) -> None:
        self.student = student
        self._unread = list(prompts)  # per row, the end of the context that is not cached yet; never empty
        self._seen = [0] * len(prompts)  # cached tokens per row
        self._there_BC = torch.zeros(len(prompts), 0, dtype=torch.bool)
        self._layers: list[tuple[Tensor, Tensor]] = []

    def grow(self, row: int, tokens: Tokens) -> None:
        """Appends tokens to a context; they are read with the next text."""
        self._unread[row] = np.concatenate([self._unread[row], tokens])

    def narrow(self, rows: Sequence[int]) -> None:
        """Forgets all rows but these."""
        self._unread, self._seen = [self._unread[row] for row in rows], [self._seen[row] for row in rows]
        self._layers, self._there_BC = self._of(rows)

    def _of(self, rows: Sequence[int]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        if list(rows) == list(range(len(self._there_BC))):
            return self._layers, self._there_BC
        index = torch.tensor(list(rows), dtype=torch.long)
        there = index.to(self.student.device)
        return [(keys[there], values[there]) for keys, values in self._layers], self._there_BC[index]

    def score(self, rows: Sequence[int], texts: Sequence[Tokens], first: Sequence[int]) -> list[Found]:
        """One pass over the texts and what is not cached yet, which then is; if all rows are asked."""
        layers, there_BC = self._of(rows)
        unread = [self._unread[row] for row in rows]
        shown = [np.concatenate([new, text[:-1]]) for new, text in zip(unread, texts, strict=True)]
        width = max(map(len, shown))
        ids_BW = torch.full((len(rows), width), self.student.pad_id)
        keep_BW = torch.zeros(len(rows), width, dtype=torch.bool)
        here_BW, cached_BW = keep_BW.clone(), keep_BW.clone()
        for i, (new, row) in enumerate(zip(unread, shown, strict=True)):
            ids_BW[i, : len(row)] = torch.from_numpy(row)
            keep_BW[i, len(new) - 1 + first[i] : len(row)] = True
            here_BW[i, : len(row)] = True
            cached_BW[i, : len(new) - 1] = True
        positions_BW = torch.tensor([self._seen[row] for row in rows])[:, None] + torch.arange(width)
        targets = torch.from_numpy(np.concatenate([text[start:] for text, start in zip(texts, first, strict=True)]))
        cache = _cache(layers)
        inputs = {
            "input_ids": ids_BW,
            "attention_mask": torch.cat([there_BC, here_BW], dim=1).long(),
            "position_ids": positions_BW.clamp(max=self.student.context_length - 1),
        }
        device = self.student.device
        moved = {name: value.to(device) for name, value in inputs.items()}
        found = target_scores(
            self.student.model, keep_BW.to(device), targets.to(device),
            {**moved, "past_key_values": cache, "use_cache": True}, nll_and_hit,
        )  # fmt: skip
        if len(rows) == len(self._unread):
            self._commit(cache, torch.cat([there_BC, cached_BW], dim=1), max(map(len, unread)) - 1)
        return _parts(found.cpu().numpy(), texts, first)

    def _commit(self, cache: Any, there: Tensor, width: int) -> None:
        end = self._there_BC.shape[1] + width
        self._layers = [(layer.keys[:, :, :end], layer.values[:, :, :end]) for layer in cache.layers]
        self._there_BC = there[:, :end]
        self._seen = [seen + len(new) - 1 for seen, new in zip(self._seen, self._unread, strict=True)]
        self._unread = [new[-1:] for new in self._unread]


def _cache(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for place, (keys, values) in enumerate(layers):
        cache.update(keys, values, place)
    return cache


def _parts(found: NDArray[Any], texts: Sequence[Tokens], first: Sequence[int]) -> list[Found]:
    lengths = [len(text) - start for text, start in zip(texts, first, strict=True)]
    return np.split(found, np.cumsum(lengths)[:-1])


def reader(student: Student, prompts: Sequence[Tokens], longest: int) -> Reader:
    """The reader that fits a student.

    Args:
        student: Who reads; its weights are there.
        prompts: Where the contexts begin.
        longest: Bound of a row's tokens and holes. A student whose attention slides over a shorter window, or that
            cannot be told positions, reads everything each time, and so does an encoder-decoder.
    """
    config = student.config.get_text_config(decoder=True)
    model = student.model.get_base_model() if student.lora else student.model
    told = "position_ids" in inspect.signature(model.forward).parameters and not student.encoder_decoder
    known = set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    window = getattr(config, "sliding_window", None)
    fits = told and known and (window is None or window > longest)
    return CachedReader(student, prompts) if fits else PlainReader(student, prompts)
