"""The API key of an endpoint: it is sent to the endpoint and appears nowhere else."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from loopback import KEY, Answer, Loopback, rows, solution, teach

pytest.importorskip("openai")

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def test_the_key_is_sent_and_appears_nowhere_else(
    tmp_path: Path,
    capsys: Captured,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server repeats the key in completions, in transient errors and in the fatal one."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_LOG", "debug")

    def gossip(number: int, body: dict[str, Any]) -> Answer:
        if number == 0:
            return Answer(status=500, body=f"Bearer {KEY}")
        if number == 1:
            return Answer(status=400, body=json.dumps({"error": {"message": KEY}}))
        if number == 5:
            return Answer(status=401, body=json.dumps({"error": {"message": f"Incorrect key {KEY}"}}))
        return Answer(texts=[f"Your key is {KEY}. {solution(body['messages'][-1]['content'])}"])

    words = ["--client.concurrency", 1]
    with Loopback(gossip) as server:
        assert teach(tmp_path, server, *words) == 2
        assert teach(tmp_path, server, *words) == 0
        assert teach(tmp_path, server, "--dry_run", "true") == 0
        assert teach(tmp_path, server, "--print_config") == 0
        assert {row.headers["authorization"] for row in server.seen} == {f"Bearer {KEY}"}
    out, err = capsys.readouterr()
    assert "Incorrect key [key]" in err
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert any("Your key is [key]." in text for text in written)
    for text in [out, err, caplog.text, *written]:
        assert KEY not in text


def test_a_key_that_json_escapes_is_hidden(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    key = 'sk-not/for"any\\eyes'
    monkeypatch.setenv("TEST_KEY", key)
    text = json.dumps(f"Your key is {key}. Therefore, the answer is 0.").replace("/", "\\/")
    bodies = [f'{{"choices": [{{"message": {{"content": {text}}}}}]}}', f'{{"nothing": {text}}}']
    with Loopback(lambda number, body: Answer(body=bodies[number % 2])) as server:
        assert teach(tmp_path, server, "--client.tries", 1, "--keep", "Everything") == 0
    out, err = capsys.readouterr()
    texts = [row.get("text", row.get("error")) for row in rows(tmp_path / "out.records")]
    assert sum("[key]" in text for text in texts) == 6
    assert not any("eyes" in text for text in [*texts, out, err])


@pytest.mark.parametrize("proxy", ["gopher://me:hidden@127.0.0.1:9", "socks9://me:hidden@127.0.0.1:9"])
def test_an_unusable_proxy_is_named_without_its_password(
    proxy: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with Loopback() as server:
        assert teach(tmp_path, server) == 2
    err = capsys.readouterr().err
    assert "ALL_PROXY" in err.splitlines()[-1]
    assert "hidden" not in err


@pytest.mark.parametrize("key", [f"{KEY}\nx", f"{KEY} x", f"{KEY}ä"])
def test_a_key_that_no_header_accepts_is_refused_without_showing_it(
    key: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    with Loopback() as server:
        assert teach(tmp_path, server) == 2
        assert server.count == 0
    err = capsys.readouterr().err
    assert "TEST_KEY" in err
    assert "not-for-anyones" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_white_space_around_a_key_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    with Loopback() as server:
        assert teach(tmp_path, server) == 0
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        (["--client.key_env", KEY], KEY),
        (["--client.base_url", "https://me:secret@host/v1"], "secret"),
        (["--client.base_url", "https://host/v1?key=secret"], "secret"),
        (["--client.api_key", KEY], KEY),
        (["--client", json.dumps({"class_path": "Endpoint", "init_args": {"model": "m", "api_key": KEY}})], KEY),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(
    words: list[str], hidden: str, tmp_path: Path, capsys: Captured
) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, *words) == 2
    assert hidden not in "".join(capsys.readouterr())


def test_openai_needs_a_key_and_a_local_server_does_not(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")
    with Loopback() as server:
        assert teach(tmp_path, server, "--client.base_url", "null") == 2
        assert "TEST_KEY" in capsys.readouterr().err
        assert teach(tmp_path, server) == 0  # a local server may need none
    assert not os.environ.get("TEST_KEY")
