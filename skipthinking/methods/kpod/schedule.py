"""KPOD's schedule: how many steps of each rationale are given as input, stage by stage (arXiv 2405.16064, Eq. 9-13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from skipthinking.records import UserError

__all__ = ["Schedule", "hardness", "plan_inputs", "select", "value"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Settings of the schedule.

    Attributes:
        stages: T, the stage from which on nothing is given.
        exponent: p; D(t) grows with the power p + 1.
        start_share: Share of all difficulty that the first stage asks for, C_0 / B.
        diversity: Beta, what a question of a cluster that few others are from is worth, in nats.
        steps_per_stage: Delta s, by how many steps a chosen question falls; None for as few as let all of them fall to
            nothing in T stages.
    """

    stages: int
    exponent: float = 0.5
    start_share: float = 0.3
    diversity: float = 12.0
    steps_per_stage: int | None = None

    def __post_init__(self) -> None:
        if self.stages < 1 or (self.steps_per_stage is not None and self.steps_per_stage < 1):
            raise UserError(
                "Expected at least 1 stage and 1 step per stage, got "
                f"model.stages={self.stages}, model.steps_per_stage={self.steps_per_stage}."
            )
        if not (0 <= self.exponent < np.inf and 0 <= self.start_share <= 1 and 0 <= self.diversity < np.inf):
            raise UserError(
                "Expected an exponent and a diversity of at least 0, not infinite, and a start share from 0 to 1, got "
                f"model.exponent={self.exponent}, model.diversity={self.diversity}, "
                f"model.start_share={self.start_share}."
            )

    def budget(self, stage: int, total: float) -> float:
        """D(t), the difficulty that a stage may ask for (Eq. 10): from C_0 to all of it, B, at stage T.

        >>> [round(Schedule(stages=4).budget(t, 10.0), 2) for t in (0, 2, 4)]
        [3.0, 5.47, 10.0]
        """
        start = self.start_share * total
        return start + (total - start) * (stage / self.stages) ** (self.exponent + 1)


def hardness(difficulty: Sequence[float] | Floats, given: int) -> float:
    """h: the difficulty of the steps that are not given (Eq. 9).

    >>> hardness([1.0, 2.0, 3.0], 2)
    3.0
    """
    return float(np.sum(difficulty[given:]))


