"""Configs of older versions, whose class paths name modules that are gone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY

from skipthinking.__main__ import main
from skipthinking.command_line.class_paths import current_class_paths, find_class
from skipthinking.command_line.parsing import call
from skipthinking.data.sources import Files

OLD = """
model:
  class_path: skipthinking.methods.stt.STT
  init_args:
    verifier: {class_path: skipthinking.annotate.skips.Likelihood}
    student: {class_path: skipthinking.students.scratch.FromScratch}
    scheduler: {class_path: skipthinking.schedules.Warmup}
data:
  class_path: skipthinking.data.module.RationaleDataModule
  init_args:
    chunker: {class_path: skipthinking.annotate.chunks.SearchChunks}
    splitter: {class_path: skipthinking.data.steps.Sentences}
trainer:
  callbacks: [{class_path: skipthinking.wandb_tables.ChunkTables, init_args: {rationales: 3}}]
"""


def _class_paths(value: Any) -> set[str]:
    """All class paths of this package in a config."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    own = value.get("class_path", "") if isinstance(value, dict) else ""
    return {own for _ in [0] if own.startswith("skipthinking.")}.union(*map(_class_paths, items))


def _printed(*words: Any) -> str:
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(TINY), *map(str, words), "--print_config"])
    assert not stop.value.code
    return out.getvalue()


def test_an_old_config_names_the_classes_of_today(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    paths = _class_paths(yaml.safe_load(_printed("--config", tmp_path / "old.yaml")))
    names = {line.rpartition(".")[2].split("}")[0].split(",")[0] for line in OLD.splitlines() if "class_path" in line}
    assert names <= {path.rpartition(".")[2] for path in paths}
    assert all(find_class(path) for path in paths)


def test_an_old_class_path_on_the_command_line_is_read_too() -> None:
    for words in (["--data.chunker", "skipthinking.data.stages.AverageChunks"],
                  ["--data.chunker={class_path: skipthinking.data.stages.AverageChunks}"]):  # fmt: skip
        assert "skipthinking.data.chunkers.AverageChunks" in _printed(*words)


@pytest.mark.parametrize("path", ["annotate.cuts.BinaryCut", "methods.kpod.KPOD", "methods.long_cot.LongCoT"])
def test_a_class_that_moved_is_found_by_its_name(path: str) -> None:
    current = find_class(current_class_paths(f"skipthinking.{path}"))
    assert current is not None
    assert current.__name__ == path.rpartition(".")[2]


def test_a_setting_of_an_older_version_has_its_new_name(tmp_path: Path) -> None:
    old = "{path: a, task: gsm8k, unreadable: leave_out}"
    (tmp_path / "old.yaml").write_text(f"data: {{train: [{{class_path: Files, init_args: {old}}}]}}")
    (source,) = yaml.safe_load(_printed("--config", tmp_path / "old.yaml"))["data"]["init_args"]["train"]
    assert source["init_args"]["bad_rows"] == "leave_out"
    assert "unreadable" not in source["init_args"]
    assert current_class_paths('{"unreadable":"error"}') == '{"bad_rows":"error"}'
    assert current_class_paths("--data.train.unreadable=error") == "--data.train.bad_rows=error"
    assert current_class_paths("prompt: unreadable text") == "prompt: unreadable text"


def test_tools_read_options_of_older_versions(tmp_path: Path) -> None:
    def tool(source: Files | None = None) -> Files | None:
        return source

    path = tmp_path / "old.yaml"
    path.write_text(
        "source: {class_path: skipthinking.files.Files, init_args: {path: a, task: b, unreadable: leave_out}}"
    )
    assert call(tool, "tool", ["--config", str(path)]).bad_rows == "leave_out"


def test_a_class_that_is_gone_is_named_in_a_line(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--model", "skipthinking.methods.stt.STTT") == 2
    error = capsys.readouterr().err
    assert "Unknown class 'skipthinking.methods.stt.STTT' for model" in error
    assert "Did you mean 'STT'?" in error


def test_an_old_run_is_tested_and_resumed_without_notes(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--model", "CWT", "--trainer.max_epochs", 1, "--evaluate", "false") == 0

    def older(text: str) -> str:
        moved = {
            "skipthinking.methods.schedules": "skipthinking.schedules",
            "skipthinking.data.chunkers": "skipthinking.data.stages",
            "skipthinking.methods.CWT": "skipthinking.methods.cwt.CWT",
            "skipthinking.students.From": "skipthinking.students.scratch.From",
        }
        for new, old in moved.items():
            text = text.replace(new, old)
        return text

    config, last = tmp_path / "tiny" / "config.yaml", tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    stored = older(checkpoint["skipthinking"]["config"])
    assert "skipthinking.schedules.Warmup" in json.dumps(json.loads(stored))
    torch.save({**checkpoint, "skipthinking": {**checkpoint["skipthinking"], "config": stored}}, last)
    config.write_text(older(config.read_text()))
    capsys.readouterr()
    assert run("test", config=config) == 0
    assert run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2, "--evaluate", "false", config=config) == 0
    assert "note:" not in capsys.readouterr().out
    assert "skipthinking.methods.schedules.Warmup" in config.read_text()
