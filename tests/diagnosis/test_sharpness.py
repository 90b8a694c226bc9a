"""Power iteration on known eigenvalues, Hessians against finite differences, and filter-normalized noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import skipthinking.students.heads
from skipthinking.diagnosis.sharpness import Objective, Sharpness, filter_normalized, moved, top_eigenvalue
from skipthinking.methods import FullCoT
from skipthinking.records import Instance, UserError
from skipthinking.students.scratch import FromScratch, train_tokenizer

TINY = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _matrix(eigenvalues: list[float]) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=_seeded(1)))
    return basis @ torch.diag(torch.tensor(eigenvalues)) @ basis.T


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "eigenvalues", [[5.0, 2.0, 1.0, -3.0], [5.0, 2.0, 1.0, -8.0], [-1.0, -2.0, -6.0], [3.0, 3.0, 0.1]]
)
def test_power_iteration_finds_the_largest_eigenvalue(eigenvalues: list[float]) -> None:
    matrix = _matrix(eigenvalues)
    start = [torch.randn(len(eigenvalues), generator=_seeded(2))]
    found, (vector,) = top_eigenvalue(lambda v: [matrix @ v[0]], start, 1e-3, 500)
    assert found.value == pytest.approx(max(eigenvalues), rel=1e-3)
    assert found.residual <= 1e-3
    assert torch.dist(matrix @ vector, found.value * vector) <= 1.01e-3 * abs(found.value)
    assert found.products < 200


def test_power_iteration_reports_the_residual_where_it_is_stopped() -> None:
    matrix = _matrix([1.0, 0.99, 0.5])
    found, (vector,) = top_eigenvalue(lambda v: [matrix @ v[0]], [torch.randn(3, generator=_seeded(3))], 1e-9, 4)
    assert found.products == 4
    assert found.residual == pytest.approx(float(torch.dist(matrix @ vector, found.value * vector)) / found.value)
    # Some eigenvalue is within the residual.
    assert min(abs(found.value - value) for value in (1.0, 0.99, 0.5)) <= found.residual * found.value


# ------------------------------------------------------------------------------------------------ a student


@pytest.fixture(scope="module")
def method() -> Any:
    student = FromScratch(config=TINY)
    student.tokenizer = train_tokenizer(["one two three"], 512, 10)
    torch.manual_seed(0)
    student.build()
    return FullCoT(student=student).eval()


def _instances(*lengths: int) -> list[Instance]:
    rng = np.random.default_rng(lengths)
    ones = (np.ones(length, dtype=np.float32) for length in lengths)
    return [
        Instance(id=str(len(w)), prompt=rng.integers(5, 99, 4), tokens=rng.integers(5, 99, len(w)), weights=w)
        for w in ones
    ]


def test_the_quadratic_of_a_module_has_the_eigenvalues_of_its_matrix() -> None:
    matrix = _matrix([4.0, 2.0, -1.0, -7.0])
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(4, generator=_seeded(4)))
    objective = Objective.__new__(Objective)
    objective.trained = [module.weight]
    # Two micro-batches with half of the loss each.
    objective._losses = lambda: (0.25 * module.weight @ matrix @ module.weight for _ in range(2))  # type: ignore[method-assign,misc,assignment]
    found, _ = top_eigenvalue(objective.product, [torch.ones(4)], 1e-3, 500)
    assert found.value == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("chunk", [None, 512 * 3], ids=["logits at once", "chunks of 3 tokens"])
def test_the_hessian_is_the_difference_of_gradients(
    method: Any, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk:
        monkeypatch.setattr(skipthinking.students.heads, "CHUNK_ELEMENTS", chunk)
    objective = Objective(method, _instances(5, 9, 14), tokens=20)
    assert len(objective._batches) == 3
    count = sum(p.numel() for p in objective.trained)
    direction = [torch.randn(p.shape, generator=_seeded(5)) / count**0.5 for p in objective.trained]  # norm 1

    def gradient(radius: float) -> Tensor:
        with moved(objective.trained, direction, radius), torch.enable_grad():
            loss = torch.stack(list(objective._losses())).sum()
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, objective.trained)])

    ours = torch.cat([part.flatten() for part in objective.product(direction)])
    difference = (gradient(0.01) - gradient(-0.01)) / 0.02
    assert torch.dist(ours, difference) < 0.01 * difference.norm()


def test_the_loss_of_a_sample_does_not_depend_on_its_batches(method: Any) -> None:
    rows = _instances(5, 9, 14)
    assert Objective(method, rows, 20).loss() == pytest.approx(Objective(method, rows, 1000).loss(), rel=1e-6)


def test_attention_without_a_second_derivative_is_refused(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(method, _instances(5), 100)
    monkeypatch.setattr(method.student.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(UserError, match=r"second derivative, got.*flash.*Set model.student.attention: sdpa"):
        Sharpness(iterations=1).measure(objective, 0)


# ------------------------------------------------------------------------------------------------ noise


class _Layers(nn.Module):
    """Two layers with a ReLU between them, which knows no scale: (c A, b / c) is the same function for any c > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


def test_filters_of_the_noise_have_the_norms_of_the_weights_and_biases_stay() -> None:
    module = _Layers()
    first, bias, second = filter_normalized(module, seed=0)
    for weight, noise in ((module.first.weight, first), (module.second.weight, second)):
        torch.testing.assert_close(noise.norm(dim=1), weight.detach().norm(dim=1))
        assert abs(float(torch.cosine_similarity(noise.flatten(), weight.detach().flatten(), dim=0))) < 0.9
    assert not bias.any()


def test_noise_of_gpt2_follows_its_columns() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 7, generator=_seeded(6)))

    module = nn.Sequential(Conv1D())
    (noise,) = filter_normalized(module, seed=0)
    torch.testing.assert_close(noise.norm(dim=0), next(module.parameters()).detach().norm(dim=0))


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_noise_does_not_notice_that_a_layer_is_rescaled(scale: float) -> None:
    module, x = _Layers(), torch.randn(20, 6, generator=_seeded(0))
    twin = _Layers()
    twin.load_state_dict(module.state_dict())
    with torch.no_grad():
        twin.first.weight.mul_(scale)
        twin.first.bias.mul_(scale)
        twin.second.weight.div_(scale)
        outputs = []
        for one in (module, twin):
            with moved(list(one.parameters()), filter_normalized(one, seed=3), 0.3):
                outputs.append(one(x))
        assert torch.dist(module(x), outputs[0]) > 0.1
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_weights_are_bit_equal_after_noise(method: Any) -> None:
    weights = list(method.student.parameters())
    before = [weight.detach().clone() for weight in weights]
    with moved(weights, filter_normalized(method.student, 1), 0.1):
        assert not torch.equal(weights[0], before[0])
    assert all(map(torch.equal, weights, before))


def test_sharpness_depends_on_its_seed_alone(method: Any) -> None:
    settings = Sharpness(iterations=3, noise=2, radii=(0.1,))
    objective = Objective(method, _instances(5, 9), 100)
    torch.manual_seed(1)
    one, two, other = (settings.measure(objective, seed) for seed in (0, 0, 1))
    assert one == two
    assert one["noise"] != other["noise"]
    assert one["loss"] == objective.loss()


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"radii": (0.1, -1.0)}, {"noise": 0}, {"iterations": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Expected at least 1 instance"):
        Sharpness(**wrong)
