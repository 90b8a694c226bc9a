"""Texts that share contexts: a context is read once, and what may follow it is scored again and again.

Shape suffixes: B rows, C cached tokens (with holes), W tokens of a pass (right-padded).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipthinking.data.batches import collate
from skipthinking.data.cutting import instance
from skipthinking.records import Instance
from skipthinking.students.base import Student
from skipthinking.students.heads import Score, nll_and_hit, target_scores

__all__ = ["Cache", "CachedReader", "PlainReader", "Reader", "keeps_keys", "read_on", "reader"]

Tokens = NDArray[np.int64]
Found = NDArray[np.float32]
Enough = Callable[[int, Found], bool]

_PIECE = 96  # tokens of a text that are read between two questions whether to go on
_PASS = {"cpu": 256}  # tokens that cost as much time as another pass: as much padding is worth it
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
        found = self.student.token_scores(batch.to(self.student.device)).cpu().numpy()
        return _parts(found, [len(text) - start for text, start in zip(texts, first, strict=True)])

    def _instance(self, row: int, text: Tokens, start: int) -> Instance:
        return instance(str(row), self._prompts[row], [self._contexts[row], text[:start], text[start:]], {2})


class Cache(NamedTuple):
    """Keys and values per layer, and which columns of a row hold a token."""

    layers: list[tuple[Tensor, Tensor]]
    there_BC: Tensor

    def of(self, rows: Sequence[int]) -> Cache:
        """Of these rows alone."""
        if list(rows) == list(range(len(self.there_BC))):
            return self
        index_B = torch.tensor(list(rows), dtype=torch.long, device=self.there_BC.device)
        return Cache([(keys[index_B], values[index_B]) for keys, values in self.layers], self.there_BC[index_B])

    def shortened(self, columns: Sequence[int]) -> Cache:
        """Hides what is behind so many columns of each row."""
        columns_B = torch.tensor(columns, device=self.there_BC.device)
        place_C = torch.arange(self.there_BC.shape[1], device=self.there_BC.device)
        return self._replace(there_BC=self.there_BC & (place_C < columns_B[:, None]))

    def until(self, column: int) -> Cache:
        """Without the columns from this one on."""
        return Cache([(k[:, :, :column], v[:, :, :column]) for k, v in self.layers], self.there_BC[:, :column])


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
        self._cache = Cache([], torch.zeros(len(prompts), 0, dtype=torch.bool, device=student.device))

    def grow(self, row: int, tokens: Tokens) -> None:
        """Appends tokens to a context; they are read with the next text."""
        self._unread[row] = np.concatenate([self._unread[row], tokens])

    def narrow(self, rows: Sequence[int]) -> None:
        """Forgets all rows but these."""
        self._unread, self._seen = [self._unread[row] for row in rows], [self._seen[row] for row in rows]
        self._cache = self._cache.of(rows)

    def score(self, texts: Sequence[Tokens], first: Sequence[int], enough: Enough | None = None) -> list[Found]:
        """Reads in pieces that end where rows end, so that little is padding and a row can stop where it is enough."""
        lines = [np.concatenate([new, text]) for new, text in zip(self._unread, texts, strict=True)]
        begin = [len(new) - 1 + start for new, start in zip(self._unread, first, strict=True)]
        found = [np.empty((0, 2), dtype=np.float32) for _ in texts]
        least = max(map(len, self._unread)) - 1  # of the first pass: contexts are kept from it
        rows, cache, at, seen = list(range(len(texts))), self._cache, 0, self._seen
        while rows:
            left, most = [len(lines[row]) - 1 - at for row in rows], least + _PIECE if enough else None
            width = _width(left, least, most, _PASS.get(self.student.device.type, _PASS_ELSEWHERE))
            shown = [lines[row][at : min(at + width, len(lines[row]) - 1)] for row in rows]
            asked = [range(max(at, begin[row]), at + len(part)) for row, part in zip(rows, shown, strict=True)]
            targets = [lines[row][place.start + 1 : place.stop + 1] for row, place in zip(rows, asked, strict=True)]
            scores, cache = read_on(
                self.student, cache, shown, [seen[row] + at for row in rows],
                [place.start - at for place in asked], nll_and_hit, np.concatenate(targets),
            )  # fmt: skip
            for row, part in zip(rows, scores, strict=True):
                found[row] = np.concatenate([found[row], part])
            if at == 0:
                self._commit(cache)
            at, least = at + width, 0
            on = [i for i, row in enumerate(rows)
                  if at < len(lines[row]) - 1 and not (enough and enough(row, found[row]))]  # fmt: skip
            rows, cache = [rows[i] for i in on], cache.of(on)
        return found

    def _commit(self, cache: Cache) -> None:
        """Keeps what was unread, but for the last token of each row."""
        new = [len(part) - 1 for part in self._unread]
        before = self._cache.there_BC
        own_BC = torch.arange(max(new)) < torch.tensor(new)[:, None]
        grown = cache.until(before.shape[1] + max(new))
        self._cache = grown._replace(there_BC=torch.cat([before, own_BC.to(before.device)], dim=1))
        self._seen = [seen + count for seen, count in zip(self._seen, new, strict=True)]
        self._unread = [part[-1:] for part in self._unread]


def _width(left: Sequence[int], least: int, most: int | None, worth: int) -> int:
    """Columns of a pass over rows with so many tokens left: to the end of as many of them as padding allows."""
    ends_B = np.sort(left)
    padding_B = np.arange(len(ends_B)) * ends_B - (np.cumsum(ends_B) - ends_B)  # of a pass to that end
    width = int(ends_B[padding_B <= worth].max())
    return max(least, width if most is None else min(width, most))


def read_on(
    student: Student,
    cache: Cache,
    lines: Sequence[Tokens],
    seen: Sequence[int],
    first: Sequence[int],
    score: Score,
    targets: Tokens | None = None,
) -> tuple[list[NDArray[Any]], Cache]:
    """One pass over new tokens behind what is cached.

    Args:
        student: Who reads, frozen.
        cache: What each row has read.
        lines: The new tokens of each row.
        seen: How many each row has read before, holes not counted.
        first: From which of its new tokens on a row is scored; none of them if there are fewer.
        score: Of the logits at these tokens, see :func:`skipthinking.students.heads.target_scores`.
        targets: What it is asked of them, of all rows one behind the other; nothing by default.

    Returns:
        Scores of each row's tokens, and the cache with all of the new ones.
    """
    device, width = student.device, max(map(len, lines))
    ids_BW = torch.full((len(lines), width), student.pad_id)
    for row, line in enumerate(lines):
        ids_BW[row, : len(line)] = torch.from_numpy(line)
    place_W = torch.arange(width, device=device)
    here_BW = place_W < torch.tensor([len(line) for line in lines], device=device)[:, None]
    keep_BW = here_BW & (place_W >= torch.tensor(first, device=device)[:, None])
    positions_BW = torch.tensor(seen, device=device)[:, None] + place_W
    there_BC = torch.cat([cache.there_BC, here_BW], dim=1)
    grown = _dynamic(cache.layers)
    inputs = {
        "input_ids": ids_BW.to(device),
        "attention_mask": there_BC.long(),
        "position_ids": positions_BW.clamp(max=student.context_length - 1),
        "past_key_values": grown,
        "use_cache": True,
    }
    lengths = [max(0, len(line) - start) for line, start in zip(lines, first, strict=True)]
    targets_N = torch.from_numpy(np.zeros(sum(lengths), dtype=np.int64) if targets is None else targets).to(device)
    scores = target_scores(student.model, keep_BW, targets_N, inputs, score).cpu().numpy()
    return _parts(scores, lengths), Cache([(layer.keys, layer.values) for layer in grown.layers], there_BC)


def _dynamic(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """Keys and values as a model takes them; it leaves the ones given as they are."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for place, (keys, values) in enumerate(layers):
        cache.update(keys, values, place)
    return cache


