"""Laws of a run folder's files: whole or not at all, and faults are named."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skipthinking.__main__ import main
from skipthinking.files import write_json, write_jsonl, write_text
from skipthinking.records import UserError
from skipthinking.report.run_folders import read_summary
from skipthinking.report.summary import print_summary, summary

ROW = {
    "n": 20,
    "accuracy": 0.95,
    "accuracy_low": 0.764,
    "accuracy_high": 0.991,
    "accuracy_lenient": 1.0,
    "no_answer": 0.05,
    "new_tokens": 38.25,
}
SUMMARY = {
    "method": "CWT",
    "test": {"test": {**ROW, "teacher_tokens": 90.5}, "ood": {**ROW, "accuracy": 0.125}},
    "latency_seconds": 0.0421,
    "device": "cpu",
    "target_tokens": 1234567,
    "context_tokens": 89012,
    "fit_seconds": 61.4,
}
ANSWER = {"question": "[b]2+1?", "completion": "[i] 2+1=3.", "gold": "3", "correct": True, "new_tokens": 12}


def finished(folder: Path, **changes: Any) -> Path:
    write_json(folder / "summary.json", {**SUMMARY, **changes})
    write_jsonl(folder / "predictions.jsonl", [ANSWER])
    return folder


# --------------------------------------------------------------------------------------------------- files


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "a.json"  # parents are made
    value = {"text": 'naïve 漢字\n"x"', "list": [1, 2.5, None, True]}
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert "漢字" in path.read_text(encoding="utf-8")  # as people read it
    rows = [value, [1], "line\u2028one\nline two"]
    write_jsonl(tmp_path / "b.jsonl", iter(rows))
    lines = (tmp_path / "b.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    assert lines[-1] == ""
    write_jsonl(tmp_path / "c.jsonl", [])
    assert (tmp_path / "c.jsonl").read_bytes() == b""
    write_text(path, "short")
    assert path.read_bytes() == b"short"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "b.jsonl", "c.jsonl", "folders", "new"]


def broken_rows() -> Iterator[dict[str, int]]:
    yield {"n": 1}
    raise RuntimeError("the second row fails")


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError("no space left on device")


def failing_write(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "rows":
        write_jsonl(path, broken_rows())
    elif how == "value":
        write_json(path, {"n": 1, "set": {1}})
    elif how == "letter":
        write_text(path, "x" * 100_000 + "\ud800")  # half of a pair: not to be had in UTF-8
    elif how == "replace":
        monkeypatch.setattr(os, "replace", full_disk)
        write_text(path, "new")
    else:  # half of the text is on disk by then
        opened = Path.open
        monkeypatch.setattr(Path, "open", lambda self, *words, **more: HalfFull(opened(self, *words, **more)))
        write_text(path, "new")


class HalfFull:
    """A file on a disk that fills up in the middle of the text."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *about: object) -> None:
        self.file.close()

    def writelines(self, parts: Any) -> None:
        self.file.write("".join(parts)[:2])
        full_disk()


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("how", ["rows", "value", "letter", "replace", "disk"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    how: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    if exists:
        path.write_bytes(b"old and whole")
    with monkeypatch.context() as patch, pytest.raises((RuntimeError, TypeError, UnicodeEncodeError, OSError)):
        failing_write(path, how, patch)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"a.json": b"old and whole"} if exists else {})


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen, replace = tmp_path / "a.txt", [], os.replace
    write_text(path, "old")

    def spy(new: Path, old: Path) -> None:
        seen.append((Path(new).read_text(encoding="utf-8"), Path(old).read_text(encoding="utf-8")))
        assert Path(new).parent == Path(old).parent  # one file system, so that the step is atomic
        replace(new, old)

    monkeypatch.setattr(os, "replace", spy)
    write_text(path, "new")
    assert seen == [("new", "old")]
    assert path.read_text(encoding="utf-8") == "new"


def test_partial_file_of_a_killed_run_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.partial").write_text("half of an older and longer text", encoding="utf-8")
    write_text(tmp_path / "a.txt", "new")
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == {"a.txt": "new"}


# ------------------------------------------------------------------------------------------------- summary


def test_missing_summary_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        expected = re.escape(f"Expected a finished run, got {str(folder)!r} without summary.json. Run `test`")
        with pytest.raises(UserError, match=expected):
            read_summary(folder)
        with pytest.raises(UserError, match=expected):
            summary(str(folder))


@pytest.mark.parametrize(("text", "line"), [('{"method": "CWT",\n "test": {', 2), ("", 1), ("not json", 1)])
def test_damaged_summary_is_named_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"Expected JSON, got .*summary\.json:{line}\)\. Run `test` on it again"):
        read_summary(tmp_path)


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"[]", b"{}"])
def test_what_is_no_summary_is_named(damage: bytes, tmp_path: Path) -> None:
    (finished(tmp_path) / "summary.json").write_bytes(damage)
    with pytest.raises(UserError):
        print_summary(tmp_path)


