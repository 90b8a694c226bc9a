"""How near cuts of long traces come to the shortest sufficient prefix, which the generator knows and no method reads.

    python experiments/cuts.py runs/long_cot/*/annotations/cuts.jsonl --task long_arithmetic --size 4000

Takes what runs of LongCoT leave, or what `annotate` wrote of one. A line per file: n, share of traces dropped. Of
the others, the shares that are cut at the paragraph with the last result (exact), before it and behind it; by how many
paragraphs a prefix is too long on average, and how far off; and how many paragraphs are kept, sufficient, and there.
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
    """Paragraphs that are kept by example id, None where the trace was dropped."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["cut"] if "cut" in row else next(iter(row["value"]), None) for row in rows if "id" in row}


def nearness(cuts: Mapping[str, int | None], known: Mapping[str, Example]) -> dict[str, float]:
    """What the table says of a set of cuts."""
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
    """Reads cuts, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--task", default="long_arithmetic")
    parser.add_argument("--size", type=int, required=True, help="that of the training set")
    parser.add_argument("--seed", type=int, default=0, help="that of the training set")
    asked = parser.parse_args()
    known = {row.id: row for row in generate(asked.task, split="train", size=asked.size, seed=asked.seed)}
    width = max(len(str(path)) for path in asked.files)
    for place, path in enumerate(asked.files):
        found = nearness(read_cuts(path), known)
        if not place:
            print(" " * width, *(f"{name:>10}" for name in found))
        shown = [f"{value:10.1%}" if name in ("dropped", "exact", "too short", "too long") else f"{value:10.5g}"
                 for name, value in found.items()]  # fmt: skip
        print(f"{path!s:{width}}", *shown)


if __name__ == "__main__":
    main()
