"""Which tokens of a rationale the answer needs, by mask learning (KPOD, arXiv 2405.16064, Eq. 2-7).

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

    Departures: the embeddings are normalised and told their positions first, and the attention has a residual
    connection; without the positions a token would get the same weight wherever it stands.

    Args:
        width: Embedding size D.
        keep: Keep-probability that every token begins near to.
    """

    def __init__(self, width: int, keep: float = 0.8) -> None:
        super().__init__()
        self.normalise = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads=1, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.mask = nn.Parameter(torch.zeros(width))  # the embedding of a token that is left out
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, math.log(keep / (1 - keep)))

    def forward(self, embeddings_BRD: Tensor, inside_BR: Tensor) -> Tensor:
        """Logits of the keep-probabilities, shape (B, R), where ``inside_BR`` says there is a token; else anything."""
        states = self.normalise(embeddings_BRD.to(self.mask.dtype))
        states = states + _positions(*embeddings_BRD.shape[1:]).to(states)
        context, _ = self.attention(states, states, states, key_padding_mask=~inside_BR, need_weights=False)
        return self.mlp(states + context).squeeze(-1)


def _positions(size: int, width: int) -> Tensor:
    """Sines and cosines of the positions, shape (size, width)."""
    # float32 by name: under half precision the default is too coarse to tell positions apart
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = torch.arange(size, dtype=torch.float32)[:, None] * rates[None]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def relaxed_masks(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Masks between 0 and 1, drawn by Gumbel-Softmax over the two classes kept and left out, differentiable.

    Args:
        logits: Logits of the keep-probabilities.
        noise: Uniform between 0 and 1, of the same shape: the difference of two Gumbel draws is its logit.
        temperature: The lower, the nearer the masks are to 0 or 1. A mask is above 1/2 with the keep-probability,
            whatever the temperature.
    """
    return torch.sigmoid((logits + torch.logit(noise.clamp(_EDGE, 1 - _EDGE))) / temperature)


def uniform_noise(keys: Sequence[str], size: int) -> Tensor:
    """Uniform noise of shape (B, size); a row is a function of its key alone, whatever rank or batch it comes in."""
    rows = []
    for key in keys:
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
        rows.append(np.random.default_rng(seed).random(size, dtype=np.float32))
    return torch.from_numpy(np.stack(rows))


def spread(masks_BR: Tensor, starts_B: Tensor, counts_B: Tensor, length: int) -> Tensor:
    """How much of each input position is kept, shape (B, L): the masks where the rationale's prefix lies, else 1.

    Args:
        masks_BR: Masks of the whole rationale.
        starts_B: First position of the rationale.
        counts_B: Tokens of it that are shown.
        length: L.
    """
    places_BL = torch.arange(length, device=masks_BR.device)[None] - starts_B[:, None]
    inside_BL = (places_BL >= 0) & (places_BL < counts_B[:, None])
    found_BL = masks_BR.gather(1, places_BL.clamp(0, masks_BR.shape[1] - 1))
    return torch.where(inside_BL, found_BL, torch.ones_like(found_BL))


def masked(embeddings_BLD: Tensor, keep_BL: Tensor, mask_D: Tensor) -> Tensor:
    """Each embedding in the share that is kept, the mask embedding in the rest; gradients reach both."""
    keep_BL1 = keep_BL[..., None].to(embeddings_BLD.dtype)
    return keep_BL1 * embeddings_BLD + (1 - keep_BL1) * mask_D.to(embeddings_BLD.dtype)
