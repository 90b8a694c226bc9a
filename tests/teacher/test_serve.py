"""A real server: ``transformers serve`` on loopback with a tiny random model, from questions to a file that trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import questions, rows
from random_model import random_model

from skipthinking.__main__ import main

for package in ("openai", "uvicorn", "fastapi"):
    pytest.importorskip(package, reason="needs pip install -e '.[teacher,serve]'")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", positions=512, serve=True)


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """Address of a server with that model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(model)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = model.parent / "serve.log"
    with log.open("w") as sink:
        server = subprocess.Popen(
            [*start, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"], env=env, stdout=sink, stderr=sink
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _teach(folder: Path, url: str, name: str, *words: str) -> int:
    client = {"class_path": "Endpoint", "init_args": {"model": name, "base_url": url, "tries": 2, "first_wait": 0.1}}
    source = {"class_path": "Files", "init_args": {"path": str(folder / "questions.jsonl"), "task": "gsm8k"}}
    line = ["--questions", json.dumps(source), "--client", json.dumps(client), "--out", str(folder / "out.jsonl")]
    return main(["teach", *line, "--max_tokens", "8", "--temperature", "1", *words])


def test_questions_go_through_a_real_server_to_a_file_that_trains(
    model: Path, url: str, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    questions(tmp_path / "questions.jsonl", 6)
    words = ["--samples", "2", "--keep", "Everything"]
    assert _teach(tmp_path, url, str(model), *words) == 0
    assert "answered             12\n" in capsys.readouterr().out
    logged = rows(tmp_path / "out.records")
    assert len({row["key"] for row in logged}) == 12  # the server ignores n: the rest was requested
    assert sum(row.get("completion_tokens") or 0 for row in logged) > 12
    texts = {(row["id"], row["sample"]): row["text"] for row in logged}
    assert sum(texts[f"q{i}", 0] != texts[f"q{i}", 1] for i in range(6)) >= 5  # each with its own seed
    assert _teach(tmp_path, url, str(model), *words) == 0
    assert rows(tmp_path / "out.records") == logged
    source = [{"class_path": "Files", "init_args": {"path": str(tmp_path / "out.jsonl"), "task": "gsm8k"}}]
    assert run("fit", "--data.train", json.dumps(source), "--trainer.max_steps", 2, "--evaluate", "false") == 0


def test_an_unknown_model_is_named(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions(tmp_path / "questions.jsonl", 20)
    assert _teach(tmp_path, url, "nobody/nothing") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "nobody/nothing" in message
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]  # the run stopped at the first request
