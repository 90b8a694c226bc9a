"""trainer.fast_dev_run tries everything and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DEV = ["--trainer.fast_dev_run", "2"]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_dev_run_leaves_the_folder_of_runs_as_it_was(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *DEV, "--runs_dir", tmp_path / "new" / "runs") == 0
    assert contents(tmp_path) == {}
    out = capsys.readouterr().out
    assert "an instance" in out  # it trained
    assert "gold" in out  # and was tested
    assert "fast_dev_run: nothing is kept" in out
    assert "next:" not in out
    assert run("fit", "--trainer.max_epochs", 1) == 0  # the name is free
    before = contents(tmp_path)
    capsys.readouterr()
    assert before.keys() >= {"tiny/config.yaml", "tiny/student/config.json"}
    config = {"config": tmp_path / "tiny" / "config.yaml"}
    assert run("fit", *DEV, "--ckpt_path", "last") == 0  # nothing is written to the finished run
    assert run("test", *DEV, **config) == 0
    assert run("predict", *DEV, "--questions", _questions(tmp_path / "q.txt"), **config) == 0
    (tmp_path / "q.txt").unlink()
    assert capsys.readouterr().out.count("fast_dev_run: nothing is kept") == 3
    assert contents(tmp_path) == before


def test_a_dev_run_that_fails_leaves_nothing_either(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("fit", *DEV, "--data.max_length", 3) == 2
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("progressive", ["false", "true"])
def test_a_dev_run_takes_the_runs_along_that_it_starts(
    progressive: str, run: Callable[..., int], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    words: list[Any] = ["--model", "KPOD", "--model.progressive", progressive]
    assert run("fit", *DEV, *words, "--evaluate", "false") == 0
    assert contents(tmp_path) == {}


def _questions(path: Path) -> Path:
    path.write_text("Is it heads?\n")
    return path
