"""The key ``config`` of a config file: what it names is read first, as if given by ``--config`` before it."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY

from skipthinking.__main__ import main
from skipthinking.command_line.layers import layers


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _printed(*words: Any) -> dict[str, Any]:
    """The whole config that a command line comes to."""
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main(["fit", *map(str, words), "--print_config"])
    assert not stop.value.code
    return yaml.safe_load(out.getvalue())


@pytest.mark.parametrize("key", ["lora", "tokenizer"])
def test_null_on_the_command_line_is_that_of_a_file(key: str, tmp_path: Path) -> None:
    """Also for a class in a class, of which jsonargparse makes the text None."""
    student = {"class_path": "FromScratch", "init_args": {"architecture": "llama", "tokenizer": "a", "lora": {"r": 2}}}
    own = _write(tmp_path / "own.yaml", yaml.safe_dump({"model": {"init_args": {"student": student}}}))
    words = ["--config", TINY, "--config", own]
    assert _printed(*words)["model"]["init_args"]["student"]["init_args"][key] is not None
    printed = _printed(*words, f"--model.student.{key}", "null")
    assert printed["model"]["init_args"]["student"]["init_args"][key] is None


def test_a_pipe_is_read_once_and_a_text_names_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(TINY.read_text()))
    writer.start()
    assert _printed("--config", pipe) == _printed("--config", TINY)
    writer.join()
    assert main(["fit", "--config", json.dumps({"config": str(TINY)})]) == 2
    assert "--config each" in capsys.readouterr().err


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A config on a method and a student; the student is a file of its own, the method stands on tiny.yaml."""
    shutil.copy(TINY, tmp_path / "tiny.yaml")
    folder = tmp_path / "parts"
    _write(
        folder / "method.yaml",
        """config: ../tiny.yaml
model: {class_path: CWT, init_args: {max_new_tokens: 9}}
data: {init_args: {chunker: {class_path: AverageChunks, init_args: {n_chunks: 3}}}}
""",
    )
    _write(folder / "student.yaml", "model: {init_args: {student: small.yaml, latency_examples: 1}}\n")
    _write(
        folder / "small.yaml",
        """class_path: FromScratch
init_args: {architecture: gpt2, config: {n_embd: 8, n_layer: 1, n_head: 2, n_positions: 512}, vocab_size: 600}
""",
    )
    return _write(tmp_path / "own.yaml", """# On two files.
config: [parts/method.yaml, parts/student.yaml]
run: own
trainer: {max_epochs: 1}
model:
  init_args:
    stage_marker: " <{}>"
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1e-3}}
""")  # fmt: skip


