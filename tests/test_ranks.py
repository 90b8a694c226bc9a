"""Splitting a step over processes and micro-batches changes nothing but rounding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Uneven target lengths (short answers next to rationales), no dropout; SGD, because Adam would amplify rounding.
SETTINGS = [
    "--model", "MultiTask", "--model.rationale_weight", 0.5, "--model.student.architecture", "llama",
    "--model.student.config", "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}",
    "--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.5}}", "--trainer.max_epochs", 2,
]  # fmt: skip
DDP = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def _predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def _assert_close(ours: Path, oracle: Path) -> None:
    found, expected = _weights(ours), _weights(oracle)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    moved = [name for name in expected if not torch.equal(expected[name], torch.zeros_like(expected[name]))]
    assert moved


def test_two_accumulated_batches_are_one_of_twice_the_size(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("fit", *SETTINGS, "--run", "one", "--data.batch_size", 6) == 0
    assert run("fit", *SETTINGS, "--run", "two", "--data.batch_size", 3, "--trainer.accumulate_grad_batches", 2) == 0
    _assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("method", ["MultiTask", "CWT"])
def test_two_ranks_are_one_of_twice_the_batch_and_count_each_example_once(
    method: str, run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    # 5 test examples in batches of 2 for 2 ranks: 3 batches, so one rank has more than the other.
    own = SETTINGS if method == "MultiTask" else ["--model", "CWT", *SETTINGS[4:], "--data.stage_sampling", "loss"]
    settings = [*own, "--data.eval_batch_size", 2]
    assert run("fit", *settings, "--run", "one", "--data.batch_size", 6) == 0
    spread = spawn("fit", *settings, "--run", "two", "--data.batch_size", 3, *DDP)
    assert spread.returncode == 0, spread.stderr
    _assert_close(tmp_path / "two", tmp_path / "one")
    assert len(_predictions(tmp_path / "two")) == 5
    assert [row["id"] for row in _predictions(tmp_path / "two")] == [
        row["id"] for row in _predictions(tmp_path / "one")
    ]
    one, two = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("one", "two"))
    for name in ("steps", "target_tokens", "context_tokens"):
        assert one[name] == two[name]


def test_a_rank_without_test_examples_changes_no_score(
    run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    assert run("fit", "--trainer.max_epochs", 1) == 0
    one = _predictions(tmp_path / "tiny")
    scores = json.loads((tmp_path / "tiny" / "summary.json").read_text())["test"]
    (tmp_path / "tiny" / "predictions.jsonl").unlink()
    spread = spawn("test", *DDP)  # all 5 in one batch: the second rank has none
    assert spread.returncode == 0, spread.stderr
    assert _predictions(tmp_path / "tiny") == one
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["test"] == scores
