"""What else a test reports: modes of one student, accuracy within budgets, and of how many answers skips are known."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from skipthinking.records import UserError
from skipthinking.report.charts import draw_charts
from skipthinking.report.comparing import compare_runs
from skipthinking.report.run_folders import read_run, read_runs
from skipthinking.report.summary import print_summary
from skipthinking.report.tables import FORMATS, cells

FULL = {"model.init_args.mode": "full"}


def scored(folder: Path, seed: int = 0, **scores: Any) -> Path:
    """A run with more scores in its summary."""
    path = write_run(folder, seed=seed) / "summary.json"
    summary = json.loads(path.read_text())
    summary["test"]["sums"] |= {"accuracy_low": 0.3, "accuracy_high": 0.95, **scores}
    path.write_text(json.dumps(summary))
    return folder


def test_modes_of_a_suites_run_are_two_methods_of_its_task(tmp_path: Path) -> None:
    for seed in (0, 1):
        home = tmp_path / f"sums-skips-{seed}"
        suite = {"task": "sums", "method": "skips"}
        write_run(home, "STT", seed, suite=suite, settings={"mode": "skip"})
        write_run(home / "mode=full", "STT", seed, tokens=20, answer_settings=FULL)
    (first, second) = compare_runs(map(str, tmp_path.iterdir())).rows
    assert [(row.test, row.method, row.seeds) for row in (first, second)] == [
        ("sums", "skips", (0, 1)), ("sums", "skips, mode=full", (0, 1)),
    ]  # fmt: skip
    assert (first.new_tokens, second.new_tokens) == (11.5, 21.5)


def test_answers_of_another_student_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "one", settings={"mode": "skip"})
    write_run(tmp_path / "one" / "mode=full", steps=4, answer_settings=FULL)
    runs, left_out = read_runs([tmp_path / "one"])
    assert [one.folder.name for one in runs] == ["one"]
    assert "at step 5, as in" in left_out[str(tmp_path / "one" / "mode=full")]


def column(folders: list[Path], name: str) -> list[str] | None:
    headings, rows = cells(compare_runs(map(str, folders)))
    return [row[headings.index(name)] for row in rows] if name in headings else None


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ([{}], None),  # FullCoT: no stages, no column
        ([{"skipped_known": 0.0}], ["unknown"]),
        ([{"skipped_known": 0.88, "skipped": 0.573}], ["57.3 (of 88%)"]),
        ([{"skipped_known": 1.0, "skipped": 0.5}], ["50.0"]),
        ([{"skipped_known": 1.0, "skipped": 0.5}, {"skipped_known": 0.0}], ["50.0 (of 50%)"]),  # two seeds
    ],
)
def test_how_many_answers_are_known_to_skip_stands_beside_what_they_skip(
    scores: list[dict[str, float]], shown: list[str] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [scored(tmp_path / str(seed), seed, **each) for seed, each in enumerate(scores)]
    assert column(folders, "skipped") == shown
    if len(folders) == 1:
        print_summary(folders[0])
        (line,) = [row.split("  ")[-2:] for row in capsys.readouterr().out.splitlines() if "skipped" in row] or [[""]]
        assert ([part.strip().replace("%", "", 1) for part in line if part.strip()] or None) == shown


def test_accuracy_within_a_budget_is_the_mean_over_seeds_with_that_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = scored(tmp_path / "a", 0, accuracy_at={"32": 0.25, "64": 0.5}, unfinished=0.25)
    two = scored(tmp_path / "b", 1, accuracy_at={"32": 0.5, "64": 0.75, "128": 0.75}, unfinished=0.75)
    assert column([one, two], "within") == ["32: 37.5, 64: 62.5"]
    assert column([one, two], "unfinished") == ["50.0"]
    comparison = compare_runs([str(one), str(two)])
    (row,) = csv.DictReader(io.StringIO(FORMATS["csv"](comparison)))
    assert (row["accuracy_at_32"], row["accuracy_at_64"]) == ("0.375", "0.625")
    assert "within_sums" in [chart.name for chart in draw_charts(comparison)]
    print_summary(two)
    out = " ".join(capsys.readouterr().out.split())
    assert "accuracy within 32 tokens 50.0% accuracy within 64 tokens 75.0% accuracy within 128 tokens 75.0%" in out
    assert "unfinished 75.0%" in out
    assert column([scored(tmp_path / "c")], "within") is None


@pytest.mark.parametrize("wrong", [{"accuracy_at": [1]}, {"accuracy_at": {"32": "x"}}, {"skipped_known": "x"}], ids=str)
def test_scores_of_another_kind_are_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"summary\.json"):
        read_run(scored(tmp_path / "a", **wrong))
