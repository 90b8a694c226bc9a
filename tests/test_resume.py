"""A run that is killed and resumed ends with the same bits as a run without interruption."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from interruptions import PulledPlugError

from skipthinking.data.module import RationaleDataModule
from skipthinking.evaluation.module import AnsweringModule
from skipthinking.methods.skip_thinking.skips import Skips

# All that could break a resume: dropout, stages sampled by the student's loss, accumulation, a smaller last batch.
HARD = [
    "--model", "CWT", "--data.stage_sampling", "loss", "--data.batch_size", 3,
    "--trainer.max_epochs", 3, "--trainer.accumulate_grad_batches", 2,
]  # fmt: skip
STEPS = 12  # 20 training examples, 6 per step: 4 steps per epoch, 3 epochs


def _end(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, Any]]:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    with (folder / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return state, rows, json.loads((folder / "summary.json").read_text())


def _assert_same(ours: Path, oracle: Path) -> None:
    (state, rows, summary), (state_, rows_, summary_) = _end(ours), _end(oracle)
    assert state["global_step"] == STEPS
    assert state["state_dict"].keys() == state_["state_dict"].keys()
    for name, value in state_["state_dict"].items():
        assert torch.equal(state["state_dict"][name], value), name
    for place, moments in state_["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            found = state["optimizer_states"][0]["state"][place][name]
            assert torch.equal(torch.as_tensor(found), torch.as_tensor(value))
    losses = [row["train/loss"] for row in rows if row["train/loss"]]
    assert losses == [row["train/loss"] for row in rows_ if row["train/loss"]]
    assert len(losses) == STEPS
    assert (ours / "predictions.jsonl").read_text() == (oracle / "predictions.jsonl").read_text()
    for name in ("target_tokens", "context_tokens", "test", "steps"):
        assert summary[name] == summary_[name]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    from skipthinking.__main__ import main

    folder = tmp_path_factory.mktemp("oracle")
    assert main(["fit", "--config", str(TINY), "--runs_dir", str(folder), *map(str, HARD)]) == 0
    return folder / "tiny"


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resume_after_a_crash_at_any_step_changes_no_bit(
    step: int, oracle: Path, run: Callable[..., int], tmp_path: Path
) -> None:
    every = 1 if step % 2 else 3  # a checkpoint of this very step, or only one of an earlier step
    with pytest.raises(PulledPlugError):
        run("fit", *HARD, "--checkpoint_every", every, "--trainer.callbacks+=interruptions.Interrupt",
            "--trainer.callbacks.step", step)  # fmt: skip
    assert run("fit", *HARD, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


@pytest.mark.parametrize("step", [5, 10])
def test_an_epoch_ends_with_a_checkpoint_and_resume_from_it_changes_no_bit(
    step: int, oracle: Path, run: Callable[..., int], tmp_path: Path
) -> None:
    with pytest.raises(PulledPlugError):
        run("fit", *HARD, "--trainer.callbacks+=interruptions.Interrupt", "--trainer.callbacks.step", step)
    saved = torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step // 4 * 4
    assert run("fit", *HARD, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


@pytest.mark.parametrize(("step", "workers"), [(6, 0), (7, 2)])
def test_resume_after_kill_9_changes_no_bit(
    step: int, workers: int, oracle: Path, run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    killed = spawn("fit", *HARD, "--checkpoint_every", 2, "--data.num_workers", workers,
                   "--trainer.callbacks+=interruptions.Interrupt", "--trainer.callbacks.step", step,
                   "--trainer.callbacks.how", "kill")  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert run("fit", *HARD, "--data.num_workers", workers, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


@pytest.fixture(scope="module")
def fixed_oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption whose schedule does not depend on max_steps."""
    from skipthinking.__main__ import main

    folder = tmp_path_factory.mktemp("fixed_oracle")
    assert main(["fit", "--config", str(TINY), "--runs_dir", str(folder), *map(str, HARD), *FIXED]) == 0
    return folder / "tiny"


FIXED = ["--model.scheduler.total_steps", str(STEPS)]
STOP = ["--trainer.callbacks+=interruptions.Interrupt", "--trainer.callbacks.how", "stop", "--trainer.callbacks.step"]


