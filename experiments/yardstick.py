"""Compares searched chunks and skips with the ground truth of a built-in task: the kind of every step.

The generator records the kinds of steps (reasoning, transition, summary) in the examples' meta, which no method reads.
For average, greedy and exact chunks, all from the same step losses, this prints J and the mean share of a chunk's steps
that are of its most frequent kind (reasoning or not). For the skips it prints how many steps of each kind are skipped.

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
    """Reads annotations and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--size", type=int, required=True, help="size of the generated training set")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated training set")
    parser.add_argument("--chunks", type=int, default=4, help="number of chunks M in the comparison")
    args = parser.parse_args()
    known = {row.id: row for row in generate(args.task, split="train", size=args.size, seed=args.seed)}
    rows = [json.loads(line) for line in args.file.read_text(encoding="utf-8").splitlines()]
    scores: dict[str, list[tuple[float, float]]] = {"average": [], "greedy": [], "exact": []}
    steps: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
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
        groups = min(args.chunks, len(tokens))
        average = best_partition((sizes - tokens.sum() / groups) ** 2, groups)
        partitions = {
            "average": average,
            "greedy": greedy_partition(average, costs, 0.01),
            "exact": best_partition(costs, groups),
        }
        for name, partition in partitions.items():
            scores[name].append((objective(partition, costs), purity(partition, kinds)))
        j = {name: values[-1][0] for name, values in scores.items()}
        ordered += j["exact"] <= j["greedy"] + 1e-9 and j["greedy"] <= j["average"] + 1e-9
    print(f"{args.task}: {aligned} of {len(rows)} examples with the steps of the generator")
    print(f"J(exact) <= J(greedy) <= J(average), M = {args.chunks}: {ordered} of {aligned}")
    for name, values in scores.items():
        j, pure = np.mean(values, axis=0)
        print(f"  {name:8} J {j:.4f}  share of one kind {pure:.3f}")
    for kind, count in steps.most_common():
        print(f"  {kind:10} {skipped[kind]} of {count} steps skipped, {skipped[kind] / count:.2%}")


if __name__ == "__main__":
    main()
