"""A method against the baseline: difference of accuracy, tokens saved, a score for both; and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from skipthinking.evaluation.intervals import ratio_interval, spread
from skipthinking.report.grouping import Group, questions

__all__ = ["Against", "against", "e3_score", "pareto_front"]


class Against(NamedTuple):
    """A method against the baseline on the test examples that both answered; None where there is nothing to compare.

    Attributes:
        difference: Accuracy minus the baseline's.
        difference_low: Lower end of its interval; None if all answers differ alike, as no spread is seen then.
        difference_high: Upper end.
        detectable: Minimum detectable effect: the true difference that runs with this spread would show (an interval
            without 0) in about 80% of repetitions.
        seeds_paired: Whether each run is compared with the run of the baseline that comes from the same warm-up.
        no_worse: Whether the interval lies above minus the margin (one-sided 97.5%); None without a margin.
        saved: Fraction of the baseline's new tokens that the method does not write.
        saved_low: Lower end of its interval; None if no spread is seen, as with one answer.
        saved_high: Upper end.
        e3: See ``e3_score``.
    """

    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    detectable: float | None = None
    seeds_paired: bool = False
    no_worse: bool | None = None
    saved: float | None = None
    saved_low: float | None = None
    saved_high: float | None = None
    e3: float | None = None


def against(group: Group, base: Group | None, margin: float | None) -> Against:
    """Compares a group with the baseline's, seed by seed where the runs come from the same warm-ups.

    Args:
        group: The method's runs.
        base: The baseline's, None if it has none on this test set.
        margin: The loss of accuracy that still counts as no worse, as a fraction of 1.
    """
    if base is None or base is group:
        return Against()
    ids = sorted(id for id, *_ in questions(group.runs[0], group.name) & questions(base.runs[0], base.name))
    if not ids:
        return Against()
    partners = _partners(group, base)
    paired, other = partners is not None, partners or base
    ours_SN, theirs_RN = group.values("correct", ids), other.values("correct", ids)
    accuracy, reference = float(ours_SN.mean()), float(theirs_RN.mean())
    width = spread(ours_SN - theirs_RN) if paired else spread(ours_SN, theirs_RN)
    half, difference = float(width.half), accuracy - reference
    ours_SN, theirs_RN = group.values("new_tokens", ids), other.values("new_tokens", ids)
    written = ours_SN.mean() > 0 and theirs_RN.mean() > 0
    ratio, low, high = ratio_interval(ours_SN, theirs_RN, paired) if written else (None, None, None)
    if low == high:
        low = high = None
    return Against(
        difference=difference,
        difference_low=difference - half if half else None,
        difference_high=difference + half if half else None,
        detectable=float(width.detectable) if half else None,
        seeds_paired=paired and len(group.runs) > 1,
        no_worse=None if margin is None else half > 0 and difference - half > -margin,
        saved=None if ratio is None else 1 - ratio,
        saved_low=None if high is None else 1 - high,
        saved_high=None if low is None else 1 - low,
        e3=None if ratio is None else e3_score(accuracy, reference, 1 / ratio),
    )


def _partners(group: Group, base: Group) -> Group | None:
    """The baseline's runs in the order of the group's, if each pair, and no other, shares the run that it comes from.

    Both may have started from one run, or one from the other. All other runs are unpaired: equal seeds alone draw the
    same examples, but two methods make something else of them.
    """
    if len(group.runs) != len(base.runs):
        return None
    sharing = [[other for other in base.runs if run.lineage & other.lineage] for run in group.runs]
    chosen = tuple(others[0] for others in sharing if len(others) == 1)
    if len({run.folder for run in chosen}) < len(group.runs):
        return None
    return Group(test=base.test, name=base.name, method=base.method, runs=chosen)


def e3_score(accuracy: float, reference: float, shorter: float) -> float | None:
    """E3-Score, the Efficiency-Effectiveness Equilibrium of EffiReason-Bench (Huang et al., 2025, arXiv 2511.10201).

    The harmonic mean, weighted by w and 1 - w, of two gains over the baseline: that of the odds of a right answer,
    r_acc = [A / (1 - A)] / [A0 / (1 - A0)], and that of tokens, r_tok = T0 / T, with w = A0, the baseline's accuracy:

        E3 = (w r_acc^rho + (1 - w) r_tok^rho)^(1 / rho) at rho = -1, so 1 / (A0 / r_acc + (1 - A0) / r_tok)

    The baseline has 1. A score above 1 does not say that accuracy was kept: half the odds are made up for by enough
    tokens, the more so the lower A0 is. The paper was not read: the formula is from two secondary descriptions that
    agree, alphaXiv's page of the benchmark (its terms and the two defaults) and a reader's notes with a worked case:
    A0 = 0.5, r_acc = 0.9 and r_tok = 10 give 1.65.

    >>> round(e3_score(0.9 / 1.9, 0.5, 10.0), 3)
    1.651

    Args:
        accuracy: A, as a fraction of 1.
        reference: A0.
        shorter: T0 / T.

    Returns:
        The score; None if the baseline's odds are 0 or infinite. Its limits where A is 0 or 1.
    """
    if not 0 < reference < 1:
        return None
    if accuracy == 0:
        return 0.0
    odds = reference / (1 - reference) * (1 - accuracy) / accuracy  # 1 / r_acc
    return 1 / (reference * odds + (1 - reference) / shorter)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (accuracy, new tokens) no other dominates by at least their accuracy with at most their tokens.

    >>> pareto_front([(0.9, 100.0), (0.9, 50.0), (0.8, 60.0), (0.5, 10.0)])
    [False, True, False, True]
    """
    return [
        not any(more >= accuracy and fewer <= tokens and (more, fewer) != (accuracy, tokens) for more, fewer in points)
        for accuracy, tokens in points
    ]
