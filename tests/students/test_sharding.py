"""FSDP changes nothing but rounding: two ranks that share the weights are one process with twice the batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_notes import annotations
from safetensors.torch import load_file

LLAMA = [
    "--model.student.architecture", "llama", "--model.student.config",
    "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2}",
    "--data.eval_batch_size", 2, "--trainer.gradient_clip_val", 1.0,
]  # fmt: skip
METHODS = {
    "stt": ["--model", "STT", "--model.warmup_epochs", 2, "--model.gap_epochs", 0, "--trainer.max_epochs", 3,
            "--model.verifier", "Rollout", "--data.chunker", "SearchChunks", "--data.chunker.n_chunks", 3,
            "--data.chunker.refresh_every_n_epochs", 1],
    "cwt_lora": ["--model", "CWT", "--model.student.lora.r", 2, "--model.student.gradient_checkpointing", "true"],
}  # fmt: skip
SHARDED = ["--trainer.devices", 2, "--trainer.strategy", "fsdp2"]


def _checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_two_sharded_ranks_are_one_of_twice_the_batch(
    method: str, run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    settings = [*METHODS[method], *LLAMA]
    assert run("fit", *settings, "--run", "one", "--data.batch_size", 6) == 0
    spread = spawn("fit", *settings, "--run", "two", "--data.batch_size", 3, *SHARDED)
    assert spread.returncode == 0, spread.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    _same(_checkpoint(two)["state_dict"], _checkpoint(one)["state_dict"])
    assert all(type(value) is torch.Tensor for value in _checkpoint(two)["state_dict"].values())
    _same(load_file(two / "student" / "model.safetensors"), load_file(one / "student" / "model.safetensors"))
    assert annotations(two) == annotations(one)
    texts = [(folder / "predictions.jsonl").read_text() for folder in (one, two)]
    expected, found = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert [(row["id"], row["completion"]) for row in found] == [(row["id"], row["completion"]) for row in expected]


def test_a_sharded_run_goes_on_where_it_was(spawn: Callable[..., Any], tmp_path: Path) -> None:
    settings = ["--model", "CWT", *LLAMA, *SHARDED, "--evaluate", "false", "--model.scheduler", "null"]
    for words in (["--run", "whole", "--trainer.max_epochs", 2], ["--run", "parts", "--trainer.max_epochs", 1],
                  ["--run", "parts", "--trainer.max_epochs", 2, "--ckpt_path", "last"]):  # fmt: skip
        done = spawn("fit", *settings, *words)
        assert done.returncode == 0, done.stderr
    whole, parts = _checkpoint(tmp_path / "whole"), _checkpoint(tmp_path / "parts")
    assert parts["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], value), name
    assert parts["skipthinking"]["tokens"] == whole["skipthinking"]["tokens"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fsdp"], "fsdp"),
        (["lightning.pytorch.strategies.ModelParallelStrategy"], "invalid strategy name"),
        (["nonsense"], "invalid strategy name"),
    ],
    ids=lambda value: value[0],
)
def test_a_strategy_that_cannot_run_is_told(
    words: list[str], told: str, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--trainer.strategy", *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_strategies_that_evaluation_does_not_know_are_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.strategy.class_path", "lightning.pytorch.strategies.ModelParallelStrategy"]
    assert run("fit", *words) == 2
    assert "fsdp2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_method_that_trains_more_than_the_student_is_refused(spawn: Callable[..., Any], tmp_path: Path) -> None:
    done = spawn("fit", "--model", "KeypointWeighter", "--trainer.devices", 1, "--trainer.strategy", "fsdp2")
    assert done.returncode == 2, done.stderr
    assert "Expected a method that trains the student alone, got KeypointWeighter" in done.stderr
    assert "Traceback" not in done.stderr
