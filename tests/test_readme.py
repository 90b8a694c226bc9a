"""The README is true: its code runs, its table has the numbers of the log, its command draws its picture."""

from __future__ import annotations

import configparser
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
LOG = (ROOT / "experiments" / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

first_page = runpy.run_path(str(ROOT / "experiments" / "first_page.py"))


def test_the_method_of_the_readme_trains(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_package.py").write_text(PYTHON[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run("fit", "--model", "my_package.LastStepOnly", "--trainer.max_epochs", 1) == 0
    shown = capsys.readouterr().out.split("its targets between")[1]
    assert "Therefore," in shown[shown.rindex("«", 0, shown.rindex("»")) :]


@pytest.mark.filterwarnings("ignore")
def test_the_python_of_the_readme_trains_and_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On less data, for fewer epochs, and with short answers."""
    less = {
        "size=4200": "size=14",
        "test_size=200": "test_size=2",
        "max_epochs=11": "max_epochs=2, accelerator='cpu', enable_progress_bar=False, enable_model_summary=False",
        "warmup_epochs=8, gap_epochs=6": "warmup_epochs=1, gap_epochs=1, max_new_tokens=4",
        '"n_embd": 128': '"n_embd": 16',
    }
    code = PYTHON[0]
    for much, little in less.items():
        assert much in code
        code = code.replace(much, little)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    (scores,) = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())["test"].values()
    assert (scores["n"], scores["new_tokens"]) == (2, 4)


def test_the_table_of_the_readme_has_the_numbers_of_the_log() -> None:
    results = first_page["read_log"](LOG)
    table = re.search(r"\| task \|.*?\n\n", TEXT, re.DOTALL)
    assert table
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].strip().splitlines()[2:]]
    assert [row[0].replace(" ", "_") for row in rows] == [
        "arithmetic", "long_arithmetic", "last_letter", "coin_flip", "date_understanding",
    ]  # fmt: skip
    for task, *cells in rows:
        log = results[task.replace(" ", "_")]
        full, stt, random = (log[method] for method in ("full_cot", "stt", "random_skip"))
        assert cells == [full[0], stt[0], random[0], full[1], stt[1]], task


def test_the_picture_is_drawn_from_the_log() -> None:
    row = json.loads((ROOT / "experiments" / "figures" / "rationale.jsonl").read_text())
    svg = first_page["draw"](LOG, row)
    assert svg == first_page["PICTURE"].read_text(), "run: python experiments/first_page.py"
    assert svg.count('class="struck"') == len(row["chunks"]) - len(row["kept"])
    assert svg.count("<circle") == len(first_page["METHODS"])


def test_the_badges_say_what_the_package_says() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    badges = dict(re.findall(r"\[!\[(\w+).*?\]\((\S+)\)\]", TEXT))
    assert badges["License"].split("badge/")[1] == f"license-{config['metadata']['license'].replace('-', '--')}-blue"
    assert config["options"]["python_requires"] == ">=" + badges["Python"].split("%E2%89%A5")[1].split("-")[0]
    assert "[tool.ruff" in (ROOT / "pyproject.toml").read_text()


def test_the_lines_of_output_are_those_of_a_summary() -> None:
    source = (ROOT / "skipthinking" / "report" / "summary.py").read_text()
    output = re.search(r"```\naccuracy.*?```", TEXT, re.DOTALL)
    assert output
    for line in output[0].splitlines()[1:-1]:
        assert f'"{re.split(r" {2,}", line.strip())[0]}"' in source.replace('"  ', '"'), line
