"""Which files a path means: a folder or a glob is complete and of one kind, or is refused with a path that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skipthinking.data.finding import find_files
from skipthinking.records import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def found(folder: Path, *patterns: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_files([str(folder / pattern) for pattern in patterns])]


def test_a_folder_is_its_data_files_without_what_comes_with_them(tmp_path: Path) -> None:
    data = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    beside = [".train.parquet", "._x.parquet", "README.md", "dataset_infos.json", "SHA256SUMS", "a.parquet.md5"]
    touch(tmp_path, *data, *beside, ".cache/c.parquet", "d.parquet/e.txt")
    assert found(tmp_path, ".") == found(tmp_path, "*") == data
    touch(tmp_path, "other/b.parquet")
    assert found(tmp_path, ".") == data
    assert found(tmp_path, "README.md") == ["README.md"]  # named, and refused when it is read


def test_a_glob_reaches_nested_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jsonl", "a/b/2.jsonl.gz", "c/3.jsonl.zst", "c/4.pdf", "c/5.txt", "c/.6.jsonl")
    assert found(tmp_path, "**/*") == found(tmp_path, "**") == ["a/1.jsonl", "a/b/2.jsonl.gz", "c/3.jsonl.zst"]
    assert found(tmp_path, "*/*.jsonl.*", "a") == ["c/3.jsonl.zst", "a/1.jsonl"]
    assert found(tmp_path, "c/*.txt") == ["c/5.txt"]  # such a file is data only if nothing else is
    with pytest.raises(UserError, match=r"which matches '4\.pdf'"):
        find_files([str(tmp_path / "c" / "*.pdf")])


# (files, names in the error, files that the path in the error's remedy means)
UNCLEAR = [
    ("a.json b.parquet c.parquet", ["kind", "a.json and b.parquet"], "b.parquet c.parquet"),
    ("a.json b.jsonl.gz", ["kind", "a.json and b.jsonl.gz"], "b.jsonl.gz"),
    ("train-1.json train-2.json test.json", ["split", "test.json and train-1.json"], "train-1.json train-2.json"),
    ("test-00000-of-00001.parquet validation.parquet", ["split", "and validation"], "test-00000-of-00001.parquet"),
]


@pytest.mark.parametrize(("names", "parts", "meant"), UNCLEAR)
def test_a_folder_of_several_kinds_or_splits_is_refused_with_a_glob(
    names: str, parts: list[str], meant: str, tmp_path: Path
) -> None:
    touch(tmp_path, *names.split())
    with pytest.raises(UserError) as caught:
        find_files([str(tmp_path)])
    assert all(part in str(caught.value) for part in parts)
    remedy = str(caught.value).rpartition("for example ")[2]
    assert [path.name for path in find_files([remedy])] == meant.split()


def test_a_name_that_only_looks_like_a_split_is_none(tmp_path: Path) -> None:
    names = ["development.json", "testimony.json", "train.json", "trainer.json"]
    touch(tmp_path, *names)
    assert found(tmp_path, ".") == names


@pytest.mark.parametrize("first", [0, 1])
def test_a_missing_shard_is_named(first: int, tmp_path: Path) -> None:
    shards = [f"train-{i:05d}-of-00004.jsonl" for i in range(first, first + 4)]
    touch(tmp_path, *shards)
    assert found(tmp_path, ".") == found(tmp_path, "train-*") == shards
    lost = tmp_path / shards[1 + first]  # with shard 4 of 4, the count starts at 1
    lost.unlink()
    for pattern in (".", "*.jsonl", "train-0*"):
        with pytest.raises(
            UserError, match=re.escape(f"Expected 4 shards, got 3: there is no {lost.name} ({tmp_path})")
        ):
            found(tmp_path, pattern)
    rest = [name for name in shards if name != lost.name]
    assert found(tmp_path, *rest) == rest  # the remedy
    assert found(tmp_path, f"train-0000[{first}]-of-*") == shards[:1]  # a part that is meant


def test_a_file_beside_its_compressed_twin_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "a.jsonl.gz", "b.jsonl")
    with pytest.raises(UserError, match=r"got a\.jsonl and a\.jsonl\.gz"):
        find_files([str(tmp_path)])
    assert found(tmp_path, "*.jsonl") == ["a.jsonl", "b.jsonl"]


def test_a_folder_without_data_names_the_one_below_that_has_some(tmp_path: Path) -> None:
    touch(tmp_path, "README.md", "assets/x.png", "data/a.parquet")
    with pytest.raises(UserError, match=r"Name .*/data, for example"):
        find_files([str(tmp_path)])
