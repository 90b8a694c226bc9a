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
        stages: T, the first progress stage in which no step is given.
        exponent: p; the budget D(t) grows with the power p + 1.
        start_share: C_0 / B, share of the total difficulty in the targets of the first progress stage.
        diversity: Beta, bonus in nats for selecting questions from different clusters.
        steps_per_stage: Delta s, number of steps by which the input of a selected question shrinks; None for the
            smallest number that lets every input reach 0 within T progress stages.
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
                f"model.stages={self.stages}, model.steps_per_stage={self.steps_per_stage}. Raise each to 1 or more."
            )
        if not (0 <= self.exponent < np.inf and 0 <= self.start_share <= 1 and 0 <= self.diversity < np.inf):
            raise UserError(
                "Expected an exponent and a diversity of at least 0, not infinite, and a start share from 0 to 1, got "
                f"model.exponent={self.exponent}, model.diversity={self.diversity}, "
                f"model.start_share={self.start_share}. Leave out what is outside of its range, for its default."
            )

    def budget(self, stage: int, total: float) -> float:
        """D(t), the maximum difficulty of all targets in a progress stage (Eq. 10): from C_0 to the total B at stage T.

        >>> [round(Schedule(stages=4).budget(t, 10.0), 2) for t in (0, 2, 4)]
        [3.0, 5.47, 10.0]
        """
        start = self.start_share * total
        return start + (total - start) * (stage / self.stages) ** (self.exponent + 1)


def hardness(difficulty: Sequence[float] | Floats, given: int) -> float:
    """h: total difficulty of the steps that are not given as input (Eq. 9).

    >>> hardness([1.0, 2.0, 3.0], 2)
    3.0
    """
    return float(np.sum(difficulty[given:]))


def plan_inputs(difficulty: Sequence[Floats], clusters: Ints, schedule: Schedule, *, quiet: bool = True) -> Ints:
    """Number of given steps of every question, c_i(t), in progress stages 0..T.

    In each stage, :func:`select` chooses the questions whose inputs shrink, within the unused budget, so that the
    difficulty of all targets never exceeds D(t).

    Departures: the paper does not specify the first stage. Here each question starts with as many of its last steps as
    targets as fit into ``start_share`` of its difficulty, so that all questions together fit into C_0. Budget that a
    stage leaves unused carries over to the next one.

    Args:
        difficulty: Difficulty of every step, one array per question.
        clusters: Cluster of every question, shape (n,), from 0.
        schedule: Settings.
        quiet: Hides the progress bar.

    Returns:
        Shape (T + 1, n); the last row is zero.
    """
    counts = np.array([len(steps) for steps in difficulty])
    # h_i(c) for c = 0..S_i, all questions end to end, so that one lookup serves all: difficulties [1, 2] and [3] give
    # table [3, 2, 0, 3, 0] with starts [0, 3].
    tails = [np.append(np.cumsum(steps[::-1])[::-1], 0.0) for steps in difficulty]
    table, starts = np.concatenate(tails), np.cumsum([0, *(counts + 1)[:-1]])
    total = float(table[starts].sum())
    own = schedule.start_share * table[starts]
    given = np.array([np.argmax(tail <= share) for tail, share in zip(tails, own, strict=True)])
    shrink = schedule.steps_per_stage or max(1, -(-int(given.max()) // schedule.stages))
    rows = [given]
    for stage in tqdm(range(1, schedule.stages), desc="Schedule", delay=2, leave=False, disable=quiet):
        lower = np.maximum(given - shrink, 0)
        current = table[starts + given]
        costs = np.where(given > 0, table[starts + lower] - current, np.inf)
        left = max(0.0, schedule.budget(stage, total) - float(current.sum()))
        given = np.where(select(costs, clusters, left, schedule.diversity), lower, given)
        rows.append(given)
    return np.stack([*rows, np.zeros_like(given)])


def value(chosen: NDArray[np.bool_], costs: Floats, clusters: Ints, diversity: float) -> float:
    r"""f(S) = F(S) + \Delta D = \Delta H(S) + \beta \sum_k \sqrt{|C_k \cap S|} (Eq. 12); 0 for the empty set."""
    per_cluster = np.bincount(clusters[chosen])
    return float(costs[chosen].sum() + diversity * np.sqrt(per_cluster).sum())


def select(costs: Floats, clusters: Ints, budget: float, diversity: float) -> NDArray[np.bool_]:
    r"""A set S with cost :math:`\Delta H(S) \le` budget and at least half of the greatest possible value.

    The value f(S) of :func:`value` is non-negative, monotone and submodular; the constraint is a knapsack. The
    algorithm is Greedy+Max (Yaroslavtsev, Zhou and Avdiukhin, AISTATS 2020): extend every prefix of the density greedy
    order by the one question that adds most and still fits, and return the best of these sets. It has f(S) >= f(OPT) /
    2. Proof: let o be OPT's most expensive question and G_0, G_1, ... the prefixes that leave enough budget for o.
    Every other question of OPT costs no more, so it fits as well. If f(G_j + o) < f(OPT) / 2 for all these j, the other
    questions add at least f(OPT) / 2 to G_j, so each greedy step has a density of at least f(OPT) / 2 divided by their
    cost. The first prefix without enough budget for o costs more than these questions, so its value is at least f(OPT)
    / 2.

    The guarantee holds for f = F + Delta D, the gain over the empty set. F itself is negative for the empty set, and no
    such algorithm guarantees a share of it. The paper's FTGP guarantees 1/2 - epsilon.

    The run time is O(n log n) for a fixed number of clusters: within a cluster the cheapest question is the densest,
    and the gain of its j-th question does not depend on other clusters. So a single sort by density gives the greedy
    order, and a binary search per prefix and cluster finds the best extension.

    Args:
        costs: Difficulty that each question would add to the targets, shape (n,), at least 0; infinite for questions
            that cannot be selected.
        clusters: Cluster of each question, shape (n,).
        budget: Maximum total cost.
        diversity: Beta.

    Returns:
        Whether each question is selected, shape (n,).
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
        ranked = open_[clusters[open_] == cluster]
        ranked = ranked[np.argsort(costs[ranked], kind="stable")]  # selectable questions of the cluster, cheapest first
        count = np.concatenate([[0], np.cumsum(clusters[taken] == cluster)])
        # Rank of the most expensive question that fits after each prefix; gains grow with cost, so it adds most.
        largest = np.searchsorted(costs[ranked], budget - ends, side="right") - 1
        bonus = diversity * (np.sqrt(count + 1) - np.sqrt(count))
        extended = np.where(largest >= count, values + costs[ranked[np.maximum(largest, 0)]] + bonus, -np.inf)
        if extended.max() > best:
            best, prefix = float(extended.max()), int(extended.argmax())
            extra = int(ranked[largest[prefix]])
    chosen[taken[:prefix]] = True
    if extra >= 0:
        chosen[extra] = True
    return chosen


def _densest_first(costs: Floats, clusters: Ints, open_: Ints, diversity: float) -> tuple[Ints, Floats]:
    """Questions in density greedy order, and the diversity gain of every question in this order."""
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
    """Takes questions in order while they fit; a cluster ends at its first misfit, because later ones cost more."""
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
