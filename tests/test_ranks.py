"""Splitting a step over processes and micro-batches changes nothing but rounding."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from skipthinking.__main__ import main
from skipthinking.methods import Distiller

# Uneven target lengths (short answers next to rationales), no dropout; SGD, because Adam would amplify rounding.
SETTINGS = [
    "--model.rationale_weight", 0.5, "--model.student.architecture", "llama",
    "--model.student.config", "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}",
    "--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.5}}", "--trainer.max_epochs", 2,
    "--data.eval_batch_size", 2,
]  # fmt: skip
MULTI_TASK = ["--model", "MultiTask", *SETTINGS]
KINDS: dict[str, list[Any]] = {
    "MultiTask": MULTI_TASK,
    "CWT": ["--model", "CWT", *SETTINGS[2:], "--data.stage_sampling", "loss"],
    "batch_tokens": MULTI_TASK,
    "bf16-mixed": [*MULTI_TASK, "--trainer.precision", "bf16-mixed"],
}
# Of all rounding: with bfloat16 the gradients of a micro-batch have 8 bits, and are added up in another order.
LOSS_ERROR = {"bf16-mixed": 1e-2}
MOVE_ERROR = {"bf16-mixed": 5e-2}  # of the distance between the weights before and after training
DDP = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]


def _batches(kind: str, times: int, folder: Path) -> list[Any]:
    """A micro-batch of a size, or of that many times as many examples."""
    if kind != "batch_tokens":
        return ["--data.batch_size", 3 * times]
    # Instances of 34 and of 41 tokens: 140 tokens hold 4 or 3 of them, 280 tokens 8 or 6. In 24 of each a step ends
    # with a micro-batch, so that twice the tokens are the same step.
    path = folder / "nuts.jsonl"
    rows = [
        {
            "question": f"Ann has {30 + n} nuts and eats {10 + n % 7}. How many are left?",
            "rationale": f"{30 + n} - {10 + n % 7} = {20 + n - n % 7}. That is what is left.",
            "answer": str(20 + n - n % 7),
        }
        for n in range(28)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = json.dumps([{"class_path": "Files", "init_args": {"path": str(path), "task": "gsm8k"}}])
    return ["--data.train", source, "--data.batch_size", 100, "--data.batch_tokens", 140 * times]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def _predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def _losses(folder: Path) -> dict[int, float]:
    """The loss of every logged step."""
    with (folder / "metrics.csv").open(newline="") as lines:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]}


class One:
    """A run in one process, and its weights before training."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.before = kind, folder / "one", {}
        start = Distiller.on_train_start

        def spy(method: Any) -> None:
            self.before = {name: value.detach().clone() for name, value in method.state_dict().items()}
            start(method)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Distiller, "on_train_start", spy)
            words = [*KINDS[kind], "--run", "one", *_batches(kind, 2, folder)]
            assert main(["fit", "--config", str(TINY), "--runs_dir", str(folder), *map(str, words)]) == 0

    def assert_close(self, ours: Path) -> None:
        """Another run ends with the same weights, takes the same steps, and logs the same losses."""
        found, expected = _weights(ours), _weights(self.folder)
        assert found.keys() == expected.keys() == self.before.keys()
        for name, value in expected.items():
            moved = (value - self.before[name]).norm()
            assert moved > 1e-3, name
            if self.kind in MOVE_ERROR:
                assert (found[name] - value).norm() < MOVE_ERROR[self.kind] * moved, name
            else:
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
        losses, known = _losses(ours), _losses(self.folder)
        assert losses.keys() == known.keys()
        assert len(known) >= 8
        for step, loss in known.items():
            assert losses[step] == pytest.approx(loss, rel=LOSS_ERROR.get(self.kind, 1e-4)), step


@pytest.fixture(scope="module", params=KINDS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> One:
    """A run of every kind in one process, with micro-batches of twice the size."""
    return One(request.param, tmp_path_factory.mktemp(request.param))


def test_two_accumulated_batches_are_one_of_twice_the_size(one: One, run: Callable[..., int], tmp_path: Path) -> None:
    words = [*_batches(one.kind, 1, tmp_path), "--trainer.accumulate_grad_batches", 2, "--evaluate", "false"]
    assert run("fit", *KINDS[one.kind], "--run", "two", *words) == 0
    one.assert_close(tmp_path / "two")


def test_two_ranks_are_one_of_twice_the_batch_and_count_each_example_once(
    one: One, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    # 5 test examples in batches of 2 for 2 ranks: 3 batches, so one rank has more than the other.
    spread = spawn("fit", *KINDS[one.kind], "--run", "two", *_batches(one.kind, 1, tmp_path), *DDP)
    assert spread.returncode == 0, spread.stderr
    one.assert_close(tmp_path / "two")
    assert len(_predictions(tmp_path / "two")) == 5
    assert [row["id"] for row in _predictions(tmp_path / "two")] == [row["id"] for row in _predictions(one.folder)]
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "two", one.folder))
    for name in ("steps", "target_tokens", "context_tokens"):
        assert ours[name] == theirs[name]


