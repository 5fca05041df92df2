"""Is a candidate good enough? Its paired difference to the incumbent against a margin."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from pipelines.core.records import Record

MIN_UNITS = 20
"""Independent units (groups; items where there are none) below which nothing is decided."""
FEW_DIFFER = 10
"""Differing units below which a normal approximation is not trusted as it is."""
GRADES_DIFFER = 20
"""Differing items below which the t test of independent graded scores is not trusted."""
Floats = NDArray[np.float64]
Finding = Literal["superior", "non-inferior", "non-inferior-but-worse", "inferior", "inconclusive"]
Method = Literal["score test (Tango 1998)", "cluster-robust t", "exact bound", "t"]


class PairedComparison(Record):
    """Candidate - incumbent on the same items, tested against a margin."""

    n: int
    """Items."""
    n_groups: int
    """Independent units: groups of items, or items where there are no groups."""
    n_differ: int
    """Units with an item on which the two sides differ."""
    mean: float | None
    """Mean difference in [-1, 1]; None without any item."""
    low: float | None
    """None when there are too few independent units: see `reason`; so `high` and `p_value`."""
    high: float | None
    level: float
    """Of the two-sided interval: 1 - 2 alpha, so that each end is a one-sided test at alpha."""
    margin: float
    """The loss that is still good enough; negative = the gain that is demanded."""
    alpha: float
    """One-sided."""
    p_value: float | None
    """Of H0: true difference <= -margin. Below alpha exactly when `low` is above -margin."""
    method: Method | None
    finding: Finding
    """superior: above 0 and -margin · non-inferior: above -margin · non-inferior-but-worse:
    between -margin and 0 · inferior: below -margin · inconclusive: anything else."""
    reason: str = ""
    """Why nothing was tested."""

    @property
    def passes(self) -> bool:
        """Whether H0 (worse than the margin allows) is rejected."""
        return self.finding in ("superior", "non-inferior", "non-inferior-but-worse")


def compare(
    ours: Floats,
    theirs: Floats,
    margin: float,
    *,
    alpha: float = 0.05,
    groups: NDArray[np.int64] | None = None,
) -> PairedComparison:
    """Test H0: mean difference <= -margin, with the interval of level 1 - 2 alpha.

    Values 0 and 1 on independent items: `score_p_values`. Anything else: the mean of all items
    with the cluster-robust standard error (Miller 2024) and t of G - 1 degrees, or Hall's
    transformation of it for skewness (1992) where that is more cautious: t alone accepts too often
    where losses are rare and one-sided. That says nothing
    where no group deviates from the mean: there the bound is exact, since a deviation that G
    groups have not shown is rarer than 1 - alpha^(1/G) (groups of unequal size count as
    n^2 / sum of squared sizes), and may be of any size in [-1, 1].

    Args:
        ours: the candidate's scores in [0, 1], shape (n,).
        theirs: the incumbent's on the same items, shape (n,).
        margin: in (-1, 1).
        alpha: one-sided, in (0, 0.5).
        groups: items that share a number are not independent, shape (n,).

    Raises:
        ValueError: shapes differ, a score is outside of [0, 1], or margin or alpha are.
    """
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    _check(ours, theirs, margin, alpha, groups)
    delta, n = ours - theirs, len(ours)
    places = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(places)
    n_groups = len(sizes)
    n_differ = int((np.bincount(places, weights=np.abs(delta) > 1e-12) > 0).sum())
    binary = bool(np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all())
    mean = float(delta.mean()) if n else None
    sums = np.bincount(places, weights=delta - delta.mean()) if n else np.zeros(0)
    same = bool(np.allclose(sums, 0, atol=1e-12))
    scored = binary and n_groups == n
    low = high = p_value = method = None
    reason = _too_few(n, n_groups, n_differ, anyway=scored or same)
    if mean is not None and not reason:
        if scored:
            method = "score test (Tango 1998)"
            won, lost = int((delta > 0).sum()), int((delta < 0).sum())
            low, high = _score_interval(won, lost, n, alpha)
            p_value = float(score_p_values(won, lost, n, margin))
        elif same:
            method = "exact bound"
            units = n * n / float((sizes**2).sum())
            unseen = 1 - alpha ** (1 / units)
            low, high = mean - unseen * (1 + mean), mean + unseen * (1 - mean)
            room = (mean + margin) / (1 + mean) if mean > -margin else 0.0
            p_value = (1 - room) ** units
        else:
            method = "cluster-robust t"
            error = math.sqrt(n_groups / (n_groups - 1) * float((sums**2).sum())) / n
            skew = float(np.mean(sums**3) / np.mean(sums**2) ** 1.5) / math.sqrt(n_groups)
            low, high, p_value = _hall_t(mean, error, n_groups, margin, skew, alpha)
    return PairedComparison(
        n=n,
        n_groups=n_groups,
        n_differ=n_differ,
        mean=mean,
        low=low,
        high=high,
        level=1 - 2 * alpha,
        margin=margin,
        alpha=alpha,
        p_value=p_value,
        method=method,
        finding=_finding(low, high, margin),
        reason=reason,
    )


def compare_estimate(
    mean: float,
    error: float,
    n: int,
    n_groups: int,
    margin: float,
    *,
    skew: float = 0.0,
    alpha: float = 0.05,
) -> PairedComparison:
    """The same from an estimate of the difference that is not the plain mean of the items'.

    t, or Hall's transformation of it where that is more cautious.

    Args:
        mean: the estimate, in [-1, 1].
        error: its standard error, above 0.
        n: items behind it.
        n_groups: independent units behind `error`: t of n_groups - 1 degrees.
        margin: in (-1, 1).
        skew: of the estimate: the units' skewness over the root of their number.
        alpha: one-sided, in (0, 0.5).

    Raises:
        ValueError: the error, margin or alpha are out of range.
    """
    _check_terms(margin, alpha)
    if not error > 0:
        raise ValueError(f"standard error {error} is not above 0")
    low = high = p_value = None
    reason = _too_few(n, n_groups, 0, anyway=True)
    if not reason:
        low, high, p_value = _hall_t(mean, error, n_groups, margin, skew, alpha)
    return PairedComparison(
        n=n,
        n_groups=n_groups,
        n_differ=n_groups,
        mean=mean,
        low=low,
        high=high,
        level=1 - 2 * alpha,
        margin=margin,
        alpha=alpha,
        p_value=p_value,
        method=None if reason else "t",
        finding=_finding(low, high, margin),
        reason=reason,
    )


def score_p_values(n_won: ArrayLike, n_lost: ArrayLike, n: ArrayLike, margin: ArrayLike) -> Floats:
    """P-values of H0: P(won) - P(lost) <= -margin, for many studies at once (shapes broadcast).

    Tango's score test (1998), and what it needs to hold its level in three corners. Where fewer
    than 10 items differ and where the candidate wins none, the statistic loses half an item, since
    counts come in steps, and a quarter where the candidate must win (margin < 0); there it is also
    corrected for skewness as in Laud (2017). Where no item differs, the exact (1 - margin)^n: the
    rule of three.

    Args:
        n_won: items that only the candidate gets right.
        n_lost: items that only the incumbent gets right.
        n: all items.
        margin: in (-1, 1).
    """
    won, lost, n, delta = np.broadcast_arrays(
        *(np.asarray(x, dtype=float) for x in (n_won, n_lost, n)), -np.asarray(margin, dtype=float)
    )
    p_lost = _constrained_p_lost(won, lost, n, delta)
    differ = 2 * p_lost + delta
    variance = differ - delta**2
    third_moment = delta - 3 * delta * differ + 2 * delta**3
    gap = won - lost - n * delta
    few = (won + lost < FEW_DIFFER) | (won == 0)
    corner = few | (delta > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(corner, np.minimum(1.0, n * np.abs(delta)) / np.where(few, 2, 4), 0.0)
        z = (gap - step) / np.sqrt(n * variance)
        skew = np.where(corner, third_moment / variance**1.5 / np.sqrt(n) / 6, 0.0)
        # z' of z' + skew (z'^2 - 1) = z, the Cornish-Fisher expansion of the true quantile.
        z = 2 * (z + skew) / (1 + np.sqrt(np.maximum(0.0, 1 + 4 * skew * (z + skew))))
    p = np.where(variance > 0, special.ndtr(-z), np.where(gap > 0, 0.0, 1.0))
    return np.where(won + lost > 0, p, np.maximum(0.0, 1 + np.minimum(delta, 0.0)) ** n)


def score_intervals(
    n_won: ArrayLike, n_lost: ArrayLike, n: ArrayLike, alpha: float = 0.05
) -> tuple[Floats, Floats]:
    """Ends of the intervals of level 1 - 2 alpha: the margins at which a p-value is alpha."""
    return _lower(n_won, n_lost, n, alpha), -_lower(n_lost, n_won, n, alpha)


@lru_cache(maxsize=1024)
def _score_interval(n_won: int, n_lost: int, n: int, alpha: float) -> tuple[float, float]:
    """Of one study: a search, and asked for again whenever only dollars change."""
    low, high = score_intervals(n_won, n_lost, n, alpha)
    return float(low), float(high)


def tango_statistics(n_won: ArrayLike, n_lost: ArrayLike, n: ArrayLike, delta: ArrayLike) -> Floats:
    """Score statistics of H0: P(won) - P(lost) = delta as published, without any correction."""
    won, lost, n, delta = np.broadcast_arrays(
        *(np.asarray(x, dtype=float) for x in (n_won, n_lost, n, delta))
    )
    variance = n * (2 * _constrained_p_lost(won, lost, n, delta) + delta * (1 - delta))
    gap = won - lost - n * delta
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            variance > 0, gap / np.sqrt(variance), np.where(gap == 0, 0.0, gap * np.inf)
        )


def _constrained_p_lost(won: Floats, lost: Floats, n: Floats, delta: Floats) -> Floats:
    """P(lost) at its maximum likelihood, given P(won) = P(lost) + delta (Tango's eq. 6)."""
    b = -won - lost + (2 * n - won + lost) * delta
    c = -lost * delta * (1 - delta)
    return (np.sqrt(np.maximum(0.0, b * b - 8 * n * c)) - b) / (4 * n)


def _lower(n_won: ArrayLike, n_lost: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    won, lost, n = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (n_won, n_lost, n)))
    below, above = np.full(won.shape, -1.0), (won - lost) / n
    for _ in range(55):
        middle = (below + above) / 2
        rejected = score_p_values(won, lost, n, -middle) < alpha
        below, above = np.where(rejected, middle, below), np.where(rejected, above, middle)
    return below


