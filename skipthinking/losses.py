"""The one loss: weighted likelihood, normalised over the whole optimiser step.

Shape suffixes: B instances, L tokens, N target tokens, K loss terms.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["weighted_likelihood"]


def weighted_likelihood(
    nll_N: Tensor, weights_BL: Tensor, terms_B: Tensor, totals_K: Tensor, term_weights: Sequence[float]
) -> Tensor:
    r"""Sum over terms k of :math:`\lambda_k \sum w \cdot nll / W_k`, this micro-batch's share of the step's loss.

    :math:`W_k` is the sum of weights of term k over the whole optimiser step (all ranks and accumulated micro-batches),
    so that the shares of all micro-batches add up to the loss of the step whatever the mix of target lengths.

    Args:
        nll_N: NLL of every target token, row-major.
        weights_BL: Weight of every token; N of them are > 0.
        terms_B: Term of every instance.
        totals_K: :math:`W_k`; a term without instances in the step counts zero.
        term_weights: :math:`\lambda_k`.

    Returns:
        A scalar, differentiable in ``nll_N``.
    """
    keep_BL = weights_BL > 0
    terms_N = terms_B[:, None].expand_as(weights_BL)[keep_BL]
    scale_K = totals_K.new_tensor(list(term_weights)) / totals_K.clamp_min(1e-30)
    return (nll_N * weights_BL[keep_BL] * scale_K[terms_N]).sum()