def _parts(found: NDArray[Any], lengths: Sequence[int]) -> list[Found]:
    return np.split(found, np.cumsum(lengths)[:-1])


def keeps_keys(student: Student, longest: int) -> bool:
    """Whether keys and values that a student has computed serve for all that follows.

    They do for a causal one that is told positions, unless its attention slides over a window shorter than a row, or
    its rotation depends on how far a pass reaches.

    Args:
        student: Who reads; its weights are there.
        longest: Bound of a row's tokens and holes.
    """
    config = student.config.get_text_config(decoder=True)
    model = student.model.get_base_model() if student.lora else student.model
    told = "position_ids" in inspect.signature(model.forward).parameters and not student.encoder_decoder
    known = set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)  # the latter: GPT-Neo
    return told and known and (window is None or window > longest) and not _turns(config, longest)


def _turns(config: Any, longest: int) -> bool:
    """Whether keys of a pass beyond some length are rotated otherwise than those of a shorter one."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # per kind of layer
    for kind in kinds:
        bound = kind.get("original_max_position_embeddings") or config.max_position_embeddings
        if kind.get("rope_type") in ("longrope", "dynamic") and longest > bound:
            return True
    return False


def reader(student: Student, prompts: Sequence[Tokens], longest: int) -> Reader:
    """The reader that fits a student; see :func:`keeps_keys`.

    Args:
        student: Who reads; its weights are there.
        prompts: Where the contexts begin.
        longest: Bound of a row's tokens and holes.
    """
    return (CachedReader if keeps_keys(student, longest) else PlainReader)(student, prompts)
