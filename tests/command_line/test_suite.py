"""Laws of running a suite: each run once, stopped and taken up without loss, a failure takes only its own down."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, TINY

from skipthinking.__main__ import main

PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
SUITE: dict[str, Any] = {
    "seeds": [3],
    "config": str(TINY),
    "words": "--trainer.max_epochs 1",
    "baseline": "full_cot",
    "tasks": {"flips": None},
    "methods": {
        "full_cot": None,
        "stt": {"words": "--model STT --model.warmup_epochs 0 --model.gap_epochs 0", "needs": "cwt"},
        "cwt": {"words": "--model CWT", "evaluate": False},
    },
}


def write(folder: Path, **changes: Any) -> list[str]:
    """Writes a suite's YAML and returns the command."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}))
    return ["suite", "--config", str(path), "--runs_dir", str(folder / "runs")]


def noted(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / name / "suite.json").read_text())


@pytest.fixture(autouse=True)
def _children_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PATHS)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that was run, two runs at a time; four threads were there to share."""
    folder = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        patch.setenv("OMP_NUM_THREADS", "4")
        assert main([*write(folder), "--jobs", "2"]) == 0
    return folder


def test_a_suite_ends_in_its_comparison(done: Path) -> None:
    text = (done / "runs" / "comparison.md").read_text()
    assert "| flips | full_cot | 1 | 5 |" in text
    assert "| stt | 1 | 5 |" in text
    assert "cwt" not in text.splitlines()[3]  # it was not to be tested
    assert (done / "runs" / "comparison.csv").read_text().count("\n") == 3


def test_runs_share_the_cores_and_start_from_what_they_need(done: Path) -> None:
    summary = json.loads((done / "runs" / "flips-stt-3" / "summary.json").read_text())
    assert (summary["seed"], summary["device"]) == (3, "cpu, 2 threads")
    config = yaml.safe_load((done / "runs" / "flips-stt-3" / "config.yaml").read_text())
    start = config["model"]["init_args"]["start_from"]
    assert start == str(done / "runs" / "flips-cwt-3" / "checkpoints" / "last.ckpt")
    assert not (done / "runs" / "flips-cwt-3" / "summary.json").exists()
    assert all(noted(done, f"flips-{method}-3")["finished"] for method in ("full_cot", "cwt", "stt"))


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if "comparison" not in path.name}


def test_what_is_finished_is_left_alone(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _times(done)
    assert main(write(done)) == 0
    assert main([*write(done), "--dry_run"]) == 0
    assert capsys.readouterr().out.count(" is finished\n") == 3
    assert _times(done) == before


def test_a_finished_run_with_other_settings_is_not_mistaken(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _times(done)
    assert main(write(done, words="--trainer.max_epochs 2")) == 2
    assert "flips-cwt-3" in capsys.readouterr().err
    other = write(done, methods={**SUITE["methods"], "full_cot": {"words": "--model AnswerOnly"}})
    assert main([*other, "--only", "flips-full_cot-3"]) == 2
    capsys.readouterr()
    assert main([*other, "--only", "flips-stt-3"]) == 0
    out, err = capsys.readouterr()
    assert "flips-full_cot-3 to hold a run with the settings" in err
    assert "1 of 2 runs" in out  # the comparison does not take the old one for the new
    assert _times(done) == before


def test_a_failure_is_reported_and_takes_only_its_own_down(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    methods = {
        "bad": {"words": "--model CWT --model.max_new_tokens 0"},
        "after": {"needs": "bad"},
        "beside": {"words": "--model.start_from {bad}/checkpoints/last.ckpt"},
        "good": {"words": "--trainer.max_steps 1"},
    }
    assert main(write(tmp_path, methods=methods, baseline="bad")) == 1
    out, err = capfd.readouterr()
    assert "got model.max_new_tokens=0." in out  # the tail of the log
    assert "failed: flips-bad-3: exit code 2" in err
    assert "failed: flips-after-3: It needs flips-bad-3, which failed." in err
    assert "failed: flips-beside-3: It needs flips-bad-3, which failed." in err
    assert "1 of 4 runs" in out
    assert noted(tmp_path, "flips-good-3")["finished"]
    # Mended, it may go on: nothing that could be lost lies in the way.
    methods["bad"]["words"] = "--model CWT"
    assert main([*write(tmp_path, methods=methods, baseline="bad"), "--dry_run"]) == 0
    assert "flips-good-3 is finished" in capfd.readouterr().out


def test_a_fault_that_all_runs_share_ends_the_suite_at_its_second_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = "--data.train=[{class_path: Files, init_args: {path: not_here.jsonl, task: coin_flip}}]"
    methods = {"full_cot": None, "cwt": {"words": "--model CWT"}, "answer_only": {"words": "--model AnswerOnly"}}
    assert main(write(tmp_path, words=[missing], methods=methods, seeds=[1, 2])) == 1
    output, error = capfd.readouterr()
    assert len(list((tmp_path / "runs").glob("*/log.txt"))) == 2
    assert output.count("| error: Expected") == 2
    assert error.count("Not started: ") == 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--model CWT --model.max_new_token 3", "Did you mean 'max_new_tokens'?"),
        ("--model CTW", "Did you mean 'CWT'?"),
        ("--trainer.max_epochs soon", "trainer.max_epochs"),
        ("--config nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_a_slip_in_the_last_run_is_reported_before_the_first_one_starts(
    words: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = write(tmp_path, methods={"full_cot": None, "last": {"words": words}}, seeds=[3, 4])
    for how in ([], ["--dry_run"], ["--slurm"]):
        assert main([*command, *how]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "flips-last-3" in err
        assert expected in err
    assert not (tmp_path / "runs").exists()


def test_every_task_and_every_method_is_parsed_and_no_run_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "c"]
    parts = {"tasks": dict.fromkeys(names), "methods": dict.fromkeys(["full_cot", *names])}
    command = [*write(tmp_path, seeds=[3, 4], **parts), "--dry_run"]
    parsed = list[str]()
    monkeypatch.setattr("skipthinking.command_line.cli.main", lambda words: parsed.append(words[-2]))
    assert main(command) == 0
    assert capsys.readouterr().out.count("--run ") == 24
    tasks, methods, _ = zip(*(name.split("-") for name in parsed), strict=True)
    assert set(tasks) == set(names)
    assert set(methods) == {"full_cot", *names}
    assert len(parsed) == 6
    parsed.clear()
    assert main([*command, "--only", "*-b-4"]) == 0  # of what is chosen
    assert sorted(parsed) == ["a-b-4", "b-b-4", "c-b-4"]


def test_a_slip_in_the_last_task_is_reported_before_the_first_run_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {"flips": None, "last": {"words": "--data.batch_sise 2"}}
    assert main(write(tmp_path, tasks=tasks, methods={"full_cot": None})) == 2
    assert "last-full_cot-3: " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    callback = "--trainer.callbacks+=interruptions.AskParent --trainer.callbacks.step 7"
    command = write(tmp_path, words=f"--trainer.max_epochs 3 {callback}", seeds=[0])
    folder = tmp_path / "runs" / "flips-full_cot-0"
    line = [sys.executable, "-m", "skipthinking", *command, "--only", "flips-full_cot-0"]
    first = subprocess.run(line, stderr=subprocess.PIPE, text=True, timeout=120)
    err = first.stderr
    assert first.returncode == 130, err
    assert "Go on: the same command." in err
    assert not noted(tmp_path, folder.name)["finished"]
    assert not (folder / "summary.json").exists()
    assert subprocess.run(line, timeout=120).returncode == 0
    assert "resumed at step 7" in (folder / "log.txt").read_text()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 15
    assert noted(tmp_path, folder.name)["finished"]


def test_a_suite_in_a_slurm_job_saves_and_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    callback = (
        "--trainer.callbacks+=interruptions.AskParent --trainer.callbacks.step 7 --trainer.callbacks.name SIGUSR1"
    )
    command = write(tmp_path, words=f"--trainer.max_epochs 3 {callback}", seeds=[0])
    line = [sys.executable, "-m", "skipthinking", *command, "--only", "flips-full_cot-0"]
    assert subprocess.run(line, timeout=200).returncode == 130
    folder = tmp_path / "runs" / "flips-full_cot-0"
    assert "stopped at step 7" in (folder / "log.txt").read_text()
    assert (tmp_path / "asked").read_text() == "requeue 42\n"  # by the run; the suite saw that it did


def test_a_run_that_another_process_holds_is_not_started_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "runs" / "flips-full_cot-3" / "log.txt"
    log.parent.mkdir(parents=True)
    with log.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main([*write(tmp_path), "--only", "flips-full_cot-3"]) == 1
    assert "Another process is at it, maybe left by" in capsys.readouterr().err
    assert log.read_text() == ""


def test_slurm_arrays_run_each_run_once_after_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for sbatch runs every task of an array at once, with a stand-in for python that says what it got."""
    assert main([*write(tmp_path, seeds=[0, 1]), "--slurm"]) == 0
    (tmp_path / "submit.sh").write_text(capsys.readouterr().out)
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$SLURM_ARRAY_TASK_ID $*" >> {tmp_path}/said\n')
    (tmp_path / "sbatch").write_text(f"""#!{sys.executable}
import os, subprocess, sys
words = sys.argv[1:]
tasks = words[words.index("--array") + 1].split("-") if "--array" in words else [0, 0]
with open("{tmp_path}/said", "a") as said:
    said.write(" ".join(word for word in words if "dependency" in word or word == "gpu") + chr(10))
for task in range(int(tasks[0]), int(tasks[1]) + 1):
    wrap = ["sh", "-c", words[words.index("--wrap") + 1]]
    subprocess.run(wrap, env=dict(os.environ, SLURM_ARRAY_TASK_ID=str(task)), check=True)
print(7)
""")
    for name in ("python", "sbatch"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    subprocess.run(["bash", tmp_path / "submit.sh", "--partition", "gpu"], check=True)
    said = (tmp_path / "said").read_text().splitlines()
    jobs = [line for line in said if "-m" not in line]
    assert jobs == ["gpu", "gpu --dependency=afterany:7", "gpu --dependency=afterany:7"]
    runs = [line.split("--only ")[1] for line in said if "--only" in line]
    assert sorted(runs) == sorted(f"flips-{m}-{s}" for m in ("full_cot", "cwt", "stt") for s in (0, 1))
    assert all(name.startswith("flips-stt") for name in runs[-2:])
    assert "compare" in said[-1]
    assert said[-1].endswith(f"--baseline full_cot --out {tmp_path}/runs/comparison.md")


def test_a_kept_folder_of_a_run_is_enough(done: Path, tmp_path: Path) -> None:
    """The comparison reads folders wherever they lie."""
    shutil.copytree(done / "runs", tmp_path / "kept")
    assert main(["compare", *map(str, sorted((tmp_path / "kept").iterdir())), "--baseline", "full_cot"]) == 0
