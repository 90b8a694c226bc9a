"""Laws of the comparison: what is pooled, what is refused, and that a bad folder never takes the table down."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from run_folders import write_run

from skipthinking.__main__ import main
from skipthinking.evaluation.intervals import wilson
from skipthinking.report.comparing import compare_runs
from skipthinking.report.tables import FORMATS


def test_seeds_of_a_method_are_one_row(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", seed=0, correct=[1, 0, 1, 1], fit_seconds=2.0),
        write_run(tmp_path / "b", seed=1, correct=[1, 0, 0, 0], fit_seconds=4.0),
        write_run(tmp_path / "c", "FullCoT", correct=[0, 0, 0, 1], tokens=20),
    ]
    cwt, full = compare_runs(map(str, runs), "FullCoT").rows
    assert (cwt.method, cwt.seeds, cwt.n) == ("CWT", (0, 1), 4)
    assert cwt.accuracy == 0.5  # (3/4 + 1/4) / 2
    assert cwt.seconds == 3.0
    assert cwt.difference == 0.25
    assert (cwt.interval, full.interval) == ("components", "wilson")
    assert (full.accuracy_low, full.accuracy_high) == wilson(1, 4)
    assert full.difference is None
    assert full.new_tokens == 21.5


def test_the_interval_of_none_and_of_all_ends_there() -> None:
    assert all(wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1 for n in range(1, 200))


@pytest.mark.parametrize("change", [{"settings": {"gap_epochs": 3}}, {"settings": {"start_from": "x.ckpt"}}])
def test_other_settings_are_another_method(change: dict[str, Any], tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, **change)
    comparison = compare_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [row.method for row in comparison.rows] == ["CWT (a)", "CWT (b)"]
    (key,) = comparison.differences
    assert key == f"model.init_args.{next(iter(change['settings']))}"


def test_folders_of_one_name_are_distinguished(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "x" / "a"), write_run(tmp_path / "y" / "a", settings={"gap_epochs": 3})
    comparison = compare_runs([str(one), str(other)])
    assert [row.method for row in comparison.rows] == [f"CWT ({one.resolve()})", f"CWT ({other.resolve()})"]


def test_runs_from_other_runs_are_another_method(tmp_path: Path) -> None:
    """What a student began as is a setting; that its seed was another is not."""
    for name, settings in (("short", {"gap_epochs": 1}), ("long", {"gap_epochs": 2})):
        for seed in (0, 1):
            folder = write_run(tmp_path / f"{name}-{seed}", seed=seed, settings=settings)
            (folder / "metrics.csv").write_text("step,train/target_tokens,train/context_tokens\n1,100,10\n")
            start = {"start_from": str(folder / "checkpoints" / "last.ckpt")}
            write_run(tmp_path / f"from_{name}-{seed}", "STT", seed=seed, settings=start)
    comparison = compare_runs(map(str, sorted(tmp_path.glob("from_*"))))
    assert [(row.method, row.seeds) for row in comparison.rows] == [
        ("STT (from_long-0)", (0, 1)),
        ("STT (from_short-0)", (0, 1)),
    ]
    assert list(comparison.differences) == ["model.init_args.start_from"]
    assert not comparison.left_out


def test_a_run_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    comparison = compare_runs(str(tmp_path / name) for name in ("a", "a", "link", "copy"))
    assert comparison.rows[0].seeds == (0,)
    assert list(comparison.left_out) == [str(tmp_path / "copy")]


def test_a_suites_names_win(tmp_path: Path) -> None:
    for seed in (0, 1):
        about = {"task": "easy", "method": "chunks"}
        write_run(tmp_path / f"easy-chunks-{seed}", seed=seed, suite=about, settings={"start_from": f"{seed}.ckpt"})
    (row,) = compare_runs(map(str, tmp_path.iterdir())).rows
    assert (row.test, row.method, row.seeds) == ("easy/sums", "chunks", (0, 1))


def test_weights_of_a_suite_belong_to_its_method(tmp_path: Path) -> None:
    for seed in (0, 1):
        given = {"weights": f"weighter-{seed}/annotations.jsonl", "weighter.init_args.alpha": 0.1 * (seed + 1)}
        about = {"task": "easy", "method": "kpod"}
        write_run(tmp_path / f"easy-kpod-{seed}", "KPOD", seed=seed, suite=about, settings=given)
        write_run(tmp_path / f"own-{seed}", "KPOD", seed=seed, settings=given)
    comparison = compare_runs(str(path) for path in sorted(tmp_path.iterdir()))
    rows = [(row.method, row.seeds) for row in comparison.rows]
    assert rows == [("kpod", (0, 1)), ("KPOD (own-0)", (0,)), ("KPOD (own-1)", (1,))]


def test_tokens_of_what_a_run_started_from_count(tmp_path: Path) -> None:
    write_run(tmp_path / "first")
    (tmp_path / "first" / "metrics.csv").write_text(
        "step,train/context_tokens,train/target_tokens\n9,40.0,300.0\n19,80.0,600.0\n20,,\n"
    )
    second = {"start_from": "elsewhere/first/checkpoints/last.ckpt"}  # the folders were moved; they lie side by side
    write_run(tmp_path / "second", "STT", settings=second)
    (tmp_path / "second" / "metrics.csv").write_text("step,train/context_tokens,train/target_tokens\n9,5,7\n")
    third = {"start_from": "elsewhere/second/checkpoints/last.ckpt"}
    write_run(tmp_path / "third", "KPOD", settings=third)
    comparison = compare_runs(str(tmp_path / name) for name in ("first", "second", "third"))
    assert [row.target_tokens for row in comparison.rows] == [1000, 1600, 1000 + 7 + 600]
    assert [row.context_tokens for row in comparison.rows] == [200, 280, 200 + 5 + 80]
    assert all(row.tokens_known for row in comparison.rows)
    assert "the tokens are those of both" in FORMATS["table"](comparison)
    (tmp_path / "first" / "config.yaml").write_text((tmp_path / "third" / "config.yaml").read_text())  # in a circle
    assert not compare_runs([str(tmp_path / "third")]).rows[0].tokens_known
    shutil.rmtree(tmp_path / "first")
    comparison = compare_runs(str(tmp_path / name) for name in ("second", "third"))
    assert not any(row.tokens_known for row in comparison.rows)
    assert "Without the tokens of what they started from: STT, KPOD." in FORMATS["table"](comparison)


def test_other_test_examples_are_refused_unless_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b", "FullCoT", correct=[0, 1]))]
    assert main(["compare", *runs]) == 2
    err = capsys.readouterr().err
    assert all(text in err for text in ("2 of 'sums'", "and 4", "2 in common", "--allow_different_tests", *runs))
    assert main(["compare", *runs, "--allow_different_tests", "--baseline", "FullCoT", "--format", "csv"]) == 0
    first, _ = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(first["difference"]) == 0.0  # on the two examples that both answered


def test_another_question_under_the_same_id_is_another_test(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    path = write_run(tmp_path / "b", "FullCoT") / "predictions.jsonl"
    path.write_text(path.read_text().replace("0 + 1?", "0 + 2?"))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2


def test_test_sets_of_different_names_stand_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", test="words", correct=[1, 1])
    comparison = compare_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [(row.test, row.n) for row in comparison.rows] == [("sums", 4), ("words", 2)]
    assert comparison.differences == {}


def test_equal_answers_claim_no_certainty(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", seed=seed, correct=[1, 1, 1])
    write_run(tmp_path / "b", "FullCoT", correct=[1, 1, 1])
    row = compare_runs((str(tmp_path / name) for name in ("a0", "a1", "b")), "FullCoT").rows[0]
    assert (row.accuracy_low, row.accuracy_high) == wilson(3, 3)  # three examples, however many seeds
    assert (row.difference, row.difference_low) == (0.0, None)


# ---------------------------------------------------------------------------------------------- bad folders


def _truncate(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


BAD: dict[str, Callable[[Path], object]] = {
    "no summary": lambda folder: (folder / "summary.json").unlink(),
    "no answers": lambda folder: (folder / "predictions.jsonl").unlink(),
    "no config": lambda folder: (folder / "config.yaml").unlink(),
    "half a summary": _truncate("summary.json"),
    "half of the answers": _truncate("predictions.jsonl"),
    "an answer less": lambda folder: (folder / "predictions.jsonl").write_text(
        "".join(line for line in (folder / "predictions.jsonl").open() if "sums-1" not in line)  # a wrong one
    ),
    "an older version": lambda folder: (folder / "summary.json").write_text(
        json.dumps({k: v for k, v in json.loads((folder / "summary.json").read_text()).items() if k != "target_tokens"})
    ),
    "words for numbers": lambda folder: (folder / "summary.json").write_text(
        (folder / "summary.json").read_text().replace('"n": 4', '"n": "four"')
    ),
    "no YAML": lambda folder: (folder / "config.yaml").write_text("model: [1, {"),
    "no UTF-8": lambda folder: (folder / "predictions.jsonl").write_bytes(b"\xff\xfe"),
    "another suite file": lambda folder: (folder / "suite.json").write_text("[]"),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_folder_is_named_and_left_out(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "good")
    BAD[how](write_run(tmp_path / "bad", "FullCoT"))
    assert main(["compare", str(tmp_path / "bad"), str(tmp_path / "good"), "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert [row["method"] for row in csv.DictReader(io.StringIO(out))] == ["CWT"]
    assert err.startswith(f"left out: {tmp_path / 'bad'}: Expected")
    assert err.count("\n") == 1
    assert main(["compare", str(tmp_path / "bad")]) == 2  # nothing is left


def test_no_damage_crashes_the_table(tmp_path: Path) -> None:
    """Bytes of any file overwritten at random: the run is in the table as it was, or left out."""
    write_run(tmp_path / "good", suite={"task": "", "method": "CWT"})
    rng = random.Random(0)
    for _ in range(150):
        folder = tmp_path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        write_run(folder, "FullCoT", suite={"task": "", "method": "FullCoT"})
        path = folder / rng.choice(["summary.json", "predictions.jsonl", "config.yaml", "suite.json"])
        data = bytearray(path.read_bytes())
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.choice(b'0"{}[],:\n\xff n-')
        path.write_bytes(bytes(data))
        comparison = compare_runs([str(folder), str(tmp_path / "good")], allow_different_tests=True)
        for form in FORMATS.values():
            form(comparison)
        assert "CWT" in {row.method for row in comparison.rows}


@pytest.mark.parametrize(
    "words",
    [
        ["--baseline", "FulCoT"],
        ["--format", "html"],
        ["--basel", "CWT"],
        ["--html", ""],
        ["--out", "."],
        ["--figures", __file__],
    ],
)
def test_a_wrong_option_is_reported_in_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["compare", str(write_run(tmp_path / "a")), *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


# -------------------------------------------------------------------------------------------------- formats


def test_all_formats_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / "a", "A_B")), str(write_run(tmp_path / "b", "50%|x"))]
    texts = {}
    for name, suffix in {"table": "txt", "markdown": "md", "latex": "tex", "csv": "csv"}.items():
        assert main(["compare", *runs, "--baseline", "A_B", "--format", name]) == 0
        texts[name] = capsys.readouterr().out
        assert main(["compare", *runs, "--baseline", "A_B", "--out", str(tmp_path / f"out.{suffix}")]) == 0
        assert (tmp_path / f"out.{suffix}").read_text() == texts[name]
        capsys.readouterr()
    low, high = (f"{100 * value:.1f}" for value in wilson(3, 4))
    assert f"75.0 ({low} to {high})" in texts["table"]
    assert f"| sums | A_B | 1 | 4 | 75.0 ({low} to {high}) |" in texts["markdown"]
    assert "50%\\|x" in texts["markdown"]
    assert f"sums & A\\_B & 1 & 4 & 75.0 ({low}--{high}) & " in texts["latex"]
    assert "50\\%|x" in texts["latex"]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [row["method"] for row in rows] == ["A_B", "50%|x"]
    assert float(rows[0]["accuracy"]) == 0.75
    assert (rows[0]["difference"], rows[1]["difference"]) == ("", "0.0")


def test_the_text_table_needs_no_slow_imports(tmp_path: Path) -> None:
    slow = "{'torch', 'pandas', 'matplotlib', 'scipy', 'jinja2'}"
    folder = str(write_run(tmp_path / "a"))
    code = f"""
