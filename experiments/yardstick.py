"""How found chunks and skips compare with what the generators of the built-in tasks know of every step.

The kinds of steps (reasoning, transition, summary) are recorded in the examples' meta, which no method reads. For
average, greedy and exact chunks, all from the same step losses: J, and the mean share of a chunk's steps that are of
its most frequent kind, reasoning or not. For the skips: how many steps of each kind are skipped.

    python -m skipthinking annotate --config runs/NAME/config.yaml
    python experiments/yardstick.py runs/NAME/annotations.jsonl --task arithmetic --size 4000
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from skipthinking.data.chunkers import best_partition
from skipthinking.methods.skip_thinking.chunks import chunk_costs, greedy_partition, objective
from skipthinking.tasks import generate


def purity(chunks: Any, kinds: list[str]) -> float:
    """Mean over chunks of the share of steps that are of the chunk's most frequent kind, reasoning or not."""
    shares = [np.mean([kind == "reasoning" for kind in kinds[i:j]]) for i, j in chunks]
    return float(np.mean([max(share, 1 - share) for share in shares]))


def main() -> None:
    """Reads annotations, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--size", type=int, required=True, help="that of the training set")
    parser.add_argument("--seed", type=int, default=0, help="that of the training set")
    parser.add_argument("--chunks", type=int, default=4, help="M of the chunkings that are compared")
    asked = parser.parse_args()
    known = {row.id: row for row in generate(asked.task, split="train", size=asked.size, seed=asked.seed)}
    rows = [json.loads(line) for line in asked.file.read_text(encoding="utf-8").splitlines()]
    found: dict[str, list[tuple[float, float]]] = {"average": [], "greedy": [], "exact": []}
    steps, skipped = Counter(), Counter()
    ordered = aligned = 0
    for row in rows:
        kinds = [step["kind"] for step in known[row["id"]].meta["steps"]]
        if len(kinds) != len(row["steps"]):
            continue
        aligned += 1
        for m, (first, end) in enumerate(row["chunks"]):
            steps.update(kinds[first:end])
            skipped.update(kinds[first:end] if m not in row["kept"] else [])
        tokens = np.array(row["tokens"])
        costs = chunk_costs(np.array(row["nll"]) * tokens, tokens)
        sizes = (np.cumsum([0, *tokens])[None, :] - np.cumsum([0, *tokens])[:, None]).astype(float)
        groups = min(asked.chunks, len(tokens))
        average = best_partition((sizes - tokens.sum() / groups) ** 2, groups)
        cuts = {
            "average": average,
            "greedy": greedy_partition(average, costs, 0.01),
            "exact": best_partition(costs, groups),
        }
        for name, cut in cuts.items():
            found[name].append((objective(cut, costs), purity(cut, kinds)))
        j = {name: values[-1][0] for name, values in found.items()}
        ordered += j["exact"] <= j["greedy"] + 1e-9 and j["greedy"] <= j["average"] + 1e-9
    print(f"{asked.task}: {aligned} of {len(rows)} examples whose steps are the generator's")
    print(f"J(exact) <= J(greedy) <= J(average), M = {asked.chunks}: {ordered} of {aligned}")
    for name, values in found.items():
        j, pure = np.mean(values, axis=0)
        print(f"  {name:8} J {j:.4f}  share of one kind {pure:.3f}")
    for kind, count in steps.most_common():
        print(f"  {kind:10} {skipped[kind]} of {count} steps skipped, {skipped[kind] / count:.2%}")


if __name__ == "__main__":
    main()
