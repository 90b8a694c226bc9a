"""The completion log: complete lines survive a kill, and one process writes at a time."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, questions, rows, teach

from skipthinking.records import DataError, Example, UserError
from skipthinking.teacher import completion_log
from skipthinking.teacher.client import Sampling, make_request
from skipthinking.teacher.completion_log import open_log, read_positions
from skipthinking.teacher.endpoint import Endpoint
from skipthinking.teacher.prompts import ZeroShot

pytest.importorskip("openai")

ROWS = [
    {"key": f"k{i}", "id": f"q{i}", "sample": 0, "text": f"Täxt\u2028{i} " * 40, "finish": "stop"} for i in range(3)
]


def _write(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "a.records"
    with open_log(path) as log:
        log.append(ROWS)
    return path, path.read_bytes()


def test_a_log_cut_anywhere_keeps_every_complete_line_and_can_be_appended_to(tmp_path: Path) -> None:
    path, complete = _write(tmp_path)
    ends = [i for i, byte in enumerate(complete) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in sorted({*range(0, len(complete), 11), *(end + i for end in ends for i in (-1, 0, 1))}):
        path.write_bytes(complete[:cut])
        with open_log(path) as log:
            expected = ROWS[: sum(end <= cut for end in ends)]  # a line that lacks only its line feed is complete
            assert list(log.positions) == [row["key"] for row in expected]
            more = {"key": "new", "text": "more"}
            log.append([more])
            log.refresh()
            assert [log.read(position)[1] for position in log.positions.values()] == [*expected, more]
        assert read_positions(path) == (log.positions, path.stat().st_size)


def test_a_long_incomplete_line_is_dropped(tmp_path: Path) -> None:
    path, complete = _write(tmp_path)
    path.write_bytes(complete + b'{"key": "k9", "text": "' + b"x" * 200_000)
    with open_log(path) as log:
        assert list(log.positions) == ["k0", "k1", "k2"]
    assert path.read_bytes() == complete


def test_of_several_lines_with_the_same_key_the_last_counts(tmp_path: Path) -> None:
    with open_log(tmp_path / "a.records") as log:
        log.append([{"key": "k", "error": "busy"}, {"key": "l", "text": "a"}])
        log.refresh()
        assert log.positions["k"].failed
        log.append([{"key": "k", "text": "better"}])
        log.refresh()
        position = log.positions["k"]
        assert not position.failed
        assert log.read(position)[1]["text"] == "better"


def test_an_open_log_is_locked_until_its_process_is_killed(tmp_path: Path) -> None:
    path, _ = _write(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from skipthinking.teacher.completion_log import open_log\n"
        "with open_log(Path(sys.argv[1])): print('open', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="another process"), open_log(path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with open_log(path) as log:
        assert len(log.positions) == 3


def test_the_command_refuses_a_second_process_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Loopback() as server, open_log(tmp_path / "out.records") as log:
        log.append(ROWS)
        before = log.path.read_bytes()
        assert teach(tmp_path, server) == 2
        assert "another process" in capsys.readouterr().err
        assert server.count == 0
        assert log.path.read_bytes() == before
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"key": "a", "text": "b"}\nnonsense\n{"key": "c", "text": "d"}\n', ":2"),
        ('{"question": "a"}\n', ":1"),
        ("[]\n", ":1"),
        ('{"key": 3, "text": "b"}\n', ":1"),
        ('{"key": "a", "text": null}\n', ":1"),
    ],
)
def test_a_line_that_is_no_completion_is_named_and_the_file_not_written_to(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.records"
    path.write_text(text)
    with pytest.raises(DataError, match=message), open_log(path):
        pass
    with Loopback() as server:
        assert teach(tmp_path, server) == 2
        assert server.count == 0
    assert f"{path}{message}" in capsys.readouterr().err
    assert path.read_text() == text


@pytest.mark.parametrize("content", [b"12345", b"\xff\xfe", b"#!/bin/sh", b'{"question": "a'])
def test_an_incomplete_line_of_another_format_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.records"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.records"), open_log(path):
        pass
    assert path.read_bytes() == content


def test_a_file_that_is_removed_before_it_is_locked_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a process that had nothing to write; lines appended to the removed file would be lost."""
    path, lock = tmp_path / "a.records", completion_log.lock_descriptor
    for again in (False, True):

        def late(*words: Any, again: bool = again, **settings: Any) -> bool:
            path.unlink()
            if again:
                path.touch()
            return lock(*words, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(completion_log, "lock_descriptor", late)
            with pytest.raises(UserError, match="another process"), open_log(path):
                pass


def test_an_empty_log_is_removed(tmp_path: Path) -> None:
    with open_log(tmp_path / "new" / "a.records"):
        pass
    assert not (tmp_path / "new" / "a.records").exists()


def test_a_full_disk_stops_the_run_and_the_rest_is_requested_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files simulates the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    questions(tmp_path / "questions.jsonl", 20)
    with Loopback() as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        try:
            assert teach(tmp_path, server, "--client.concurrency", 1) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("error: ")
        assert str(tmp_path / "out.records") in message
        count = server.count
        assert 2 < count < 20
        assert teach(tmp_path, server) == 0
        assert server.count == 20 + 1  # the completion whose line did not fit is requested again
    assert len({row["key"] for row in rows(tmp_path / "out.records")}) == 20
    assert len(rows(tmp_path / "out.jsonl")) == 20


def test_completions_of_earlier_versions_are_found(tmp_path: Path) -> None:
    """Literal values of the first version: completions that were paid for must not be requested again."""
    example = Example(id="q1", question="What is 1 + 2?", rationale="", answer="3", task="gsm8k")
    sampling = Sampling(samples=2, temperature=0.7, max_tokens=512, seed=0)
    text = "{question}\n\nLet's think step by step."
    request = make_request(Endpoint("adder"), ZeroShot(text), example, sampling)
    assert request.samples == {0: "4d03342fd2f3c555bd61acc0", 1: "3d0305ebff35b006d042c33c"}
    assert request.seed == 1780355085
