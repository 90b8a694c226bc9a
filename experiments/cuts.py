"""Compares cuts of long traces with the shortest sufficient prefix, which the generator knows and no method reads.

    python experiments/cuts.py runs/long_cot/*/annotations/cuts.jsonl --task long_arithmetic --size 4000

Reads the cuts of LongCoT runs, or those that `annotate` wrote for one run. Prints one line per file: n and the share
of dropped traces; of the other traces the shares that are cut at the paragraph with the last result (exact), before it
(too short) and after it (too long), the mean signed and absolute distance in paragraphs, and the mean numbers of
paragraphs that are kept, sufficient, and in the full trace.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skipthinking.records import Example
from skipthinking.tasks import generate


def read_cuts(path: Path) -> dict[str, int | None]:
    """Number of kept paragraphs by example id; None for a dropped trace.

    A row is {"id": "a", "cut": 3} in ``annotations.jsonl`` and {"id": "a", "value": [3]} in ``annotations/cuts.jsonl``;
    a dropped trace has null and [].
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["cut"] if "cut" in row else next(iter(row["value"]), None) for row in rows if "id" in row}


def nearness(cuts: Mapping[str, int | None], known: Mapping[str, Example]) -> dict[str, float]:
    """The columns of the table for one set of cuts."""
    kept = {id: steps for id, steps in cuts.items() if steps is not None}
    sufficient = np.array([known[id].meta["sufficient"] for id in kept])
    steps = np.array(list(kept.values()))
    extra = steps - sufficient
    return {
        "n": len(cuts),
        "dropped": 1 - len(kept) / len(cuts),
        "exact": float(np.mean(extra == 0)),
        "too short": float(np.mean(extra < 0)),
        "too long": float(np.mean(extra > 0)),
        "distance": float(np.mean(extra)),
        "absolute": float(np.mean(np.abs(extra))),
        "kept": float(np.mean(steps)),
        "sufficient": float(np.mean(sufficient)),
        "there": float(np.mean([len(known[id].rationale.split("\n\n")) for id in kept])),
    }


def main() -> None:
    """Reads cuts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--task", default="long_arithmetic")
    parser.add_argument("--size", type=int, required=True, help="size of the generated training set")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated training set")
    args = parser.parse_args()
    known = {row.id: row for row in generate(args.task, split="train", size=args.size, seed=args.seed)}
    width = max(len(str(path)) for path in args.files)
    for index, path in enumerate(args.files):
        columns = nearness(read_cuts(path), known)
        if not index:
            print(" " * width, *(f"{name:>10}" for name in columns))
        shown = [f"{value:10.1%}" if name in ("dropped", "exact", "too short", "too long") else f"{value:10.5g}"
                 for name, value in columns.items()]  # fmt: skip
        print(f"{path!s:{width}}", *shown)


if __name__ == "__main__":
    main()
