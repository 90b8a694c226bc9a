"""The commands as a user types them, on tiny runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY

from skipthinking.__main__ import main

Run = Callable[..., int]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def trained(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished run of CWT."""
    assert run("fit", "--model", "CWT", "--trainer.max_epochs", 2) == 0
    capsys.readouterr()
    return tmp_path / "tiny"


def test_a_run_folder_has_all_that_the_readme_names(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if not path.name.startswith(".")}
    assert names == {"config.yaml", "metrics.csv", "checkpoints", "predictions.jsonl", "summary.json", "student"}
    rows = _rows(trained / "predictions.jsonl")
    assert len(rows) == 5
    wanted = {"set", "id", "question", "gold", "completion", "extracted", "correct", "new_tokens"}
    assert all(wanted <= row.keys() for row in rows)


def test_a_saved_config_starts_the_same_run(trained: Path, run: Run, tmp_path: Path) -> None:
    assert run("fit", "--run", "again", config=trained / "config.yaml") == 0
    one, two = (torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("tiny", "again"))
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())


def test_test_repeats_what_fit_found(trained: Path, run: Run) -> None:
    before = (trained / "predictions.jsonl").read_text()
    summary = json.loads((trained / "summary.json").read_text())
    (trained / "predictions.jsonl").unlink()
    assert run("test", config=trained / "config.yaml") == 0
    assert (trained / "predictions.jsonl").read_text() == before
    again = json.loads((trained / "summary.json").read_text())
    assert {**again, "latency_seconds": 0} == {**summary, "latency_seconds": 0}


def test_validate_answers_the_validation_examples(trained: Path, run: Run) -> None:
    assert run("validate", config=trained / "config.yaml") == 0
    rows = _rows(trained / "predictions_val.jsonl")
    assert len(rows) == 4
    assert all(row["id"].startswith("coin_flip-train-") for row in rows)


def test_validation_is_the_same_whichever_command_reads_it(run: Run, tmp_path: Path) -> None:
    # One training question is in the test set: fit and validate must both leave it out before they split.
    shared = "{class_path: Generated, init_args: {task: coin_flip, split: train, size: 3}}"
    words = ["--data.test", f"{{flips: {shared}}}", "--data.val_size", 8]
    assert run("fit", *words, "--trainer.max_epochs", 1) == 0
    assert run("validate", *words) == 0
    rows = _rows(tmp_path / "tiny" / "predictions_val.jsonl")
    tested = {row["question"] for row in _rows(tmp_path / "tiny" / "predictions.jsonl")}
    assert len(rows) == 8
    assert not tested & {row["question"] for row in rows}


