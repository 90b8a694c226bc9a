r"""Gradient shares: how much of a training step's gradient comes from core tokens.

The loss L of an optimizer step is a function of the NLLs of its target tokens. With :math:`a_t = \partial L / \partial
nll_t` (for weighted likelihood: weight over the step's sum of weights) the gradient is a sum over target tokens,

.. math:: g = \sum_t a_t \nabla nll_t = g_{core} + g_{rest}

and all shares are of one unit, the instances of one example or of one step, under the step's normalization:

- ``tokens``: :math:`\sum_{core} a_t / \sum_t a_t`, the core tokens' share of the loss weights,
- ``norm``: :math:`\lVert g_{core} \rVert / \lVert g \rVert`; above 1 if core and rest cancel in part,
- ``cosine``: :math:`\cos(g_{core}, g)`,
- ``projection``: norm times cosine, :math:`\langle g_{core}, g \rangle / \lVert g \rVert^2`; core and rest add up to 1,
- ``per_token``: norm / tokens, the norm of the core tokens' average gradient over that of all tokens,
- ``nll``: the core tokens' mean NLL in nats, weighted by a,
- ``random``: the norm ratio of as many target tokens of each instance, drawn at random. Norms of sums of unrelated
  gradients grow with the root of their number, so small sets have a large ``per_token``; this is the control.

Example gradients scaled by the step's normalization add up to those of the step, so one pass serves both units. With F
the FLOPs of a forward pass, it takes F + 3 x 2F = 7F; a training step takes 3F.

Shape suffix: N target tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipthinking.data.batches import collate, count
from skipthinking.records import Instance, UserError

__all__ = ["GradientShares", "Marked", "Parts", "example_parts", "shares", "summarize"]

Marked = tuple[Instance, NDArray[np.bool_]]
"""An instance, and which of its completion tokens are core."""


@dataclass(frozen=True, kw_only=True)
class GradientShares:
    """Settings of the gradient shares.

    Attributes:
        steps: Optimizer steps of ``data.batch_size`` times ``accumulate_grad_batches`` random training examples.
        weights: ``annotations.jsonl`` of a KeypointWeighter, for rationales without known core tokens.
        core_share: Share of a rationale's tokens, those of largest weight, that then count as core.
    """

    steps: int = 4
    weights: str | None = None
    core_share: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.core_share < 1:
            raise UserError(
                "Expected at least 1 step and a share between 0 and 1, got "
                f"steps={self.steps}, core_share={self.core_share} of gradient shares. Leave out what is outside of "
                "its range, for its default."
            )


@dataclass(slots=True)
class Parts:
    """Parts of a unit's gradient, as a list of tensors each, and sums over its tokens.

    Attributes:
        core: Gradient of core tokens.
        rest: Gradient of all other target tokens.
        random: Gradient of as many random target tokens as are core.
        sums: Sums of the loss weights a of core tokens and of all tokens, and of a times the NLL of core tokens.
    """

    core: list[Tensor]
    rest: list[Tensor]
    random: list[Tensor]
    sums: tuple[float, float, float]

    def add(self, other: Parts) -> None:
        """Adds the parts of another unit."""
        for mine, theirs in ((self.core, other.core), (self.rest, other.rest), (self.random, other.random)):
            torch._foreach_add_(mine, theirs)
        core, total, nll = map(sum, zip(self.sums, other.sums, strict=True))
        self.sums = core, total, nll


def example_parts(method: Any, rows: Sequence[Marked], step: Sequence[Instance], seed: Sequence[int]) -> Parts:
    """The parts of the gradient of an example's instances, normalized over the step that they belong to.

    Args:
        method: The method, whose student is in evaluation mode (no dropout), with gradients enabled.
        rows: The instances of the example.
        step: All instances of the optimizer step.
        seed: Seed of the random tokens.
    """
    student, terms = method.student, len(method.term_weights)
    batch = collate(
        [instance for instance, _ in rows], pad_id=student.pad_id, encoder_decoder=student.encoder_decoder,
        terms=terms, step=count(step, terms),
    ).to(student.device)  # fmt: skip
    rng = np.random.default_rng(list(seed))
    core, random = [], []
    for instance, mask in rows:
        own = mask[instance.weights > 0]
        core.append(own)
        random.append(rng.permutation(own))
    masks = [torch.from_numpy(np.concatenate(part)).to(student.device) for part in (core, random)]
    nll_N = student.token_nll(batch)
    (a_N,) = torch.autograd.grad(method.micro_batch_loss(nll_N, batch), nll_N, retain_graph=True)
    trained = [p for p in student.parameters() if p.requires_grad]
    sums = [(a_N * mask * nll_N).sum() for mask in (masks[0], ~masks[0], masks[1])]
    grads = [
        torch.autograd.grad(part, trained, retain_graph=i < 2, allow_unused=True, materialize_grads=True)
        for i, part in enumerate(sums)
    ]
    core_grad, rest_grad, random_grad = map(list, grads)
    of_loss = float((a_N * masks[0]).sum()), float(a_N.sum()), float(sums[0].detach())
    return Parts(core_grad, rest_grad, random_grad, of_loss)


def shares(parts: Parts) -> dict[str, float] | None:
    """The shares of a unit, by the names above; None without core tokens."""
    core, total, nll = parts.sums
    if not core:
        return None
    whole = [a + b for a, b in zip(parts.core, parts.rest, strict=True)]
    norm, norm_core, norm_random = (_dot(x, x) ** 0.5 for x in (whole, parts.core, parts.random))
    along = _dot(parts.core, whole)
    return {
        "tokens": core / total,
        "norm": norm_core / norm,
        "cosine": along / (norm_core * norm),
        "projection": along / norm**2,
        "per_token": norm_core / norm * total / core,
        "random": norm_random / norm,
        "nll": nll / core,
    }


def _dot(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(x.flatten().double(), y.flatten().double())) for x, y in zip(xs, ys, strict=True))


def summarize(units: Sequence[Mapping[str, float] | None]) -> dict[str, Any]:
    """Number of units, the share of them with core tokens, and over these the mean of every share.

    The 95% interval of a mean over n units is its ``half``: Student's t times the standard error.
    """
    from scipy.stats import t

    known = [unit for unit in units if unit is not None]
    table = np.array([list(unit.values()) for unit in known])
    n = len(known)
    half = t.ppf(0.975, n - 1) * table.std(axis=0, ddof=1) / n**0.5 if n > 1 else np.array([])
    return {
        "units": len(units),
        "with_core": n / (len(units) or 1),
        "mean": dict(zip(known[0], table.mean(axis=0).tolist(), strict=True)) if known else {},
        "half": dict(zip(known[0], half.tolist(), strict=True)) if n > 1 else {},
    }
