"""Compares token weights with the core tokens of a built-in task, a ground truth that no method reads.

    python experiments/keypoints.py --file runs/kpod_quick/weighter/annotations.jsonl --task arithmetic

Prints n, the area under the ROC curve over all rationale tokens, the mean weight of core and of other tokens, and the
tokens with the highest and lowest mean weight. Without ``--task`` (real data) it prints only the tokens.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipthinking.tasks import generate


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties counting half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def core_tokens(tokens: list[str], rationale: str, core: list[list[int]]) -> list[bool]:
    """Whether each token overlaps a core span of the rationale."""
    text = "".join(tokens)
    at = len(text) - len(text.lstrip()) - (len(rationale) - len(rationale.lstrip()))
    assert text[at:].startswith(rationale.strip()[:20]), (text, rationale)
    overlaps, start = [], -at
    for token in tokens:
        end = start + len(token)
        first = start + len(token) - len(token.lstrip())
        overlaps.append(any(first < stop and begin < end for begin, stop in core))
        start = end
    return overlaps


def main() -> None:
    """Reads annotations and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="annotations.jsonl of a KeypointWeighter or KPOD run")
    parser.add_argument("--task", help="built-in task of the rationales")
    parser.add_argument("--ids", default="", help="use only ids that begin with this")
    parser.add_argument("--size", type=int, default=4000, help="size of the generated training set")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated training set")
    parser.add_argument("--top", type=int, default=25, help="tokens to print at each end")
    parser.add_argument("--least", type=int, default=20, help="minimum occurrences of a printed token")
    options = parser.parse_args()
    with options.file.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["id"].startswith(options.ids)]
    if not rows:
        parser.error(f"Expected rationales, got none whose id begins with {options.ids!r} ({options.file}).")
    weights = np.concatenate([row["weights"] for row in rows])
    print(f"{len(rows)} rationales, {len(weights)} tokens, mean weight {weights.mean():.3f}")
    if options.task:
        truth = {
            example.id: example
            for example in generate(options.task, split="train", size=options.size, seed=options.seed)
        }
        core = np.concatenate([
            core_tokens(row["tokens"], truth[row["id"]].rationale, truth[row["id"]].meta["core"]) for row in rows
        ])  # fmt: skip
        print(f"core tokens: {core.mean():.1%} of all; mean weight {weights[core].mean():.3f}, "
              f"others {weights[~core].mean():.3f}")  # fmt: skip
        print(f"area under the ROC curve: {auc(weights, core):.3f}")
    seen = defaultdict(list)
    for row in rows:
        for token, weight in zip(row["tokens"], row["weights"], strict=True):
            seen[token].append(weight)
    means = sorted((float(np.mean(values)), token) for token, values in seen.items() if len(values) >= options.least)
    print("highest:", "  ".join(f"{token!r} {mean:.2f}" for mean, token in means[::-1][: options.top]))
    print("lowest: ", "  ".join(f"{token!r} {mean:.2f}" for mean, token in means[: options.top]))


if __name__ == "__main__":
    main()
