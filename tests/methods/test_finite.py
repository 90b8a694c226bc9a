"""A loss or gradient that is not finite never reaches a checkpoint, and is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from skipthinking.methods import FullCoT
from skipthinking.methods.finite import FiniteChecks
from skipthinking.records import UserError


def _check(module: Any) -> None:
    checks = FiniteChecks()
    checks.gradients(module)
    checks.read()


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
        _check(_module([1.0, bad]))


def test_finite_gradients_pass() -> None:
    module = _module([1.0, -2.0])
    before = [p.grad.clone() for _, p in module.named_parameters()]
    _check(module)
    assert all(torch.equal(p.grad, was) for (_, p), was in zip(module.named_parameters(), before, strict=True))


def test_a_step_that_the_loss_scaler_skips_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    _check(_module([1.0, float("inf")], scaler=object()))
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


def test_a_value_is_read_when_the_next_one_is_watched_and_stops_every_later_step() -> None:
    checks = FiniteChecks()
    for micro_batch, loss in enumerate((1.5, float("nan"))):
        checks.loss(_module([1.0, 1.0]), torch.tensor(loss), ["a", f"b{micro_batch}"], micro_batch)
    assert checks.last_loss == 1.5  # that of the micro-batch before
    for _ in range(2):
        with pytest.raises(UserError, match=r"got nan at step 7 \(epoch 2, micro-batch 1\), examples a, b1\. Lower"):
            checks.gradients(_module([1.0, 1.0]))  # before the optimizer step


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("step", [0, 4])  # of two epochs of 5: the first, and the last one before a save
def test_a_run_stops_before_it_saves_bad_weights(
    what: str, step: int, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[str] = []
    inner = FullCoT.micro_batch_loss

    def spoiled(self: FullCoT, nll_N: torch.Tensor, batch: Any) -> torch.Tensor:
        loss = inner(self, nll_N, batch)
        if self.global_step != step:
            return loss
        seen[:] = batch.ids
        if what == "gradient":
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss if what == "gradient" else loss * float("inf")

    monkeypatch.setattr(FullCoT, "micro_batch_loss", spoiled)
    assert run("fit", "--evaluate", "false") == 2
    assert torch.is_grad_enabled()  # the next run in this process trains
    error = capsys.readouterr().err
    if what == "loss":
        where = f"got inf at step {step} (epoch 0, micro-batch {step})"
        assert f"{where}, examples {', '.join(seen)}." in error
    else:
        assert f"Expected finite gradients, got others in student.model.transformer.wte.weight at step {step}" in error
    for path in tmp_path.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        assert state["global_step"] <= step
        assert all(bool(value.isfinite().all()) for value in state["state_dict"].values())
