"""Finds data files: paths, globs, and folders of shards."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Sequence
from pathlib import Path

from skipthinking.data.rows import KINDS, NAMED, is_saved, kind_of, kinds
from skipthinking.files import COMPRESSED
from skipthinking.records import UserError, did_you_mean

__all__ = ["find_files"]

# What comes with a data set of the hub, or with one that ``datasets`` saved.
_DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = re.compile(r"(?:train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\..*)")  # train-00000-of-00002.parquet


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Returns the files and saved ``datasets`` folders that match paths, globs and folders, each once.

    A folder or glob matches data files, in alphabetical order, of which a folder has those directly in it. Hidden
    files, descriptions of data sets, checksums and other kinds of files are ignored.

    Raises:
        UserError: A pattern matches nothing or lacks a shard, or a folder has files of several kinds or splits.
    """
    paths = [path for pattern in patterns for path in _find(pattern)]
    if not paths:
        raise UserError("Expected at least one path, got none (path). Name a file, a folder or a glob.")
    return list(dict.fromkeys(paths))


def _find(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file() or is_saved(path):
        return [path]
    if path.is_dir():
        return _shards(_in_folder(path), "*")
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    named = [match for match in matches if match.is_file() and kind_of(match) in NAMED]
    files = [match for match in matches if is_saved(match) or _is_data(match)]
    files += [file for match in matches if match.is_dir() and not is_saved(match) for file in _data_files(match)]
    if files or named:
        return _shards(files or named, str(path))
    if matches:
        raise UserError(
            f"Expected data files ({kinds()}), got {pattern!r}, which matches {matches[0].name!r}. Name other files."
        )
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    if not path.parent.is_dir():
        hint = f" There is no folder {path.parent}."
    else:
        hint = did_you_mean(path.name, beside) or f" {path.parent} holds {', '.join(beside[:3]) or 'nothing'}."
    raise UserError(f"Expected a file, a folder or a glob, got {pattern!r}, which matches nothing.{hint}")


def _in_folder(path: Path) -> list[Path]:
    """The data files directly in a folder, if it is clear that they belong together."""
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(str(entry) for entry in sorted(path.iterdir()) if entry.is_dir())
        raise UserError(f"Expected one split, got a saved DatasetDict ({path}). Name one of {splits}.")
    files = _data_files(path)
    if not files:
        below = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _data_files(folder)]
        remedy = f"Name {below[0]}, for example." if below else "Name a file."
        raise UserError(f"Expected data files ({kinds()}), got a folder without any ({path}). {remedy}")
    kinds_of = {kind_of(file): file.name for file in reversed(files)}
    splits_of = {_split(file): file.name for file in reversed(files) if _split(file)}
    end, start = kinds_of[kind_of(files[-1])], "train" if "train" in splits_of else min(splits_of, default="")
    for what, names, example in (
        ("kind", kinds_of, f"*{end[end.lower().rfind(kind_of(files[-1])) :]}"),
        ("split", splits_of, f"{start}*"),
    ):
        if len(names) > 1:
            raise UserError(
                f"Expected files of one {what}, got {' and '.join(sorted(names.values())[:2])} ({path}). Name those "
                f"that you mean, for example {path / example}"
            )
    return files


def _data_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if _is_data(file)]


def _is_data(path: Path) -> bool:
    ignored = path.name.startswith(".") or path.name in _DESCRIPTIONS
    return path.is_file() and kind_of(path) in KINDS and not ignored


def _split(path: Path) -> str:
    """The split that the name of a file starts with; empty if there is none."""
    match = _SPLITS.match(path.name)
    return match[0] if match else ""


def _shards(files: list[Path], pattern: str) -> list[Path]:
    """The files, none of which is there twice, and of which no shard is missing that the pattern would match."""
    plain: dict[Path, Path] = {}
    sets: dict[tuple[Path, str, str, str], set[int]] = {}
    for file in files:
        twin = plain.setdefault(file.with_suffix("") if file.suffix.lower() in COMPRESSED else file, file)
        if twin != file:
            raise UserError(f"Expected each file once, got {twin.name} and {file.name} ({file.parent}). Name one.")
        if shard := _SHARD.fullmatch(file.name):
            sets.setdefault((file.parent, shard[1], shard[3], shard[4]), set()).add(int(shard[2]))
    for (folder, stem, total, end), numbers in sets.items():
        start = 1 if int(total) in numbers else 0  # data sets count from 0, some tools from 1
        for number in range(start, int(total) + start):
            name = f"{stem}-{number:0{len(total)}}-of-{total}{end}"
            if number not in numbers and fnmatch.fnmatch(str(folder / name), pattern):
                raise UserError(
                    f"Expected {int(total)} shards, got {len(numbers)}: there is no {name} ({folder}). Download it, or "
                    "name the files that you mean, one by one."
                )
    return files