@pytest.mark.parametrize("left", [None, b""])
def test_missing_predictions_are_named(left: bytes | None, tmp_path: Path) -> None:
    path = finished(tmp_path) / "predictions.jsonl"
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(UserError):
        print_summary(tmp_path)


def printed(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    print_summary(folder)
    return capsys.readouterr().out


def test_summary_prints_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_summary(finished(tmp_path)) == SUMMARY
    lines = printed(tmp_path, capsys, monkeypatch).splitlines()
    table = {}
    for line in lines:
        if cells := re.fullmatch(r" +(\S.*?)  +(\S.*?)  +(\S.*?) *", line):
            table[cells[1]] = cells.groups()[1:]
    assert table == {
        "test set": ("test", "ood"),
        "examples": ("20", "20"),
        "accuracy": ("95.0%", "12.5%"),
        "95% interval": ("76.4% to 99.1%", "76.4% to 99.1%"),
        "lenient extraction": ("100.0%", "100.0%"),
        "no answer": ("5.0%", "5.0%"),
        "new tokens per answer": ("38.2", "38.2"),
        "the teacher's": ("90.5", "-"),  # nobody knows how long the second one's was
    }
    assert "CWT in " in "\n".join(lines)
    text = "\n".join(lines)
    assert "42 ms per answer (cpu)" in text
    assert "1,234,567 target and 89,012 context tokens in 61 s" in text
    assert "\n[b]2+1?\n[i] 2+1=3.\ngold 3, right, 12 new tokens" in text  # brackets are text, not markup


def test_folders_are_named_as_for_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (finished(tmp_path / "runs" / name, method=name) for name in ("one", "two"))
    monkeypatch.chdir(tmp_path)
    assert main(["summary", "runs/one", "runs/two"]) == 0
    both = capsys.readouterr().out
    for words in (["--run", str(one)], ["one"], ["runs/one"]):
        assert main(["summary", *words]) == 0
        assert capsys.readouterr().out.splitlines()[2:] == both.splitlines()[2 : len(both.splitlines()) // 2]
    assert f"two in {two.relative_to(tmp_path)}" in both
    assert main(["summary"]) == 2
    assert main(["show"]) == 2


def test_unmeasured_latency_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "per answer (" not in printed(finished(tmp_path, latency_seconds=None), capsys, monkeypatch)


def test_brackets_in_a_folders_name_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "seed[a]" in printed(finished(tmp_path / "seed[a]"), capsys, monkeypatch)


def test_brackets_in_a_test_sets_name_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "levels[b]" in printed(finished(tmp_path, test={"levels[b]": ROW}), capsys, monkeypatch)


def test_ids_may_come_in_two_splits(run: Callable[..., int], tmp_path: Path) -> None:
    """Rows numbered from 0 in both files: what the teacher wrote of a test example is not that of a validation one."""
    for name, last in (("train", ""), ("test", " It was looked at twice.")):
        rows = [
            {"id": n, "question": f"What is {n} and {len(name)}?", "answer": n + len(name),
             "rationale": f"{n} + {len(name)} = {n + len(name)}.{last}"}
            for n in range(12)
        ]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: f"{{class_path: Files, init_args: {{path: {tmp_path}/{name}.jsonl, task: svamp}}}}"
             for name in ("train", "test")}  # fmt: skip
    words = ["--data.train", f"[{files['train']}]", "--data.test", f"{{sums: {files['test']}}}"]
    told = []
    for command, more in (("fit", ["--trainer.max_epochs", 1]), ("test", [])):
        assert run(command, *words, *more) == 0
        told.append(json.loads((tmp_path / "tiny" / "summary.json").read_text())["test"]["sums"]["teacher_tokens"])
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "wrong",
    [{"fit_seconds": None}, {"target_tokens": "x"}, {"test": "abc"}, {"test": {"t": {**ROW, "accuracy": "0.5"}}},
     {"test": {"t": {**ROW, "skipped": "x"}}}, {"test": {"t": {"n": 1}}}],
)  # fmt: skip
def test_a_summary_of_another_kind_is_told_before_anything_is_shown(
    wrong: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"method": "CWT", "target_tokens": 1, "context_tokens": 1, "fit_seconds": 1.0, "latency_seconds": None,
             "device": "cpu", "test": {"t": ROW}}  # fmt: skip
    write_json(tmp_path / "summary.json", {**found, **wrong})
    with pytest.raises(UserError, match=r"summary\.json"):
        print_summary(tmp_path)
    assert capsys.readouterr().out == ""
