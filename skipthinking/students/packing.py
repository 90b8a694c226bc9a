"""Packed rows in transformers: how instances that share a row are kept apart, and which students can do it.

transformers isolates the sequences of a row where positions restart, if it gets no mask and no KV cache: by a
block-diagonal mask (sdpa, eager), or by kernels that take the sequences' lengths (flash attention). Some models ignore
it without a word (OPT), or mix neighbors in other layers (convolutions, state spaces), so a student is probed first.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from skipthinking.data.batches import collate
from skipthinking.data.packing import Layout, Packed
from skipthinking.records import Instance, UserError

__all__ = ["isolates", "layout_of", "packing_known", "share_rows"]

_PROBE_IDS = 99  # the probe uses token ids up to this one; every vocabulary has them


def share_rows(inputs: dict[str, Any], packed: Packed) -> dict[str, Any]:
    """Moves the inputs of a causal model, one row per instance, to the rows that instances share."""
    moved: dict[str, Any] = {name: value.flatten(0, 1)[packed.places_RW] for name, value in inputs.items()}
    moved["position_ids"] = packed.positions_RW
    if packed.starts is not None:  # else flash attention would read them back from the positions, in every layer
        moved |= {f"cu_seq_lens_{side}": packed.starts for side in "qk"}
        moved |= {f"max_length_{side}": packed.longest for side in "qk"}
    return moved


_PACKED: ContextVar[tuple[Packed | None] | None] = ContextVar("packed", default=None)  # of the pass of this thread
_LOCK = Lock()
_REPLACED: list[tuple[Any, str, Any]] = []  # functions of transformers, while a pass of any thread runs
_passes = 0


@contextmanager
def packing_known(packed: Packed | None) -> Iterator[None]:
    """Tells transformers which positions of a row form a sequence, for passes of this thread.

    By itself it compares position ids on the device and waits for the result, in every pass, packed or not. Some models
    also look whether a mask hides anything, to drop it, or whether there is padding without a mask, to warn.
    """
    token = _PACKED.set((packed,))
    _count_pass(1)
    try:
        yield
    finally:
        _count_pass(-1)
        _PACKED.reset(token)


def _count_pass(change: int) -> None:
    """Replaces functions of transformers with the first pass that begins, and restores them with the last one's end."""
    global _passes
    from transformers import PreTrainedModel, masking_utils

    def needless(padding_mask: Tensor | None, kv_length: int, local: int | None = None) -> bool:
        return padding_mask is None and (local is None or kv_length < local)

    answers: list[tuple[Any, str, Any]] = [
        (masking_utils, "find_packed_sequence_indices", lambda packed, position_ids: packed and packed.sequences_RW),
        (masking_utils, "_ignore_bidirectional_mask_sdpa", lambda packed, *inputs, **more: needless(*inputs, **more)),
        (PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda packed, *inputs: None),
    ]
    with _LOCK:
        _passes += change
        if change > 0 and _passes == 1:
            # What another version of transformers lacks is left to it.
            _REPLACED[:] = [(place, name, getattr(place, name)) for place, name, _ in answers if hasattr(place, name)]
            for place, name, answer in answers:
                if hasattr(place, name):
                    setattr(place, name, _in_pass(getattr(place, name), answer))
        elif _passes == 0:
            for place, name, before in _REPLACED:
                setattr(place, name, before)


def _in_pass(before: Any, answer: Any) -> Any:
    """A function that gives the answer in a pass of this thread, and does what it did before elsewhere."""

    def function(*inputs: Any, **more: Any) -> Any:
        own = _PACKED.get()
        return before(*inputs, **more) if own is None else answer(*own, *inputs, **more)

    return function


def layout_of(student: Any, packing: bool | Literal["auto"]) -> tuple[Layout | None, str]:
    """How instances share rows, and a line for the start report, which may be empty.

    "auto" packs where attention takes the lengths of sequences: flash attention. Block-diagonal masks rule out kernels
    that skip the upper half of causal attention, and batches of similar length have little padding to save.

    Args:
        student: The student, built.
        packing: The setting ``data.packing``.

    Raises:
        UserError: Packing is required, and instances that share a row would see each other.
    """
    if not packing or (packing == "auto" and student.encoder_decoder):
        return None, ""
    takes_lengths = "flash" in str(student.config.get_text_config(decoder=True)._attn_implementation)
    if packing == "auto" and not takes_lengths:
        return None, ""
    layout: Layout = "flat" if takes_lengths else "rows"
    if not student.encoder_decoder and isolates(student, layout):
        return layout, f"packing: instances share rows, kept apart by {'lengths' if takes_lengths else 'masks'}"
    why = f"{type(student.model).__name__}, in which instances that share a row are not kept apart"
    if packing == "auto":
        return None, f"packing is off: {why}"
    raise UserError(f"Expected a causal student that keeps packed instances apart, got {why}. Set data.packing: false.")


def isolates(student: Any, layout: Layout) -> bool:
    """Whether packed instances have the NLL of padded ones, and do not depend on their neighbors: a probe.

    Of three instances, the last two share a row. The last must not notice when its neighbor changes, and must notice
    when its prompt changes: else the probe could not see anything.
    """
    model = student.model.get_base_model() if student.lora else student.model
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    rng = np.random.default_rng(0)
    rows = [rng.permutation(_PROBE_IDS)[:size] for size in (7, 5, 3)]
    neighbor = [rows[0], rows[1][::-1].copy(), rows[2]]
    prompt = [*rows[:2], np.concatenate([[_PROBE_IDS], rows[2][1:]])]

    def measured(tokens: Sequence[Any], packing: Layout | None = layout) -> Tensor:
        instances = [
            Instance(id="", prompt=row[:1], tokens=row[1:], weights=np.ones(len(row) - 1, dtype=np.float32))
            for row in tokens
        ]
        batch = collate(instances, pad_id=student.pad_id, encoder_decoder=False, packing=packing)
        return cast("Tensor", student.token_nll(batch.to(student.device)))

    with student.frozen():
        padded, packed = measured(rows, None), measured(rows)
        moved = [float((measured(other) - packed)[-2:].abs().max()) for other in (neighbor, prompt)]
    exact = student.model.dtype == torch.float32 and not torch.is_autocast_enabled(student.device.type)
    rounding = 1e-3 if exact else 0.1
    return torch.allclose(padded, packed, rtol=rounding, atol=rounding) and moved[0] < 0.01 * moved[1]
