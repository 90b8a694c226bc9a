"""What a suite's YAML says: the runs of methods x tasks x seeds, in an order in which they can be run."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from skipthinking.command_line.layers import layers
from skipthinking.records import UserError, did_you_mean

__all__ = ["Planned", "Suite", "read_suite"]

_SUITE = {"seeds", "methods", "tasks", "config", "words", "runs_dir", "baseline"}
_TASK = {"config", "words"}
_METHOD = {"config", "words", "needs", "evaluate"}
_FOLDER = re.compile(r"\{(\w[\w.-]*)\}")
_OWN = ("--run", "--runs_dir", "--seed_everything", "--ckpt_path", "--evaluate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A run of a suite.

    Attributes:
        name: TASK-METHOD-SEED, also the name of its folder.
        task: The task.
        method: The method.
        seed: The seed.
        needs: Name of the run that it starts from, or None.
        after: Names of all runs that must be done before: that one, and those whose folders its words name.
        evaluate: Whether it is tested; one that others only start from need not be.
        words: Words of ``fit``.
        settings: Digest of everything that makes the run: words, what the YAML files say, the same of the runs before.
    """

    name: str
    task: str
    method: str
    seed: int
    needs: str | None
    after: tuple[str, ...]
    evaluate: bool
    words: tuple[str, ...]
    settings: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A suite.

    Attributes:
        name: Name of its YAML file.
        path: The file.
        runs_dir: Where its run folders lie.
        baseline: Method that the comparison takes differences against, or None.
        runs: Its runs by name, each after those that it needs.
    """

    name: str
    path: Path
    runs_dir: Path
    baseline: str | None
    runs: Mapping[str, Planned]


def read_suite(path: Path, runs_dir: str | None = None) -> Suite:
    """Reads a suite's YAML. Files that it names as ``config`` are looked for beside it.

    In the words of a method, ``{OTHER}`` is the folder of that method's run with this task and seed, which comes first.

    Args:
        path: The file.
        runs_dir: Where run folders lie, in place of what the file says.

    Raises:
        UserError: A key is unknown, a value is of the wrong kind, a file is missing, or needs go in a circle.
    """
    content = _mapping(_yaml(path, "--config"), _SUITE, str(path))
    methods = _named(content, "methods", _METHOD, path)
    tasks = _named(content, "tasks", _TASK, path)
    seeds = content.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"Expected a list of seeds, got seeds: {seeds} ({path}). Write, say, seeds: [0, 1, 2].")
    for key in ("baseline", "runs_dir"):
        if not isinstance(content.get(key), (str, type(None))):
            raise UserError(f"Expected a text, got {key}: {content[key]} ({path}). Fix it.")
    baseline = content.get("baseline")
    if baseline is not None and baseline not in methods:
        raise UserError(f"Expected a baseline out of {', '.join(methods)}, got {baseline!r} ({path}). Fix it.")
    folder = Path(runs_dir or content.get("runs_dir") or f"runs/{path.stem}")
    contents = cache(lambda file: [_yaml(layer, str(path)) for layer in layers(file)])  # many runs have the same files
    runs: dict[str, Planned] = {}
    for method, (task, seed) in itertools.product(_ordered(methods, path), itertools.product(tasks, seeds)):
        levels = [content, tasks[task], methods[method]]
        run = _planned(task, method, seed, levels, folder, runs, path, contents)
        if run.name in runs:
            raise UserError(
                f"Expected runs of different names, got two {run.name!r} ({path}). Rename a task or method."
            )
        runs[run.name] = run
    return Suite(name=path.stem, path=path, runs_dir=folder, baseline=baseline, runs=runs)


def _planned(
    task: str, method: str, seed: int, levels: list[dict[str, Any]], folder: Path, runs: Mapping[str, Planned],
    path: Path, contents: Callable[[Path], list[Any]],
) -> Planned:  # fmt: skip
    name, needs = f"{task}-{method}-{seed}", levels[-1].get("needs")
    evaluate = levels[-1].get("evaluate", True)
    if not isinstance(evaluate, bool):
        raise UserError(f"Expected true or false, got evaluate: {evaluate} (methods.{method}, {path}).")
    files = [file for level in levels for file in _files(level, path)]
    words = [word for level in levels for word in _words(level, path)]
    first = runs[f"{task}-{needs}-{seed}"] if needs else None
    used = {other: runs[f"{task}-{other}-{seed}"] for other in _used(levels[-1], path)}
    identity = [[layer for file in files for layer in contents(file)], words, seed, first.settings if first else None]
    identity += [run.settings for run in used.values()]
    own = _words(levels[-1], path)
    words = words[: len(words) - len(own)] + [_FOLDER.sub(lambda at: str(folder / used[at[1]].name), w) for w in own]
    start = ["--model.start_from", str(folder / first.name / "checkpoints" / "last.ckpt")] if first else []
    return Planned(
        name=name, task=task, method=method, seed=seed, needs=first.name if first else None, evaluate=evaluate,
        after=tuple(run.name for run in [*([first] if first else []), *used.values()]),
        words=(
            *(word for file in files for word in ("--config", str(file))), *words, *start,
            "--seed_everything", str(seed), "--runs_dir", str(folder), "--run", name,
            *(() if evaluate else ("--evaluate", "false")),
        ),
        settings=hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16],
    )  # fmt: skip


def _ordered(methods: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Methods in the file's order, each after those that it needs."""
    graph = {}
    for method, about in methods.items():
        named = {f"needs: {about['needs']}": about["needs"]} if about.get("needs") is not None else {}
        named |= {f"{{{other}}} in its words": other for other in _used(about, path)}
        for how, other in named.items():
            if str(other) not in methods:
                hint = did_you_mean(str(other), methods)
                raise UserError(f"Expected a method, got {how} (methods.{method}, {path}).{hint}")
        graph[method] = list(named.values())
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise UserError(f"Expected methods that can be run one after the other, got {circle} ({path}).") from error
    return iter(order)