def test_a_run_of_one_process_goes_on_with_two_and_is_the_same_run(
    spawn: Callable[..., Any], run: Callable[..., int], tmp_path: Path, one: One
) -> None:
    """Stopped within an epoch; the steps that are left have the same examples, in two halves."""
    if one.kind not in ("MultiTask", "CWT"):
        pytest.skip("one plan by count is enough")
    words = ["--run", "two", "--evaluate", "false"]
    stop = ["--trainer.callbacks+=interruptions.Interrupt", "--trainer.callbacks.step", 3,
            "--trainer.callbacks.how", "stop"]  # fmt: skip
    assert run("fit", *KINDS[one.kind], *words, *_batches(one.kind, 2, tmp_path), *stop) == 0
    resumed = spawn("fit", *KINDS[one.kind], *words, *_batches(one.kind, 1, tmp_path), *DDP, "--ckpt_path", "last")
    assert resumed.returncode == 0, resumed.stderr
    one.assert_close(tmp_path / "two")


def test_two_ranks_are_two_accumulated_batches_of_as_many_tokens(
    run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """Micro-batches of one step with different numbers of instances, some of them long and some short."""
    words = [*MULTI_TASK, "--data.batch_size", 100, "--data.batch_tokens", 700, "--evaluate", "false"]
    assert run("fit", *words, "--run", "one", "--trainer.accumulate_grad_batches", 2) == 0
    spread = spawn("fit", *words, "--run", "two", *DDP)
    assert spread.returncode == 0, spread.stderr
    found, expected = _weights(tmp_path / "two"), _weights(tmp_path / "one")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), rel=1e-4)


def test_a_loss_that_is_logged_now_and_then_is_that_of_its_step(run: Callable[..., int], tmp_path: Path) -> None:
    words = [*MULTI_TASK, "--data.batch_size", 3, "--trainer.accumulate_grad_batches", 2, "--evaluate", "false"]
    for every in (1, 3):
        assert run("fit", *words, "--run", f"every_{every}", "--trainer.log_every_n_steps", every) == 0
    known, found = _losses(tmp_path / "every_1"), _losses(tmp_path / "every_3")
    assert set(found) == {0, *range(2, len(known), 3), len(known) - 1}  # the first, every third, and the last
    assert found == {step: known[step] for step in found}


@pytest.mark.parametrize(("ranks", "size"), [(2, 32), (3, 1), (3, 2)], ids=["none", "uneven", "even"])
def test_several_ranks_count_every_test_example_once(
    ranks: int, size: int, run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """5 examples: all in one batch, so that the second rank has none; 2, 2 and 1 for three ranks; a batch each."""
    assert run("fit", "--trainer.max_epochs", 1) == 0
    one = _predictions(tmp_path / "tiny")
    scores = json.loads((tmp_path / "tiny" / "summary.json").read_text())["test"]
    (tmp_path / "tiny" / "predictions.jsonl").unlink()
    words = ["--data.eval_batch_size", size, "--trainer.devices", ranks, "--trainer.strategy", "ddp"]
    spread = spawn("test", *words)
    assert spread.returncode == 0, spread.stderr
    assert len(one) == 5
    assert _predictions(tmp_path / "tiny") == one
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["test"] == scores


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_stops_the_run_at_the_step_that_made_it(
    accumulate: int, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is finite in every step; the weights are those of the steps before."""
    words = ["--checkpoint_every", 1, "--trainer.accumulate_grad_batches", accumulate, "--trainer.gradient_clip_val", 1,
             "--trainer.callbacks+=interruptions.SpoilGradient", "--trainer.callbacks.step", 3]  # fmt: skip
    assert run("fit", *words) == 2
    told = capsys.readouterr().err
    assert "Expected finite gradients, got others in " in told
    assert "ln_f.weight at step 3 (epoch " in told
    assert "Traceback" not in told
    assert len(_losses(tmp_path / "tiny")) >= 3
    saved = torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