import sys
from skipthinking.__main__ import main
assert main(["compare", {folder!r}]) == 0
assert not {slow} & sys.modules.keys(), {slow} & sys.modules.keys()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)


def test_differences_list_settings_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / n, n, settings={"lr": lr})) for n, lr in (("A", 0.1), ("B", 0.2))]
    assert main(["compare", *runs, "--differences"]) == 0
    out = capsys.readouterr().out
    assert "Settings that differ: model.class_path, model.init_args.lr." in out
    assert "| model.init_args.lr | 0.1 | 0.2 |" in out


def test_tasks_that_share_a_test_set(tmp_path: Path) -> None:
    right = {"coarse": [1, 1, 0, 0], "fine": [1, 0, 0, 0]}
    folders = [
        str(write_run(tmp_path / task, "FullCoT", correct=correct, suite={"task": task, "method": "full_cot"}))
        for task, correct in right.items()
    ]
    apart, together = compare_runs(folders), compare_runs(folders, "fine-full_cot", across_tasks=True)
    assert [(row.test, row.method) for row in apart.rows] == [("coarse/sums", "full_cot"), ("fine/sums", "full_cot")]
    assert [(row.test, row.method) for row in together.rows] == [("sums", "coarse-full_cot"), ("sums", "fine-full_cot")]
    assert together.rows[0].difference == pytest.approx(0.25)
    assert [row.accuracy for row in apart.rows] == [row.accuracy for row in together.rows]
