"""What goes to W&B, offline: one run however many processes, the answers as tables; and sweeps as agents send them."""

from __future__ import annotations

import copy
import io
import itertools
import json
import subprocess
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from skipthinking.__main__ import main

WANDB = ROOT / "experiments" / "with" / "wandb.yaml"
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)


def test_two_ranks_make_one_run_with_a_table_of_every_answer(spawn: Callable[..., Any], tmp_path: Path) -> None:
    done = spawn("fit", "--config", WANDB, "--model", "CWT", "--trainer.max_steps", 1, "--trainer.devices", 2,
                 "--trainer.strategy", "ddp", "--trainer.logger.save_dir", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    (table,) = (offline / "files" / "media" / "table" / "test").glob("flips*.table.json")
    found = json.loads(table.read_text())
    answers = [json.loads(line) for line in (tmp_path / "tiny" / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 5
    assert found["data"] == [[answer[column] for column in found["columns"]] for answer in answers]
    assert len({row["id"] for row in _chunks(tmp_path)}) == 20  # each rank has scored half of them


@pytest.mark.parametrize("mode", ["offline", None])
def test_a_run_of_a_sweep_is_refused_without_a_server(
    mode: str | None, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setattr("skipthinking.command_line.wandb_mode._has_key", lambda: mode is not None)
    if mode is None:
        monkeypatch.delenv("WANDB_MODE")
    assert run("fit", "--config", WANDB) == 2
    assert "Run `wandb login`" in capsys.readouterr().err


def test_rows_of_the_table_are_limited(run: Callable[..., int], tmp_path: Path) -> None:
    import wandb

    rows = ["--trainer.callbacks.rows", 2]
    assert run("fit", "--config", WANDB, "--trainer.max_steps", 1, "--trainer.logger.save_dir", tmp_path, *rows) == 0
    wandb.finish()
    (table,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/test/flips*.table.json")
    assert len(json.loads(table.read_text())["data"]) == 2
    assert run("fit", "--config", WANDB, "--run", "none", "--trainer.callbacks.rows", 0) == 2


def _chunks(folder: Path) -> list[dict[str, Any]]:
    (table,) = (folder / "wandb").glob("offline-run-*/files/media/table/train/chunks*.table.json")
    found = json.loads(table.read_text())
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


LONG = "[{class_path: Generated, init_args: {task: long_arithmetic, split: train, size: 24}}]"


@pytest.mark.parametrize("method", ["CWT", "STT", "LongCoT"])
def test_chunks_and_skips_are_those_that_annotate_writes(method: str, run: Callable[..., int], tmp_path: Path) -> None:
    import wandb

    skips = ["--model.warmup_epochs", 1, "--model.gap_epochs", 0, "--model.verifier", "verifiers.EveryOther"]
    words = ["--model", method, *(skips if method == "STT" else []), "--data.chunker", "SearchChunks",
             "--data.chunker.refresh_every_n_epochs", 1, "--data.chunker.n_chunks", 3]  # fmt: skip
    if method == "LongCoT":
        words = ["--model", method, "--model.cutter", "cutters.ByPlace", "--data.splitter", "BlankLines",
                 "--data.train", LONG, "--model.student.vocab_size", 800]  # fmt: skip
    added = ["--config", WANDB, "--trainer.logger.save_dir", tmp_path]
    assert run("fit", *added, *words, "--trainer.callbacks.rows", 2) == 0
    wandb.finish()
    shown = _chunks(tmp_path)
    assert run("annotate", "--trainer.logger", "false", config=tmp_path / "tiny" / "config.yaml") == 0
    annotated = [json.loads(line) for line in (tmp_path / "tiny" / "annotations.jsonl").read_text().splitlines()][:20]
    assert {row["id"] for row in shown} == {row["id"] for row in annotated}
    for about in annotated:
        mine = [row for row in shown if row["id"] == about["id"]]
        assert [row["text"] for row in mine] == about["steps"]
        assert [row["nll"] for row in mine] == pytest.approx(about["nll"], abs=2e-4)
        assert [row["tokens"] for row in mine] == about["tokens"]
        spans = [[number] * (end - start) for number, (start, end) in enumerate(about["chunks"], 1)]
        assert [row["chunk"] for row in mine] == list(itertools.chain(*spans))
        assert {row["chunk"] for row in mine if not row["skipped"]} == {number + 1 for number in about["kept"]}
    assert any(row["skipped"] for row in shown) == (method != "CWT")


def test_there_are_sweeps() -> None:
    assert {path.stem for path in SWEEPS} >= {"chunks", "learning_rate"}
    for path in SWEEPS:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert any(f"wandb sweep {path.relative_to(ROOT)}" in line for line in header)


def _values(parameters: dict[str, dict[str, Any]], last: bool) -> dict[str, Any]:
    """The first or the last value that a sweep can choose for each parameter."""
    ends: dict[str, Any] = {}
    for name, about in parameters.items():
        choice = about.get("values") or [about.get("min", about.get("value")), about.get("max", about.get("value"))]
        ends[name] = choice[-1 if last else 0]
    return ends


def _agents_words(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """The command as `wandb agent` makes it, by its own functions."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    given = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    macros = {**given, "env": ["/usr/bin/env"]}
    words = []
    for word in create_sweep_command(copy.deepcopy(sweep["command"])):
        words += macros[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    return words


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_line_takes_what_the_agent_sends(
    path: Path, last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = yaml.safe_load(path.read_text())
    chosen = _values(sweep["parameters"], last)
    (tmp_path / "python").write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done > {tmp_path}/words\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("WANDB_RUN_ID", "a1b2")
    subprocess.run(_agents_words(sweep, chosen), check=True)
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    assert words[:2] == ["-m", "skipthinking"]
    monkeypatch.chdir(ROOT)
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main([*words[2:], "--print_config"])
    assert not stop.value.code
    config = yaml.safe_load(out.getvalue())
    assert config["run"] == "sweep_a1b2"
    for name, value in chosen.items():
        found = config
        for part in name.split("."):
            found = found[part]
        assert found == (f"skipthinking.methods.{value}" if name == "model.class_path" else value), name
    assert sweep["metric"]["name"] == "val/accuracy"  # never the test set's
    assert config["data"]["init_args"]["val_size"] > 0
