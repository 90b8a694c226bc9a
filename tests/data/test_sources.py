"""Sources: what they read, what they refuse, and the laws of joining and splitting."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from skipthinking.data.formats import detect_format
from skipthinking.data.importing import Loaded
from skipthinking.data.sources import Files, Generated, Hub
from skipthinking.data.splits import Splits, drop_overlap, join, split_off
from skipthinking.records import DataError, Example, UserError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real rationales are absent: {SHARED}")

ROWS = [{"question": f"{n}+3?", "rationale": f"{n}+3={n + 3}.", "answer": str(n + 3)} for n in range(1, 5)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_json(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def test_limit_takes_the_first_rows_over_all_files(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", ROWS[2 * n : 2 * n + 2]) for n in range(2)]
    loaded = Files(paths, task="gsm8k", limit=3).load()
    assert [example.question for example in loaded.examples] == ["1+3?", "2+3?", "3+3?"]
    assert "first 3 of 4 rows" in loaded.description
    with pytest.raises(UserError, match="limit of at least 1, got 0"):
        Files(paths, task="gsm8k", limit=0).load()


def test_ids_depend_on_content_alone(tmp_path: Path) -> None:
    straight = Files(write_jsonl(tmp_path / "a.jsonl", ROWS), task="gsm8k").load().examples
    turned = Files(write_json(tmp_path / "b.json", ROWS[::-1]), task="gsm8k").load().examples
    assert turned == straight[::-1]
    assert all(re.fullmatch(r"gsm8k-[0-9a-f]{12}", example.id) for example in straight)
    assert len({example.id for example in straight}) == 4


def test_exact_duplicates_are_left_out_and_counted(tmp_path: Path) -> None:
    loaded = Files(write_jsonl(tmp_path / "a.jsonl", [*ROWS, ROWS[0], ROWS[1]]), task="gsm8k").load()
    assert (len(loaded.examples), loaded.duplicates) == (4, 2)
    assert loaded.description.endswith("6 rows, format qra (detected), 2 exact duplicates left out")


def test_rows_with_ids_are_duplicates_only_with_the_same_contents(tmp_path: Path) -> None:
    first, second = ({**row, "id": 7} for row in ROWS[:2])
    same = Files(write_jsonl(tmp_path / "a.jsonl", [first, first, ROWS[2] | {"id": 8}]), task="gsm8k").load()
    assert (len(same.examples), same.duplicates, same.bad_rows) == (2, 1, {})
    path = write_jsonl(tmp_path / "b.jsonl", [first, second, ROWS[2] | {"id": 8}])
    with pytest.raises(DataError, match=r'"id" 7 twice .*b\.jsonl:1 and .*b\.jsonl:2.*bad_rows: leave_out'):
        Files(path, task="gsm8k").load()
    left = Files(path, task="gsm8k", bad_rows="leave_out").load()
    assert [example.id for example in left.examples] == ["7", "8"]
    assert left.examples[0].question == first["question"]
    assert (left.duplicates, left.bad_rows) == (0, {"with the id of another row": 1})


def test_what_generate_draws_survives_a_file(tmp_path: Path) -> None:
    drawn = Generated("arithmetic", size=20, seed=3).load()
    rows = [{name: getattr(example, name) for name in Example.__slots__} for example in drawn.examples]
    read = Files(write_jsonl(tmp_path / "a.jsonl", rows), task="arithmetic").load().examples
    assert [(e.id, e.question, e.rationale, e.answer, e.task) for e in read] == [
        (e.id, e.question, e.rationale, e.answer, e.task) for e in drawn.examples
    ]
    assert [json.dumps(dict(e.meta)) for e in read] == [json.dumps(dict(e.meta)) for e in drawn.examples]
    assert drawn.description == "arithmetic: 20 generated examples, split train, seed 3"


def test_other_keys_go_to_meta(tmp_path: Path) -> None:
    row = {"ID": 7, "Body": "Each costs 2.", "Question": "How much?", "Answer": 2.0, "Type": "Sum"}
    (example,) = Files(write_json(tmp_path / "a.json", [row]), task="svamp").load().examples
    assert (example.id, example.answer, example.meta) == ("7", "2", {"Type": "Sum"})


def test_given_format_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'"instruction" for format instruction.*"question", "rationale", "answer"'):
        Files(write_json(tmp_path / "a.json", ROWS), task="gsm8k", format="instruction").load()


def test_unreadable_answers_are_left_out_and_counted_on_request(tmp_path: Path) -> None:
    rows = [
        {"instruction": "1?", "output": "So. The answer is 1"},
        {"instruction": "2?", "output": "No idea."},
        {"instruction": "3?", "output": "So. The answer is unknown"},
    ]
    file = write_json(tmp_path / "a.json", rows)
    loaded = Files(file, task="gsm8k", bad_rows="leave_out").load()
    assert [example.answer for example in loaded.examples] == ["1"]
    assert loaded.bad_rows == {"without a readable answer": 2}
    assert loaded.description.endswith("2 rows without a readable answer left out")
    with pytest.raises(DataError, match=r"row 2.*bad_rows: leave_out"):
        Files(file, task="gsm8k").load()
    with pytest.raises(DataError, match="none of 2"):
        Files(write_json(tmp_path / "b.json", rows[1:]), task="gsm8k", bad_rows="leave_out").load()


GOOD = {"question": "2+3?", "rationale": "2+3=5.", "answer": "5"}
TALK = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "The answer is 5."}]
# A fault of one row: (good row, bad row, reason in the start report).
FAULTS = [
    (GOOD, {**GOOD, "question": " "}, 'with an empty "question"'),
    (GOOD, {**GOOD, "answer": ""}, 'with an empty "answer"'),
    (GOOD, {**GOOD, "answer": None}, 'without "answer"'),
    (GOOD, {**GOOD, "answer": {"value": 5}}, 'with another type than text in "answer"'),
    (GOOD, {**GOOD, "rationale": ["a", 1]}, 'with another type than text in "rationale"'),
    (GOOD, {**GOOD, "answer": "many"}, "without a readable answer"),
    (GOOD, {**GOOD, "rationale": "<think>2+3=5."}, "without a readable answer"),
    (GOOD, {**GOOD, "rationale": "\ud83d"}, "with half a character"),
    (GOOD, {**GOOD, "task": "svamp"}, "of another task"),
    (GOOD, {"question": "2+3?", "answer": "5"}, 'without "rationale"'),
    ({**GOOD, "id": "a"}, {**GOOD, "id": ""}, 'without an id in "id"'),
    ({"question": "2+3?", "answer": "2+3=5\n#### 5"}, {"question": "2+4?", "answer": "6"}, "without a readable answer"),
    ({"question": "2+3?", "answer": "5"}, {"question": "2+4?", "answer": "So #### 6"}, "without a readable answer"),
    ({"messages": TALK}, {"messages": TALK * 2}, "with more or fewer turns than one question and one reply"),
    ({"messages": TALK}, {"messages": TALK[:1]}, "without a reply"),
    ({"messages": TALK}, {"messages": []}, 'without messages in "messages"'),
    ({"messages": TALK}, {"messages": [*TALK, {"role": "tool", "content": "x"}]}, "with the role 'tool'"),
    ({"instruction": "2+3?", "output": "The answer is 5"}, {"instruction": "And now?", "output": "The answer is 5",
     "history": [["2+3?", "5"]]}, "with earlier turns"),
    ({"Question": "number0 ?", "Numbers": "5", "Answer": 5}, {"Question": "number0 number1 ?", "Numbers": "5",
     "Answer": 5}, "with placeholders in place of numbers"),
    ({"prompt": "2+3?", "completion": "The answer is 5", "label": True}, {"prompt": "2+3?", "completion":
     "The answer is 5", "label": False}, "labeled false"),
]  # fmt: skip


@pytest.mark.parametrize(("good", "bad", "reason"), FAULTS, ids=[f"{n}-{row[2]}" for n, row in enumerate(FAULTS)])
def test_a_fault_of_a_row_is_an_error_or_left_out_and_counted(
    good: dict[str, Any], bad: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """One bad row does not stop a file, if the user asks; a file of bad rows stops always."""
    file = write_json(tmp_path / "a.json", [good, bad])
    with pytest.raises(DataError, match=r"row 2.*1 row of 2 cannot be used.*set bad_rows: leave_out") as caught:
        Files(file, task="gsm8k").load()
    assert f"(1 {reason})" in str(caught.value)
    loaded = Files(file, task="gsm8k", bad_rows="leave_out").load()
    assert loaded.bad_rows == {reason: 1}
    assert f"1 row {reason} left out" in loaded.description
    assert [row.answer for row in loaded.examples] == ["5"]
    known = detect_format(good, "f:1").name
    with pytest.raises(DataError) as caught:
        Files(write_json(tmp_path / "b.json", [bad, bad]), task="gsm8k", bad_rows="leave_out", format=known).load()
    assert "bad_rows" not in str(caught.value)  # a remedy that would not help


def test_the_rows_vote_on_the_format_of_a_file(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"So.\n#### {n}" if n else "0"} for n in range(4)]
    loaded = Files(write_json(tmp_path / "a.json", rows), task="gsm8k", bad_rows="leave_out").load()
    assert [row.rationale for row in loaded.examples] == ["So."] * 3
    assert loaded.bad_rows == {"without a readable answer": 1}


def test_counts_of_faults_are_of_the_rows_that_were_looked_at(tmp_path: Path) -> None:
    rows = [{**GOOD, "answer": ""}, {**GOOD, "answer": "many"}, GOOD, GOOD, GOOD]
    file = write_json(tmp_path / "a.json", rows)
    with pytest.raises(DataError, match="none of 2 "):
        Files(file, task="gsm8k", limit=2, bad_rows="leave_out").load()
    with pytest.raises(DataError, match=r"2 rows of 3 cannot be used \(1 with an empty \"answer\", 1 without a read"):
        Files(file, task="gsm8k", limit=3).load()


def test_a_test_set_without_gold_answers_points_to_predict(tmp_path: Path) -> None:
    row = {"question": "Where?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": ""}
    for file in (write_json(tmp_path / "a.json", [row] * 2), write_json(tmp_path / "b.json", [row])):
        with pytest.raises(DataError, match=r"Expected gold answers, got none in . rows?.*predict.*--questions"):
            Files(file, task="commonsense_qa").load()


def test_hub_without_network_points_to_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Both libraries read the variable when they are imported.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=r"openai/gsm8k.*openai/gsm8k/main, split train.*Files"):
        Hub("gsm8k").load()
    with pytest.raises(UserError, match=r"nobody/nothing, split dev.*Files"):
        Hub("gsm8k", split="dev", name="nobody/nothing").load()


def test_hub_rows_are_mapped_like_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_jsonl(
        tmp_path / "set" / "train.jsonl", [{"question": "2+3?", "answer": f"2+3={n}\n#### {n}"} for n in (5, 6)]
    )
    loaded = Hub("gsm8k", name=str(tmp_path / "set"), limit=1).load()
    assert [(example.rationale, example.answer) for example in loaded.examples] == [("2+3=5", "5")]
    assert loaded.description.endswith("split train: first 1 of 2 rows, format gsm8k (detected)")
    with pytest.raises(UserError, match="nosplit"):
        Hub("gsm8k", name=str(tmp_path / "set"), split="nosplit").load()


def test_hub_refuses_what_the_task_cannot_place() -> None:
    with pytest.raises(UserError, match="task arithmetic has none"):
        Hub("arithmetic").load()
    with pytest.raises(UserError, match="split with answers, got 'train'"):
        Hub("math").load()


def example(id: str, question: str, answer: str = "1") -> Example:
    return Example(id=id, question=question, rationale="so", answer=answer, task="gsm8k")


def test_join_keeps_identical_examples_once_and_refuses_clashes() -> None:
    first = Loaded(examples=[example("a", "x"), example("b", "y")], description="first")
    second = Loaded(examples=[example("b", "y"), example("c", "z")], description="second")
    clash = Loaded(examples=[example("b", "other")], description="third")
    assert [row.id for row in join([first, second])] == ["a", "b", "c"]
    assert join([]) == []
    with pytest.raises(DataError, match=r"'b'.*first.*third"):
        join([first, clash])


MANY = [example(f"{n}-{k}", f"Question {n}?") for n in range(100) for k in range(1 + n % 3)]


def test_validation_partitions_examples_and_keeps_questions_together() -> None:
    for size in (1, 20, 0.1, 0.5):
        train, validation = split_off(MANY, size, seed=0)
        assert sorted(row.id for row in [*train, *validation]) == sorted(row.id for row in MANY)
        assert not {row.question for row in train} & {row.question for row in validation}
        wanted = size if isinstance(size, int) else round(size * len(MANY))
        assert wanted <= len(validation) <= wanted + 2  # a question has at most three rationales


def test_validation_size_is_exact_for_single_rationales() -> None:
    rows = [example(str(n), f"{n}?") for n in range(50)]
    assert len(split_off(rows, 7, seed=0)[1]) == 7
    assert len(split_off(rows, 0.2, seed=0)[1]) == 10


def test_validation_does_not_depend_on_order_case_or_white_space() -> None:
    chosen = {row.id for row in split_off(MANY, 30, seed=1)[1]}
    mixed = [example(row.id, f"  {row.question.upper()} ") for row in random.Random(0).sample(MANY, len(MANY))]
    assert {row.id for row in split_off(mixed, 30, seed=1)[1]} == chosen
    assert {row.id for row in split_off(MANY, 30, seed=2)[1]} != chosen


def test_validation_grows_with_its_size() -> None:
    small = {row.id for row in split_off(MANY, 20, seed=0)[1]}
    assert small < {row.id for row in split_off(MANY, 60, seed=0)[1]}


def test_validation_size_zero_takes_nothing() -> None:
    assert split_off(MANY, 0, seed=0) == (MANY, [])
    assert split_off(MANY, 0.0, seed=0) == (MANY, [])


@pytest.mark.parametrize("size", [-1, -0.1, 1.0, 1.5, float("nan"), len(MANY), 10_000, 0.999])
def test_validation_that_leaves_a_side_empty_is_refused(size: int | float) -> None:
    with pytest.raises(UserError, match=r"data\.val_size"):
        split_off(MANY if size != 0.999 else MANY[:1], size, seed=0)


@pytest.mark.parametrize("size", [1, 7, 0.2])
@pytest.mark.parametrize("order", ["fit", "test"])
def test_a_held_out_test_set_shares_no_question_and_is_the_same_for_every_seed(order: str, size: float) -> None:
    sources = [Generated("coin_flip", size=40), Generated("coin_flip", "train", size=20, seed=1)]
    given = {example.id for source in sources for example in source.load().examples}
    held, validated = [], []
    for seed, val_size in ((0, 5), (1, 5), (1, 0)):
        splits = Splits(
            sources, {"flips": Generated("coin_flip", "test", size=3)}, val_size=val_size, test_size=size, seed=seed,
            question=None, questions=None, task=None,
        )  # fmt: skip
        splits.load(order)
        splits.load("fit")
        parts = [splits.test_sets["held_out"], splits.examples["train"], splits.examples["val"]]
        questions = [{example.question for example in part} for part in parts]
        assert not any(one & other for n, one in enumerate(questions) for other in questions[:n])
        assert {example.id for part in parts for example in part} == given
        assert len(parts[0]) == (size if size >= 1 else round(size * len(given)))
        (line,) = (line for line in splits.report if "data.test_size" in line)
        assert line.startswith(f"test/held_out: {len(parts[0])} example")
        held.append([example.id for example in parts[0]])
        validated.append({example.id for example in parts[2]})
    assert held[0] == held[1] == held[2]
    assert validated[0] != validated[1]


def test_a_held_out_test_set_has_a_name_of_its_own() -> None:
    with pytest.raises(UserError, match=r"got data\.test\.held_out\. Rename it"):
        Splits([], {"held_out": Generated("coin_flip")}, val_size=0, test_size=3, seed=0, question=None,
               questions=None, task=None)  # fmt: skip


def test_overlap_ignores_case_and_white_space() -> None:
    train = [example("a", "Two  and\nThree?"), example("b", "Four?"), example("c", "two and three?")]
    kept, dropped = drop_overlap(train, [example("t", " TWO and three? ", answer="9")])
    assert ([row.id for row in kept], dropped) == (["b"], 2)


def test_training_questions_that_are_all_in_test_sets_are_named(tmp_path: Path) -> None:
    source = Files(write_jsonl(tmp_path / "a.jsonl", ROWS), task="gsm8k")
    part, rest = (Files(write_jsonl(tmp_path / f"{n}.jsonl", ROWS[n:m]), task="gsm8k") for n, m in ((0, 3), (3, 4)))
    for tests, size, expected in (
        ({"t": source}, 0, "got none of 4: 4 examples left out, their question is in test set t"),
        ({"t": part, "u": rest}, 0.5, "in test set t; 1 example"),
    ):
        splits = Splits([source], tests, val_size=size, seed=0, question=None, questions=None, task=None)
        with pytest.raises(DataError, match=expected):
            splits.load("fit")


def test_columns_that_are_not_read_are_said_once_before_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {**GOOD, "level": "easy"}
    source = Files(write_jsonl(tmp_path / "a.jsonl", [row]), task="gsm8k")
    splits = Splits([source], {}, val_size=0, seed=0, question=None, questions=None, task=None)
    splits.load("fit")
    assert capsys.readouterr().out == 'train: columns not read: "level"\n'
    assert not any("level" in line for line in splits.report)


def test_importing_sources_loads_no_heavy_library() -> None:
    code = (
        "import sys, skipthinking.data.formats, skipthinking.data.rows, skipthinking.data.phrases;"
        "print(sorted({'torch', 'transformers', 'datasets', 'nltk', 'pyarrow'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout.strip() == "[]", run.stderr


# file -> (rows of the file, rows without a readable answer, which were looked at one by one, examples). The others are
# exact duplicates.
REAL = {
    "csqa/llama_level1.json": (9732, 0, 9732),
    "csqa/llama_level3.json": (9732, 3, 9729),
    "csqa/test.json": (1221, 0, 1221),
    "gsm8k/gemini_level2.json": (7433, 1, 7432),
    "gsm8k/llama_level2.json": (7442, 20, 7422),
    "gsm8k/test.jsonl": (1319, 0, 1319),
    "gsm8k/train.jsonl": (7473, 0, 7473),
    "strategyqa/chatgpt_level1.json": (1998, 1, 1996),
    "strategyqa/chatgpt_level2.json": (1999, 0, 1998),
    "strategyqa/chatgpt_level3.json": (1999, 1, 1997),
    "strategyqa/chatgpt_level4.json": (1999, 2, 1996),
    "strategyqa/chatgpt_level5.json": (1999, 0, 1998),
    "strategyqa/chatgpt_level6.json": (1999, 0, 1998),
    "strategyqa/test.json": (290, 0, 290),
    "svamp/chatgpt_level1.json": (700, 1, 699),
    "svamp/chatgpt_level2.json": (700, 0, 700),
    "svamp/chatgpt_level3.json": (699, 1, 698),
    "svamp/chatgpt_level4.json": (700, 0, 700),
    "svamp/chatgpt_level5.json": (699, 2, 697),
    "svamp/chatgpt_level6.json": (699, 3, 696),
    "svamp/gemini_level1.json": (700, 0, 700),
    "svamp/gemini_level2.json": (700, 0, 700),
    "svamp/gemini_level3.json": (700, 0, 700),
    "svamp/gemini_level4.json": (700, 0, 700),
    "svamp/gemini_level5.json": (700, 0, 700),
    "svamp/gemini_level6.json": (700, 0, 700),
    "svamp/llama_level1.json": (700, 0, 700),
    "svamp/llama_level2.json": (700, 0, 700),
    "svamp/llama_level3.json": (700, 3, 697),
    "svamp/llama_level4.json": (700, 0, 700),
    "svamp/test.json": (300, 0, 300),
}
TASKS = {"gsm8k": "gsm8k", "svamp": "svamp", "strategyqa": "strategy_qa", "csqa": "commonsense_qa"}


@real_data
@pytest.mark.parametrize("name", REAL)
def test_real_data_is_read_whole(name: str) -> None:
    rows, unreadable, examples = REAL[name]
    task = TASKS[name.partition("/")[0]]
    loaded = Files(str(SHARED / name), task=task, bad_rows="leave_out" if unreadable else "error").load()
    assert f" {rows} rows" in loaded.description
    assert len(loaded.examples) == examples == rows - unreadable - loaded.duplicates
    assert loaded.bad_rows == ({"without a readable answer": unreadable} if unreadable else {})
    assert loaded.unread == ('columns not read: "Equation", "Type"' if name == "svamp/test.json" else "")
    for row in loaded.examples:
        assert not re.search(r"the answer is\s*\S*\s*$", row.rationale, re.IGNORECASE), row.rationale[-80:]
        assert "####" not in row.rationale
        assert "<<" not in row.rationale
        assert row.question == row.question.strip()
        assert row.rationale == row.rationale.strip()
        assert not row.question.startswith("Q:")
        assert ("\nAnswer Choices:\nA. " in row.question) == (task == "commonsense_qa")
    assert any(row.rationale for row in loaded.examples) == ("test.json" not in name or "gsm8k" in name)


@real_data
def test_real_training_and_test_questions_do_not_overlap() -> None:
    train = Files(str(SHARED / "svamp" / "gemini_level1.json"), task="svamp").load().examples
    test = Files(str(SHARED / "svamp" / "test.json"), task="svamp").load().examples
    kept, dropped = drop_overlap(train, test)
    assert dropped <= 5
    assert len(kept) + dropped == len(train)
    assert drop_overlap(test, test) == ([], 300)


def test_rationales_that_were_judged_wrong_are_bad_rows(tmp_path: Path) -> None:
    rows = [
        {"question": f"{n} + 1?", "generated_solution": f"{n} + 1 = {n + 1}.", "expected_answer": str(n + 1),
         "is_correct": n != 2}
        for n in range(4)
    ]  # fmt: skip
    file = write_json(tmp_path / "a.json", rows)
    loaded = Files(file, task="gsm8k", bad_rows="leave_out").load()
    assert [example.answer for example in loaded.examples] == ["1", "2", "4"]
    assert loaded.bad_rows == {"judged wrong": 1}
    with pytest.raises(DataError, match=r"row 3.*bad_rows: leave_out"):
        Files(file, task="gsm8k").load()
