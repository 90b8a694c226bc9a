"""A gradient that is not finite never reaches the weights, and is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from skipthinking.methods.finite import check_gradients
from skipthinking.records import UserError


def _module(gradient: list[float], scaler: Any = None) -> Any:
    inner = torch.nn.Linear(2, 1)
    inner.weight.grad, inner.bias.grad = torch.tensor([gradient]), torch.ones(1)
    plugin = SimpleNamespace(scaler=scaler)
    return SimpleNamespace(
        named_parameters=inner.named_parameters, global_step=7, current_epoch=2,
        trainer=SimpleNamespace(precision_plugin=plugin),
    )  # fmt: skip


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_tensor_and_the_step_are_named(bad: float) -> None:
    with pytest.raises(UserError, match=r"weight at step 7 \(epoch 2\)"):
        check_gradients(_module([1.0, bad]))


def test_finite_gradients_pass() -> None:
    module = _module([1.0, -2.0])
    before = [p.grad.clone() for _, p in module.named_parameters()]
    check_gradients(module)
    assert all(torch.equal(p.grad, was) for (_, p), was in zip(module.named_parameters(), before, strict=True))


def test_a_step_that_the_loss_scaler_skips_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    check_gradients(_module([1.0, float("inf")], scaler=object()))
    assert "step 7: gradients overflowed in float16" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_fused_optimizers_clip_gradients(run: Callable[..., int], tmp_path: Path, precision: str) -> None:
    def weights(name: str, fused: bool, clip: float) -> torch.Tensor:
        sgd = f"{{class_path: torch.optim.SGD, init_args: {{lr: 1.0, fused: {str(fused).lower()}}}}}"
        words = ["--run", name, "--model.optimizer", sgd, "--trainer.gradient_clip_val", clip, "--evaluate", "false"]
        assert run("fit", *words, "--trainer.precision", precision, "--trainer.max_epochs", 1) == 0
        state = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([value.flatten() for value in state.values()])

    fused, plain, unclipped = weights("a", True, 0.01), weights("b", False, 0.01), weights("c", True, 1e9)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-6)
    assert (fused - unclipped).norm() > 10 * (fused - plain).norm() + 1e-3
