r"""Sharpness of a minimum: the top eigenvalue of the loss's Hessian, and the loss under filter-normalized noise.

Both are of the loss of a fixed sample of instances, normalized as one optimizer step, without dropout, as a function of
the trained weights. The eigenvalue depends on the scale of weights: layers that are rescaled so that the function stays
the same have another one (Dinh et al., arXiv 1703.04933). Filter-normalized noise does not: random directions in which
every filter (the weights of one output unit, or one embedding) has the norm of the weights' own filter, and biases and
norm layers are 0 (Li et al., arXiv 1712.09913, Section 4; read: abstract and official code, which has the rules).

With F the FLOPs of a forward pass over the sample, an iteration takes 9F, three times those of a gradient, and more for
attention (12F in all for 4 layers of width 64 and 140 tokens); noise takes F per radius and direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from skipthinking.data.batches import Batch, collate, count, instance_length
from skipthinking.ranks import by_length
from skipthinking.records import Instance, UserError

__all__ = ["Eigen", "Objective", "Sharpness", "filter_normalized", "moved", "top_eigenvalue"]

Vector = list[Tensor]
"""One tensor per trained parameter."""


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Settings of sharpness.

    Attributes:
        instances: Random instances of the training set, and of the test sets.
        tolerance: Relative residual at which the power iteration stops.
        iterations: The most Hessian-vector products per eigenvalue; 0 to leave the eigenvalue out.
        radii: Lengths of the steps along filter-normalized directions; 0.1 moves each filter by a tenth of its norm.
        noise: Number of random directions.
    """

    instances: int = 64
    tolerance: float = 0.05
    iterations: int = 100
    radii: tuple[float, ...] = (0.1, 0.2, 0.5)
    noise: int = 5

    def __post_init__(self) -> None:
        if min(self.instances, self.noise) < 1 or self.iterations < 0 or min(self.tolerance, *self.radii, 1.0) <= 0:
            raise UserError(
                "Expected at least 1 instance and 1 direction, a tolerance and radii above 0, and 0 or more "
                f"iterations, got {self}. Leave out what is outside of its range, for its default."
            )

    def measure(self, objective: Objective, seed: int) -> dict[str, Any]:
        """Sharpness of one loss.

        Raises:
            UserError: The attention has no second derivative.
        """
        student = objective.method.student
        attention = student.config.get_text_config(decoder=True)._attn_implementation
        if self.iterations and attention not in ("sdpa", "eager", None):  # opaque kernels would count as constants
            raise UserError(
                f"Expected attention with a second derivative, got model.student.attention={attention}. Set "
                "model.student.attention: sdpa"
            )
        loss = objective.loss()
        results: dict[str, Any] = {"instances": objective.instances, "loss": loss}
        if self.iterations:
            start = _gaussian(objective.trained, seed)
            eigen, _ = top_eigenvalue(objective.product, start, self.tolerance, self.iterations)
            results |= {"eigenvalue": eigen.value, "residual": eigen.residual, "products": eigen.products}
        noise: dict[str, list[float]] = {str(radius): [] for radius in self.radii}
        for number in range(self.noise):
            direction = filter_normalized(student, 1000 * seed + number)
            for radius in self.radii:
                with moved(objective.trained, direction, radius):
                    noise[str(radius)].append(objective.loss() - loss)
        results["noise"] = {
            radius: {"increase": float(np.mean(rises)), "sd": float(np.std(rises, ddof=1)) if self.noise > 1 else None}
            for radius, rises in noise.items()
        }
        return results