def plan_inputs(difficulty: Sequence[Floats], clusters: Ints, schedule: Schedule, *, quiet: bool = True) -> Ints:
    """How many steps of every question are given, c_i(t), from stage 0 to stage T.

    Going into a stage, questions are chosen by :func:`select`, whose inputs fall; their new steps together are no
    harder than what the budget has left, so the steps asked for never exceed D(t).

    Departures: the paper does not say where the first stage begins; here each question begins with as many of its last
    steps as fit into ``start_share`` of its own difficulty, so that all of them together fit into C_0. What a stage
    leaves of its budget is left to the next one.

    Args:
        difficulty: Difficulty of every step, one array per question.
        clusters: Cluster of every question, shape (n,), from 0.
        schedule: Settings.
        quiet: No progress bar.

    Returns:
        Shape (T + 1, n); the last row is zero.
    """
    counts = np.array([len(steps) for steps in difficulty])
    # h_i(c) for all c = 0..S_i, questions one after the other, so that one lookup serves all of them.
    tails = [np.append(np.cumsum(steps[::-1])[::-1], 0.0) for steps in difficulty]
    table, starts = np.concatenate(tails), np.cumsum([0, *(counts + 1)[:-1]])
    total = float(table[starts].sum())
    own = schedule.start_share * table[starts]
    given = np.array([np.argmax(tail <= share) for tail, share in zip(tails, own, strict=True)])
    fall = schedule.steps_per_stage or max(1, -(-int(given.max()) // schedule.stages))
    rows = [given]
    for stage in tqdm(range(1, schedule.stages), desc="Schedule", delay=2, leave=False, disable=quiet):
        lower = np.maximum(given - fall, 0)
        now = table[starts + given]
        costs = np.where(given > 0, table[starts + lower] - now, np.inf)
        left = max(0.0, schedule.budget(stage, total) - float(now.sum()))
        given = np.where(select(costs, clusters, left, schedule.diversity), lower, given)
        rows.append(given)
    return np.stack([*rows, np.zeros_like(given)])


def value(chosen: NDArray[np.bool_], costs: Floats, clusters: Ints, diversity: float) -> float:
    r"""F(S) + \Delta D = \Delta H(S) + \beta \sum_k \sqrt{|C_k \cap S|} (Eq. 12), which is 0 for the empty set."""
    per_cluster = np.bincount(clusters[chosen])
    return float(costs[chosen].sum() + diversity * np.sqrt(per_cluster).sum())


def select(costs: Floats, clusters: Ints, budget: float, diversity: float) -> NDArray[np.bool_]:
    r"""A set S with cost :math:`\Delta H(S) \le` budget and at least half of the greatest possible value.

    The value f(S) of :func:`value` is non-negative, monotone and submodular, the constraint is a knapsack. This is
    Greedy+Max (Yaroslavtsev, Zhou and Avdiukhin, AISTATS 2020): of every prefix of the density greedy
    with the one question that then adds most and still fits, the best. It has f(S) >= f(OPT) / 2. Proof: let o be OPT's
    dearest question and G_0, G_1, ... the prefixes that leave room for it. All others of OPT fit as well there. If
    f(G_j + o) < f(OPT) / 2 for all of these j, the others would add at least f(OPT) / 2 to G_j, so that each greedy
    step has a density of at least f(OPT) / 2 over the cost of the others; the first prefix that leaves no room for o
    costs more than they do, and so is worth f(OPT) / 2.

    The guarantee is for f = F + Delta D, the gain over choosing nothing; F itself is negative for the empty set, and no
    algorithm of the kind promises a share of that. The paper's FTGP promises 1/2 - epsilon.

    What makes it near-linear: in a cluster the cheapest question is the densest, and the gain of its j-th one does not
    depend on the other clusters. So one sort by density is the greedy order, and a binary search per prefix and cluster
    finds the best addition: O(n log n) for a fixed number of clusters.

    Args:
        costs: What each question would add to the difficulty asked for, shape (n,), at least 0; infinite for one that
            cannot be chosen.
        clusters: Cluster of each, shape (n,).
        budget: Greatest total cost.
        diversity: Beta.

    Returns:
        Whether each question is chosen.
    """
    chosen = np.zeros(len(costs), dtype=bool)
    open_ = np.flatnonzero(costs <= budget)
    if not len(open_):
        return chosen
    order, gains = _densest_first(costs, clusters, open_, diversity)
    taken = _greedy(costs, clusters, order, budget)
    ends = np.concatenate([[0.0], np.cumsum(costs[taken])])
    values = np.concatenate([[0.0], np.cumsum(costs[taken] + gains[taken])])
    best, prefix, extra = values[-1], len(taken), -1
    for cluster in np.unique(clusters[open_]):
        inside = np.sort(costs[open_][clusters[open_] == cluster])
        count = np.concatenate([[0], np.cumsum(clusters[taken] == cluster)])
        dearest = np.searchsorted(inside, budget - ends, side="right") - 1
        bonus = diversity * (np.sqrt(count + 1) - np.sqrt(count))
        found = np.where(dearest >= count, values + inside[np.maximum(dearest, 0)] + bonus, -np.inf)
        if found.max() > best:
            best, prefix = float(found.max()), int(found.argmax())
            extra = int(_ranked(costs, clusters, open_, int(cluster))[dearest[prefix]])
    chosen[taken[:prefix]] = True
    if extra >= 0:
        chosen[extra] = True
    return chosen


def _ranked(costs: Floats, clusters: Ints, open_: Ints, cluster: int) -> Ints:
    """The questions of a cluster that can be chosen, the cheapest first."""
    inside = open_[clusters[open_] == cluster]
    return inside[np.argsort(costs[inside], kind="stable")]


def _densest_first(costs: Floats, clusters: Ints, open_: Ints, diversity: float) -> tuple[Ints, Floats]:
    """The questions in the order of the density greedy, and the gain in diversity that each brings in it."""
    by_cluster = open_[np.lexsort((costs[open_], clusters[open_]))]
    first = np.r_[True, np.diff(clusters[by_cluster]) != 0]
    start = np.maximum.accumulate(np.where(first, np.arange(len(by_cluster)), 0))
    rank = np.arange(len(by_cluster)) - start
    gains = np.zeros(len(costs))
    gains[by_cluster] = diversity * (np.sqrt(rank + 1) - np.sqrt(rank))
    price = costs[by_cluster]
    density = np.divide(gains[by_cluster], price, out=np.full(len(price), np.inf), where=price > 0)
    return by_cluster[np.lexsort((by_cluster, rank, -density))], gains


def _greedy(costs: Floats, clusters: Ints, order: Ints, budget: float) -> Ints:
    """The order without what no longer fits; once one of a cluster does not, no later and dearer one of it does."""
    taken, left = [order[:0]], budget
    while len(order):
        spent = np.cumsum(costs[order])
        fit = int(np.searchsorted(spent, left, side="right"))
        taken.append(order[:fit])
        if fit == len(order):
            break
        left -= float(spent[fit - 1]) if fit else 0.0
        rest = order[fit:]
        order = rest[clusters[rest] != clusters[order[fit]]]
    return np.concatenate(taken)
