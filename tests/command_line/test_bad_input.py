"""Whatever a user gets wrong ends with exit code 2, one line that says what to do, and nothing half written."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY
from filelock import FileLock

GOOD = {"id": "a", "question": "What is 1 + 1?", "rationale": "One and one. That makes 2.", "answer": "2"}


def _error_of(run: Callable[..., int], capsys: pytest.CaptureFixture[str], *words: Any, command: str = "fit") -> str:
    """Runs what must fail, and returns the one line of its error."""
    code = run(command, *words)
    err = capsys.readouterr().err.strip()
    assert code == 2, err
    assert err.count("\n") == 0, err
    assert err.startswith("error: Expected") or "error: " in err
    assert "Traceback" not in err
    return err


def _untouched(tmp_path: Path) -> None:
    assert not (tmp_path / "tiny").exists()


# ------------------------------------------------------------------------------------------------ options


ALONE = {"class_path": "Generated", "init_args": {"task": "coin_flip", "split": "test", "size": 3}}


@pytest.mark.parametrize("wrong", [ALONE, [ALONE]], ids=["source", "list"])
def test_a_test_set_without_a_name_is_refused_with_what_to_write(
    wrong: Any, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def config(test: Any) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({"config": str(TINY), "data": {"init_args": {"test": test}}}))
        return path

    assert run("fit", config=config(wrong)) == 2
    error = capsys.readouterr().err
    assert "Give it a name: data.test: {mine: {class_path: ..., init_args: ...}}." in error
    _untouched(tmp_path)
    assert run("fit", "--print_config", config=config({"mine": ALONE})) == 0  # as the message says


@pytest.mark.parametrize(
    ("words", "wrong", "near"),
    [
        (["--modle", "CWT"], "modle", "model"),
        (["--trainer.max_epoch", "3"], "trainer.max_epoch", "trainer.max_epochs"),  # an abbreviation
        (["--model.max_new_token", "3"], "max_new_token", "max_new_tokens"),
        (["--model.student.vocab_sise", "600"], "vocab_sise", "vocab_size"),
        (["--data.batchsize", "3"], "batchsize", "batch_size"),
        (["--data.chunker", "AverageChunks", "--data.chunker.n_chunk", "3"], "n_chunk", "n_chunks"),
        (["--model", "CTW"], "CTW", "CWT"),
        (["--data.template", "Plane"], "Plane", "Plain"),
    ],
)
def test_a_mistyped_option_names_the_nearest_one(
    words: list[str], wrong: str, near: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = _error_of(run, capsys, *words)
    assert wrong in error
    assert f"'{near}'" in error
    _untouched(tmp_path)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--trainer.max_epochs", "abc"], "error: Expected int or null for trainer.max_epochs, got 'abc'."),
        (["--model", "CTW"], "error: Unknown class 'CTW' for model. Did you mean 'CWT'?"),
        (
            ["--data.chunker.n_chunks", "3"],
            "error: Expected a class for chunker before its settings, got chunker.n_chunks='3' alone. Name it "
            "first, even if it is the default.",
        ),
    ],
)
def test_a_wrong_type_is_reported_in_a_plain_sentence(
    words: list[str], line: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _error_of(run, capsys, *words) == line


def test_a_file_in_place_of_a_source_is_answered_with_the_source(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "Is it up?", "rationale": "It is up.", "answer": "yes"}\n' * 2)
    source = f"[{{class_path: Files, init_args: {{path: {path}, task: gsm8k}}}}]"
    assert f"Name the source: --data.train='{source}', for" in _error_of(run, capsys, "--data.train", str(path))
    assert "Expected a list of sources" not in _error_of(run, capsys, f"--data.train={source}")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--data.batch_size", "null"], "data.batch_size"),
        (["--data.chunker", "AverageChunks", "--data.chunker.n_chunks", "null"], "data.chunker.n_chunks"),
        (["--data.train", "[{class_path: Generated, init_args: {task: arithmetic, size: null}}]"], "data.train.size"),
        (["--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "null"], "model.optimizer.lr"),
        (["--trainer.callbacks", "{class_path: Timer, init_args: {verbose: null}}"], "trainer.callbacks.verbose"),
    ],
)
def test_a_setting_without_a_value_is_reported(
    words: list[str], key: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _error_of(run, capsys, *words).startswith(f"error: Expected a value, got {key}=null.")
    _untouched(tmp_path)


@pytest.mark.parametrize("key", ["trainer.accumulate_grad_batches", "checkpoint_every", "data.init_args.batch_size"])
def test_a_key_without_a_value_is_reported(
    key: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config: Any = None
    for name in reversed(key.split(".")):
        config = {name: config}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(config))
    error = _error_of(run, capsys, "--config", str(own))
    assert error.startswith(f"error: Expected a value, got {key.replace('init_args.', '')}=null.")
    own.unlink()
    _untouched(tmp_path)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data.batch_size", "many"], "batch_size"),
        (["--data.stage_sampling", "random"], "stage_sampling"),
        (["--trainer.max_epochs", "soon"], "max_epochs"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--data.batch_size", "0"], "batch_size"),
        (["--data.chunker", "AverageChunks", "--data.chunker.n_chunks", "0"], "n_chunks"),
        (["--data.val_size", "-1"], "val_size"),
        (["--model.max_new_tokens", "0"], "max_new_tokens"),
        (["--checkpoint_every", "0"], "checkpoint_every"),
        (["--model.scheduler.warmup", "2"], "warmup"),
        (["--data.max_length", "5"], "max_length"),
        (["--model.student.config.n_head", "3"], "n_head"),
        (["--model.student.architecture", "lama"], "lama"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--ckpt_path", __file__], "checkpoint"),
        (["--trainer.max_epochs", "-1"], "trainer.max_epochs"),
        (["--trainer.max_epochs", "-5"], "max_epochs"),
        (["--model.optimizer.lr", "-1"], "model.optimizer"),
        (["--seed_everything", "-1"], "seed_everything"),
        (["--run", "../elsewhere"], "--runs_dir"),
        (["--trainer.max_epochs", "0"], "trainer.max_epochs=0"),
        (["--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val=-1"),
        (["--trainer.precision", "bf16-true"], "trainer.precision=bf16-mixed"),
        (["--trainer.precision", "transformer-engine"], "transformer"),
        (["--trainer.max_steps", "0"], "trainer.max_steps=0"),
        (["--data.val_size", "1.5"], "1.5 in data.val_size"),
        (["--ckpt_path", os.curdir], "is a folder"),
        (["--trainer.devices", "999", "--trainer.strategy", "ddp"], "trainer.devices=999"),
        (["--trainer.limit_train_batches", "3", "--trainer.accumulate_grad_batches", "2"], "a multiple of 2"),
        (["--trainer.limit_train_batches", "0.5", "--trainer.accumulate_grad_batches", "2"], "a multiple of 2"),
        (["--run", ""], "--runs_dir"),
        (["--runs_dir", "/proc/nowhere"], "/proc/nowhere"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_its_option(
    words: list[str], named: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert named in _error_of(run, capsys, *words)
    _untouched(tmp_path)


def test_an_empty_config_file_is_reported(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert "an empty one" in _error_of(run, capsys, "--config", tmp_path / "empty.yaml")


@pytest.mark.parametrize(
    ("text", "named"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"run: null", "run: None"), (b"seed_everything: null", "seed_everything=None"),
     (b"trainer: 5", "trainer"), (b"model: [CWT]", "model"), (b"model: {class_path: nowhere.Mine}", "nowhere.Mine")],
)  # fmt: skip
def test_a_config_file_of_wrong_types_is_reported(
    text: bytes, named: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_bytes(text)
    assert named in _error_of(run, capsys, "--config", tmp_path / "wrong.yaml")
    _untouched(tmp_path)


# --------------------------------------------------------------------------------------------------- data


def _lines(*rows: dict[str, Any] | str) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_lines(GOOD, '{"id": "b", "question": '), ":2"),
        (_lines(GOOD, {**GOOD, "id": "b", "question": ""}), "question"),
        (_lines(GOOD, {k: v for k, v in GOOD.items() if k != "answer"}), "answer"),
        (_lines(GOOD, {**GOOD, "id": "b", "rationale": "  "}), "'b'"),
        (_lines(GOOD, {**GOOD, "question": "What is 2 + 2?", "answer": "4"}), "'a'"),
        (_lines(GOOD, {**GOOD, "id": "b", "answer": "two"}), "two"),
        (_lines(GOOD, {**GOOD, "id": "b", "question": "long " * 600}), "dropped"),
        (_lines(GOOD, {**GOOD, "id": "b", "question": "2 + \ud83d"}), ":2"),
        ("", "train.jsonl"),
    ],
    ids=[
        "malformed",
        "empty field",
        "missing field",
        "no steps",
        "duplicate id",
        "unreadable",
        "too long",
        "half a character",
        "empty",
    ],
)
def test_a_bad_file_is_named_with_its_place(
    text: str, expected: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(text)
    source = json.dumps([{"class_path": "Files", "init_args": {"path": str(path), "task": "gsm8k"}}])
    words = ["--data.train", source, "--data.val_size", 0]
    if expected == "dropped":  # not an error: the rest is trained on, and the loss of data is printed
        assert run("fit", *words, "--trainer.max_epochs", 1) == 0
        assert "dropped 1 (50.0%): longer than 512 tokens" in capsys.readouterr().out
        return
    assert expected in _error_of(run, capsys, *words)
    _untouched(tmp_path)


def test_examples_without_steps_are_left_out_when_asked(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text(_lines(GOOD, {**GOOD, "id": "b", "question": "Why?", "rationale": " "}))
    source = json.dumps([{"class_path": "Files", "init_args": {"path": f"{tmp_path}/train.jsonl", "task": "gsm8k"}}])
    words = ["--data.train", source, "--data.val_size", 0, "--data.without_steps", "leave_out"]
    assert run("fit", *words, "--trainer.max_epochs", 1) == 0
    assert "kept 1 of 2 training examples; dropped 1 (50.0%): no steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.train", "[{class_path: Files, init_args: {path: nowhere.json, task: gsm8k}}]"], "nowhere.json"),
        (["--data.train", "[{class_path: Hub, init_args: {name: nobody/nothing, task: gsm8k}}]"], "nobody/nothing"),
        (["--data.train", "[]"], "data.train"),
        (["--data.val_size", "24"], "data.val_size"),
        (["--data.test", "{}", "--data.train", "[{class_path: Generated, init_args: {task: coin_flop}}]"], "coin_flip"),
        (["--model.student", "Pretrained", "--model.student.name", "nobody/nothing"], "nobody/nothing"),
        (["--model.student", "Pretrained", "--model.student.name", "."], "'.'"),
    ],
)
def test_a_source_or_student_out_of_reach_is_named(
    words: list[str], expected: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert expected in _error_of(run, capsys, *words)
    _untouched(tmp_path)


def test_an_empty_validation_split_is_reported(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.val_size" in _error_of(run, capsys, "--data.val_size", 0, "--untrained", "true", command="validate")


def test_predict_without_a_question_is_reported(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--question" in _error_of(run, capsys, command="predict")


# ----------------------------------------------------------------------------------------------- running


def test_a_refused_resume_changes_nothing(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("fit", "--trainer.max_epochs", 1, "--evaluate", "false") == 0
    capsys.readouterr()
    config = (tmp_path / "tiny" / "config.yaml").read_text()
    for wrong in (["--model.student.config.n_embd", 32], ["--model.optimizer.lr", -1]):
        _error_of(run, capsys, "--ckpt_path", "last", "--trainer.max_epochs", 2, *wrong)
        assert (tmp_path / "tiny" / "config.yaml").read_text() == config


def test_a_checkpoint_of_another_method_is_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("fit", "--trainer.max_epochs", 1, "--evaluate", "false") == 0
    capsys.readouterr()
    error = _error_of(
        run, capsys, "--model", "CWT", "--ckpt_path", tmp_path / "tiny/checkpoints/last.ckpt", command="test"
    )
    assert "CWT" in error
    assert "FullCoT" in error


def test_a_student_folder_without_tokenizer_is_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("fit", "--trainer.max_epochs", 1) == 0
    capsys.readouterr()
    student = tmp_path / "tiny" / "student"
    (student / "tokenizer.json").unlink()
    error = _error_of(run, capsys, "--run", "b", "--model.student", "Pretrained", "--model.student.name", student)
    assert "tokenizer" in error
    assert not (tmp_path / "b").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_examples(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = _error_of(run, capsys, "--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 1.0e+30}}")
    assert "at step" in error
    assert "coin_flip-train-" in error
    assert not (tmp_path / "tiny" / "student").exists()


def test_a_run_folder_that_cannot_be_made_is_reported(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tiny").write_text("a file in its place")
    assert str(tmp_path / "tiny") in _error_of(run, capsys)
    assert (tmp_path / "tiny").read_text() == "a file in its place"


@contextmanager
def _full_disk() -> Iterator[None]:
    """A limit on the size of files stands for the full disk: a checkpoint of the tiny student has 250 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_reported_and_leaves_no_broken_checkpoint(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with _full_disk():
        error = _error_of(run, capsys)
    assert "space" in error
    assert not list((tmp_path / "tiny").rglob("*.ckpt*"))
    assert run("fit", "--ckpt_path", "last") == 0  # and the run can be taken up
    capsys.readouterr()
    last = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    with _full_disk():
        assert "space" in _error_of(run, capsys, "--ckpt_path", "last", "--trainer.max_epochs", 3)
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_two_processes_do_not_train_in_one_folder(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    with FileLock(tmp_path / "tiny" / ".lock"):  # as another process holds it
        assert "no other process" in _error_of(run, capsys, "--evaluate", "false")
    assert not (tmp_path / "tiny" / "config.yaml").exists()
    assert run("fit", "--evaluate", "false") == 0  # and it is given back
    assert run("fit", "--evaluate", "false", "--ckpt_path", "last") == 0


def test_a_fault_in_a_config_of_another_folder_is_located(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("trainer: {max_epochs: 1}\n")
    Path("sub").mkdir()
    Path("sub/a.yaml").write_text("config: ../own.yaml\ndata:\n  init_args:\n    batchsize: 4\n")
    assert run("fit", "--config", "sub/a.yaml") == 2
    message = capsys.readouterr().err
    assert "batchsize" in message
    assert "sub/a.yaml:4" in message


def test_what_lightning_refuses_late_is_an_error_of_one_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--trainer.val_check_interval", 1000, "--data.val_size", 4) == 2
    assert "Expected settings that Lightning can run" in capsys.readouterr().err
