"""The record file: what a kill leaves behind is read as far as it is whole, and one process writes at a time."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, questions, rows, teach

from skipthinking.records import DataError, UserError
from skipthinking.teacher import completion_log as records
from skipthinking.teacher.completion_log import RecordFile

pytest.importorskip("openai")

ROWS = [
    {"key": f"k{i}", "id": f"q{i}", "sample": 0, "text": f"Täxt\u2028{i} " * 40, "finish": "stop"} for i in range(3)
]


def _bytes(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "a.records"
    with RecordFile(path) as file:
        file.append(ROWS)
    return path, path.read_bytes()


def test_a_file_cut_anywhere_keeps_every_whole_line_and_takes_more(tmp_path: Path) -> None:
    path, whole = _bytes(tmp_path)
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in sorted({*range(0, len(whole), 11), *(end + i for end in ends for i in (-1, 0, 1))}):
        path.write_bytes(whole[:cut])
        with RecordFile(path) as file:
            expected = ROWS[: sum(end <= cut for end in ends)]  # a line that lacks nothing but its end is whole
            assert list(file.index()) == [row["key"] for row in expected]
            more = {"key": "new", "text": "more"}
            file.append([more])
            assert [file.read(place)[1] for place in file.index().values()] == [*expected, more]


def test_a_torn_line_longer_than_a_read_is_dropped(tmp_path: Path) -> None:
    path, whole = _bytes(tmp_path)
    path.write_bytes(whole + b'{"key": "k9", "text": "' + b"x" * 200_000)
    with RecordFile(path) as file:
        assert list(file.index()) == ["k0", "k1", "k2"]
    assert path.read_bytes() == whole


def test_of_several_lines_the_last_counts(tmp_path: Path) -> None:
    with RecordFile(tmp_path / "a.records") as file:
        file.append([{"key": "k", "error": "busy"}, {"key": "l", "text": "a"}])
        assert file.index()["k"].failed
        file.append([{"key": "k", "text": "better"}])
        place = file.index()["k"]
        assert not place.failed
        assert file.read(place)[1]["text"] == "better"


def test_an_open_file_is_refused_to_others_and_free_after_a_kill(tmp_path: Path) -> None:
    path, _ = _bytes(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from skipthinking.teacher.completion_log import RecordFile\n"
        "file = RecordFile(Path(sys.argv[1])); print('open', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="another process"):
            RecordFile(path)
    finally:
        holder.kill()
        holder.wait()
    with RecordFile(path) as file:
        assert len(file.index()) == 3


def test_the_command_refuses_a_second_process_and_leaves_all_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Loopback() as server, RecordFile(tmp_path / "out.records") as file:
        file.append(ROWS)
        before = file.path.read_bytes()
        assert teach(tmp_path, server) == 2
        assert "another process" in capsys.readouterr().err
        assert server.count == 0
        assert file.path.read_bytes() == before
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"key": "a", "text": "b"}\nnonsense\n{"key": "c", "text": "d"}\n', ":2"),
        ('{"question": "a"}\n', ":1"),
        ("[]\n", ":1"),
        ('{"key": 3, "text": "b"}\n', ":1"),
        ('{"key": "a", "text": null}\n', ":1"),
    ],
)
def test_what_is_no_record_file_is_named_and_not_written_to(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.records"
    path.write_text(text)
    with RecordFile(path) as file, pytest.raises(DataError, match=told):
        file.index()
    with Loopback() as server:
        assert teach(tmp_path, server) == 2
        assert server.count == 0
    assert f"{path}{told}" in capsys.readouterr().err
    assert path.read_text() == text


@pytest.mark.parametrize("content", [b"12345", b"\xff\xfe", b"#!/bin/sh", b'{"question": "a'])
def test_a_line_of_somebody_else_is_not_taken_for_a_torn_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.records"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.records"):
        RecordFile(path)
    assert path.read_bytes() == content


def test_a_file_that_is_taken_away_before_it_is_locked_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a process that found nothing to write: what went there would be lost."""
    path, lock = tmp_path / "a.records", records.lock_descriptor
    for again in (False, True):

        def late(*words: Any, again: bool = again, **settings: Any) -> bool:
            path.unlink()
            if again:
                path.touch()
            return lock(*words, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(records, "lock_descriptor", late)
            with pytest.raises(UserError, match="another process"):
                RecordFile(path)


def test_a_file_that_nothing_was_written_to_is_not_left_behind(tmp_path: Path) -> None:
    with RecordFile(tmp_path / "new" / "a.records"):
        pass
    assert not (tmp_path / "new" / "a.records").exists()


def test_a_full_disk_stops_the_run_and_the_rest_is_asked_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    questions(tmp_path / "questions.jsonl", 20)
    with Loopback() as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        try:
            assert teach(tmp_path, server, "--client.concurrency", 1) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("error: ")
        assert str(tmp_path / "out.records") in told
        asked = server.count
        assert 2 < asked < 20
        assert teach(tmp_path, server) == 0
        assert server.count == 20 + 1  # the one whose line did not fit is asked again
    assert len({row["key"] for row in rows(tmp_path / "out.records")}) == 20
    assert len(rows(tmp_path / "out.jsonl")) == 20
