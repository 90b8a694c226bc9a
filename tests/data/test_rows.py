"""Files of rows: every kind gives the same examples, every defect is named with its place, nothing is written."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipthinking.data.sources import Files
from skipthinking.records import DataError, Example, UserError

ROWS = [{"question": f"{n}+3?", "rationale": f"{n}+3={n + 3}.", "answer": str(n + 3)} for n in range(1, 5)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_json(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def write_data(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps({"data": rows}), encoding="utf-8")
    return str(path)


def write_bom(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8-sig")
    return str(path)


def write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
    return str(path)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def write_stream(path: Path, rows: list[dict[str, Any]]) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    return str(path)


def write_arrow_file(path: Path, rows: list[dict[str, Any]]) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    return str(path)


def save_to_disk(path: Path, rows: list[dict[str, Any]]) -> str:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return str(path)


def packed(
    suffix: str, write: Callable[[Path, list[dict[str, Any]]], str]
) -> Callable[[Path, list[dict[str, Any]]], str]:
    """A writer whose file is compressed, as several members if the format has them: `cat a.gz b.gz` is a file, too."""

    def write_packed(path: Path, rows: list[dict[str, Any]]) -> str:
        plain = path.with_suffix("")
        data = Path(write(plain, rows)).read_bytes()
        plain.unlink()
        path.write_bytes(b"".join(map(PACK[suffix], (data[:30], data[30:]))))
        return str(path)

    return write_packed


def zstd(data: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    content: bytes = sink.getvalue().to_pybytes()
    return content


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstd,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}

WRITERS: list[tuple[str, Callable[[Path, list[dict[str, Any]]], str]]] = [
    ("rows.jsonl", write_jsonl),
    ("lines.json", write_jsonl),
    ("rows.json", write_json),
    ("data.json", write_data),
    ("bom.json", write_bom),
    ("rows.csv", write_table),
    ("rows.tsv", write_table),
    ("rows.parquet", write_parquet),
    ("stream.arrow", write_stream),
    ("file.arrow", write_arrow_file),
    ("folder", save_to_disk),
    ("packed.jsonl.gz", packed(".gz", write_jsonl)),
    ("packed.jsonl.zst", packed(".zst", write_jsonl)),
    ("packed.json.xz", packed(".xz", write_bom)),
    ("packed.csv.bz2", packed(".bz2", write_table)),
    ("unpacked.jsonl.gz", write_jsonl),  # some browsers expand what they download, and keep its name
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_every_kind_of_file_gives_the_same_examples(
    name: str, write: Callable[[Path, list[dict[str, Any]]], str], tmp_path: Path
) -> None:
    rows = [
        {"id": "a", "question": "“2”,\n+3?", "rationale": '2+3\u2028is "5".', "answer": "5.0"},
        {"id": "b", **ROWS[0]},
    ]
    loaded = Files(write(tmp_path / name, rows), task="gsm8k").load()
    assert loaded.examples == [
        Example(id="a", question="“2”,\n+3?", rationale='2+3\u2028is "5".', answer="5.0", task="gsm8k"),
        Example(id="b", question="1+3?", rationale="1+3=4.", answer="4", task="gsm8k"),
    ]
    assert loaded.description == f"{tmp_path.name}/{name}: 2 rows, format qra (detected)"


def test_reading_files_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    files = [write(tmp_path / name, ROWS) for name, write in WRITERS]
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HOME", str(home))
    before = sorted(tmp_path.rglob("*"))
    assert len(Files(files, task="gsm8k").load().examples) == len(ROWS)
    assert sorted(tmp_path.rglob("*")) == before


def test_text_of_a_table_is_kept_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('question,rationale,answer\n"007?",NA,"1,234"\n', encoding="utf-8")
    (example,) = Files(str(file), task="gsm8k").load().examples
    assert (example.question, example.rationale, example.answer) == ("007?", "NA", "1,234")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_header_says_what_separates_cells_and_empty_rows_do_not_count(
    name: str, delimiter: str, tmp_path: Path
) -> None:
    rows = [{**row, "rationale": f"{row['rationale']}; so, it\tis"} for row in ROWS]
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows([*rows, dict.fromkeys(ROWS[0], "")])
    loaded = Files(str(tmp_path / name), task="gsm8k").load()
    assert [(row.question, row.rationale, row.answer) for row in loaded.examples] == [tuple(r.values()) for r in rows]


def test_a_file_may_hold_one_row_as_the_files_of_math_do(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS * 5):
        write_json(tmp_path / f"{number:02}.json", {**row, "question": f"{number}?"})  # type: ignore[arg-type]
    loaded = Files(str(tmp_path), task="gsm8k").load()
    assert [row.question for row in loaded.examples] == [f"{number}?" for number in range(20)]
    assert "20 files (" in loaded.description
    assert len(loaded.description) < 400


def test_the_examples_of_big_bench_hard_are_rows(tmp_path: Path) -> None:
    rows = [{"input": f"not {word}?", "target": word} for word in ("True", "False")]
    write_json(tmp_path / "a.json", {"canary": "BENCHMARK DATA", "examples": rows})  # type: ignore[arg-type]
    loaded = Files(str(tmp_path / "a.json"), task="short_answer").load()
    assert [(row.question, row.answer) for row in loaded.examples] == [("not True?", "True"), ("not False?", "False")]


def test_a_cell_has_any_length_and_lines_end_in_any_way(tmp_path: Path) -> None:
    rationale = 'So 3, "or" 4.\n' * 20_000  # 280,000 characters; Python's own limit is 131,072
    lines = ["question,rationale,answer", f'"7?","{rationale.replace(chr(34), chr(34) * 2)}",7', "8?,So 8.,8", ""]
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    long, short = Files(str(file), task="gsm8k").load().examples
    assert (long.question, long.rationale, long.answer) == ("7?", rationale.strip(), "7")
    assert (short.question, short.rationale, short.answer) == ("8?", "So 8.", "8")
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, ROWS)).encode())
    assert [row.question for row in Files(str(file), task="gsm8k").load().examples] == ["1+3?", "2+3?", "3+3?", "4+3?"]


@pytest.mark.parametrize("suffix", PACK)
def test_a_compressed_file_that_is_cut_off_is_refused(suffix: str, tmp_path: Path) -> None:
    data = PACK[suffix]("".join(f"{json.dumps({**ROWS[0], 'id': i})}\n" for i in range(500)).encode())
    for size in (len(data) // 2, len(data) - 1):
        (tmp_path / f"a.jsonl{suffix}").write_bytes(data[:size])
        with pytest.raises(DataError, match=rf"Expected a complete compressed file, got .*a\.jsonl\{suffix}"):
            Files(str(tmp_path / f"a.jsonl{suffix}"), task="gsm8k").load()


def test_folders_globs_and_lists_name_the_same_files(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", ROWS[n : n + 1]) for n in range(3)]
    (tmp_path / "README.md").write_text("about")
    by_list = Files(paths, task="gsm8k").load()
    assert [example.question for example in by_list.examples] == ["1+3?", "2+3?", "3+3?"]
    assert Files(str(tmp_path), task="gsm8k").load() == by_list
    assert Files(str(tmp_path / "*.jsonl"), task="gsm8k").load() == by_list
    assert Files([paths[0], str(tmp_path)], task="gsm8k").load() == by_list
    assert by_list.description.startswith("3 files (")


def test_fine_tune_cot_files_are_flattened(tmp_path: Path) -> None:
    row = {"question": "2+3?", "answer": "5", "reasoning_completion": "2+3=5.", "completion": " 5."}
    samples = {"0": [row, {**row, "reasoning_completion": "3+2=5."}], "4": [{**row, "question": "Two and three?"}]}
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"metadata": {"base_model": "x"}, "data": samples}))
    examples = Files(str(file), task="gsm8k").load().examples
    assert [example.rationale for example in examples] == ["2+3=5.", "3+2=5.", "2+3=5."]
    samples["4"][0]["question"] = ""
    file.write_text(json.dumps({"metadata": {}, "data": samples}))
    with pytest.raises(DataError, match=r"a\.json: sample 4, completion 1"):
        Files(str(file), task="gsm8k").load()


# (file name, content, what the error must say)
BAD_FILES: list[tuple[str, str | bytes, list[str]]] = [
    ("a.jsonl", json.dumps(ROWS[0]) + '\n\n{"question": 1,,}\n', ["Expected a JSON object", "column 16", "a.jsonl:3"]),
    ("a.jsonl", json.dumps(ROWS[0]) + "\n[1]\n", ["a JSON object, got list", "a.jsonl:2"]),
    ("a.json", '[\n{"question": "x"}\n{"a": 1}]', ["',' delimiter", "a.json:3"]),
    ("a.jsonl", '{"answer": ' + "7" * 5000 + "}", ["Expected a JSON object", "5000 digits", "a.jsonl:1"]),
    ("a.json", "[" * 10**6, ["Expected JSON", "recursion", "a.json:1"]),
    ("a.json", '{"rows": []}', ['{"data": [...]}', "'rows'"]),
    ("a.json", json.dumps([ROWS[0], {"question": "x", "answer": "1"}]), ['without "rationale"', "a.json: row 2"]),
    ("a.json", json.dumps([{"q": "x"}]), ["known format", '"q"', "a.json: row 1"]),
    ("a.json", json.dumps([{**ROWS[0], "question": " "}]), ['"question"', "empty value", "a.json: row 1"]),
    (
        "a.json",
        json.dumps([{**ROWS[0], "answer": "many"}, ROWS[0]]),
        ["'many'", "a.json: row 1", "bad_rows: leave_out"],
    ),
    ("a.json", json.dumps([{**ROWS[0], "task": "svamp"}]), ["Expected task gsm8k, got 'svamp'", "a.json: row 1"]),
    ("a.json", json.dumps([{**ROWS[0], "id": ""}]), ['an id in "id"', "a.json: row 1"]),
    ("a.json", json.dumps([{**row, "id": 5} for row in ROWS]), ['"id" 5 twice', "a.json: row 1 and", "a.json: row 2"]),
    ("a.jsonl", json.dumps(ROWS[0]) + '\n{"question": "x", "rat', ["Unterminated string", "a.jsonl:2"]),
    ("a.csv", "question,answer,answer\n1,2,3\n", ["each column once", "'answer'", "a.csv:1"]),
    ("a.jsonl", "\n \n", ["at least one row", "a.jsonl"]),
    ("a.json", "", ["at least one row", "a.json"]),
    ("a.json", "[]", ["at least one row", "a.json"]),
    ("a.csv", "question,rationale,answer\n", ["at least one row", "a.csv"]),
    ("a.csv", "question,rationale,answer\n1,2,3\n1,2\n", ["Expected 3 cells", "got 2", "a.csv:3"]),
    ("a.csv", 'question,rationale,answer\n"1,2,3\n', ["Expected a table", "a.csv:2"]),
    ("a.jsonl", json.dumps(ROWS[0]).encode() + b'\n{"question": "caf\xe9"}', ["UTF-8", "0xe9", "a.jsonl:2"]),
    ("a.parquet", "nope", ["Expected a .parquet file", "a.parquet"]),
    ("a.arrow", "nope", ["Expected a .arrow file", "a.arrow"]),
    ("a.txt", "nope", ["'a.txt'", ".jsonl"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), BAD_FILES)
def test_bad_input_is_named_with_its_place(name: str, content: str | bytes, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        Files(str(tmp_path / name), task="gsm8k").load()
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_table_of_many_columns_or_without_a_header_has_a_short_error(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text(",".join(f"c{n}" for n in range(300)) + "\n" + ",".join(["1"] * 300))
    with pytest.raises(DataError, match=r'"c19", and 280 more .*wide\.csv:2') as caught:
        Files(str(tmp_path / "wide.csv"), task="gsm8k").load()
    assert "c20" not in str(caught.value)
    (tmp_path / "bare.csv").write_text(f"{'How many? ' * 300},{'2+3=5. ' * 300},5\n1,2,3\n")
    with pytest.raises(DataError, match=r'"How many\? .* \.\.\.", "2\+3=5') as caught:
        Files(str(tmp_path / "bare.csv"), task="gsm8k").load()
    assert len(str(caught.value)) < 2000


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(UserError, match=r"trian\.jsonl.*matches nothing.*train\.jsonl"):
        Files(str(tmp_path / "trian.jsonl"), task="gsm8k").load()
    with pytest.raises(UserError, match="There is no folder"):
        Files(str(tmp_path / "none" / "a.jsonl"), task="gsm8k").load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder without any"):
        Files(str(tmp_path / "empty"), task="gsm8k").load()


def test_saved_dataset_dict_asks_for_a_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": rows, "dev": rows}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"saved/dev, .*saved/train"):
        Files(str(tmp_path / "saved"), task="gsm8k").load()
    assert len(Files(str(tmp_path / "saved" / "dev"), task="gsm8k").load().examples) == 4
