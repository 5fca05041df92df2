"""How far a judge agrees with humans, and which way it errs: what earns a judge its say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Self

import numpy as np
from pydantic import model_validator
from scipy import stats

from pipelines.core.records import Difference, Estimate, Record
from pipelines.statistics import intervals
from pipelines.statistics.intervals import Scores

Verdicts = Scores
"""Answer id -> 1 (passed) or 0 (failed); None = no verdict."""
Preferences = Scores
"""Pair id -> 1 (answer A preferred), 0 (answer B) or 0.5 (tie); None = no verdict. A is the same
answer whichever is shown first."""
Lengths = Mapping[str, tuple[float, float]]
"""Pair id -> lengths of A and B, in any unit."""
Groups = Mapping[str, str] | None
"""Id -> group of items that are not independent; None = all are."""
Mean = Estimate | Difference
NO_PAIRS = "no item has both a verdict of the judge and a human label"


class Figure(Record):
    """A number with its 95 % interval, or the reason why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    """Items behind it."""
    reason: str = ""
    """Why `value` is None."""

    @model_validator(mode="after")
    def _number_or_reason(self) -> Self:
        if len({self.value is None, self.low is None, self.high is None, bool(self.reason)}) != 1:
            raise ValueError("a figure has either a number with its interval or a reason")
        return self


class Agreement(Record):
    """A judge's verdicts against human labels of the same answers."""

    n_total: int
    """Answers with a label; those without a verdict of the judge are in no figure."""
    agreement: Figure
    """Share of equal verdicts. High for any judge where nearly all answers are right: see kappa."""
    kappa: Figure
    """Cohen's kappa: 0 = no better than chance, 1 = always equal."""
    true_positive_rate: Figure
    """Share passed by the judge of what humans pass (sensitivity)."""
    false_positive_rate: Figure
    """Share passed by the judge of what humans fail (1 - specificity)."""
    prevalence: Figure
    """Share passed by humans."""


class PairAgreement(Record):
    """A judge's preferences between two answers, asked in both orders, against a human's."""

    n_total: int
    """Pairs with a human preference; those without a verdict of the judge are in no figure."""
    agreement: Figure
    """With the mean of both orders: a pair whose verdict flips is a tie, half right."""
    first_order: Figure
    """With the verdict in the first order alone."""
    swapped_order: Figure
    """With the verdict in the swapped order alone."""
    flips: Figure
    """Share of pairs whose verdict changes when the answers change places."""


def agreement(judge: Verdicts, human: Verdicts, groups: Groups = None) -> Agreement:
    """Agreement of verdicts with labels; Wilson's intervals, with groups the clustered t.

    Raises:
        ValueError: a value is neither 0, 1 nor None; so in all functions here, with 0.5 for pairs.
    """
    _refuse_other_than((0, 1), judge, human)
    both = _matched(judge, human)
    passed = {i: j for i, (j, h) in both.items() if h == 1}
    failed = {i: j for i, (j, h) in both.items() if h == 0}
    return Agreement(
        n_total=sum(h is not None for h in human.values()),
        agreement=_share({i: float(j == h) for i, (j, h) in both.items()}, groups, NO_PAIRS),
        kappa=cohen_kappa(judge, human, groups),
        true_positive_rate=_share(passed, groups, "humans pass none of the judged answers"),
        false_positive_rate=_share(failed, groups, "humans fail none of the judged answers"),
        prevalence=_share({i: h for i, (_, h) in both.items()}, groups, NO_PAIRS),
    )


def cohen_kappa(judge: Scores, human: Scores, groups: Groups = None) -> Figure:
    """Cohen's kappa of two sets of categories, over the items that have both.

    Interval: +- t(G - 1) standard errors from the influence of each item, summed by group;
    without groups that is the large-sample variance of Fleiss, Cohen and Everitt (1969) times
    n / (n - 1), and one disagreement more. None where either side uses one category only: kappa
    is then 0 or 0 / 0, whatever the judge is worth.
    """
    pairs = _matched(judge, human)
    n = len(pairs)
    if not pairs:
        return Figure(value=None, n=0, reason=NO_PAIRS)
    table = np.array(list(pairs.values()), dtype=float)
    for column, who in enumerate(("the judge gives", "humans give")):
        if len(set(table[:, column])) == 1:
            reason = f"{who} the same verdict on all {n} items: chance alone would agree as often"
            return Figure(value=None, n=n, reason=reason)
    mine, theirs = np.unique(table, return_inverse=True)[1].reshape(table.shape).T
    p_mine, p_theirs = (np.bincount(x, minlength=2 * n) / n for x in (mine, theirs))
    equal = (mine == theirs).astype(float)
    observed, chance = float(equal.mean()), float(p_mine @ p_theirs)
    kappa = (observed - chance) / (1 - chance)
    drift = p_theirs[mine] + p_mine[theirs] - 2 * chance
    influence = (equal - observed) / (1 - chance) - (1 - observed) * drift / (1 - chance) ** 2
    sums = group_sums(influence / n, list(pairs), groups)
    n_groups = len(sums)
    if n_groups < 2:
        low, high = -1.0, 1.0
    else:
        # One group more that disagrees: else the error of a judge without a miss is 0, for 5 items
        # as for 5,000, and near kappa = 1 the interval covers 87 % at n = 200 where it now has 95.
        more = (1 / (1 - chance) / n_groups) ** 2
        error = math.sqrt(n_groups / (n_groups - 1) * float((sums**2).sum()) + more)
        half = float(stats.t.ppf(0.5 + intervals.CONFIDENCE / 2, n_groups - 1)) * error
        low, high = kappa - half, kappa + half
    return Figure(value=kappa, low=max(-1.0, low), high=min(1.0, high), n=n)


