"""Run folders, read completely or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from skipthinking.files import lines_of
from skipthinking.records import UserError
from skipthinking.report.logs import column

__all__ = [
    "SUITE_FILE", "Run", "flat", "read_json_lines", "read_run", "read_runs", "read_summary", "short_settings",
]  # fmt: skip

SUITE_FILE = "suite.json"
"""What a suite records about a run, in the run's folder."""
_START = "model.init_args.start_from"
_NUMBER = (int, float)
_SUMMARY = {
    "method": str, "seed": int, "target_tokens": int, "context_tokens": int, "fit_seconds": _NUMBER,
    "latency_seconds": (int, float, type(None)), "device": str, "settings": dict, "test": dict,
}  # fmt: skip
_SCORES = {
    "n": int, **dict.fromkeys(("accuracy", "accuracy_lenient", "no_answer", "new_tokens"), _NUMBER),
    **dict.fromkeys(("unfinished", "skipped", "skipped_known"), (int, float, type(None))), "accuracy_at": dict,
}  # fmt: skip
_OPTIONAL: dict[str, Any] = {**dict.fromkeys(("unfinished", "skipped", "skipped_known")), "accuracy_at": {}}
_ANSWER = {
    **dict.fromkeys(("set", "id", "question", "gold", "completion"), str),
    "correct": bool, "correct_lenient": bool, "new_tokens": int, "stages": list,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        folder: The run folder.
        task: The suite's name of its task; empty for a run outside a suite.
        method: The suite's name of its method, else the class of the method; with changed answer settings after it.
        seed: The run's seed.
        settings: config.yaml, flat, by dotted key.
        summary: summary.json.
        answers: Lines of predictions.jsonl by test set and example id.
        tokens: Target and context tokens that its student was trained on, including the runs that it started from.
        origins: Settings of the runs that it started from, the last first.
        lineage: Its folder and those of all runs that it started from, resolved; of a deleted one
            by its recorded path.
        complete: Whether all of those runs and their token counts exist.
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
    lineage: frozenset[Path]
    complete: bool


def read_runs(folders: Sequence[str | Path]) -> tuple[list[Run], dict[str, str]]:
    """Reads run folders and tests with other answer settings in them, each once; ignores plain files among them.

    Returns:
        The runs, and why each of the others was left out, by folder.
    """
    runs: list[Run] = []
    left_out: dict[str, str] = {}
    seen: set[Path] = set()
    for folder in (one for home in map(Path, folders) for one in (home, *_other_answers(home))):
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
        UserError: The folder does not exist, or the run is unfinished, damaged, or of another version of this package.
    """
    if not folder.is_dir():
        raise UserError(f"Expected a run folder, got {str(folder)!r}, which does not exist.")
    suite = _suite(folder)
    if suite.get("evaluate") is False:
        raise UserError("The suite does not test this run; other runs start from it.")
    summary: dict[str, Any] = {"settings": {}} | read_summary(folder)
    _check(summary, _SUMMARY, folder / "summary.json")
    changed, home = summary["settings"], folder
    if changed:
        home = folder.resolve().parent
        suite = _suite(home)
        _check_same_student(folder, summary, home)
    for scores in summary["test"].values():
        values = _OPTIONAL | scores if isinstance(scores, dict) else {}
        _check(values, _SCORES, folder / "summary.json")
        _check(values["accuracy_at"], dict.fromkeys(values["accuracy_at"], _NUMBER), folder / "summary.json")
    settings = flat(_config(home / "config.yaml")) | changed
    origins, complete = _origins(home, settings.get(_START))
    target, context = (sum(of) for of in zip((0.0, 0.0), *(_tokens(home) for home, _ in origins), strict=True))
    return Run(
        folder=folder,
        task=suite.get("task", ""),
        method=", ".join([suite.get("method", summary["method"]), *short_settings(changed)]),
        seed=summary["seed"],
        settings=settings,
        summary=summary,
        answers=_answers(folder / "predictions.jsonl", summary["test"]),
        tokens=(summary["target_tokens"] + target, summary["context_tokens"] + context),
        origins=tuple(settings for _, settings in origins),
        lineage=_lineage(folder, settings.get(_START), origins),
        complete=complete,
    )


def short_settings(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words, such as "mode=full"."""
    return [f"{key.rpartition('.')[2]}={value}" for key, value in settings.items()]


def _other_answers(folder: Path) -> list[Path]:
    """Folders in a run folder that `test` wrote for other answer settings, such as RUN/mode=full."""
    return sorted(path.parent for path in folder.glob("*=*/summary.json"))


def _check_same_student(folder: Path, summary: Mapping[str, Any], home: Path) -> None:
    """Checks that a test with other answer settings is one of the student that the run's own test is of."""
    steps = read_summary(home).get("steps") if (home / "summary.json").is_file() else summary.get("steps")
    if summary.get("steps") != steps:
        raise UserError(
            f"Expected answers of the student at step {steps}, as in {home}, got answers at step {summary['steps']} "
            f"({folder}). Run `test` with these settings again."
        )


def _origins(folder: Path, start: object) -> tuple[list[tuple[Path, dict[str, Any]]], bool]:
    """Folders and settings of the runs that a run's student comes from, the last first, and whether these are all.

    Args:
        folder: The run's folder. A run that it starts from is searched beside it, then at its recorded path.
        start: Its ``start_from``: RUN/checkpoints/last.ckpt.
    """
    origins: list[tuple[Path, dict[str, Any]]] = []
    seen = {folder.resolve()}  # a damaged config may lead back to one
    while start is not None:
        origin = Path(str(start)).parent.parent
        homes = (folder.resolve().parent / origin.name, origin)
        existing = [home for home in homes if home.resolve() not in seen and None not in _tokens(home)]
        if not existing:
            return origins, False
        folder = existing[0]
        seen.add(folder.resolve())
        try:
            settings = flat(_config(folder / "config.yaml"))
        except UserError:
            return [*origins, (folder, {})], False
        origins.append((folder, settings))
        start = settings.get(_START)
    return origins, True


def _lineage(folder: Path, start: object, origins: Sequence[tuple[Path, Mapping[str, Any]]]) -> frozenset[Path]:
    homes = [folder, *(home for home, _ in origins)]
    starts = [start, *(settings.get(_START) for _, settings in origins)]
    if starts[-1] is not None:  # RUN/checkpoints/last.ckpt of a run without logs, or that does not exist
        checkpoint = Path(str(starts[-1]))
        homes.append(checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint)
    return frozenset(home.resolve() for home in homes)


def _tokens(folder: Path) -> list[float | None]:
    """Target and context tokens of a run as last logged; None if they were not."""
    curves = (column(folder / "metrics.csv", f"train/{kind}_tokens") for kind in ("target", "context"))
    return [curve[-1][1] if curve else None for curve in curves]


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


# --------------------------------------------------------------------------------------------------- files


def _text(path: Path, command: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Expected a file that can be read, got {error} ({path}). Run `{command}` again.") from error


def _parsed(text: str, path: Path, command: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}"
        raise UserError(f"Expected JSON, got {error.msg} ({place}). Run `{command}` on it again.") from error


def read_json_lines(path: Path, command: str) -> Iterator[tuple[Path, Any]]:
    """Reads a file that a command wrote: the place of every line, as path:number, and its value.

    Raises:
        UserError: The file is missing or damaged.
    """
    for number, line in enumerate(lines_of(_text(path, command)), 1):
        yield Path(f"{path}:{number}"), _parsed(line, path, command, number)


def _check(value: Any, kinds: Mapping[str, Any], place: Path, command: str = "test") -> None:
    """Checks the types of a mapping's entries."""
    entries = value if isinstance(value, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(entries.get(name, ...), kind)]
    if wrong:
        raise UserError(
            f"Expected {wrong[0]!r} as this version writes it, got {entries.get(wrong[0])!r} ({place}). "
            f"Run `{command}` on it again."
        )


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads ``summary.json`` of a run folder.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"Expected a finished run, got {str(folder)!r} without summary.json. Run `test` on it first.")
    summary = _parsed(_text(path, "test"), path, "test")
    _check(summary, {"test": dict}, path)
    return dict(summary)


def _suite(folder: Path) -> dict[str, Any]:
    path = folder / SUITE_FILE
    if not path.exists():
        return {}
    suite = _parsed(_text(path, "suite"), path, "suite")
    _check(suite, {"task": str, "method": str, "evaluate": bool}, path, "suite")
    return dict(suite)


def _config(path: Path) -> Any:
    try:
        config = yaml.load(_text(path, "fit"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise UserError(f"Expected YAML, got {' '.join(str(error).split())} ({path}). Run `fit` again.") from error
    _check(config, {"model": dict, "data": dict}, path, "fit")
    return config


def _answers(path: Path, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Predictions by test set and id; they must agree with the scores in the summary."""
    answers: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in scores}
    for place, row in read_json_lines(path, "test"):
        _check(row, _ANSWER, place)
        if not all(isinstance(stage, list) and len(stage) == 2 for stage in row["stages"]):
            raise UserError(f"Expected stages as pairs, got {row['stages']} ({place}). Run `test` on it again.")
        answers.setdefault(row["set"], {})[row["id"]] = row
    for name, rows in answers.items():
        expected = scores.get(name, {"n": 0, "accuracy": 0.0})
        right = sum(row["correct"] for row in rows.values())
        if len(rows) != expected["n"] or abs(right - expected["accuracy"] * expected["n"]) > 0.5:
            raise UserError(
                f"Expected {expected['n']} answers of {name!r} as in summary.json, got {len(rows)}, {right} of them "
                f"right ({path}). Run `test` on it again."
            )
    return answers
