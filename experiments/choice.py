"""Chooses the settings of suites/real.yaml by the rules of suites/real_choice.yaml, from validation results alone.

python experiments/choice.py [FOLDER]          # default: runs/real_choice
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

TASK, TOLERANCE = "svamp4", 0.02
# setting: the candidates' prefix, and the row that they may lose to by TOLERANCE (None: the highest accuracy is chosen)
CHOICES = {"learning rate": ("rate_", None), "max_rise": ("rise_", "no_skip"), "share": ("share_", "rate_5e-5")}

Row = tuple[float, float, int]  # accuracy, new tokens, seeds


def read(folder: Path) -> dict[str, Row]:
    """Means over seeds by method, of the last validation of each run."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path in sorted(folder.glob(f"{TASK}-*/metrics.csv")):
        with path.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("val/accuracy")]
        if rows:
            method = path.parent.name.removeprefix(f"{TASK}-").rpartition("-")[0]
            found[method].append((float(rows[-1]["val/accuracy"]), float(rows[-1]["val/new_tokens"])))
    return {method: (mean(a for a, _ in runs), mean(t for _, t in runs), len(runs)) for method, runs in found.items()}


def choose(rows: dict[str, Row]) -> dict[str, str]:
    """The candidate of every setting that its rule chooses, with its reference beside it.

    Raises:
        ValueError: Rows that a rule needs are missing, or have other numbers of seeds.
    """
    chosen: dict[str, str] = {}
    for setting, (prefix, reference) in CHOICES.items():
        candidates = {name: row for name, row in rows.items() if name.startswith(prefix)}
        seeds = {rows[name][2] for name in (*candidates, *([reference] if reference in rows else []))}
        if not candidates or (reference and reference not in rows) or len(seeds) > 1:
            needed = f"{prefix}*" + (f" and {reference}" if reference else "")
            raise ValueError(f"Expected runs {TASK}-{needed} with the same seeds, got {', '.join(rows) or 'none'}.")
        if reference is None:
            chosen[setting] = max(candidates, key=lambda name: (candidates[name][0], -_value(name)))
            continue
        least = rows[reference][0] - TOLERANCE
        allowed = {name: row for name, row in candidates.items() if row[0] >= least}
        chosen[setting] = min(allowed, key=lambda name: allowed[name][1]) if allowed else f"none reaches {least:.1%}"
    return chosen


def _value(name: str) -> float:
    return float(name.partition("_")[2])


def main() -> None:
    """Prints the results and the choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="runs/real_choice", type=Path)
    folder = parser.parse_args().folder
    rows = read(folder)
    print("| method | seeds | accuracy % | new tokens |\n| --- | --: | --: | --: |")
    for method, (accuracy, tokens, seeds) in rows.items():
        print(f"| {method} | {seeds} | {100 * accuracy:.1f} | {tokens:.1f} |")
    print()
    try:
        for setting, name in choose(rows).items():
            print(f"{setting}: {name}")
    except ValueError as error:
        parser.error(f"{error} Finish the suite ({folder}).")


if __name__ == "__main__":
    main()