@pytest.mark.parametrize(
    ("limit", "step"), [("--trainer.max_steps", 1), ("--trainer.max_steps", 8), (STOP, 4), (STOP, 7)]
)
def test_a_run_that_a_limit_ends_goes_on_within_its_epoch_and_changes_no_bit(
    limit: str | list[str], step: int, fixed_oracle: Path, run: Callable[..., int], tmp_path: Path
) -> None:
    words = limit if isinstance(limit, list) else [limit]
    assert run("fit", *HARD, *FIXED, *words, step, "--evaluate", "false") == 0
    saved = torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == ((step - 1) // 4, step)
    assert run("fit", *HARD, *FIXED, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", fixed_oracle)


# 7 micro-batches in 4 steps per epoch: (2, 2, 2, 1).
PLACES = [
    ("on_train_epoch_start", 2), ("on_train_batch_start", 4), ("on_train_batch_start", 8),
    ("on_before_optimizer_step", 3), ("on_before_optimizer_step", 5), ("on_train_batch_end", 1),
    ("on_train_batch_end", 7), ("on_validation_end", 2), ("on_train_epoch_end", 1), ("on_train_end", 1),
]  # fmt: skip
LIMIT = ["--trainer.max_steps", STEPS]


@pytest.mark.parametrize(
    ("hook", "call", "words"),
    [(*place, []) for place in PLACES] + [(*place, LIMIT) for place in PLACES[::4]],
)
def test_a_checkpoint_of_any_hook_resumes_without_losing_or_repeating_anything(
    hook: str, call: int, words: list[Any], fixed_oracle: Path, run: Callable[..., int], tmp_path: Path
) -> None:
    """Twice, so that the counts of a resumed run are right as well."""
    words, saved = [*FIXED, *words, "--evaluate", "false"], tmp_path / "saved.ckpt"
    save = ["--trainer.callbacks+=interruptions.SaveAt", "--trainer.callbacks.path", saved]
    with pytest.raises(PulledPlugError):
        run("fit", *HARD, *words, *save, "--trainer.callbacks.hook", hook, "--trainer.callbacks.call", call)
    if hook != "on_train_end":
        with pytest.raises(PulledPlugError):
            run("fit", *HARD, *words, *save, "--trainer.callbacks.hook", "on_train_batch_end",
                "--trainer.callbacks.call", 3, "--ckpt_path", saved)  # fmt: skip
    assert run("fit", *HARD, *FIXED, "--ckpt_path", saved) == 0
    _assert_same(tmp_path / "tiny", fixed_oracle)


def test_validations_within_epochs_and_plateau_schedules_go_on_where_they_were(
    run: Callable[..., int], tmp_path: Path
) -> None:
    """Validations follow micro-batches 3 and 6 of 7; stops at steps 2 to 10 are before, at and after the last ones."""
    plateau = "lightning.pytorch.cli.ReduceLROnPlateau"
    words = [*HARD, "--trainer.val_check_interval", 0.5, "--checkpoint_every", 1, "--model.scheduler", plateau,
             "--model.scheduler.monitor", "train/loss", "--model.scheduler.threshold", 0.9,
             "--model.scheduler.patience", 0]  # fmt: skip
    assert run("fit", *words, "--run", "whole") == 0
    for stop in (4, 8, 10):
        with pytest.raises(PulledPlugError):
            run("fit", *words, "--trainer.callbacks+=interruptions.Interrupt", "--trainer.callbacks.step", stop,
                "--ckpt_path", "last")  # fmt: skip
    assert run("fit", *words, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", tmp_path / "whole")
    rows = [row for row in _end(tmp_path / "tiny")[1] if row["val/accuracy"]]
    assert [(int(row["step"]), int(row["epoch"])) for row in rows] == [(1, 0), (2, 0), (5, 1), (6, 1), (9, 2), (10, 2)]


@pytest.mark.parametrize(("step", "change"), [
    (2, ["--data.batch_size", 6]),
    (7, ["--data.batch_size", 2, "--trainer.accumulate_grad_batches", 1]),
    (2, ["--data.batch_tokens", 150]),
    (7, ["--data.bucket", "false"]),
])  # fmt: skip
def test_an_epoch_that_goes_on_in_other_batches_has_every_example_once(
    step: int, change: list[Any], oracle: Path, run: Callable[..., int], tmp_path: Path
) -> None:
    with pytest.raises(PulledPlugError):
        run("fit", *HARD, "--checkpoint_every", 1, "--trainer.callbacks+=interruptions.Interrupt",
            "--trainer.callbacks.step", step)  # fmt: skip
    assert run("fit", *HARD, *change, "--ckpt_path", "last", "--trainer.max_epochs", 2, "--evaluate", "false") == 0

    def tokens(folder: Path) -> dict[str, float]:
        with (folder / "metrics.csv").open(newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row["epoch"] == str(step // 4)]
        names = ("train/target_tokens", "train/context_tokens")
        return {name: max(float(row[name]) for row in rows if row[name]) for name in names}

    assert tokens(tmp_path / "tiny") == tokens(oracle)


def test_max_time_says_how_to_go_on(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--evaluate", "false", "--trainer.max_time"]
    assert run("fit", *words, "00:00:00:01", "--trainer.max_epochs", 10_000) == 0
    stopped = re.search(r"max_time ended the run at step (\d+).*raise it, with --ckpt_path", capsys.readouterr().out)
    assert stopped
    epoch = int(stopped[1]) // 5
    assert run("fit", *words, "00:01:00:00", "--trainer.max_epochs", epoch + 1, "--ckpt_path", "last") == 0
    assert f"resumed at step {stopped[1]}, epoch {epoch}" in capsys.readouterr().out


def test_an_epoch_goes_on_only_with_the_examples_that_it_began_with(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A method without annotators has nothing else that knows the examples."""
    assert run("fit", "--trainer.max_steps", 2, "--evaluate", "false") == 0
    assert run("fit", "--data.val_size", 6, "--ckpt_path", "last") == 2
    assert "error: Expected the 20 training instances that epoch 0 began with, got 18" in capsys.readouterr().err
    assert run("fit", "--ckpt_path", "last", "--evaluate", "false") == 0


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_resume(
    oracle: Path, run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    stopped = spawn("fit", *HARD, "--trainer.callbacks+=interruptions.Interrupt", "--trainer.callbacks.step", 5,
                    "--trainer.callbacks.how", "ctrl_c")  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert "--ckpt_path last" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert run("fit", *HARD, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


def test_sigterm_is_no_success_and_the_run_can_resume(
    oracle: Path, run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    stopped = spawn("fit", *HARD, "--trainer.callbacks+=interruptions.Interrupt",
                    "--trainer.callbacks.step", 5, "--trainer.callbacks.how", "terminate")  # fmt: skip
    assert stopped.returncode == 143, stopped.stderr
    assert "--ckpt_path last" in stopped.stderr
    assert torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    assert run("fit", *HARD, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


TERMINATE = ["--trainer.callbacks+=interruptions.InterruptTest"]


def test_sigterm_ends_a_test_and_the_run_goes_on_with_it(
    oracle: Path, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert run("fit", *HARD, *TERMINATE) == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == handlers
    assert "stopped in test. Go on: the same command with --ckpt_path last." in capsys.readouterr().err
    assert not (tmp_path / "tiny" / "summary.json").exists()
    with monkeypatch.context() as patch:  # a finished run has no next epoch to plan
        patch.setattr(RationaleDataModule, "instances", lambda self, epoch: pytest.fail(f"epoch {epoch}"))
        assert run("fit", *HARD, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)
    assert run("test", *HARD, *TERMINATE) == 143
    assert "stopped in test. Start the same command again." in capsys.readouterr().err


def test_a_finished_run_that_is_started_again_changes_no_file(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("fit", "--trainer.max_epochs", 1) == 0
    files = [tmp_path / "tiny" / name for name in ("metrics.csv", "predictions.jsonl", "checkpoints/last.ckpt")]
    before = [path.read_bytes() for path in files]
    assert run("fit", "--trainer.max_epochs", 1, "--ckpt_path", "last") == 0
    assert [path.read_bytes() for path in files] == before


def test_sigterm_ends_a_test_of_several_processes(run: Callable[..., int], spawn: Callable[..., Any]) -> None:
    assert run("fit", "--trainer.max_epochs", 1, "--evaluate", "false") == 0
    stopped = spawn("test", *TERMINATE, "--trainer.devices", 2, "--trainer.strategy", "ddp")
    assert stopped.returncode == 143, stopped.stderr
    assert "Start the same command again." in stopped.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 130)])
def test_a_signal_while_an_epoch_is_validated_ends_the_run_after_that_epoch(
    name: str, code: int, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    validate = AnsweringModule.validation_step

    def interrupted(*args: Any) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        validate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(AnsweringModule, "validation_step", interrupted)
        assert run("fit", "--trainer.max_epochs", 3) == code
    assert torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_while_a_validation_within_an_epoch_runs_loses_no_step(
    name: str, code: int, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validations follow steps 2 and 4 of 5, and have 4 batches each: the signal comes in the first batch."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    words = ["--trainer.max_epochs", 1, "--trainer.val_check_interval", 2, "--data.eval_batch_size", 1,
             "--evaluate", "false"]  # fmt: skip
    validate, answered = AnsweringModule.validation_step, []

    def interrupted(*args: Any) -> None:
        if not answered:
            os.kill(os.getpid(), getattr(signal, name))
        answered.append(args)
        validate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(AnsweringModule, "validation_step", interrupted)
        assert run("fit", *words) == code
    assert len(answered) == 4
    last = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert run("fit", *words, "--ckpt_path", "last") == 0
    assert run("fit", *words, "--run", "whole") == 0
    resumed, whole = (torch.load(path, weights_only=True) for path in (last, tmp_path / "whole/checkpoints/last.ckpt"))
    assert all(torch.equal(resumed["state_dict"][key], value) for key, value in whole["state_dict"].items())
    assert resumed["global_step"] == whole["global_step"] == 5


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for SLURM's scontrol; returns the file that records its arguments."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    return tmp_path / "asked"


def test_a_requeued_job_changes_no_bit(
    oracle: Path, run: Callable[..., int], spawn: Callable[..., Any], tmp_path: Path, scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    stopped = spawn("fit", *HARD, "--data.num_workers", 2, "--trainer.callbacks+=interruptions.Interrupt",
                    "--trainer.callbacks.step", 5, "--trainer.callbacks.how", "requeue")  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert "job 40_7 is queued again" in stopped.stderr
    assert scontrol.read_text() == "requeue 40_7\n"
    assert not list((tmp_path / "tiny").glob("hpc*"))  # Lightning's handler would save these in the middle of a step
    assert torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    assert run("fit", *HARD, "--data.num_workers", 2, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


def test_a_second_run_in_the_same_folder_is_refused(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("fit", "--trainer.max_epochs", 1) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run("fit", "--trainer.max_epochs", 1) == 2
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_signal_ends_a_search_at_once(
    run: Callable[..., int], tmp_path: Path, scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search does not finish first, because it may take longer than SLURM waits."""
    own = ["--model", "STT", "--model.warmup_epochs", 2, "--model.gap_epochs", 1, "--trainer.max_epochs", 3]

    def search(self: Any, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("the search goes on")

    with monkeypatch.context() as patch:
        patch.setattr(Skips, "annotate", search)
        assert run("fit", *own, "--evaluate", "false") == 130
    assert scontrol.read_text() == "requeue 42\n"
    last = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 1  # the epoch before the search is saved completely
    assert run("fit", *own, "--evaluate", "false", "--ckpt_path", "last") == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_reading_of_data(
    number: signal.Signals, code: int, run: Callable[..., int], tmp_path: Path, scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(RationaleDataModule, "load", lambda self, stage: os.kill(os.getpid(), number))
        assert run("fit") == code
    assert not (tmp_path / "tiny").exists()
    assert scontrol.exists() == (number == signal.SIGUSR1)  # queued again
    assert run("fit", "--trainer.max_epochs", 1, "--evaluate", "false") == 0


def test_files_of_a_run_are_synced_beside_their_destination_before_they_replace_it(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, replaced, sync, replace = set(), set(), os.fsync, os.replace

    def spy_sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def spy_replace(new: Path, old: Path) -> None:
        if Path(new).is_file():
            assert os.stat(new).st_ino in synced
            assert Path(new).parent == Path(old).parent
            replaced.add(Path(old).name)
        replace(new, old)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "replace", spy_replace)
    assert run("fit", "--trainer.max_epochs", 1) == 0
    assert replaced >= {"last.ckpt", "config.yaml", "metrics.csv", "predictions.jsonl", "summary.json"}