# ------------------------------------------------------------------------------------------- reading keys


def _yaml(path: Path, named_in: str) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Expected a YAML file, got {str(path)!r}: {error} ({named_in}). Fix its path.") from error
    except yaml.YAMLError as error:
        raise UserError(f"Expected YAML, got {' '.join(str(error).split())} ({path}). Fix the file.") from error


def _mapping(value: Any, known: set[str], where: str) -> dict[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise UserError(f"Expected keys ({', '.join(sorted(known))}), got {value!r} ({where}).")
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise UserError(f"Expected one of {', '.join(sorted(known))}, got {key!r} ({where}).{hint}")
    return value


def _named(content: Mapping[str, Any], kind: str, known: set[str], path: Path) -> dict[str, dict[str, Any]]:
    named = content.get(kind)
    if not isinstance(named, dict) or not named:
        raise UserError(f"Expected {kind} by name, got {named!r} ({path}). Write {kind}: {{NAME: {{...}}, ...}}.")
    for name in named:
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise UserError(f"Expected a name of letters, digits, _ . and -, got {name!r} ({kind}, {path}).")
    return {str(name): _mapping(about, known, f"{kind}.{name}, {path}") for name, about in named.items()}


def _words(level: Mapping[str, Any], path: Path) -> list[str]:
    given = level.get("words") or []
    try:
        words = shlex.split(given) if isinstance(given, str) else [str(word) for word in given]
    except (TypeError, ValueError) as error:
        raise UserError(f"Expected words of a command line, got {given!r}: {error} ({path}).") from error
    for word in words:
        if word.partition("=")[0] in _OWN:
            raise UserError(f"Expected words that the suite does not set itself, got {word} ({path}). Remove it.")
    return words


def _used(method: Mapping[str, Any], path: Path) -> list[str]:
    """The methods whose folders a method's words name."""
    return list(dict.fromkeys(name for word in _words(method, path) for name in _FOLDER.findall(word)))


def _files(level: Mapping[str, Any], path: Path) -> list[Path]:
    given = level.get("config") or []
    if not isinstance(given, (str, list)):
        raise UserError(f"Expected a file or a list of files, got config: {given!r} ({path}).")
    return [path.parent / file for file in ([given] if isinstance(given, str) else given)]
