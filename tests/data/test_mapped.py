"""Laws of data in files: they hold what memory would, are made once, and never read before they are complete."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import ROOT

from skipthinking import files
from skipthinking.annotate.fingerprints import digests, fingerprint
from skipthinking.annotate.rows import ById, Rows
from skipthinking.data import encoded_store, rows, store
from skipthinking.data.encoded_store import EncodedStore
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.importing import Loaded
from skipthinking.data.sources import Files, Hub
from skipthinking.data.splits import join, split_off
from skipthinking.data.steps import Pattern, Sentences
from skipthinking.data.store import ExampleStore, cache_report, complete, key_of
from skipthinking.records import DataError, Encoded, Example
from skipthinking.students.scratch import train_tokenizer
from skipthinking.tasks import generate

EXAMPLES = [
    *generate("arithmetic", split="train", size=70),
    *(
        Example(id=f"o{n}", question=text, rationale=f"{text} So.", answer="7", task="gsm8k", conclusion=conclusion)
        for n, text in enumerate(["日本語。 😀 and e\u0301?", "a\u2028b \x0b?", "x", 'It\'s "5".\n\nNext. ' * 300])
        for conclusion in ["", "All in all, 7."][n % 2 :][:1]
    ),
]
TOKENIZER = train_tokenizer([f"{row.question} {row.rationale} {row.conclusion}" for row in EXAMPLES[:40]], 500, 20)


def codec(**settings: Any) -> Codec:
    known = {"tokenizer": TOKENIZER, "template": Plain(), "splitter": Sentences()}
    return Codec(**{**known, **settings})


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is kept beyond a test, and one process encodes, which starts at once."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(encoded_store.os, "sched_getaffinity", lambda _: {0}, raising=False)


def encode(of: Codec, examples: ExampleStore, **how: Any) -> EncodedStore:
    return EncodedStore.of(of, examples, **{"rationales": True, "leave_out": False, **how})


def same(one: Encoded, two: Encoded) -> bool:
    assert one.tokens.dtype == two.tokens.dtype
    assert one.prompts.keys() == two.prompts.keys()
    arrays = zip([one.tokens, *one.prompts.values()], [two.tokens, *two.prompts.values()], strict=True)
    return (one.example, one.steps, one.answer) == (two.example, two.steps, two.answer) and all(
        np.array_equal(a, b) for a, b in arrays
    )


# ------------------------------------------------------------------------------------------- the same content


def test_examples_in_files_are_those_in_memory() -> None:
    stored = ExampleStore.of(EXAMPLES)
    assert list(stored) == EXAMPLES
    assert stored[-1] == EXAMPLES[-1]
    assert stored[3:9:2] == EXAMPLES[3:9:2]
    assert list(stored.select([5, 2])) == [EXAMPLES[5], EXAMPLES[2]]
    assert list(stored.texts("id")) == [example.id for example in EXAMPLES]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("settings", "rationales"),
    [
        ({}, True),
        ({}, False),
        ({"prefixes": ("[a] ", ""), "encodes_conclusion": True, "splitter": Pattern(r"\n")}, True),
    ],
)
def test_encoded_examples_in_files_are_those_in_memory(
    settings: Any, rationales: bool, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if processes == 2 and settings:
        return  # a pool starts in a second
    monkeypatch.setattr(encoded_store.os, "sched_getaffinity", lambda _: set(range(processes)))
    of = codec(**settings)
    expected = list(of.encode(EXAMPLES, rationales=rationales))
    stored = encode(of, ExampleStore.of(EXAMPLES), rationales=rationales)
    assert all(map(same, stored, expected))
    assert len(stored) == len(expected)
    assert same(stored[-1], expected[-1])
    assert stored.ids == [row.id for row in expected]
    assert stored.digests.tolist() == digests(expected).tolist()
    assert stored.unknown == sum(int((row.tokens[:-1] == TOKENIZER.unk_token_id).sum()) for row in expected)


def test_what_has_no_steps_is_left_out_of_files_too() -> None:
    mixed = [row if n % 3 else replace(row, rationale=" ") for n, row in enumerate(EXAMPLES)]
    stored = encode(codec(), ExampleStore.of(mixed), leave_out=True)
    assert stored.ids == [row.id for n, row in enumerate(mixed) if n % 3]
    assert all(map(same, stored, codec().encode(mixed, leave_out=True)))
    with pytest.raises(DataError, match=f"at least one step, got ' ' .*{mixed[0].id}"):
        encode(codec(), ExampleStore.of(mixed))


def test_splits_of_files_are_those_of_lists() -> None:
    parts = [EXAMPLES[:50], EXAMPLES[40:]]
    loaded = [Loaded(examples=part, description="x") for part in parts]
    mapped = [replace(loaded[0], examples=ExampleStore.of(parts[0])), loaded[1]]
    assert list(join(mapped)) == list(join(loaded)) == EXAMPLES
    ours, theirs = (split_off(join(one), 9, 1) for one in (mapped, loaded))
    assert isinstance(ours[0], ExampleStore)
    assert [list(side) for side in ours] == [list(side) for side in theirs]


def test_rows_by_place_and_by_id_are_those_of_lists() -> None:
    stored, expected = encode(codec(), ExampleStore.of(EXAMPLES)), list(codec().encode(EXAMPLES))
    chosen = [7, 3, 50]
    for source in (stored, expected):
        some = Rows(source).select(chosen).select([2, 0])
        assert some.ids == [EXAMPLES[50].id, EXAMPLES[7].id]
        assert [row.id for row in some] == some.ids == [row.id for row in some[:]]
        by_id = ById(some, lambda row: len(row.tokens))
        assert dict(by_id) == {expected[place].id: len(expected[place].tokens) for place in (50, 7)}
    assert digests(Rows(stored).select(chosen)).tolist() == digests([expected[place] for place in chosen]).tolist()
    module = torch.nn.Linear(1, 1)
    keys = [fingerprint(Rows(stored).select(places), {}, module) for places in (chosen, chosen, chosen[::-1])]
    assert keys[0] == keys[1] != keys[2]


def test_files_are_pickled_without_their_content() -> None:
    stored = encode(codec(), ExampleStore.of(EXAMPLES))
    assert same(stored[4], pickle.loads(pickle.dumps(stored))[4])
    tokens = sum(len(row.tokens) for row in stored)
    assert len(pickle.dumps(stored)) < tokens / 2


# ------------------------------------------------------------------------------------------------- made once


class Counted(Plain):
    """Counts the prompts that it makes."""

    made = 0

    def render(self, question: str, tokenizer: Any) -> str:
        Counted.made += 1
        return super().render(question, tokenizer)


def test_a_second_start_encodes_nothing_and_what_differs_is_encoded_again() -> None:
    examples, of = ExampleStore.of(EXAMPLES), codec(template=Counted())

    def made(*, examples: ExampleStore = examples, of: Codec = of, **how: Any) -> int:
        Counted.made = 0
        encode(of, examples, **how)
        return Counted.made

    assert made() >= len(EXAMPLES)
    assert made() < 5  # a sample for the key
    other = train_tokenizer([row.rationale for row in EXAMPLES[:40]], 400, 20)
    assert made(of=replace(of, tokenizer=other)) > 60
    assert made(of=replace(of, splitter=Pattern("a"))) > 60
    assert made(of=replace(of, splitter=Pattern("b"))) > 60
    assert made(of=replace(of, template=Counted("{question} Go"))) > 60
    assert made(of=replace(of, prefixes=("a", ""))) > 60
    assert made(of=replace(of, encodes_conclusion=True)) > 60
    assert made(rationales=False) > 60
    assert made(examples=examples.select(range(64))) > 60
    assert made(examples=examples.select(range(64))) < 5


def test_a_key_is_the_same_in_another_process() -> None:
    code = (
        "from skipthinking.data.store import key_of; from skipthinking.data.steps import *; "
        "from skipthinking.data.templates import Chat; "
        "print(key_of({'b': 1, 'a': [2]}, Pattern('[ab]+' * 99), Chat('s', {'y': 1, 'x': 2})))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(keys) == 1
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_a_large_file_is_read_once_until_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "_IN_MEMORY", 1000)
    path, parsed = tmp_path / "a.jsonl", []
    parse = files.parse_json
    monkeypatch.setattr(files, "parse_json", lambda text: parsed.append(text) or parse(text))

    def load(**settings: Any) -> tuple[list[str], int]:
        parsed.clear()
        loaded = Files(str(path), "gsm8k", **settings).load()
        assert isinstance(loaded.examples, ExampleStore)
        assert loaded.description == f"{tmp_path.name}/a.jsonl: 120 rows, format qra (detected)"
        return [example.answer for example in loaded.examples], len(parsed)

    def write(first: int) -> None:
        lines = [{"question": f"{n}?", "rationale": "So.", "answer": str(n)} for n in range(first, first + 120)]
        path.write_text("\n".join(map(json.dumps, lines)))

    write(0)
    assert load() == ([str(n) for n in range(120)], 241)  # one to see that there is any, 120 for the format
    assert load() == ([str(n) for n in range(120)], 0)
    assert load(bad_rows="leave_out")[1] == 241
    write(100)
    assert load() == ([str(n) for n in range(100, 220)], 241)


def test_a_small_source_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "2?", "rationale": "So.", "answer": "2"}\n')
    assert isinstance(Files(str(path), "gsm8k").load().examples, list)
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_was_not_completed_is_made_again() -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        complete("k", broken)
    folder = complete("k", lambda folder: (folder / "all").write_text("all"))
    assert [path.name for path in folder.iterdir()] == ["all"]
    assert complete("k", broken) == folder


def test_one_process_makes_a_folder_while_the_others_wait() -> None:
    made, started = [], threading.Barrier(4)

    def make(folder: Path) -> None:
        made.append(threading.get_ident())
        threading.Event().wait(0.2)
        (folder / "all").write_text("all")

    def start(_: int) -> str:
        started.wait()
        return (complete("k", make) / "all").read_text()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == ["all"] * 4
    assert len(made) == 1


# ---------------------------------------------------------------------------------------------- only what is needed


class Recorded:
    """A data set that records every row it hands out."""

    def __init__(self, data: Any, seen: list[str]) -> None:
        self.data, self.seen, self._fingerprint = data, seen, "f"

    def __len__(self) -> int:
        return len(self.data)

    def with_format(self, _: str) -> Recorded:
        return self

    def select(self, places: Any) -> Recorded:
        return Recorded(self.data.select(places), self.seen)

    def iter(self, size: int) -> Any:
        for table in self.data.with_format("arrow").iter(size):
            self.seen += table["question"].to_pylist()
            yield table


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "saved", "hub"])
def test_a_limit_reads_no_row_beyond_it(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = [{"question": f"{n}?", "rationale": "So.", "answer": str(n)} for n in range(2000)]
    data, path = datasets.Dataset.from_list(lines), tmp_path / f"a.{kind}"
    seen: list[str] = []
    monkeypatch.setattr(rows, "_BATCH", 10)
    checked = rows._checked
    monkeypatch.setattr(rows, "_checked", lambda row, where: (seen.append(where), checked(row, where))[1])
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, lines)))
    elif kind == "saved":
        data.save_to_disk(path)
    elif kind == "hub":
        monkeypatch.setattr(rows, "_BATCH", 64)
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **settings: Recorded(data, seen))
    else:
        (data.to_parquet if kind == "parquet" else lambda to: data.save_to_disk(tmp_path / "d"))(path)
        if kind == "arrow":
            next((tmp_path / "d").glob("*.arrow")).rename(path)
    source = Hub("gsm8k", name="a/b", limit=50) if kind == "hub" else Files(str(path), "gsm8k", limit=50)
    loaded = source.load()
    assert [example.answer for example in loaded.examples] == [str(n) for n in range(50)]
    assert "first 50 of 2000 rows" in loaded.description
    assert len(set(seen)) <= 50


# ---------------------------------------------------------------------------------------------------- a run


def test_a_run_on_files_is_the_run_on_memory_to_the_bit(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", "CWT", "--data.chunker", "SearchChunks", "--data.chunker.refresh_every_n_epochs", "1"]

    def weights(name: str, *more: str) -> dict[str, torch.Tensor]:
        assert run("fit", "--run", name, "--evaluate", "false", *words, *more) == 0
        state: dict[str, torch.Tensor] = torch.load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
        return state

    memory = weights("memory")
    monkeypatch.setattr(store, "_IN_MEMORY", 0)
    stored = weights("files", "--data.num_workers", "1")
    assert memory.keys() == stored.keys()
    assert all(torch.equal(memory[key], stored[key]) for key in memory)
    assert len(list((tmp_path / "cache" / "skipthinking").glob("*/tokens*.arrow"))) == 1


def test_the_report_counts_complete_folders_and_the_documented_command_removes_unused_ones(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "skipthinking"

    def make(folder: Path) -> None:
        with (folder / "a.arrow").open("wb") as file:
            file.truncate(2**28)  # without blocks on the disk

    for key in ("used", "unused"):
        complete(key, make)
        os.utime(cache / key, (0, 0))
    (cache / ".partial").mkdir()
    assert cache_report().startswith(f"mapped data: {cache} has 2 folders of all runs, 0.50 GiB")
    complete("used", make)
    words = re.search(r"`(find ~/\.cache.*?\+)`", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL)
    assert words is not None
    subprocess.run(words[1].replace("~/.cache/huggingface/datasets/skipthinking", str(cache)).split(), check=True)
    assert [path.name for path in cache.iterdir() if path.is_dir() and path.name[0] != "."] == ["used"]
