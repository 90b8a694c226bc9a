"""Measures of target tokens only, for any transformers model with an output embedding (the head).

The model runs unchanged, but a hook on its head passes on only the hidden states of target positions. For large
vocabularies projection and measure run in chunks, so that the logits of all targets never exist together. (The chunked
``linear_cross_entropy`` of torch 2.13 gives the same result. For losses per token it took 3.4 times as long: 1.9 s
instead of 0.57 s for 562 targets, 384 dimensions and 50257 tokens on 2 CPU cores. It also requires a weight matrix,
but a head may be any module.)

Shape suffixes: R rows, W positions, N target tokens, D hidden size, K numbers per token, V vocabulary.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skipthinking.students.measures import Measure

__all__ = ["CHUNK_ELEMENTS", "measure_targets", "take_as_last"]

CHUNK_ELEMENTS = 2**25  # maximum number of logits in memory: 128 MiB in float32; more on large GPUs
# Heads of which the model's logits are known (_finish), and heads of which they are not; tested once, at run time.
_LAST: WeakSet[nn.Module] = WeakSet()
_NOT_LAST: WeakSet[nn.Module] = WeakSet()  # the model adds a bias to the logits, or changes them in another way


def measure_targets(
    model: Any, places_N: Tensor, targets_N: Tensor, inputs: dict[str, Any], measure: Measure
) -> Tensor:
    """Measures every target token, float32, shape (N, K).

    Args:
        model: A causal or encoder-decoder model of transformers, with or without a peft wrapper.
        places_N: Positions that predict the target tokens, in the flattened input, R x W.
        targets_N: Ids of the target tokens.
        inputs: Keyword arguments of the model's forward.
        measure: See :mod:`skipthinking.students.measures`.
    """
    head = model.get_output_embeddings()
    config = model.config.get_text_config(decoder=True)
    rows = max(1, _chunk_elements(targets_N.device) // config.vocab_size)
    chunked = len(targets_N) > rows and head not in _NOT_LAST
    measured: list[Tensor] = []
    probe: list[Tensor] = []

    def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_ND = args[0].flatten(0, 1).index_select(0, places_N)
        if not chunked:
            return (hidden_ND,)

        def project(part_ND: Tensor) -> Tensor:
            return _finish(config, module.forward(part_ND))

        parts = zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
        # The backward pass recomputes each part, so that only one part's logits are in memory.
        measured.extend(checkpoint(measure, project, h, t, use_reentrant=False) for h, t in parts)
        return (hidden_ND[:1].detach(),)

    def look(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> None:
        probe.append(logits)

    handles = [head.register_forward_pre_hook(select), head.register_forward_hook(look)]
    try:
        logits_NV = model(**{"use_cache": False, **inputs}).logits
    finally:
        for handle in handles:
            handle.remove()
    if chunked and head not in _LAST:
        (_LAST if torch.equal(_finish(config, probe[0]).float(), logits_NV.float()) else _NOT_LAST).add(head)
        if head in _NOT_LAST:  # the chunks measured other logits than the model's: repeat with all logits
            return measure_targets(model, places_N, targets_N, inputs, measure)
    return torch.cat(measured) if chunked else measure(_identity, logits_NV, targets_N)


def take_as_last(model: Any) -> None:
    """Takes it as tested that chunks measure the model's own logits, where no values can be compared."""
    _LAST.add(model.get_output_embeddings())


def _chunk_elements(device: torch.device) -> int:
    """Logits of a chunk: in float32, 1/256 of a GPU's memory, because gradients and copies take several times that."""
    if device.type != "cuda":
        return CHUNK_ELEMENTS
    return max(CHUNK_ELEMENTS, torch.cuda.get_device_properties(device).total_memory // 256 // 4)


def _finish(config: Any, logits_NV: Tensor) -> Tensor:
    """What some models do with the output of the head. Whether it is all that a model does is tested at run time."""
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
        if getattr(config, name, None) is not None:
            logits_NV = logits_NV * getattr(config, name)
    if getattr(config, "logits_scaling", None) is not None:  # Granite
        logits_NV = logits_NV / config.logits_scaling
    if getattr(config, "final_logit_softcapping", None) is not None:  # Gemma
        logits_NV = torch.tanh(logits_NV / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits_NV


def _identity(logits_NV: Tensor) -> Tensor:
    return logits_NV
