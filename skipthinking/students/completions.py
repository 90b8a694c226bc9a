"""Completions of queued prompts: by continuous batching, or by transformers' ``generate`` where it cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skipthinking.students.compiling import uncompiled
from skipthinking.students.continuous import ContinuousBatch
from skipthinking.students.kv_cache import say_without_cache, why_no_cache
from skipthinking.students.memory import cache_tokens

__all__ = ["NO_PREFIX", "Choose", "Completions", "until_end"]

Choose = Callable[[list[int], Tensor], Tensor]
"""Maps indices of B prompts and the next token's scores (B, V) to new scores (B, V)."""

NO_PREFIX = torch.empty(0, dtype=torch.long)
"""The start of a completion of which nothing is given."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Row:
    """A prompt that transformers completes, with the start of the completion and the most new tokens."""

    index: int
    prompt: Tensor
    prefix: Tensor
    room: int


class Completions:
    """Writes greedy completions of prompts that arrive one after the other.

    With a KV cache (see :func:`skipthinking.students.kv_cache.why_no_cache`), finished completions leave the batch and
    waiting prompts take their place. Other students complete groups of prompts by transformers' ``generate``, which
    ends a group with its longest completion.

    Args:
        student: The student, built, in evaluation mode. Its weights must not change before the last completion.
        at_once: Maximum number of completions that are written together; memory may allow fewer. None for memory alone.
        choose: Changes the scores from which the best next token is chosen.
        continuous: Whether continuous batching is used where it can be.
    """

    def __init__(
        self, student: Any, at_once: int | None = None, choose: Choose | None = None, continuous: bool = True
    ) -> None:
        self.student, self.at_once, self.choose, self.continuous = student, at_once, choose, continuous
        self._batch = ContinuousBatch(student, at_once, choose)
        self._rows: list[_Row] = []  # for transformers
        self._done: dict[int, list[int]] = {}

    def add(self, index: int, prompt: Tensor, max_new_tokens: int, prefix: Tensor = NO_PREFIX) -> None:
        """Appends a prompt to the queue.

        Args:
            index: Names the completion; for ``choose`` also the prompt.
            prompt: Prompt ids.
            max_new_tokens: Maximum number of new tokens; the student's context may leave less.
            prefix: Given start of the completion, which is not returned.
        """
        student = self.student
        if not student.encoder_decoder:
            prompt, prefix = torch.cat([prompt.cpu(), prefix.cpu()]), NO_PREFIX
        before = prefix if student.encoder_decoder else prompt  # shares the context with the new tokens
        room = min(max_new_tokens, student.context_length - len(before))
        if room < 1:
            self._done[index] = []
            return
        why = why_no_cache(student, len(prompt) + room) if self.continuous else ""
        if why:
            say_without_cache("transformers' generate writes answers, each batch until its last one ends", why)
        if self.continuous and not why:
            self._batch.add(index, prompt, room)
        else:
            self._rows.append(_Row(index=index, prompt=prompt.cpu(), prefix=prefix.cpu(), room=room))

    @torch.no_grad()
    def run(self, finish: bool = True) -> dict[int, list[int]]:
        """Writes until no prompt waits; returns the completions that were finished, by index.

        Args:
            finish: Whether to finish all completions; if not, those that are left wait for more prompts to join them.
        """
        done, self._done = self._done, {}
        with uncompiled(self.student.compiled):
            for group in self._groups():
                done |= self._write(group)
            self._rows = []
            return done | self._batch.run(finish)

    def _groups(self) -> list[list[_Row]]:
        """Groups of similar length that one batch of transformers can hold.

        Decoder inputs cannot be left-padded, so encoder-decoder prompts of a group have prefixes of equal length.
        """
        student, groups, room = self.student, list[list[_Row]](), 0
        tokens, context = cache_tokens(student), student.context_length
        for row in sorted(self._rows, key=lambda row: (-len(row.prefix), -len(row.prompt), row.index)):
            group, room = groups[-1] if groups else [], max(room, row.room)
            before = len(row.prefix) if student.encoder_decoder else max((len(one.prompt) for one in group), default=0)
            rows = max(1, tokens // (len((group or [row])[0].prompt) + len(row.prefix) + room))
            fits = group and len(group) < min(rows, self.at_once or rows) and before + room <= context
            if fits and len(row.prefix) == len(group[0].prefix):
                group.append(row)
            else:
                groups.append([row])
                room = row.room
        return groups

    def _write(self, group: Sequence[_Row]) -> dict[int, list[int]]:
        student = self.student
        width = max(len(row.prompt) for row in group)
        ids = torch.full((len(group), width), student.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(group):
            span = slice(0, len(row.prompt)) if student.encoder_decoder else slice(width - len(row.prompt), width)
            ids[i, span], mask[i, span] = row.prompt, 1
        inputs = {"input_ids": ids.to(student.device), "attention_mask": mask.to(student.device)}
        if student.encoder_decoder:
            start = torch.full((len(group), 1), student.config.decoder_start_token_id, dtype=torch.long)
            prefixes = torch.stack([row.prefix for row in group])
            inputs["decoder_input_ids"] = torch.cat([start, prefixes], dim=1).to(student.device)
            width = inputs["decoder_input_ids"].shape[1]
        draw = [partial(_processor, self.choose, [row.index for row in group])] if self.choose else []
        rows = student.model.generate(
            **inputs,
            max_new_tokens=max(row.room for row in group),
            logits_processor=draw,
            # Ranks have different numbers of prompts; sharded weights are gathered already: ranks need not be in sync.
            synced_gpus=False,
        )
        ends = set(student.model.generation_config.eos_token_id)
        written = rows[:, width:].tolist()
        return {row.index: until_end(ids[: row.room], ends) for row, ids in zip(group, written, strict=True)}


def _processor(choose: Choose, rows: list[int], ids_BL: Tensor, scores_BV: Tensor) -> Tensor:
    """A logits processor of transformers; finished rows still take part in it."""
    return choose(rows, scores_BV)


def until_end(ids: list[int], ends: set[int]) -> list[int]:
    """The ids up to and including the first end token."""
    for i, id in enumerate(ids):
        if id in ends:
            return ids[: i + 1]
    return ids