def position_flips(first: Preferences, swapped: Preferences, groups: Groups = None) -> Figure:
    """Share of pairs whose verdict depends on the order; a tie in one order only counts."""
    _refuse_other_than((0, 0.5, 1), first, swapped)
    flips = {i: float(a != b) for i, (a, b) in _matched(first, swapped).items()}
    return _share(flips, groups, "no pair has a verdict in both orders")


def pair_agreement(
    first: Preferences, swapped: Preferences, human: Preferences, groups: Groups = None
) -> PairAgreement:
    """Agreement over both orders as LLMBar counts it (Zeng et al. 2024, `correct_average`).

    Two things differ: a verdict that could not be read is no verdict, there it is a wrong one;
    and a pair that lacks one of its two verdicts is left out of `agreement` and `flips`.
    """
    _refuse_other_than((0, 0.5, 1), first, swapped, human)
    mean = {i: (a + b) / 2 for i, (a, b) in _matched(first, swapped).items()}

    def right(verdicts: Preferences) -> Figure:
        found = {i: 1 - abs(v - h) for i, (v, h) in _matched(verdicts, human).items()}
        return _share(found, groups, NO_PAIRS)

    labelled = {i: first.get(i) for i, h in human.items() if h is not None}
    return PairAgreement(
        n_total=len(labelled),
        agreement=right(mean),
        first_order=right(first),
        swapped_order=right(swapped),
        flips=position_flips(labelled, swapped, groups),
    )


def length_bias(
    judge: Preferences, human: Preferences, lengths: Lengths, groups: Groups = None
) -> Figure:
    """P(judge prefers the longer answer) - P(humans do), paired, in [-1, 1].

    Pairs of equal length are left out. A judge that guesses sits at 0.5 and so below humans who
    prefer the longer answer: read the figure beside the agreement.
    """
    _refuse_other_than((0, 0.5, 1), judge, human)
    longer = {i: float(a > b) for i, (a, b) in lengths.items() if a != b}
    both = {i: pair for i, pair in _matched(judge, human).items() if i in longer}
    mine, theirs = ({i: 1 - abs(p[side] - longer[i]) for i, p in both.items()} for side in (0, 1))
    found = intervals.difference(mine, theirs, groups)
    return _figure(found, list(both), groups, "no pair of unequal length has both preferences")


def self_preference(
    judge: Verdicts, human: Verdicts, own: Set[str], groups: Groups = None
) -> Figure:
    """How much more lenient than humans the judge is to its own family than to others.

    (Its pass rate - humans') on the answers `own`, which the judge's family wrote, minus the same
    on all other labelled answers: in [-2, 2]. The two intervals are joined by MOVER (Zou and
    Donner 2008) as if independent, which is wide where both answer the same questions.
    """
    _refuse_other_than((0, 1), judge, human)
    sides = [{i: judge.get(i) for i in human if (i in own) == ours} for ours in (True, False)]
    mine, rest = (intervals.difference(side, human, groups) for side in sides)
    if mine is None or rest is None:
        whose = "its own family" if mine is None else "another family"
        return Figure(value=None, n=0, reason=f"no answer of {whose} is both judged and labelled")
    low, high = _interval(mine, list(_matched(sides[0], human)), groups)
    rest_low, rest_high = _interval(rest, list(_matched(sides[1], human)), groups)
    gap = mine.mean - rest.mean
    below = math.hypot(mine.mean - low, rest_high - rest.mean)
    above = math.hypot(high - mine.mean, rest.mean - rest_low)
    return Figure(value=gap, low=gap - below, high=gap + above, n=mine.n + rest.n)


def group_sums(values: np.ndarray, ids: Sequence[str], groups: Groups) -> np.ndarray:
    """Sums of `values` by group, shape (n_groups,); an item without a group is one by itself."""
    seen: dict[tuple[bool, str], int] = {}
    keys = [(True, groups[i]) if groups and i in groups else (False, i) for i in ids]
    places = np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=int)
    return np.bincount(places, weights=values)


def _matched(ours: Scores, theirs: Scores) -> dict[str, tuple[float, float]]:
    """Both values of the items that have both."""
    found = {i: (ours.get(i), theirs[i]) for i in theirs}
    return {i: (a, b) for i, (a, b) in found.items() if a is not None and b is not None}


def _share(scores: Scores, groups: Groups, nothing: str) -> Figure:
    return _figure(intervals.estimate(scores, groups), list(scores), groups, nothing)


def _figure(found: Mean | None, ids: Sequence[str], groups: Groups, nothing: str) -> Figure:
    if found is None:
        return Figure(value=None, n=0, reason=nothing)
    low, high = _interval(found, ids, groups)
    return Figure(value=found.mean, low=low, high=high, n=len(ids))


def _interval(found: Mean, ids: Sequence[str], groups: Groups) -> tuple[float, float]:
    if found.high - found.low > 1e-9:
        return found.low, found.high
    # Groups that all say the same have no spread, be they 2 or 200: a score interval over groups.
    n = len(group_sums(np.ones(len(ids)), ids, groups))
    up, down = round(n * max(found.mean, 0.0)), round(n * max(-found.mean, 0.0))
    return intervals.wilson(up, n) if isinstance(found, Estimate) else intervals.tango(up, down, n)


def _refuse_other_than(allowed: tuple[float, ...], *sides: Scores) -> None:
    for side in sides:
        for name, value in side.items():
            if value is not None and value not in allowed:
                these = ", ".join(f"{a:g}" for a in allowed)
                raise ValueError(f"{name}: {value} is none of {these}; cut graded scores first")
