"""Laws of the curves and their marks, and of what a run writes for the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import write_run

from skipthinking.report.comparing import compare_runs
from skipthinking.report.headline import facts, title
from skipthinking.report.logs import read_marks

HEADER = "step,epoch,search/chunks,search/skips,train/loss\n"
WARM_UP = "model.init_args.warmup_epochs"


@pytest.mark.parametrize(
    ("rows", "settings", "marks"),
    [
        ("0,0,,,2\n4,1,,,1\n", {}, {}),
        ("0,0,,,2\n4,1,,,1\n8,2,,,1\n9,2,,,1\n", {WARM_UP: 2}, {"warm-up ends": [8]}),
        ("0,0,,,2\n4,1,,,1\n", {WARM_UP: 2}, {}),  # it was stopped before
        ("0,0,,,2\n8,2,,,\n", {WARM_UP: 2}, {}),  # a row of the test after training
        ("0,0,,,2\n", {WARM_UP: 0}, {}),
        ("0,0,,,2\n", {WARM_UP: "x"}, {}),
        ("0,,9,,\n0,0,,,2\n8,,9,7,\nx,,9,,\n", {}, {"chunks search": [0, 8], "skips search": [8]}),
    ],
)
def test_marks_are_the_end_of_the_warm_up_and_the_searches(
    rows: str, settings: dict[str, Any], marks: dict[str, list[float]], tmp_path: Path
) -> None:
    (tmp_path / "metrics.csv").write_text(HEADER + rows)
    found = read_marks(tmp_path / "metrics.csv", settings)
    assert {name: steps for name, steps in found.items() if steps} == marks


@pytest.mark.parametrize("losses", [[4.0, 2.0, 1.0, 0.5], [40.0, 2.0, 1.0, 0.01], [2.0, 1.0, 0.5, -1.0]])
def test_the_loss_axis_is_that_of_all_pages_and_marks_lie_on_the_curve(losses: list[float], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from skipthinking.report.charts import LOSS_AXIS, draw_charts

    folder = write_run(tmp_path / "a", settings={"warmup_epochs": 2})
    rows = [f"{10 * place},{place},,,{loss}" for place, loss in enumerate(losses)]
    (folder / "metrics.csv").write_text(HEADER + "\n".join([*rows, "15,,,4,"]) + "\n")
    (chart,) = (chart for chart in draw_charts(compare_runs([str(folder)])) if chart.name == "loss")
    (axes,) = chart.figure.axes
    low, high = axes.get_ylim()
    if min(losses) > 0:
        assert low <= LOSS_AXIS[0]
        assert high >= LOSS_AXIS[1]
    if LOSS_AXIS[0] <= min(losses) <= max(losses) <= LOSS_AXIS[1]:
        assert (low, high) == LOSS_AXIS
    assert low < min(losses) <= max(losses) < high
    lines = {line.get_gid(): line.get_xydata().tolist() for line in axes.lines}
    places = {tip.partition(": ")[2]: lines[gid] for gid, tip in chart.tips.items()}
    assert places["warm-up ends at step 20"] == [[20, losses[2]]]
    assert places["skips search at step 15"] == [[15, (losses[1] + losses[2]) / 2]]
    assert {text.get_text() for text in chart.figure.legends[0].get_texts()} == {"CWT", "warm-up ends", "search"}


def test_differences_are_drawn_with_their_intervals(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from skipthinking.report.charts import draw_charts

    rng = np.random.default_rng(0)
    runs = [
        write_run(tmp_path / name, name, correct=rng.random(60) < share)
        for name, share in (("CWT", 0.9), ("STT", 0.2), ("KPOD", 0.9))
    ]
    comparison = compare_runs(list(map(str, runs)), "CWT", margin=5)
    (chart,) = (chart for chart in draw_charts(comparison) if chart.name.startswith("difference"))
    (axes,) = chart.figure.axes
    rows = [row for row in comparison.rows if row.difference is not None]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["STT", "KPOD"]
    ends = [lines.get_segments()[0][:, 0].tolist() for lines in axes.collections]
    assert ends == [pytest.approx([100 * row.difference_low, 100 * row.difference_high]) for row in rows]
    dots = [line for line in axes.lines if line.get_gid()]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([100 * row.difference for row in rows])
    assert [line.get_markerfacecolor() == "#ffffff" for line in dots] == [False, True]  # hollow: 0 is in the interval
    assert -5 in [line.get_xdata()[0] for line in axes.lines]  # the margin


def test_the_headline_names_student_data_and_date(tmp_path: Path) -> None:
    files = {"class_path": "skipthinking.data.Files", "init_args": {"path": "data/svamp/train.json", "limit": None}}
    made = {"class_path": "Generated", "init_args": {"task": "coin_flip", "size": 4000}}
    student = {"class_path": "Pretrained", "init_args": {"name": "students/smollm2-135m"}}
    scratch = {"class_path": "FromScratch", "init_args": {"name": None, "architecture": "llama"}}
    days = iter(("2026-11-26", "2026-11-29", "2026-11-27", ""))
    runs = []
    for seed, (who, size) in enumerate(((student, 134_515_008), (student, 134_515_008), (scratch, 739_072), ({}, 1))):
        run = write_run(tmp_path / f"{seed}", seed=seed, settings={"student": who} if who else {}, tested=next(days))
        values = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({**values, "parameters": size}))
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            config.replace("batch_size: 4", f"batch_size: 4\n    train: {json.dumps([files, made])}")
        )
        runs.append(str(run))
    comparison = compare_runs(runs)
    assert facts(comparison) == {
        "Student": "smollm2-135m (135M parameters); llama from scratch (739K parameters)",
        "Trained on": "svamp/train.json, coin_flip (generated, 4,000 examples)",
        "Tested on": "sums (4 examples)",
        "Runs": "4 runs, seeds 0, 1, 2, 3",
        "Date": "2026-11-26 to 2026-11-29",
    }
    assert title(compare_runs(runs[:2])) == "sums: CWT"
    assert facts(compare_runs(runs[:1]))["Date"] == "2026-11-26"
    assert "Date" not in facts(compare_runs(runs[3:]))


def test_a_run_writes_what_the_page_shows(run: Callable[..., int], tmp_path: Path) -> None:
    """STT with one epoch of warm-up: 20 training examples in batches of 4, so the search is at step 5."""
    from skipthinking.tasks import generate

    words = ["--model", "STT", "--model.warmup_epochs", 1, "--model.gap_epochs", 0]
    assert run("fit", *words) == 0
    with (tmp_path / "tiny" / "metrics.csv").open(newline="") as lines:
        searches = [(row["step"], row["search/skips"]) for row in csv.DictReader(lines) if row["search/skips"]]
    assert searches == [("5", "20")]
    assert read_marks(tmp_path / "tiny" / "metrics.csv", {WARM_UP: 1}) == {"warm-up ends": [5], "skips search": [5]}
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "predictions.jsonl").read_text().splitlines()]
    teacher = {row.question: row.rationale for row in generate("coin_flip", split="test", size=5)}
    assert {row["question"]: row["rationale"] for row in rows} == teacher
    about = facts(compare_runs([str(tmp_path / "tiny")]))
    assert about["Student"].startswith("gpt2 from scratch (")
    assert about["Trained on"] == "coin_flip (generated, 24 examples)"
    assert about["Date"].count("-") == 2