def _finding(low: float | None, high: float | None, margin: float) -> Finding:
    if low is None or high is None:
        return "inconclusive"
    if low > max(0.0, -margin):
        return "superior"
    if low > -margin:
        return "non-inferior-but-worse" if high < 0 else "non-inferior"
    return "inferior" if high < -margin else "inconclusive"


def _hall_t(
    mean: float, error: float, n_groups: int, margin: float, skew: float, alpha: float
) -> tuple[float, float, float]:
    """Ends of the interval and p-value, by t or by Hall's transformation, the more cautious."""
    critical = float(stats.t.isf(alpha, n_groups - 1))
    low = max(-1.0, mean - error * max(critical, _unhall(critical, skew)))
    high = min(1.0, mean + error * max(critical, -_unhall(-critical, skew)))
    statistic = (mean + margin) / error
    return low, high, float(stats.t.sf(min(statistic, _hall(statistic, skew)), n_groups - 1))


def _hall(statistic: float, skew: float) -> float:
    """Hall's transformation; `skew`: the units' skewness over the root of their number."""
    cubic = statistic + skew * statistic**2 / 3 + skew**2 * statistic**3 / 27
    return cubic + skew / 6


def _unhall(transformed: float, skew: float) -> float:
    """The statistic that `_hall` transforms into this."""
    if abs(skew) < 1e-9:
        return transformed
    return 3 / skew * (math.cbrt(1 + skew * (transformed - skew / 6)) - 1)


