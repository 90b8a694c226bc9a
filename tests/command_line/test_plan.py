"""Laws of a suite's YAML: what it plans, and that a slip is reported."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from skipthinking.__main__ import main
from skipthinking.command_line.plan import read_suite

GOOD: dict[str, Any] = {
    "seeds": [0, 1],
    "config": "shared.yaml",
    "words": "--data.batch_size 8",
    "baseline": "full_cot",
    "tasks": {"easy": None, "hard": {"words": ["--data.test", "{a: b c}"]}},
    "methods": {
        "stt": {"needs": "cwt", "words": "--model STT"},
        "full_cot": None,
        "cwt": {"config": ["sub/cwt.yaml"], "evaluate": False},
    },
}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "sub").mkdir(exist_ok=True)
    for name in ("shared.yaml", "sub/cwt.yaml"):
        (folder / name).write_text("model: {class_path: CWT}\n")
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**GOOD, **changes}.items() if v != "none"}))
    return path


def test_plan_is_the_product_with_what_is_needed_first(tmp_path: Path) -> None:
    plan = read_suite(write(tmp_path), "here")
    assert set(plan.runs) == {
        f"{task}-{method}-{seed}"
        for task in ("easy", "hard")
        for method in ("stt", "full_cot", "cwt")
        for seed in (0, 1)
    }
    names = list(plan.runs)
    for run in plan.runs.values():
        assert run.needs == (f"{run.task}-cwt-{run.seed}" if run.method == "stt" else None)
        assert run.needs is None or names.index(run.needs) < names.index(run.name)


def test_words_go_from_shared_to_task_to_method(tmp_path: Path) -> None:
    plan = read_suite(write(tmp_path), "here")
    assert plan.runs["hard-cwt-1"].words == (
        "--config", f"{tmp_path}/shared.yaml", "--config", f"{tmp_path}/sub/cwt.yaml", "--data.batch_size", "8",
        "--data.test", "{a: b c}", "--seed_everything", "1", "--runs_dir", "here", "--run", "hard-cwt-1",
        "--evaluate", "false",
    )  # fmt: skip
    start = ("--model.start_from", "here/easy-cwt-0/checkpoints/last.ckpt")
    words = plan.runs["easy-stt-0"].words
    assert words[words.index("--model.start_from") :][:2] == start
    assert "--evaluate" not in words


def test_a_method_may_use_the_folder_of_another(tmp_path: Path) -> None:
    words = "--model.weights {weighter}/weights.jsonl --model.glove {a: 1}"
    methods = {"kpod": {"needs": "base", "words": words}, "weighter": {"needs": "base"}, "base": None}
    plan = read_suite(write(tmp_path, methods=methods, baseline="none"), "here")
    kpod = plan.runs["hard-kpod-1"]
    assert kpod.words[kpod.words.index("--model.weights") + 1] == "here/hard-weighter-1/weights.jsonl"
    assert "{a: 1}" in " ".join(kpod.words)  # braces around no method are as they were
    assert kpod.words[kpod.words.index("--model.start_from") + 1] == "here/hard-base-1/checkpoints/last.ckpt"
    assert kpod.after == ("hard-base-1", "hard-weighter-1")
    names = list(plan.runs)
    assert all(names.index(before) < names.index(run.name) for run in plan.runs.values() for before in run.after)
    elsewhere = read_suite(tmp_path / "mine.yaml", "there").runs["hard-kpod-1"]
    assert elsewhere.settings == kpod.settings  # folders may be moved
    write(tmp_path, methods={**methods, "weighter": {"needs": "base", "words": "--model.alpha 1"}}, baseline="none")
    assert read_suite(tmp_path / "mine.yaml", "here").runs["hard-kpod-1"].settings != kpod.settings


def test_settings_change_with_anything_that_makes_a_run_and_nothing_else(tmp_path: Path) -> None:
    def settings(**changes: Any) -> dict[str, str]:
        plan = read_suite(write(tmp_path, **changes), "here")
        return {name: run.settings for name, run in plan.runs.items()}

    before = settings()
    assert settings(baseline="cwt", seeds=[1, 0, 2]).items() >= before.items()
    assert not set(settings(words="--data.batch_size 9").values()) & set(before.values())
    (tmp_path / "sub" / "cwt.yaml").write_text("# a comment\nmodel:\n  class_path: CWT\n")
    assert {n: r.settings for n, r in read_suite(tmp_path / "mine.yaml").runs.items()} != before  # words are 9 still
    write(tmp_path)
    (tmp_path / "sub" / "cwt.yaml").write_text("# a comment\nmodel:\n  class_path: CWT\n")
    assert {n: r.settings for n, r in read_suite(tmp_path / "mine.yaml").runs.items()} == before
    (tmp_path / "sub" / "cwt.yaml").write_text("model: {class_path: STT}\n")
    after = {n: r.settings for n, r in read_suite(tmp_path / "mine.yaml").runs.items()}
    changed = {name.split("-")[1] for name in before if before[name] != after[name]}
    assert changed == {"cwt", "stt"}  # and so what starts from it


def test_settings_change_with_a_file_that_a_config_stands_on(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "below.yaml").write_text("trainer: {max_epochs: 1}\n")
    (tmp_path / "sub" / "cwt.yaml").write_text("config: ../below.yaml\nmodel: {class_path: CWT}\n")
    before = {name: run.settings for name, run in read_suite(path).runs.items()}
    (tmp_path / "below.yaml").write_text("trainer: {max_epochs: 2}\n")
    after = {name: run.settings for name, run in read_suite(path).runs.items()}
    assert {name.split("-")[1] for name in before if before[name] != after[name]} == {"cwt", "stt"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": {}}, "Did you mean 'methods'?"),
        ({"methods": "none"}, "methods"),
        ({"methods": {"a": {"word": "--x 1"}}}, "Did you mean 'words'?"),
        ({"methods": {"a/b": None}}, "a/b"),
        ({"methods": {"cwt": None, "stt": {"needs": "cw"}}, "baseline": "none"}, "Did you mean 'cwt'?"),
        ({"methods": {"a": {"needs": "b"}, "b": {"needs": "a"}}, "baseline": "none"}, "needs"),
        ({"methods": {"a": {"needs": "a"}}, "baseline": "none"}, "a needs a"),
        ({"methods": {"a": {"words": "--x {b}/c"}, "bb": None}, "baseline": "none"}, "{b} in its words"),
        ({"methods": {"a": {"words": "--x {a}/c"}}, "baseline": "none"}, "a needs a"),
        ({"methods": {"a": {"evaluate": "maybe"}}, "baseline": "none"}, "maybe"),
        ({"tasks": {}}, "tasks"),
        ({"tasks": ["easy"]}, "tasks"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [True]}, "seeds"),
        ({"seeds": [0, 0]}, "easy-cwt-0"),
        ({"methods": {"cwt": None, "stt": {"needs": ["cwt"]}}, "baseline": "none"}, "needs: ['cwt']"),
        ({"baseline": ["cwt"]}, "baseline: ['cwt']"),
        ({"runs_dir": 5}, "runs_dir: 5"),
        ({"baseline": "cot"}, "full_cot"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"config": {"a": 1}}, "config"),
        ({"words": "--run other"}, "--run"),
        ({"words": ["--seed_everything=3"]}, "--seed_everything=3"),
        ({"words": "--a 'b"}, "quotation"),
        ({"words": 3}, "3"),
    ],
)
def test_a_slip_is_reported_in_one_line(
    changes: dict[str, Any], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "--config", str(write(tmp_path, **changes)), "--runs_dir", str(tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: Expected")
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "", "\udcff"])
def test_a_file_that_is_no_suite_is_reported(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["suite", "--config", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [["--job", "2"], ["--jobs", "0"], ["--jobs", "two"], ["--only", "x-*"], []])
def test_a_wrong_option_is_reported(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--config", str(write(tmp_path)), "--runs_dir", str(tmp_path / "runs")] if words else []
    try:
        code = main(["suite", *where, *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_of_the_repository_is_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "--config", str(path), "--dry_run", "--runs_dir", "nowhere"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(shlex.split(line)[:4] == ["python", "-m", "skipthinking", "fit"] for line in lines)
    assert f"#   python -m skipthinking suite --config {path.relative_to(ROOT)}" in path.read_text().splitlines()
