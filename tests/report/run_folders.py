"""Run folders as `fit` and `test` leave them, written by functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml


def write_run(
    folder: Path, method: str = "CWT", seed: int = 0, correct: Sequence[int] = (1, 0, 1, 1), tokens: int = 10,
    test: str = "sums", suite: dict[str, Any] | None = None, settings: dict[str, Any] | None = None,
    answer_settings: dict[str, Any] | None = None, **summary: Any,
) -> Path:  # fmt: skip
    """A finished run that answered one test set of made-up sums, or, in a run's folder, one with other settings."""
    folder.mkdir(parents=True)
    rows = [
        {"set": test, "id": f"{test}-{n}", "task": test, "question": f"{n} + 1?", "gold": str(n + 1),
         "completion": f"It is {n + right}.", "extracted": str(n + right), "extracted_lenient": str(n + right),
         "correct": bool(right), "correct_lenient": bool(right), "new_tokens": tokens + n, "finished": True,
         "stages": [["rationale", f"It is {n + right}."]], "skipped": None}
        for n, right in enumerate(correct)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    share = sum(correct) / len(correct)
    scores = {"n": len(correct), "accuracy": share, "accuracy_lenient": share, "no_answer": 0.0,
              "unfinished": 0.0, "new_tokens": tokens + (len(correct) - 1) / 2}  # fmt: skip
    values = {"method": method, "seed": seed, "steps": 5, "target_tokens": 1000, "context_tokens": 200,
              "fit_seconds": 2.0, "latency_seconds": 0.05, "device": "cpu, 1 threads",
              "settings": answer_settings or {}, "test": {test: scores}}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({**values, **summary}))
    if answer_settings:
        return folder
    config = {"seed_everything": seed, "run": folder.name, "runs_dir": str(folder.parent),
              "model": {"class_path": method, "init_args": {"start_from": None, **(settings or {})}},
              "data": {"init_args": {"batch_size": 4}}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if suite is not None:
        (folder / "suite.json").write_text(json.dumps({"evaluate": True, **suite}))
    return folder


EVIL = "<script>evil()</script> & \"quotes\" 'too' {{ 1 }}"
ANNOTATED = {
    "id": "a", "question": "1 + 1?", "steps": ["We see.", "One and", "one is 2."], "nll": [0.9, 0.03, 0.3],
    "chunks": [[0, 1], [1, 3]], "kept": [1], "answer": "So 2.",
}  # fmt: skip


def write_comparison(folder: Path) -> list[str]:
    """Two methods on the same five examples, one of them with two seeds; then another test set."""
    runs = [
        write_run(folder / "a0", seed=0, correct=[1, 1, 0, 0, 1], tokens=10),
        write_run(folder / "a1", seed=1, correct=[1, 0, 0, 0, 1], tokens=12),
        write_run(folder / "b", EVIL, correct=[1, 0, 1, 0, 0], tokens=30),
        write_run(folder / "c", test="words", correct=[0, 1]),
    ]
    for place, run in enumerate(runs):
        rows = [f"{step},{4 / (step + 1) + place}," for step in range(30)]
        (run / "metrics.csv").write_text("\n".join(["step,train/loss,val/accuracy", *rows, "30,,0.5", "31,"]) + "\n")
    (runs[0] / "annotations.jsonl").write_text(json.dumps(ANNOTATED) + "\n")
    return list(map(str, runs))


def change_answers(folder: str | Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replaces some values in every line of predictions.jsonl."""
    path = Path(folder, "predictions.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, **change(row)}) + "\n" for row in rows))
