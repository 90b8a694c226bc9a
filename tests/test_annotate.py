"""``annotate`` writes the annotations of the training examples, and ``show`` draws them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_notes import annotations

from skipthinking.__main__ import main
from skipthinking.data.module import RationaleDataModule

Run = Callable[..., int]
SETTINGS = ["--data.chunker", "SearchChunks", "--data.chunker.n_chunks", 3, "--data.chunker.refresh_every_n_epochs", 1]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_annotations_have_every_example_in_complete_chunks(architecture: str, run: Run, tmp_path: Path) -> None:
    words = [*SETTINGS]
    if architecture == "t5":
        config = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_heads: 2}"
        words += ["--model.student.architecture", "t5", "--model.student.config", config]
    assert run("fit", "--model", "CWT", *words, "--evaluate", "false") == 0
    assert run("annotate", "--model", "CWT", *words) == 0
    rows = _rows(tmp_path / "tiny" / "annotations.jsonl")
    assert len(rows) == 20
    for row in rows:
        assert [step for i, j in row["chunks"] for step in range(i, j)] == list(range(len(row["steps"])))
        assert len(row["nll"]) == len(row["steps"])
        assert all(nll > 0 for nll in row["nll"])
        assert row["kept"] == list(range(len(row["chunks"])))
        assert row["answer"].startswith("Therefore, the answer is")


def test_annotations_are_those_of_the_run(run: Run, tmp_path: Path) -> None:
    """``annotate`` writes the chunks and skips of the checkpoint instead of searching again."""
    stt = ["--model", "STT", "--model.warmup_epochs", 2, "--model.gap_epochs", 0, "--trainer.max_epochs", 3]
    words = [*stt, *SETTINGS, "--model.verifier", "verifiers.EveryOther"]
    assert run("fit", *words, "--evaluate", "false") == 0
    saved = annotations(tmp_path / "tiny")
    assert run("annotate", *words) == 0
    for row in _rows(tmp_path / "tiny" / "annotations.jsonl"):
        assert row["kept"] == saved["skips"][row["id"]]
        assert row["chunks"] == [list(span) for span in saved["chunks"][row["id"]]]


def test_show_draws_stages_losses_and_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"steps": ["Ann has 2.", "We go on.", "So 2 + 1 = 3."], "nll": [0.01, 0.7, 0.3]}
    cut = {"chunks": [[0, 1], [1, 2], [2, 3]], "kept": [0, 2]}
    row = {"id": "a", "question": "How [many]?", **said, **cut, "answer": "So it is 3."}
    path = tmp_path / "annotations.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "b"}) + "\n")
    assert main(["show", "--file", str(path), "--n", "1"]) == 0
    out = capsys.readouterr().out
    for text in ("a  (3 chunks, 1 skipped)", "How [many]?", "[1] Ann has 2. 0.01", "We go on. 0.70", "So it is 3."):
        assert text in out
    assert out.count("skipped") == 2  # the heading, and the chunk
    assert main(["show", "--file", str(path), "--id", "b"]) == 0
    assert "b  (3 chunks" in capsys.readouterr().out


def test_a_malformed_pair_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "a", "question": "?", "steps": ["One.", "Two."], "nll": [0.1, 0.2], "chunks": [[0, 1], [1, 2]],
           "kept": [0], "cut": 1, "pair": [-1.0], "answer": "2."}  # fmt: skip
    (tmp_path / "annotations.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["show", "--file", str(tmp_path / "annotations.jsonl")]) == 2
    assert "annotations.jsonl:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"), [(None, "does not exist"), ("{", ":1"), ('{"id": "a"}', "question"), ("", "none of 0")]
)
def test_show_names_what_is_wrong(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "annotations.jsonl"
    if text is not None:
        path.write_text(text)
    assert main(["show", "--file", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_method_without_chunks_has_no_annotations(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RationaleDataModule, "setup", lambda *_: pytest.fail("the data were read first"))
    assert run("annotate", "--untrained", "true") == 2
    assert "FullCoT" in capsys.readouterr().err
