"""Run folders as `fit` and `test` leave them, written by a function."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
