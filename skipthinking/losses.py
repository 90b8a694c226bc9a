"""Weighted likelihood, normalized over the full optimizer step, and the preference loss of DPO.

Shape suffixes: B instances, L tokens, N target tokens, K loss terms, P preference pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dpo", "row_sums", "weighted_likelihood"]


def weighted_likelihood(
    nll_N: Tensor, weights_N: Tensor, terms_N: Tensor, totals_K: Tensor, term_weights: Sequence[float]
) -> Tensor:
    r"""Sum over terms k of :math:`\lambda_k \sum w \cdot nll / W_k`, this micro-batch's share of the step's loss.

    :math:`W_k` is the sum of weights of term k over the full optimizer step (all ranks and accumulated micro-batches),
    so that the shares of all micro-batches add up to the loss of the step for any mix of target lengths.

    Args:
        nll_N: NLL of every target token.
        weights_N: Their weights.
        terms_N: Their terms.
        totals_K: :math:`W_k`; a term without instances in the step contributes zero.
        term_weights: :math:`\lambda_k`.

    Returns:
        A scalar, differentiable in ``nll_N``.
    """
    # Numbers of the host are multiplied, not copied to a device, which would wait.
    scale_K = torch.stack(
        [weight / total for weight, total in zip(term_weights, totals_K.clamp_min(1e-30), strict=True)]
    )
    return (nll_N * weights_N * scale_K[terms_N]).sum()


def row_sums(nll_N: Tensor, rows_N: Tensor, rows: int) -> Tensor:
    """Summed NLL of every row's target tokens, not weighted; shape (rows,).

    Args:
        nll_N: NLL of every target token.
        rows_N: Row of every target token.
        rows: Number of rows.
    """
    return nll_N.new_zeros(rows).index_add(0, rows_N, nll_N)


def dpo(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    r"""Loss of every preference pair: :math:`-\log \sigma(\beta (c - r))` (Rafailov et al., arXiv 2305.18290, Eq. 7).

    Args:
        chosen_P: :math:`c = \log \pi(y_c) - \log \pi_{ref}(y_c)`, summed over the completion's tokens, nats.
        rejected_P: The same difference for the rejected completion, :math:`r`.
        beta: Strength of the penalty for moving away from the reference policy.

    Returns:
        Shape (P,), differentiable in both; log 2 for a student that equals the reference.
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P))
