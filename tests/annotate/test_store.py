"""Annotations on disk: found again under their key, made anew when anything changed or was damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.annotate.columns import Column, frames
from skipthinking.annotate.fingerprints import fingerprint
from skipthinking.annotate.journal import Journal, recalled
from skipthinking.annotate.store import remembered
from skipthinking.records import Encoded, Example

VALUES = {"a": [0, 1, 3], "b": [0, 2]}


def _column(values: Mapping[str, list[int]] = VALUES) -> Column:
    return Column.of({id: np.array(value) for id, value in values.items()})


def _remembered(path: Path, key: str, make: Callable[[], Column]) -> dict[str, list[int]]:
    column, _ = remembered(path, key, "int64", 2, make)
    return _lists(column)


def _lists(values: Mapping[str, Any]) -> dict[str, list[int]]:
    return {id: value.tolist() for id, value in values.items()}


def _encoded(id: str = "a", **other: Any) -> Encoded:
    fields: dict[str, Any] = {
        "example": Example(id=id, question="", rationale="", answer="", task="gsm8k"),
        "prompts": {"": np.array([1, 2])}, "tokens": np.array([3, 4, 5]), "steps": ((0, 1), (1, 2)), "answer": (2, 3),
    }  # fmt: skip
    return Encoded(**{**fields, **other})


def _never() -> Column:
    raise AssertionError("made anew")


def test_what_is_remembered_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "chunks.jsonl"
    assert _remembered(path, "key", _column) == VALUES
    assert _remembered(path, "key", _never) == VALUES


def test_another_key_makes_it_anew(tmp_path: Path) -> None:
    _remembered(tmp_path / "x", "key", _column)
    assert _remembered(tmp_path / "x", "other", lambda: _column({"c": [1]})) == {"c": [1]}
    assert _remembered(tmp_path / "x", "other", _never) == {"c": [1]}


class Row:
    def __init__(self, id: str) -> None:
        self.id = id


def test_a_search_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Blocks that any process wrote down whole are known; a torn line, or one of another search, is not."""
    path = tmp_path / "deep" / "skips.jsonl"
    ab, c, de = ([Row(id) for id in ids] for ids in ("ab", "c", "de"))
    for rank, block in enumerate((ab, c)):
        journal = Journal(path, "key", "int64", rank)
        recalled(journal, block, lambda rows: {row.id: np.array([1]) for row in rows})
    journal = Journal(path, "key", "int64", 0)
    journal.keep({"d": np.array([1]), "e": np.array([1])})
    with journal.path.open("r+b") as file:
        file.truncate(journal.path.stat().st_size - 5)
    again, asked = Journal(path, "key", "int64", 0), []

    def search(rows: Any) -> dict[str, Any]:
        asked.append([row.id for row in rows])
        return {row.id: np.array([], dtype=np.int64) for row in rows}

    assert _lists(recalled(again, ab, search) | recalled(again, c, search)) == {"a": [1], "b": [1], "c": [1]}
    assert _lists(recalled(again, de, search)) == {"d": [], "e": []}
    assert asked == [["d", "e"]]
    assert _lists(Journal(path, "key", "int64").values) == {"a": [1], "b": [1], "c": [1], "d": [], "e": []}
    assert Journal(path, "other", "int64").values == {}
    assert _lists(recalled(Journal(path, "key", "int64"), [*c, Row("f")], search)) == {"c": [1], "f": []}
    assert asked[1:] == [["f"]]  # a block of another number of ranks is known in part
    _remembered(path, "key", _column)
    again.remove()
    assert [left.name for left in path.parent.iterdir()] == ["skips.jsonl"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "no json", "not text"])
def test_a_damaged_file_is_noticed_and_made_anew(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    _remembered(path, "key", _column)
    whole = path.read_bytes()
    path.write_bytes({
        "cut": whole[:-5], "flip": whole.replace(b"[0, 2]", b"[0, 1]"), "empty": b"", "no json": b"{" + whole,
        "not text": b"\xff\xfe" + whole,
    }[damage])  # fmt: skip
    assert _remembered(path, "key", _column) == VALUES
    assert path.read_bytes() == whole


def test_the_key_changes_with_data_settings_and_weights() -> None:
    student = torch.nn.Linear(3, 2)
    student.weight.requires_grad_(False)
    rows = [_encoded()]
    keys = {
        "same": fingerprint(rows, {"m": 4}, student),
        "settings": fingerprint(rows, {"m": 5}, student),
        "id": fingerprint([_encoded(id="b")], {"m": 4}, student),
        "tokens": fingerprint([_encoded(tokens=np.array([3, 4, 6]))], {"m": 4}, student),
        "prompt": fingerprint([_encoded(prompts={"": np.array([1, 3])})], {"m": 4}, student),
        "steps": fingerprint([_encoded(steps=((0, 2),))], {"m": 4}, student),
    }
    with torch.no_grad():
        student.bias += 1e-3
        keys["trained weight"] = fingerprint(rows, {"m": 4}, student)
        student.weight += 1e-3
        keys["frozen weight"] = fingerprint(rows, {"m": 4}, student)
    assert len(set(keys.values())) == len(keys)
    student2 = torch.nn.Linear(3, 2)
    student2.load_state_dict(student.state_dict())
    student2.weight.requires_grad_(False)
    assert fingerprint(rows, {"m": 4}, student2) == keys["frozen weight"]


def test_a_journal_that_was_altered_is_not_believed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "skips.jsonl", "key", "int64")
    journal.keep({"a": np.array([0, 11])})
    journal.keep({"b": np.array([2])})
    written, (first, second) = journal.path.read_bytes(), frames(journal.path)
    journal.path.write_bytes(written.replace(np.int64(11).tobytes(), np.int64(10).tobytes()))
    assert _lists(Journal(tmp_path / "skips.jsonl", "key", "int64").values) == {"b": [2]}
    journal.path.write_bytes(written[: first.end] + b"\xff" + written[first.end + 1 :])
    assert _lists(Journal(tmp_path / "skips.jsonl", "key", "int64").values) == {"a": [0, 11]}
    assert second.end == len(written)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_frozen_weights_are_summed_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.nn.Linear(5, 7).to(dtype).requires_grad_(False)
    sums: list[int] = []
    add = torch.Tensor.sum

    def counted(self: torch.Tensor, **settings: Any) -> torch.Tensor:
        sums.append(self.numel())
        return add(self, **settings)

    monkeypatch.setattr(torch.Tensor, "sum", counted)
    keys = [fingerprint([], {}, base) for _ in range(3)]
    assert len(set(keys)) == 1
    assert sums == [35, 7]  # weight and bias
    with torch.no_grad():
        base.weight[3, 2] += 1
    changed = fingerprint([], {}, base)
    assert changed != keys[0]
    assert sums == [35, 7, 35]
    copy = torch.nn.Linear(5, 7).to(dtype).requires_grad_(False)
    copy.load_state_dict(base.state_dict())
    assert fingerprint([], {}, copy) == changed  # another object with the same numbers
    assert fingerprint([], {}, base) == changed
