"""Laws of files of questions, bare or with answers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_formats import CHOICES, ROWS

from skipthinking.data.formats import get_format
from skipthinking.data.questions import read_questions
from skipthinking.records import DataError, UserError


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def test_text_has_one_question_a_line_and_line_numbers_for_ids(tmp_path: Path) -> None:
    path = written(tmp_path, "q.txt", '  What is 1 + 1? \n\n \t\nWas ist 2 · 2, 日本 😀?\n{"question": "no JSON here"}')
    # Blank lines are left out and counted.
    assert read_questions(path) == [
        ("line-1", "What is 1 + 1?"),
        ("line-4", "Was ist 2 · 2, 日本 😀?"),
        ("line-5", '{"question": "no JSON here"}'),
    ]


def test_jsonl_has_ids_where_it_gives_them(tmp_path: Path) -> None:
    rows = [
        {"question": " What?\n"},
        {"id": "x", "question": "Why?", "answer": "ignored"},
        {"id": 7, "question": "é 😀\nin two lines?"},
    ]
    path = written(tmp_path, "q.jsonl", "\n\n".join(json.dumps(row) for row in rows) + "\n")
    # The second row stands in line 3, the third in line 5.
    assert read_questions(path) == [("line-1", "What?"), ("x", "Why?"), ("7", "é 😀\nin two lines?")]


def test_line_ends_make_no_difference(tmp_path: Path) -> None:
    for name, lines in [("q.txt", ["a", "", "b"]), ("q.jsonl", ['{"question": "a"}', "", '{"question": "b"}'])]:
        read = [read_questions(written(tmp_path, name, end.join(lines) + last)) for end, last in
                [("\n", ""), ("\n", "\n"), ("\r\n", ""), ("\r\n", "\r\n")]]  # fmt: skip
        assert read == [[("line-1", "a"), ("line-3", "b")]] * 4


def test_a_missing_file_is_a_user_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.txt.*does not exist.*data\.questions"):
        read_questions(tmp_path / "absent.txt")


@pytest.mark.parametrize("name", ["q.txt", "q.jsonl"])
@pytest.mark.parametrize("text", ["", "\n", " \n\t\n"])
def test_no_question_is_a_data_error(tmp_path: Path, name: str, text: str) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(DataError, match=rf"at least one question, got none \({re.escape(str(path))}\)"):
        read_questions(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("What is 1 + 1?", "Expected a JSON object, got .* at column 1 "),
        ('{"question": "a"', "Expected a JSON object, got .* at column 17 "),
        ('["a"]', 'an object with a "question"'),
        ('"a"', 'an object with a "question"'),
        ("null", 'an object with a "question"'),
        ('{"Question": "a"}', 'an object with a "question"'),
        ('{"question": null}', 'an object with a "question"'),
        ('{"question": ""}', 'an object with a "question"'),
        ('{"question": " \\n"}', 'an object with a "question"'),
    ],
)
def test_a_malformed_line_is_a_data_error_with_its_place(tmp_path: Path, line: str, expected: str) -> None:
    path = written(tmp_path, "q.jsonl", f'{{"question": "fine"}}\n\n{line}\n')
    with pytest.raises(DataError, match=rf"{expected}.*\({re.escape(str(path))}:3\)"):
        read_questions(path)


@pytest.mark.parametrize("ids", [("x", "x"), (7, "7"), ("line-2", None), (None, "line-1")])
def test_an_id_that_stands_twice_is_a_data_error(tmp_path: Path, ids: tuple[object, object]) -> None:
    rows = [{"question": "a"} | ({} if id is None else {"id": id}) for id in ids]
    path = written(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"every id once, got duplicates .*q\.jsonl"):
        read_questions(path)


def test_a_question_may_stand_twice(tmp_path: Path) -> None:
    assert read_questions(written(tmp_path, "q.txt", "a\na")) == [("line-1", "a"), ("line-2", "a")]


@pytest.mark.parametrize(
    ("name", "break_"),
    [("q.txt", "\u2028"), ("q.txt", "\u0085"), ("q.txt", "\x0c"), ("q.jsonl", "\u2028"), ("q.jsonl", "\u0085")],
)
def test_only_line_feeds_end_a_line(tmp_path: Path, name: str, break_: str) -> None:
    text = f"One{break_}two?"
    line = json.dumps({"question": text}, ensure_ascii=False) if name == "q.jsonl" else text
    assert read_questions(written(tmp_path, name, line)) == [("line-1", text)]


@pytest.mark.parametrize(("name", "line"), [("q.txt", "What?"), ("q.jsonl", '{"question": "What?"}')])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str, line: str) -> None:
    assert read_questions(written(tmp_path, name, "\ufeff" + line)) == [("line-1", "What?")]


def test_a_file_that_is_not_utf8_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes("Wie groß?".encode("latin-1"))
    with pytest.raises(DataError, match=r"q\.txt"):
        read_questions(path)


def test_an_id_of_null_is_no_id(tmp_path: Path) -> None:
    path = written(tmp_path, "q.jsonl", '{"id": null, "question": "a"}\n{"id": null, "question": "b"}')
    assert read_questions(path) == [("line-1", "a"), ("line-2", "b")]


@pytest.mark.parametrize("value", ['["a", "b"]', '{"text": "a"}', "true"])
def test_a_question_that_is_no_text_is_a_data_error(tmp_path: Path, value: str) -> None:
    path = written(tmp_path, "q.jsonl", f'{{"question": {value}}}')
    with pytest.raises(DataError, match=r"q\.jsonl:1"):
        read_questions(path)


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row, *_ in ROWS if name != "text"])
def test_predict_asks_what_training_asks(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, "q.json", json.dumps([row]))
    assert read_questions(path) == [("row-1", get_format(name).read(row, "f:1").question)]


@pytest.mark.parametrize("gold", [None, "", "B"])
def test_choices_are_asked_with_and_without_gold(gold: str | None, tmp_path: Path) -> None:
    labels, texts = ["A", "B"], ["race track", "the desert"]
    rows = [
        {"question": "Where?", "choices": {"label": labels, "text": texts}, "answerKey": gold},
        {
            "question": {
                "stem": "Where?",
                "choices": [{"label": x, "text": y} for x, y in zip(labels, texts, strict=True)],
            }
        },
        {"question": "Where?", "options": ["A)race track", "B)the desert"], "rationale": "", "correct": gold},
        {"question": "Where?", "options": {"A": "race track", "B": "the desert"}},
        {"question": "Where?", "choices": "{'label': ['A', 'B'], 'text': ['race track', 'the desert']}"},  # a CSV cell
        {"instruction": "Where? Answer choices: A: race track, B: the desert", "input": ""},
        {"messages": [{"role": "user", "content": "Q: Where? Options: (A) race track (B) the desert"}]},
        {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": CHOICES}]},
        {"question": CHOICES, "choices": {"label": labels, "text": texts}},  # not twice
    ]
    path = written(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_questions(path) == [(f"line-{n}", CHOICES) for n in range(1, len(rows) + 1)]


def test_all_kinds_of_files_give_the_same_questions(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": "x1", "question": 'One\n"two"?'}, {"id": "x2", "question": "2, 3; é?"}]
    written(tmp_path, "q.json", json.dumps(rows))
    written(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    for name, delimiter in (("q.csv", ","), ("q.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ("id", "question"), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    for kind in ("json", "jsonl", "csv", "tsv", "parquet"):
        assert read_questions(tmp_path / f"q.{kind}") == [(row["id"], row["question"]) for row in rows]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": r, "content": "x"} for r in ("user", "assistant", "user")]},
        {"instruction": "And now?", "history": [["2+3?", "5"]]},
        {"Question": "Ann has number0 pens?", "Numbers": ""},
        {"question": "Where?", "choices": ["x", "y"]},
    ],
)
def test_a_question_that_needs_more_than_is_read_is_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"q\.json: row 1"):
        read_questions(written(tmp_path, "q.json", json.dumps([row])))


def test_a_file_of_an_unknown_kind_is_refused_with_the_kinds_that_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.jsonl.*\.csv.*\.parquet"):
        read_questions(written(tmp_path, "q.xlsx", "What?"))
