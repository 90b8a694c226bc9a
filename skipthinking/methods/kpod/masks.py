"""Mask learning: which tokens of a rationale the answer depends on (KPOD, arXiv 2405.16064, Eq. 2-7).

Shape suffixes: B examples, L positions of the model's input, R rationale tokens (right-padded), D embedding size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["MaskGenerator", "masked", "relaxed_masks", "spread", "uniform_noise"]

_EDGE = 1e-6  # noise and keep-probabilities stay this far from 0 and 1, where logits are infinite


class MaskGenerator(nn.Module):
    """Keep-probability of every rationale token: one self-attention layer, then an MLP of two layers.

    Departures: the embeddings are normalized and get position encodings first, and the attention has a residual
    connection. Without positions, a token would get the same weight everywhere in a rationale.

    Args:
        width: Embedding size D.
        keep: Approximate keep-probability of every token at initialization.
    """

    def __init__(self, width: int, keep: float = 0.8) -> None:
        super().__init__()
        self.normalise = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads=1, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.mask = nn.Parameter(torch.zeros(width))  # embedding that replaces a masked token
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, math.log(keep / (1 - keep)))

    def forward(self, embeddings_BRD: Tensor, inside_BR: Tensor) -> Tensor:
        """Logits of the keep-probabilities, shape (B, R); undefined where ``inside_BR`` is False (padding)."""
        states = self.normalise(embeddings_BRD.to(self.mask.dtype))
        states = states + _positions(*embeddings_BRD.shape[1:]).to(states)
        context, _ = self.attention(states, states, states, key_padding_mask=~inside_BR, need_weights=False)
        return self.mlp(states + context).squeeze(-1)


def _positions(size: int, width: int) -> Tensor:
    """Sinusoidal position encodings, shape (size, width)."""
    # Explicit float32, whatever the default dtype: in bfloat16 (8 significant bits), positions 256 and 257 are equal.
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = torch.arange(size, dtype=torch.float32)[:, None] * rates[None]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def relaxed_masks(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Draws differentiable masks between 0 and 1, by Gumbel-Softmax over two classes (keep and mask).

    Args:
        logits: Logits of the keep-probabilities.
        noise: Uniform noise in (0, 1) of the same shape; its logit is distributed as the difference of two Gumbel
            draws.
        temperature: Lower values push masks toward 0 or 1. At any temperature, the probability of a mask above 1/2 is
            the keep-probability.
    """
    return torch.sigmoid((logits + torch.logit(noise.clamp(_EDGE, 1 - _EDGE))) / temperature)


def uniform_noise(keys: Sequence[str], size: int) -> Tensor:
    """Uniform noise, shape (B, size); a row depends on its key alone, so not on the rank or the batch."""
    rows = []
    for key in keys:
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
        rows.append(np.random.default_rng(seed).random(size, dtype=np.float32))
    return torch.from_numpy(np.stack(rows))


def spread(masks_BR: Tensor, starts_B: Tensor, counts_B: Tensor, length: int) -> Tensor:
    """Aligns masks with input positions, shape (B, L): the mask at positions of the rationale's prefix, 1 elsewhere.

    With start 2 and count 2, masks [.1, .2, .3] become [1, 1, .1, .2, 1] for length 5.

    Args:
        masks_BR: Masks of the full rationale.
        starts_B: Position of the rationale's first token.
        counts_B: Number of rationale tokens in the input.
        length: L.
    """
    places_BL = torch.arange(length, device=masks_BR.device)[None] - starts_B[:, None]
    inside_BL = (places_BL >= 0) & (places_BL < counts_B[:, None])
    aligned_BL = masks_BR.gather(1, places_BL.clamp(0, masks_BR.shape[1] - 1))
    return torch.where(inside_BL, aligned_BL, torch.ones_like(aligned_BL))


def masked(embeddings_BLD: Tensor, keep_BL: Tensor, mask_D: Tensor) -> Tensor:
    """Interpolates between each embedding (keep = 1) and the mask embedding (keep = 0); differentiable in both."""
    keep_BL1 = keep_BL[..., None].to(embeddings_BLD.dtype)
    return keep_BL1 * embeddings_BLD + (1 - keep_BL1) * mask_D.to(embeddings_BLD.dtype)