def test_predict_shows_the_stages_of_an_answer(trained: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    question = _rows(trained / "predictions.jsonl")[0]["question"]
    assert run("predict", "--question", question, config=trained / "config.yaml") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert question in out
    assert "answer" in out
    assert "8 new tokens" in out


def test_a_question_that_fills_the_context_is_reported(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--question", "very " * 600, "--data.task", "last_letter"]
    assert run("predict", *words, config=trained / "config.yaml") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the question fills the student's context" in said
    assert "none can be read" in said
    assert "note: the questions are of task last_letter; the student was trained on coin_flip" in said


def test_predict_answers_a_file(trained: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = _rows(trained / "predictions.jsonl")
    (tmp_path / "asked.jsonl").write_text(
        "".join(json.dumps({"id": r["id"], "question": r["question"]}) + "\n" for r in asked)
    )
    assert run("predict", "--questions", tmp_path / "asked.jsonl", config=trained / "config.yaml") == 0
    answers = _rows(trained / "answers.jsonl")
    assert [(r["id"], r["completion"]) for r in answers] == [(r["id"], r["completion"]) for r in asked]
    said = capsys.readouterr().out
    assert "5 of 5 answers unfinished" in said  # after 8 tokens
    assert "note: the questions are of task" not in said


def test_an_exported_student_gives_the_same_answers(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained / "student")
    tokenizer = AutoTokenizer.from_pretrained(trained / "student")
    for row in _rows(trained / "predictions.jsonl"):
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:", return_tensors="pt")
        made = model.generate(**prompt, max_new_tokens=8)[0, prompt.input_ids.shape[1] :]
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == row["completion"]


def test_lora_checkpoints_hold_the_adapter_alone_and_the_export_is_merged(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lora = ["--model.student.lora", "{r: 4, dropout: 0.1}", "--trainer.max_epochs", 2, "--checkpoint_every", 3]
    assert run("fit", *lora) == 0
    assert "LoRA of rank 4, alpha 8: updates are multiplied by 2\n" in capsys.readouterr().out
    folder = tmp_path / "tiny"
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all("lora_" in name for name in state)
    assert not list((folder / "student").glob("adapter*"))
    model = AutoModelForCausalLM.from_pretrained(folder / "student")
    assert not any("lora" in name for name, _ in model.named_parameters())
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    before = _rows(folder / "predictions.jsonl")
    for row in before:
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:", return_tensors="pt")
        made = model.generate(**prompt, max_new_tokens=8)[0, prompt.input_ids.shape[1] :]
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == row["completion"]
    assert run("test", *lora) == 0  # the adapter on top of the base that the seed gives again
    assert _rows(folder / "predictions.jsonl") == before


def test_the_command_line_beats_the_checkpoint_and_says_so(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (trained / "predictions.jsonl").read_text(), (trained / "summary.json").read_text()
    assert run("test", "--model.max_new_tokens", 5, config=trained / "config.yaml") == 0
    assert "model.init_args.max_new_tokens is 5 here and 8 in" in capsys.readouterr().out
    beside = trained / "max_new_tokens=5"
    assert all(row["new_tokens"] == 5 for row in _rows(beside / "predictions.jsonl"))
    assert ((trained / "predictions.jsonl").read_text(), (trained / "summary.json").read_text()) == own
    assert run("test", config=trained / "config.yaml") == 0
    assert "the command line wins" not in capsys.readouterr().out
    assert main(["compare", str(trained), "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["CWT", '"CWT']  # the second one's limit follows in quotes
    assert "max_new_tokens=5" in lines[2]


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_no_later_command_changes_the_times_of_a_finished_run(
    command: str, trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on another machine: the summary keeps the latency of the first test beside the device of that test."""
    path = trained / "summary.json"
    first = json.loads(path.read_text()) | {"device": "NVIDIA H100", "latency_seconds": 0.0625, "fit_seconds": 7.5}
    path.write_text(json.dumps(first))
    words = {"predict": ["--question", "Heads or tails?"]}.get(command, [])
    assert run(command, *words, config=trained / "config.yaml") == 0
    assert json.loads(path.read_text()) == first
    said = " ".join(capsys.readouterr().out.split())
    assert ("keeps 62 ms (NVIDIA H100) of the first test. Remove it to measure again" in said) == (command == "test")
    if command == "test":  # as the note says
        path.unlink()
        assert run("test", config=trained / "config.yaml") == 0
        assert json.loads(path.read_text())["device"].startswith("cpu")


def test_a_run_says_once_what_it_trains_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--model", "CWT", "--trainer.max_epochs", 2) == 0
    out = capsys.readouterr()
    printed = " ".join(out.out.split())
    assert printed.count("kept 20 of 20 training examples") == 1
    assert printed.count("target and") == 2  # at the start for an epoch, at the end for the run
    assert printed.count("its targets between « »: Question:") == 1
    assert "Warning" not in out.err


@pytest.mark.parametrize("sampling", ["cycle", "uniform", "loss"])
def test_every_stage_sampling_trains(sampling: str, run: Run) -> None:
    assert run("fit", "--model", "CWT", "--data.stage_sampling", sampling, "--trainer.max_epochs", 1) == 0


@pytest.mark.parametrize("method", ["FullCoT", "AnswerOnly", "MultiTask", "CWT"])
def test_every_method_lowers_its_loss(method: str, run: Run, tmp_path: Path) -> None:
    longer = ["--trainer.max_epochs", 8, "--evaluate", "false", "--data.val_size", 0]
    assert run("fit", "--model", method, *longer) == 0
    header, *lines = [line.split(",") for line in (tmp_path / "tiny" / "metrics.csv").read_text().splitlines()]
    losses = [float(line[header.index("train/loss")]) for line in lines if line[header.index("train/loss")]]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])


def test_lightnings_plateau_schedule_watches_what_it_names(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    plateau = "{class_path: lightning.pytorch.cli.ReduceLROnPlateau, init_args: {monitor: val/accuracy, mode: max}}"
    assert run("fit", "--model.scheduler", plateau, "--evaluate", "false") == 0
    assert run("fit", "--run", "b", "--model.scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau") == 2
    assert "lightning.pytorch.cli.ReduceLROnPlateau" in capsys.readouterr().err


def test_lightnings_timer_stops_a_run_whose_config_can_be_read_again(run: Run, tmp_path: Path) -> None:
    timer = ["--trainer.callbacks+", "lightning.pytorch.callbacks.Timer", "--trainer.callbacks.duration"]
    assert run("fit", *timer, "00:00:00:01", "--trainer.max_epochs", 9999, "--evaluate", "false") == 0
    assert run("fit", "--run", "again", "--evaluate", "false", config=tmp_path / "tiny" / "config.yaml") == 0
    for name in ("tiny", "again"):
        (found,) = yaml.safe_load((tmp_path / name / "config.yaml").read_text())["trainer"]["callbacks"]
        assert found["init_args"]["interval"] == "step"
        assert torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["epoch"] < 9998


def test_batches_by_tokens_and_without_buckets_train(run: Run) -> None:
    assert run("fit", "--data.batch_tokens", 600, "--data.bucket", "false", "--trainer.max_epochs", 1) == 0


def test_a_run_that_is_interrupted_before_its_first_step_can_be_started_again(run: Run, tmp_path: Path) -> None:
    assert run("fit", "--model.student.config.n_head", 3) == 2
    assert run("fit", "--trainer.max_epochs", 1) == 0
    assert yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["trainer"]["max_epochs"] == 1


def test_the_tiny_config_is_the_one_under_test() -> None:
    assert yaml.safe_load(TINY.read_text())["run"] == "tiny"


def test_an_end_token_that_stands_for_unknown_ones_too_is_not_unknown(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--run", "a", "--trainer.max_epochs", 1) == 0
    student = tmp_path / "a" / "student"
    config = json.loads((student / "tokenizer_config.json").read_text())
    (student / "tokenizer_config.json").write_text(json.dumps({**config, "unk_token": config["eos_token"]}))
    capsys.readouterr()
    own = ["--model.student", "Pretrained", "--model.student.name", student]
    assert run("fit", "--run", "b", *own, "--trainer.max_epochs", 1) == 0
    assert "unknown" not in capsys.readouterr().out


def test_a_runs_config_means_that_run_wherever_it_lies(
    trained: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (trained / "predictions.jsonl").read_text()
    moved = tmp_path / "mo ved"
    trained.rename(moved)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (moved / "predictions.jsonl").unlink()
    log = (moved / "metrics.csv").read_text()
    assert main(["test", "--config", str(moved / "config.yaml")]) == 0
    assert (moved / "predictions.jsonl").read_text() == before
    assert (moved / "metrics.csv").read_text() == log  # the log is that of training
    assert not list((tmp_path / "elsewhere").iterdir())
    assert main(["annotate", "--config", str(moved / "config.yaml")]) == 0
    assert (moved / "annotations.jsonl").exists()


def test_a_student_without_training_is_evaluated_only_when_asked(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test") == 2
    assert "--untrained" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()
    assert run("test", "--untrained", "true") == 0


def test_weights_of_another_size_are_reported_in_a_line(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test", "--model.student.config.n_embd", 32, config=trained / "config.yaml") == 2
    assert "of shape" in capsys.readouterr().err


def test_a_resumed_run_says_what_data_settings_changed(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--ckpt_path", "last", "--data.batch_size", 2, "--trainer.max_epochs", 3, "--evaluate", "false"]
    assert run("fit", *words, config=trained / "config.yaml") == 0
    assert "data.init_args.batch_size is 2 here and 4 in" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["generate --size 2000", "--help", "fit --help"])
def test_a_reader_that_has_left_ends_a_command_without_a_word(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "skipthinking", *words.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["own.yaml"], "Expected options, which begin with --, got 'own.yaml'. Give a config by --config own.yaml."),
        (["--config", "."], "Give its config: {here}/config.yaml."),
        (["--config", "none.yaml"], "Expected a config file, got {here}/none.yaml, which does not exist."),
        (["--config", TINY, "--model", "STT", "--model.max_rise", "0.4"],
         "Expected a setting of STT, got 'max_rise'. Did you mean 'verifier.max_rise'?"),
        (["--config", TINY, "--student", "FromScratch"], "unrecognized arguments: --student FromScratch."),
        (["--model", "STT"], "Expected a value for student, got none. Set each in a config, or by an option:"),
    ],
)  # fmt: skip
def test_wrong_words_are_answered_with_right_ones(
    words: list[Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own.yaml", "config.yaml"):
        (tmp_path / name).write_text("run: a\n")
    with pytest.raises(SystemExit) as caught:
        main(["fit", *map(str, words)])
    assert caught.value.code == 2
    assert expected.format(here=tmp_path) in capsys.readouterr().err


def test_ctrl_c_before_a_command_begins_and_a_pipe_that_rich_sees_closed_end_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(words: list[str]) -> int:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904

    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("skipthinking.__main__._command", closed)
    assert main(["summary"]) == 141
    monkeypatch.setattr("skipthinking.__main__._command", interrupted)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "stopped\n"
