"""Laws of columns: every text column is read, named, or a reason to stop; what a message advises works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_formats import ROWS

from skipthinking.data.fields import KEYS
from skipthinking.data.formats import FORMATS
from skipthinking.data.sources import Files
from skipthinking.records import DataError

HUMAN, TEACHER = "By hand it is 5.", "Two and three. That is 5."
TALK = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": f"{HUMAN} The answer is 5."}]


def load(folder: Path, *rows: dict[str, Any], **settings: Any) -> Any:
    (folder / "a.json").write_text(json.dumps(rows))
    return Files(str(folder / "a.json"), task="gsm8k", **settings).load()


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"question": "2+3?", "answer": "5", "solution": HUMAN, "reasoning": TEACHER}, ("solution", "reasoning")),
        ({"question": "2+3?", "answer": 5, "rationale": HUMAN, "thinking": TEACHER}, ("rationale", "thinking")),
        ({"problem": "2+3?", "answer": "5", "solution": HUMAN, "cot": TEACHER}, ("solution", "cot")),
        ({"problem": "2+3?", "solution": HUMAN + r" \boxed{5}", "reasoning_content": TEACHER},
         ("solution", "reasoning_content")),
        ({"question": "2+3?", "answer": f"{HUMAN}\n#### 5", "rationale": TEACHER}, ("answer", "rationale")),
        ({"question": "2+3?", "answer": f"{HUMAN}\n#### 5", "response": f"{TEACHER} The answer is 5."},
         ("answer", "response")),
        ({"instruction": "2+3?", "output": f"{HUMAN} The answer is 5.", "explanation": TEACHER},
         ("output", "explanation")),
        ({"messages": TALK, "generated_solution": TEACHER}, ("messages", "generated_solution")),
        ({"prompt": "2+3?", "completion": f"{HUMAN} The answer is 5.", "solution": TEACHER},
         ("completion", "solution")),
        ({"question": "2+3?", "solution": "5", "deepseek_thinking_trajectory": HUMAN,
          "gemini_thinking_trajectory": TEACHER}, ("deepseek_thinking_trajectory", "gemini_thinking_trajectory")),
    ],
)  # fmt: skip
def test_two_rationales_are_an_error_whose_remedies_work(
    row: dict[str, Any], keys: tuple[str, str], tmp_path: Path
) -> None:
    for bad_rows in ("error", "leave_out"):  # a setting has to choose, so no row is left out
        with pytest.raises(DataError, match="Expected one rationale") as caught:
            load(tmp_path, row, bad_rows=bad_rows)
    advised = re.findall(r"rationale_key: (\w+)", str(caught.value))
    assert advised[:2] in (list(keys), list(keys)[::-1])
    read = {key: load(tmp_path, row, rationale_key=key).examples[0].rationale for key in keys}
    read = {key: text.partition(" \\boxed")[0] for key, text in read.items()}
    assert list(read.values()) == [HUMAN, TEACHER]
    (removed,) = re.findall(r'or remove "(\w+)"', str(caught.value))
    (example,) = load(tmp_path, {name: value for name, value in row.items() if name != removed}).examples
    assert example.rationale.partition(" \\boxed")[0] == read[next(key for key in keys if key != removed)]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2+3?", "rationale": TEACHER, "reasoning": f" {TEACHER}\n", "answer": "5"},
        {"question": "2+3?", "rationale": TEACHER, "solution": f"{TEACHER} The answer is 5.", "answer": "5"},
        {"question": "2+3?", "rationale": TEACHER, "solution": "5", "answer": "5"},
        {"question": "2+3?", "rationale": TEACHER, "cot": f"<think>{TEACHER}</think>5", "answer": "5"},
        {"question": "2+3?", "rationale": TEACHER, "cot": None, "thoughts": " ", "answer": "5"},
        {"problem": "2+3?", "solution": f"{HUMAN} The answer is 5.", "answer": "5", "messages": TALK},  # NuminaMath
        {"question": "2+3?", "answer": "5", "messages": TALK},
    ],
)
def test_the_same_rationale_under_two_keys_is_one(row: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(tmp_path, row)
    assert loaded.examples[0].rationale in (TEACHER, HUMAN)
    assert loaded.unread == ""


def test_two_gold_answers_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected one answer, got '5' and 6 in \"final_answer\""):
        load(tmp_path, {"question": "2+3?", "answer": "5", "final_answer": 6})
    load(tmp_path, {"question": "2+3?", "answer": "5", "final_answer": 5.0})


@pytest.mark.parametrize(
    ("question", "text", "answer", "form"),
    [
        ("prompt", "output", "answer", "So. {}"),
        ("question", "rationale", "answer", "So. {}"),
        ("problem", "reasoning", "answer", "So. {}"),
        ("problem", "reasoning", "answer", ["So.", "{}"]),
        ("problem", "reasoning", "answer", "<think>So.</think>{}"),
        ("problem", "deepseek_reasoning", "ground_truth_solution", "So. {}"),
    ],
)
def test_texts_that_state_another_answer_than_the_gold_one_are_counted(
    question: str, text: str, answer: str, form: str | list[str], tmp_path: Path
) -> None:
    def written(stated: str) -> str | list[str]:
        said = f"The answer is {stated}."
        return form.format(said) if isinstance(form, str) else [part.format(said) for part in form]

    stated = ["5", "$\\boxed{6}$", "7.0", "**1,008**", "nine apples", "10"]
    rows = [{question: f"{n}?", text: written(one), answer: n} for n, one in enumerate(stated, 5)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    description = Files(str(file), task="gsm8k").load().description
    assert "1 row whose text states another answer than the gold one" in description
    file.write_text(json.dumps([row for row in rows if row[answer] != 8]), encoding="utf-8")
    assert "another answer" not in Files(str(file), task="gsm8k").load().description


def test_every_text_column_that_is_not_read_is_named_once(tmp_path: Path) -> None:
    row = {"id": "a", "question": "2+3?", "answer": "5", "level": "easy", "n": 3, "tags": ["sum"], "empty": " "}
    loaded = load(tmp_path, row, {**row, "id": "b", "url": "x.org"})
    assert loaded.description.endswith(', columns not read: "level", "tags", "url"')


@pytest.mark.parametrize(
    ("columns", "meant"),
    [
        ({"teacher_rationale": TEACHER, "source": "a web page of old"}, "teacher_rationale"),
        ({"GPT4Reasoning": TEACHER}, "GPT4Reasoning"),
        ({"r1_solution_1": TEACHER, "cot_type": "math"}, "r1_solution_1"),
        ({"gpt4_text": TEACHER, "source": "web"}, "gpt4_text"),  # the longest, as there is no rationale
    ],
)
def test_the_column_that_may_be_the_rationale_is_named_and_can_be_read(
    columns: dict[str, str], meant: str, tmp_path: Path
) -> None:
    row = {"question": "2+3?", "answer": "5", **columns}
    loaded = load(tmp_path, row)
    assert f"set rationale_key: {meant})" in loaded.description
    chosen = load(tmp_path, row, rationale_key=meant)
    assert chosen.examples[0].rationale == TEACHER
    assert "set rationale_key" not in chosen.description


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2+3?", "answer": "five", "teacher_cot": TEACHER},
        {"question": "2+3?", "answer": "", "teacher_cot": TEACHER},
        {"question": "2+3?", "answer": "5", "rationale": HUMAN, "reasoning": "Other.", "teacher_cot": TEACHER},
    ],
)
def test_columns_are_named_when_the_file_is_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Columns not read: .*\"teacher_cot\""):
        load(tmp_path, row, row)


def test_a_rationale_key_that_no_row_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'without "nope"; its keys are "question", "answer"'):
        load(tmp_path, {"question": "2+3?", "answer": "5"}, rationale_key="nope")


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row, *_ in ROWS])
def test_every_format_takes_its_rationale_from_another_column(name: str, row: dict[str, Any]) -> None:
    known = next(known for known in FORMATS if known.name == name)
    plain, other = known.read(row, "f:1"), known.read({**row, "mine": TEACHER}, "f:1", "mine")
    assert (other.question, other.answer, other.rationale) == (plain.question, plain.answer, TEACHER)


def test_help_and_docs_list_every_key() -> None:
    words = set(re.findall(r"\w+", Files.__doc__ or ""))
    assert {key for keys in KEYS.values() for key in keys} <= words
    lines = (ROOT / "docs" / "formats.md").read_text().splitlines()
    for role, keys in KEYS.items():
        assert f"| {role} | {', '.join(keys)} |" in lines
