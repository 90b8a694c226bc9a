"""Compares diagnoses over seeds: means with 95% intervals, and differences of runs with the same seed.

    python experiments/diagnosis.py runs/diagnosis/*/diagnosis.json --baseline full_cot

A run is named TASK-METHOD-SEED, as a suite names it. Intervals are Student's t over seeds; those of a difference are of
the differences of runs with the same seed, which in suites/diagnosis.yaml share a warm-up.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

SHARES = ("tokens", "norm", "cosine", "projection", "per_token", "random", "nll")


def numbers(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a diagnosis, by name."""
    for unit in ("example", "step") if found["gradients"] else ():
        yield f"{unit}: with core", found["gradients"][unit]["with_core"]
        for name in SHARES:
            yield f"{unit}: {name}", found["gradients"][unit]["mean"].get(name, np.nan)
    for split in ("train", "test") if found["sharpness"] else ():
        row = found["sharpness"][split]
        yield f"{split}: loss", row["loss"]
        if "eigenvalue" in row:
            yield f"{split}: top eigenvalue", row["eigenvalue"]
        for radius, rise in row["noise"].items():
            yield f"{split}: +loss at {radius}", rise["increase"]


def interval(values: list[float]) -> str:
    """Mean and 95% interval."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return f"{mean:.4g}"
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return f"{mean:.4g} ({mean - half:.4g} to {mean + half:.4g})"


def main() -> None:
    """Reads files and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--baseline", help="method that differences are taken against")
    options = parser.parse_args()
    runs: dict[str, dict[str, dict[str, float]]] = {}  # numbers by method and seed
    for path in options.files:
        _, method, seed = path.parent.name.rsplit("-", 2)
        label = method + path.stem.removeprefix("diagnosis")
        runs.setdefault(label, {})[seed] = dict(numbers(json.loads(path.read_text(encoding="utf-8"))))
    base = runs.get(options.baseline, {})
    for method, by_seed in runs.items():
        print(f"\n{method}: seeds {', '.join(by_seed)}")
        for name in next(iter(by_seed.values())):
            line = f"  {name:<24}{interval([found[name] for found in by_seed.values()]):<36}"
            paired = [found[name] - base[seed][name] for seed, found in by_seed.items() if name in base.get(seed, {})]
            print(line + (f"{interval(paired)} - {options.baseline}" if paired and method != options.baseline else ""))


if __name__ == "__main__":
    main()