def test_a_file_is_read_as_if_those_that_it_names_came_before_it(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "parts"
    bare = _write(tmp_path / "bare.yaml", stack.read_text().replace("config: [parts", "# ["))
    below = _write(tmp_path / "below.yaml", (parts / "method.yaml").read_text().replace("config:", "#"))
    files = [tmp_path / "tiny.yaml", below, parts / "student.yaml", bare]
    expected = _printed(*(word for file in files for word in ("--config", file)))
    monkeypatch.chdir(tmp_path / "parts")  # names are relative to their file, from wherever the command is given
    assert _printed("--config", "../own.yaml") == expected
    monkeypatch.chdir("/")
    found = _printed("--config", stack)
    assert found == expected
    model = found["model"]["init_args"]
    assert found["model"]["class_path"] == "skipthinking.methods.CWT"  # not tiny's
    assert found["trainer"]["max_epochs"] == 1
    assert model["student"]["init_args"]["config"]["n_embd"] == 8
    assert model["optimizer"]["init_args"]["lr"] == 1e-3
    assert model["max_new_tokens"] == 9
    assert found["data"]["init_args"]["batch_size"] == 4  # of the lowest
    assert "config" not in found


def test_words_and_later_files_win(stack: Path, tmp_path: Path) -> None:
    later = _write(tmp_path / "later.yaml", "run: later\ndata: {init_args: {chunker: {init_args: {n_chunks: 5}}}}\n")
    found = _printed(
        "--config", stack, "--config", later, "--model.student.config.n_embd", 4, "--model.max_new_tokens", 7
    )
    assert found["run"] == "later"
    assert found["data"]["init_args"]["chunker"]["init_args"]["n_chunks"] == 5
    assert found["model"]["init_args"]["student"]["init_args"]["config"]["n_embd"] == 4
    assert found["model"]["init_args"]["max_new_tokens"] == 7
    assert found["model"]["init_args"]["stage_marker"] == " <{}>"


@pytest.mark.parametrize("marker", [" 1e3 {}", " {}: yes", ' "{}"', " !{}", " \\n{}"])
def test_what_a_file_says_is_read_as_it_stands(marker: str, tmp_path: Path) -> None:
    model = f"{{class_path: CWT, init_args: {{stage_marker: {json.dumps(marker)}}}}}"
    lines = f"run: '1e3'\nmodel: {model}\ntrainer: {{val_check_interval: 1e0}}\n"
    bare, own = _write(tmp_path / "bare.yaml", lines), _write(tmp_path / "own.yaml", f"config: {TINY}\n{lines}")
    found = _printed("--config", own)
    assert found == _printed("--config", TINY, "--config", bare)
    assert found["model"]["init_args"]["stage_marker"] == marker
    assert found["run"] == "1e3"
    assert found["trainer"]["val_check_interval"] == 1.0


def test_the_config_of_a_run_stands_alone(
    stack: Path, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "parts")
    assert run("fit", config=stack) == 0
    steps = json.loads((tmp_path / "own" / "summary.json").read_text())["steps"]
    assert run("fit", "--trainer.max_epochs", 2, "--ckpt_path", "last", config=stack) == 0
    shutil.rmtree(tmp_path / "parts")
    monkeypatch.chdir(tmp_path)
    stack.unlink()
    (tmp_path / "tiny.yaml").unlink()
    (tmp_path / "own" / "predictions.jsonl").unlink()
    assert main(["test", "--config", str(tmp_path / "own" / "config.yaml")]) == 0
    assert json.loads((tmp_path / "own" / "summary.json").read_text())["steps"] == 2 * steps
    assert (tmp_path / "own" / "predictions.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("config: nowhere.yaml\n", "Expected a config file, got config: nowhere.yaml, which does not exist"),
        ("config: [tiny.yaml, 3]\n", "Expected a file or a list of files, got config: ['tiny.yaml', 3]"),
        ("config: {a: b}\n", "Expected a file or a list of files, got config: {'a': 'b'}"),
        ("config: other.yaml\n", "got own.yaml names other.yaml names own.yaml"),
        ("config: own.yaml\n", "got own.yaml names own.yaml"),
        ("config: broken.yaml\n", "broken.yaml). Fix the file."),
        ("config: lists.yaml\n", "Expected a config file of keys and values, got one with '- a'"),
        ("config: tiny.yaml\nmodle: CWT\n", "(OWN:2). Did you mean 'model'?"),
        ("config: tiny.yaml\ntrainer:\n  max_epoch: 1\n", "(OWN:3). Did you mean 'trainer.max_epochs'?"),
        ("config: tiny.yaml\nmodel:\n  init_args: {max_new_tokens: many}\n",
         "Expected int for max_new_tokens, got 'many' (OWN:3)."),
        ("config: tiny.yaml\ndata:\n  init_args:\n    train:\n    - class_path: Generated\n"
         "      init_args: {sise: 3}\n", "Option 'sise' is not accepted (OWN:6). Did you mean 'size'?"),
        ("config: tiny.yaml\nmodel: {class_path: FullCoT, init_args: {gap_epochs: 1}}\n",
         "Expected a setting of FullCoT, got 'gap_epochs', a setting of STT (OWN:2). Name that class before its "
         "settings, in place of FullCoT."),
        ("run: alone\n", "Expected settings of data, model, got none. Give them in a file: fit --config experiments/"),
        ("config: tiny.yaml\nrun: [\n", "own.yaml). Fix the file."),
        ("trainer:\n  max_epochs: 1\n  devices: 1\n  max_epochs: 2\n", "got max_epochs in lines 2 and 4"),
        ("data: {train: [{a: 1},\n  {a: 2, b: 3,\n  a: 4}]}\n", "got a in lines 2 and 3"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_layered_is_reported(
    text: str, expected: str, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TINY, tmp_path / "tiny.yaml")
    _write(tmp_path / "other.yaml", "config: own.yaml\n")
    _write(tmp_path / "broken.yaml", "run: [broken\n")
    _write(tmp_path / "lists.yaml", "- a\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run("fit", config=_write(tmp_path / "own.yaml", text)) == 2
    error = capsys.readouterr().err
    assert expected.replace("OWN", str(tmp_path / "own.yaml")) in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "own.yaml"])


def test_a_wrong_word_is_not_laid_on_the_file_that_has_that_key(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = _write(tmp_path / "own.yaml", "model:\n  class_path: FullCoT\n  init_args: {max_new_tokens: 7}\n")
    for words in (["--model.max_new_tokens", "many"], ["--model.max_new_token", 7]):
        assert run("fit", *words, config=own) == 2
        assert "own.yaml" not in capsys.readouterr().err


def test_layers_are_in_the_order_in_which_they_are_read(stack: Path) -> None:
    names = [file.resolve().name for file in layers(stack)]
    assert names == ["tiny.yaml", "method.yaml", "student.yaml", "own.yaml"]
