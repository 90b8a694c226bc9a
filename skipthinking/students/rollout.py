"""Greedy completions by draft verification: one pass tells how far a draft is what the student would write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skipthinking.data.instances import instance
from skipthinking.ranks import gather
from skipthinking.students.scoring import frozen, score_tokens

__all__ = ["complete"]

_BATCH = 64  # rollouts that are generated together at most
_BATCH_TOKENS = 2**16  # and their padded tokens, so that memory grows with the longest one alone


def complete(
    student: Any,
    prompts: Mapping[str, NDArray[np.int64]],
    begun: Mapping[str, NDArray[np.int64]],
    drafts: Mapping[str, NDArray[np.int64]],
    *,
    max_new_tokens: int | Mapping[str, int],
    rank: int = 0,
    ranks: int = 1,
    what: str | None = "Rollouts",
) -> dict[str, list[int]]:
    """What the student writes greedily behind each prompt and what is begun of its completion.

    The draft is scored in one pass. Up to the first token that greedy decoding would not choose, the draft is the
    rollout; only from there on is anything generated. The outcome is that of plain greedy generation, token for token.

    Args:
        student: The student; its training state is untouched.
        prompts: Prompt ids, by example id.
        begun: Completion ids that are given.
        drafts: What may follow, EOS included; never empty.
        max_new_tokens: Most tokens of the whole completion, those begun included; of all alike, or by example id.
        rank: This process.
        ranks: Number of processes; each does its share, all get the whole.
        what: Label of the progress bar; None for no bar.

    Returns:
        The tokens behind those begun, up to and including EOS, by example id.
    """
    rows = [instance(id, prompts[id], [begun[id], draft], {1}) for id, draft in drafts.items()]
    hits = {id: scores.hit for id, scores in score_tokens(student, rows, rank=rank, ranks=ranks, what=what).items()}
    done: dict[str, list[int]] = {}
    open_: list[tuple[str, NDArray[np.int64], int]] = []
    for id, draft in drafts.items():
        limit = max_new_tokens if isinstance(max_new_tokens, int) else max_new_tokens[id]
        room = limit - len(begun[id])
        agreed = len(draft) if hits[id].all() else int(np.argmin(hits[id]))
        if agreed == len(draft) or agreed >= room:
            done[id] = draft[: max(0, room)].tolist()
        else:
            open_.append((id, np.concatenate([begun[id], draft[:agreed]]), room - agreed))
    return done | _go_on(student, prompts, open_, {id: len(row) for id, row in begun.items()}, rank, ranks)


def _go_on(
    student: Any,
    prompts: Mapping[str, NDArray[np.int64]],
    open_: list[tuple[str, NDArray[np.int64], int]],
    given: Mapping[str, int],
    rank: int,
    ranks: int,
) -> dict[str, list[int]]:
    """Generates on from where drafts failed, rows of like length together."""
    mine = sorted(open_, key=lambda row: (-len(prompts[row[0]]) - len(row[1]), row[0]))[rank::ranks]
    made: dict[str, list[int]] = {}
    with frozen(student):
        for part in _batches(mine, [len(prompts[id]) + len(prefix) + room for id, prefix, room in mine]):
            texts = student.generate(
                [torch.from_numpy(prompts[id]) for id, _, _ in part],
                max(room for _, _, room in part),
                begun=[torch.from_numpy(prefix) for _, prefix, _ in part],
            )
            for (id, prefix, room), ids in zip(part, texts, strict=True):
                made[id] = prefix[given[id] :].tolist() + ids[:room]
    return gather(made) if ranks > 1 else made


def _batches(rows: list[Any], lengths: list[int]) -> list[list[Any]]:
    """Rows in order, as many together as the bounds let."""
    batches: list[list[Any]] = []
    longest = 0
    for row, length in zip(rows, lengths, strict=True):
        longest = max(longest, length)
        if not batches or len(batches[-1]) == _BATCH or longest * (len(batches[-1]) + 1) > _BATCH_TOKENS:
            batches.append([])
            longest = length
        batches[-1].append(row)
    return batches
