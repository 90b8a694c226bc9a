"""Mistakes in the arguments: reported in one line before any request is sent, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback import Loopback, questions, teach

pytest.importorskip("openai")

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--client.concurreny", "3"], "'concurrency'"),
        (["--keep", "Shortes"], "'Shortest'"),
        (["--prompt", "Rewrite"], "steps"),
        (["--prompt", "{class_path: Rewrite, init_args: {steps: 0}}"], "prompt.steps"),
        (["--prompt.text", "Think."], "{question}"),
        (["--samples", "many"], "samples"),
        (["--samples", "0"], "samples=0"),
        (["--samples", "2", "--temperature", "0"], "temperature 0"),
        (["--temperature", "-1"], "temperature"),
        (["--stop_after", "0"], "stop_after"),
        (["--keep.k", "0"], "keep.k"),
        (["--out", "out.json"], ".jsonl"),
        (["--client.base_url", "localhost:8000"], "client.base_url"),
        (["--client.base_url", "http://[::1/v1"], "client.base_url"),
        (["--client.base_url", "http://127.0.0.1:99999/v1"], "client.base_url"),
        (["--client.base_url", "http://127.0.0.1/v 1"], "client.base_url"),
        (["--prompt.text", "Q: {question}"], "YAML"),
        (["--questions.path", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--questions.task", "gsm9k"], "gsm8k"),
        (["--prompt", "{class_path: FewShot, init_args: {exemplars: nowhere.jsonl}}"], "nowhere.jsonl"),
    ],
)
def test_a_mistake_is_reported_in_one_line_before_any_request(
    words: list[str], message: str, tmp_path: Path, capsys: Captured
) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, *words) == 2
        assert server.count == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_the_questions_are_not_overwritten(tmp_path: Path, capsys: Captured) -> None:
    path = questions(tmp_path / "questions.jsonl", 3)
    before = path.read_text()
    with Loopback() as server:
        assert teach(tmp_path, server, "--out", path) == 2
        assert (
            teach(tmp_path, server, "--questions.path", tmp_path, "--out", f"{tmp_path}/../{tmp_path.name}/{path.name}")
            == 2
        )
        assert server.count == 0
    assert "Give another --out" in capsys.readouterr().err
    assert path.read_text() == before


def test_a_folder_as_output_is_refused_before_any_request(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "out.jsonl").mkdir()
    with Loopback() as server:
        assert teach(tmp_path, server) == 2
        assert server.count == 0
    assert "--out" in capsys.readouterr().err.splitlines()[-1]
