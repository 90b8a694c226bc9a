"""Run folders, read whole or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from skipthinking.files import lines_of
from skipthinking.records import UserError
from skipthinking.report.curves import last_value
from skipthinking.report.summary import read_summary

__all__ = ["SUITE_FILE", "Run", "flat", "read_run", "read_runs"]

SUITE_FILE = "suite.json"
"""What a suite knows of a run, in the run's folder."""
_START = "model.init_args.start_from"
_NUMBER = (int, float)
_SUMMARY = {
    "method": str, "seed": int, "target_tokens": int, "context_tokens": int, "fit_seconds": _NUMBER,
    "latency_seconds": (int, float, type(None)), "device": str, "test": dict,
}  # fmt: skip
_SCORES = {
    "n": int, **dict.fromkeys(("accuracy", "accuracy_lenient", "no_answer", "new_tokens"), _NUMBER),
    "skipped": (int, float, type(None)),
}  # fmt: skip
_ANSWER = {
    **dict.fromkeys(("set", "id", "question", "gold", "completion"), str),
    "correct": bool, "correct_lenient": bool, "new_tokens": int, "stages": list,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where it lies.
        task: The suite's name of its task; empty for a run that no suite made.
        method: The suite's name of its method, else the class of the method.
        seed: The run's seed.
        settings: config.yaml, flat, by dotted key.
        summary: summary.json.
        answers: Lines of predictions.jsonl by test set and example id.
        tokens: Target and context tokens that its student was trained on, those of the runs it started from included.
        origins: Settings of these runs, the last first.
        complete: Whether the logs of all of these were there to be counted.
    """

    folder: Path
    task: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    answers: Mapping[str, Mapping[str, Mapping[str, Any]]]
    tokens: tuple[float, float]
    origins: tuple[Mapping[str, Any], ...]
    complete: bool


def read_runs(folders: Sequence[str | Path]) -> tuple[list[Run], dict[str, str]]:
    """Reads run folders, each once; plain files among them are passed over.

    Returns:
        The runs, and why each of the others was left out, by folder.
    """
    runs: list[Run] = []
    left_out: dict[str, str] = {}
    seen: set[Path] = set()
    for folder in map(Path, folders):
        if folder.is_file() or folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        try:
            runs.append(read_run(folder))
        except (UserError, OSError) as error:
            left_out[str(folder)] = str(error)
    return runs, left_out


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        UserError: It is not there, unfinished, damaged, or of another version of this package.
    """
    if not folder.is_dir():
        raise UserError(f"Expected a run folder, got {str(folder)!r}, which does not exist.")
    suite = _suite(folder)
    if suite.get("evaluate") is False:
        raise UserError("Other runs start from it; it was not to be tested.")
    summary = read_summary(folder)
    _need(summary, _SUMMARY, folder / "summary.json")
    for scores in summary["test"].values():
        _need({"skipped": None} | scores if isinstance(scores, dict) else scores, _SCORES, folder / "summary.json")
    settings = flat(_config(folder / "config.yaml"))
    before, complete = _lineage(folder, settings.get(_START))
    target, context = (sum(of) for of in zip((0.0, 0.0), *(_tokens(home) for home, _ in before), strict=True))
    return Run(
        folder=folder,
        task=suite.get("task", ""),
        method=suite.get("method", summary["method"]),
        seed=summary["seed"],
        settings=settings,
        summary=summary,
        answers=_answers(folder / "predictions.jsonl", summary["test"]),
        tokens=(summary["target_tokens"] + target, summary["context_tokens"] + context),
        origins=tuple(settings for _, settings in before),
        complete=complete,
    )


def _lineage(folder: Path, start: object) -> tuple[list[tuple[Path, dict[str, Any]]], bool]:
    """The runs that a run's student comes from, the last first, with their settings, and whether these are all.

    Args:
        folder: The run's folder; one that it starts from is looked for beside it, then where it was.
        start: Its ``start_from``: RUN/checkpoints/last.ckpt.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    seen = {folder.resolve()}  # a damaged config may lead back to one
    while start is not None:
        origin = Path(str(start)).parent.parent
        homes = (folder.resolve().parent / origin.name, origin)
        there = [home for home in homes if home.resolve() not in seen and None not in _tokens(home)]
        if not there:
            return found, False
        folder = there[0]
        seen.add(folder.resolve())
        try:
            settings = flat(_config(folder / "config.yaml"))
        except UserError:
            return [*found, (folder, {})], False
        found.append((folder, settings))
        start = settings.get(_START)
    return found, True


def _tokens(folder: Path) -> list[float | None]:
    """Target and context tokens of a run, as last logged."""
    return [last_value(folder / "metrics.csv", f"train/{kind}_tokens") for kind in ("target", "context")]


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted key.

    >>> flat({"a": {"b": 1, "c": [2]}, "d": None})
    {'a.b': 1, 'a.c': [2], 'd': None}
    """
    if not isinstance(value, dict):
        return {at: value}
    return {
        key: leaf for name, part in value.items() for key, leaf in flat(part, f"{at}.{name}" if at else name).items()
    }


def _need(found: Any, kinds: Mapping[str, Any], path: Path, command: str = "test") -> None:
    known = found if isinstance(found, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(known.get(name, ...), kind)]
    if wrong:
        raise UserError(
            f"Expected {wrong[0]!r} as this version writes it, got {known.get(wrong[0])!r} ({path}). "
            f"Run `{command}` on it again."
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Expected a file that can be read, got {error} ({path}). Run `fit` again.") from error


def _suite(folder: Path) -> dict[str, Any]:
    path = folder / SUITE_FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"Expected JSON, got {error.msg} ({path}:{error.lineno}). Run the suite again.") from error
    _need(found, {"task": str, "method": str, "evaluate": bool}, path, "suite")
    return dict(found)


def _config(path: Path) -> Any:
    try:
        found = yaml.load(_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise UserError(f"Expected YAML, got {' '.join(str(error).split())} ({path}). Run `fit` again.") from error
    _need(found, {"model": dict, "data": dict}, path, "fit")
    return found


def _answers(path: Path, sets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Predictions by test set and id; they must be those that the summary counts."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in sets}
    for number, line in enumerate(lines_of(_text(path)), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"Expected JSON, got {error.msg} ({path}:{number}). Run `test` on it again.") from error
        _need(row, _ANSWER, Path(f"{path}:{number}"))
        if not all(isinstance(stage, list) and len(stage) == 2 for stage in row["stages"]):
            raise UserError(f"Expected stages as pairs, got {row['stages']} ({path}:{number}). Run `test` on it again.")
        found.setdefault(row["set"], {})[row["id"]] = row
    for name, rows in found.items():
        told = sets.get(name, {"n": 0, "accuracy": 0.0})
        right = sum(row["correct"] for row in rows.values())
        if len(rows) != told["n"] or abs(right - told["accuracy"] * told["n"]) > 0.5:
            raise UserError(
                f"Expected {told['n']} answers of {name!r} as in summary.json, got {len(rows)}, {right} of them right "
                f"({path}). Run `test` on it again."
            )
    return found
