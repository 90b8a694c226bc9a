"""The command ``diagnose`` and the callback: files, tables, seeds, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from skipthinking.checkpoints import read_checkpoint
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Generated
from skipthinking.diagnosis import Diagnosis, GradientShares, Sharpness
from skipthinking.methods import CWT
from skipthinking.records import UserError
from skipthinking.students import FromScratch

CALLBACK = (
    "--trainer.callbacks+={class_path: skipthinking.diagnosis.Diagnosis, init_args: {every_n_epochs: 1, gradients: "
    "{steps: 1}, sharpness: {iterations: 2, noise: 1, radii: [0.1], instances: 4}}}"
)
SMALL = ["--sharpness.iterations", 2, "--sharpness.noise", 1, "--sharpness.radii", "[0.1]", "--sharpness.instances", 4]
STAGES = ["--model", "CWT", "--data.chunker", "AverageChunks", "--data.chunker.n_chunks", 3]


def test_the_command_measures_what_the_callback_measured(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*STAGES, "--trainer.max_epochs", 1, "--evaluate", "false"]
    assert run("fit", "--run", "with", *words, CALLBACK) == 0
    assert run("fit", "--run", "without", *words) == 0
    found = json.loads((tmp_path / "with" / "diagnosis.json").read_text())
    columns = (tmp_path / "with" / "metrics.csv").read_text().partition("\n")[0]
    assert "diagnosis/gradients/step/mean/norm" in columns
    # Training does not notice that it is diagnosed.
    one, two = (read_checkpoint(str(tmp_path / name / "checkpoints" / "last.ckpt"), "") for name in ("with", "without"))
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])

    config = tmp_path / "without" / "config.yaml"
    capsys.readouterr()
    assert run("diagnose", "--run", "without", "--gradients.steps", 1, *SMALL, config=config) == 0
    again = json.loads((tmp_path / "without" / "diagnosis.json").read_text())
    assert again == found
    shown = capsys.readouterr().out
    assert "gradient shares of core tokens (ground truth), steps of 4 instances" in shown
    assert f"{found['sharpness']['train']['loss']:.4f}" in shown
    # One chunk of the text is core or not; several in a step are both.
    assert found["gradients"]["example"]["with_core"] < 1
    assert found["gradients"]["example"]["units"] == 4

    assert (
        run(
            "diagnose",
            "--run",
            "without",
            "--gradients",
            "null",
            "--sharpness",
            "null",
            "--out",
            "no.json",
            config=config,
        )
        == 0
    )
    assert json.loads((tmp_path / "without" / "no.json").read_text())["gradients"] is None


def _data(task: str, **settings: Any) -> RationaleDataModule:
    return RationaleDataModule(train=[Generated(task, "train", 8)], batch_size=4, **settings)


def _fit(diagnosis: Diagnosis, data: RationaleDataModule, folder: Path, **settings: Any) -> None:
    config = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}
    method = CWT(student=FromScratch("gpt2", config, vocab_size=512), **settings)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=[diagnosis], default_root_dir=folder,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)


def test_from_python_with_token_weights(tmp_path: Path) -> None:
    data = _data("arithmetic")
    lines = []

    class Write(Diagnosis):
        def run(self, trainer: L.Trainer, method: Any, epoch: int) -> dict[str, Any]:
            for row in method.data.encoded:
                weights = [float(token % 7 == 0) for token in row.tokens[: row.answer[0]].tolist()]
                lines.append({"id": row.id, "ids": row.tokens[: row.answer[0]].tolist(), "weights": weights})
            (tmp_path / "weights.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            return super().run(trainer, method, epoch)

    shares = GradientShares(steps=1, weights=str(tmp_path / "weights.jsonl"), core_share=0.5)
    _fit(Write(shares, None), data, tmp_path, stage_marker=None)
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    # Half of the rationale tokens, none of the answer's.
    assert 0.2 < found["gradients"]["step"]["mean"]["tokens"] <= 0.6
    assert found["sharpness"] is None


def test_rationales_without_core_tokens_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "2 + 2?", "rationale": "2 + 2 is 4.", "answer": "4"}) + "\n")
    from skipthinking.data.sources import Files

    data = RationaleDataModule(train=[Files(str(path), "gsm8k")])
    with pytest.raises(UserError, match=r"Expected core tokens.*Give token weights by --gradients.weights FILE"):
        _fit(Diagnosis(), data, tmp_path)


def test_several_processes_are_refused() -> None:
    class Two:
        world_size = 2

    with pytest.raises(UserError, match=r"Expected one process for a diagnosis, got 2. Set trainer.devices: 1"):
        Diagnosis(sharpness=Sharpness()).setup(Two(), None, "fit")  # type: ignore[arg-type]
