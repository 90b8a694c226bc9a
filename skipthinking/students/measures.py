"""Measures: what is computed from the logits at each token that is asked about.

A measure takes a projection from hidden states to logits, the hidden states that predict N tokens, and the ids of these
tokens; it returns float32 of shape (N, K). Scoring and the engine take any function of this kind. It may be called on
parts of the tokens, so that a row must not depend on other rows.

Shape suffixes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Measure", "Project", "entropy", "greedy", "nll", "nll_and_hit"]

Project = Callable[[Tensor], Tensor]
Measure = Callable[[Project, Tensor, Tensor], Tensor]

_SURE = 0.69  # nats, just below ln 2: a token with less is likelier than all others together, so it is the greedy one


def nll(project: Project, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood of each token in nats, shape (N, 1)."""
    return F.cross_entropy(project(hidden_ND).float(), targets_N, reduction="none")[:, None]


def nll_and_hit(project: Project, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """NLL of each token in nats, and 1 if greedy decoding chooses that token, else 0; shape (N, 2)."""
    logits_NV = project(hidden_ND).float()
    nll_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
    hit_N = nll_N < _SURE
    open_N = ~hit_N  # only these need an argmax over the vocabulary
    hit_N[open_N] = logits_NV[open_N].argmax(dim=-1) == targets_N[open_N]
    return torch.stack([nll_N, hit_N.float()], dim=-1)


def entropy(project: Project, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Entropy in nats of the distribution that each token is drawn from, whichever token it is; shape (N, 1)."""
    shares_NV = project(hidden_ND).float().softmax(dim=-1)
    return torch.special.entr(shares_NV).sum(dim=-1, keepdim=True)  # entr(0) is 0, where p * log p would be NaN


def greedy(project: Project, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Likeliest token at each position (as float32, exact for ids up to 2^24) and its NLL in nats, shape (N, 2)."""
    logits_NV = project(hidden_ND).float()
    likeliest_N = logits_NV.argmax(dim=-1)
    return torch.stack([likeliest_N.float(), F.cross_entropy(logits_NV, likeliest_N, reduction="none")], dim=-1)