class Objective:
    """The loss of a sample of instances as a function of the trained weights.

    Args:
        method: The method, whose student is in evaluation mode (no dropout).
        instances: The sample.
        tokens: Maximum number of padded tokens per pass.
    """

    def __init__(self, method: Any, instances: Sequence[Instance], tokens: int) -> None:
        self.method, self.instances = method, len(instances)
        self.trained = [p for p in method.student.parameters() if p.requires_grad]
        student, terms = method.student, len(method.term_weights)
        step = count(instances, terms)
        self._batches: list[Batch] = [
            collate(rows, pad_id=student.pad_id, encoder_decoder=student.encoder_decoder, terms=terms, step=step)
            for rows in by_length(instances, instance_length, tokens)
        ]

    def _losses(self) -> Iterator[Tensor]:
        for batch in self._batches:
            batch = batch.to(self.method.student.device)
            yield self.method.micro_batch_loss(self.method.student.token_nll(batch), batch)

    @torch.no_grad()
    def loss(self) -> float:
        """The loss."""
        return sum(float(loss) for loss in self._losses())

    def product(self, vector: Vector) -> Vector:
        """The Hessian times a vector."""
        result = [torch.zeros_like(p) for p in self.trained]
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused kernels have no second derivative
            for loss in self._losses():
                grads = torch.autograd.grad(loss, self.trained, create_graph=True, materialize_grads=True)
                slope = torch.stack([(g * v).sum() for g, v in zip(grads, vector, strict=True)]).sum()
                torch._foreach_add_(result, torch.autograd.grad(slope, self.trained, materialize_grads=True))
        return result


class Eigen(NamedTuple):
    """An eigenvalue found by power iteration.

    Attributes:
        value: The Rayleigh quotient of the last vector v.
        residual: ||Hv - value v|| / |value|; some eigenvalue is no farther than this share from the value. That it is
            the largest one is not certain: from a random start, it is where the largest stands out.
        products: Matrix-vector products that it took.
    """

    value: float
    residual: float
    products: int


def top_eigenvalue(
    product: Callable[[Vector], Vector], start: Vector, tolerance: float, iterations: int
) -> tuple[Eigen, Vector]:
    """The largest eigenvalue of a symmetric matrix, and its eigenvector of norm 1, by power iteration.

    Power iteration finds the eigenvalue of largest magnitude. If that is negative, the matrix is shifted by it, which
    makes the largest eigenvalue that of largest magnitude, and the search goes on.

    Args:
        product: Multiplies the matrix and a vector.
        start: Where to start, not orthogonal to the eigenvector.
        tolerance: Relative residual at which to stop.
        iterations: The most products.
    """
    vector, shift, value, residual, products = _scaled(start), 0.0, 0.0, math.inf, 0
    while products < iterations and residual > tolerance:
        image = product(vector)
        products += 1
        value = _dot(vector, image)
        off = torch._foreach_sub(image, torch._foreach_mul(vector, value))
        residual = _dot(off, off) ** 0.5 / (abs(value) or 1.0)
        if residual <= tolerance and value < 0 and not shift:
            shift, residual = value, math.inf  # all eigenvalues of H - shift are positive
            vector = _scaled(start)
            continue
        if residual > tolerance and products < iterations:
            vector = _scaled(torch._foreach_sub(image, torch._foreach_mul(vector, shift)))
    return Eigen(value, residual, products), vector


def filter_normalized(module: nn.Module, seed: int) -> Vector:
    """A random direction of the trained parameters whose filters have the norms of the weights' filters."""
    generator = torch.Generator().manual_seed(seed)
    # GPT-2 and its kind store weights as (inputs, outputs).
    columns = {id(part.weight) for part in module.modules() if type(part).__name__ == "Conv1D"}
    direction = []
    for weight in module.parameters():
        if not weight.requires_grad:
            continue
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2:
            direction.append(torch.zeros_like(noise))
            continue
        inputs = [0] if id(weight) in columns else list(range(1, weight.dim()))
        own, drawn = (torch.linalg.vector_norm(x.detach(), dim=inputs, keepdim=True) for x in (weight, noise))
        direction.append(noise * own / drawn)
    return direction


@contextmanager
def moved(weights: Sequence[Tensor], direction: Vector, radius: float) -> Iterator[None]:
    """Moves weights along a direction; afterwards they are bit-equal to what they were."""
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        torch._foreach_add_(list(weights), direction, alpha=radius)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(weights), before)


def _gaussian(weights: Sequence[Tensor], seed: int) -> Vector:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(weight.shape, generator=generator).to(weight) for weight in weights]


def _dot(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(x.flatten(), y.flatten())) for x, y in zip(xs, ys, strict=True))


def _scaled(vector: Sequence[Tensor]) -> Vector:
    norm = _dot(vector, vector) ** 0.5
    return [part / norm for part in vector]
