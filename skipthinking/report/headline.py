"""What a comparison is about: the students, the data, the tests and the dates, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from skipthinking.report.comparing import Comparison
from skipthinking.report.run_folders import Run

__all__ = ["facts", "title"]

_STUDENT, _TRAIN = "model.init_args.student", "data.init_args.train"
_NAMED = 4  # methods in a title


def title(comparison: Comparison) -> str:
    """Test sets and methods: "svamp: stt and full_cot"."""
    tests, methods = list(dict.fromkeys(row.test for row in comparison.rows)), comparison.methods
    return f"{_listed(tests)}: {_listed(methods) if len(methods) <= _NAMED else f'{len(methods)} methods'}"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def facts(comparison: Comparison) -> dict[str, str]:
    """Student, training data, test sets and runs of a comparison, as far as the run folders name them."""
    runs = list({run.folder: run for group in comparison.groups for run in group.runs}.values())
    tests = {f"{row.test} ({row.n:,} examples)": None for row in comparison.rows}
    seeds = sorted({run.seed for run in runs})
    dates = [str(run.summary["tested"]) for run in runs if run.summary.get("tested")]
    number = f"{len(runs)} run{'s' if len(runs) > 1 else ''}, seed{'s' if len(seeds) > 1 else ''} "
    lines = {
        "Student": _students(runs),
        "Trained on": _distinct(_train, runs),
        "Tested on": ", ".join(tests),
        "Runs": number + ", ".join(map(str, seeds)),
        "Date": " to ".join(dict.fromkeys((min(dates), max(dates)))) if dates else "",
    }
    return {name: text for name, text in lines.items() if text}


def _distinct(words: Callable[[Run], str], runs: Iterable[Run]) -> str:
    return "; ".join(filter(None, dict.fromkeys(map(words, runs))))


def _students(runs: Iterable[Run]) -> str:
    """Such as "smollm2-135m (135M parameters)"; stage markers give some methods more of them."""
    sizes: dict[str, dict[str, None]] = {}
    for run in runs:
        size = run.summary.get("parameters")
        sizes.setdefault(_student(run), {}).update({_parameters(size): None} if isinstance(size, int) else {})
    return "; ".join(
        f"{name} ({' or '.join(counts)} parameters)" if counts else name for name, counts in sizes.items() if name
    )


def _student(run: Run) -> str:
    """The name of the pretrained student, else the architecture or the class."""
    given: Mapping[str, Any] = {
        key.removeprefix(f"{_STUDENT}."): value for key, value in run.settings.items() if value is not None
    }
    if "init_args.architecture" in given:
        return f"{given['init_args.architecture']} from scratch"
    name = str(given.get("init_args.name") or str(given.get("class_path", "")).rpartition(".")[2])
    return name.rstrip("/").rpartition("/")[2]


def _parameters(count: int) -> str:
    """A number in three digits.

    >>> _parameters(739_072), _parameters(134_515_008), _parameters(7_000_000_000)
    ('739K', '135M', '7B')
    """
    power, unit = (1e9, "B") if count >= 1e9 else (1e6, "M") if count >= 1e6 else (1e3, "K")
    return f"{count / power:.3g}{unit}"


def _train(run: Run) -> str:
    """The sources of the training examples, such as "coin_flip (generated, 400)"."""
    sources = run.settings.get(_TRAIN)
    return ", ".join(map(_source, sources)) if isinstance(sources, list) else ""


def _source(source: Any) -> str:
    given = source.get("init_args", {}) if isinstance(source, dict) else {}
    kind = str(source.get("class_path", "") if isinstance(source, dict) else source).rpartition(".")[2]
    name = str(given.get("path") or given.get("task") or kind)
    name = "/".join(Path(name).parts[-2:])
    about = ["generated"] if kind == "Generated" else []
    about += [f"{given[key]:,} examples" for key in ("size", "limit") if isinstance(given.get(key), int)]
    return f"{name} ({', '.join(about)})" if about else name
