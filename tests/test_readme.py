"""The instructions of the README work."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from skipthinking.__main__ import TOOLS, TRAINING
from skipthinking.tasks import task_names

TEXT = (ROOT / "README.md").read_text()


def _block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", TEXT, re.S)
    assert match
    return match.group(1)


def test_the_method_of_the_readme_trains(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_package.py").write_text(_block("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run("fit", "--model", "my_package.LastStepOnly", "--trainer.max_epochs", 1) == 0
    shown = capsys.readouterr().out.split("its targets between")[1]
    assert "Therefore," in shown[shown.rindex("«", 0, shown.rindex("»")) :]


def test_the_config_of_the_readme_is_read(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(_block("yaml"))
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    assert run("fit", "--print_config", config=path) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"] == "skipthinking.methods.CWT"
    assert config["data"]["init_args"]["train"][0]["init_args"]["path"] == "my_rationales.jsonl"
    assert config["data"]["init_args"]["test"]
    assert run("fit", config=path) == 2  # valid, but the file is missing and the hub is out of reach
    message = capsys.readouterr().err
    assert "my_rationales.jsonl" in message or "openai/gsm8k" in message


def test_the_commands_tasks_and_files_of_the_readme_exist() -> None:
    commands = set(re.findall(r"python -m skipthinking (\w+)", TEXT))
    assert commands
    assert commands <= {*TOOLS, *TRAINING}
    for name in re.findall(r"experiments/[\w/]+\.(?:yaml|md)", TEXT):
        assert (ROOT / name).exists(), name
    listed = TEXT.split("is read and graded: ")[1].split(", or a built-in")[0]
    assert {name.strip() for name in listed.replace("\n", " ").split(",")} <= set(task_names())