def _too_few(n: int, n_groups: int, n_differ: int, *, anyway: bool) -> str:
    if n_groups < MIN_UNITS:
        return f"too few independent units: {n_groups}, and {MIN_UNITS} are needed"
    needed = GRADES_DIFFER if n_groups == n else FEW_DIFFER
    if n_differ < needed and not anyway:
        return (
            f"too few independent units that differ: {n_differ} of {n_groups}, "
            f"and {needed} are needed"
        )
    return ""


def _check(
    ours: Floats, theirs: Floats, margin: float, alpha: float, groups: NDArray[np.int64] | None
) -> None:
    shapes = {ours.shape, theirs.shape, ours.shape if groups is None else np.shape(groups)}
    if len(shapes) != 1 or ours.ndim != 1:
        raise ValueError(f"scores and groups must be paired lists of one length, not {shapes}")
    for who, scores in (("candidate", ours), ("incumbent", theirs)):
        bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
        if len(bad):
            value = float(scores[bad[0]])
            raise ValueError(f"score {value} of the {who}'s item {bad[0]} is not in [0, 1]")
    _check_terms(margin, alpha)


def _check_terms(margin: float, alpha: float) -> None:
    if not -1 < margin < 1:
        raise ValueError(f"margin {margin} is not in (-1, 1); 0.02 = two points")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} is not in (0, 0.5); 0.05 is usual")
