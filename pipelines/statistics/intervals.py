"""95 % intervals for a mean and for a paired difference, clustered where items are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from pipelines.core.records import Difference, Estimate

CONFIDENCE = 0.95
Z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
Scores = Mapping[str, float | None]
"""Example id -> value in [0, 1], None = not scored."""


def estimate(
    scores: Scores,
    groups: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Estimate | None:
    """Mean of the scored values with its interval; None when nothing was scored.

    Independent items with values 0 and 1: Wilson's score interval (Wilson 1927). Graded or
    weighted values and items tied by `groups`: mean +- t times the cluster-robust standard error.

    Args:
        scores: example id -> value.
        groups: example id -> items that are not independent; absent = independent.
        weights: example id -> what it counts for; absent = 1. With them the mean is a ratio of
            two sums, such as fields right over fields found. Items of weight 0 count as scored
            and do not enter the mean; when all weigh nothing there is none.
    """
    scored = [i for i, value in scores.items() if value is not None]
    ids = [i for i in scored if weights is None or weights.get(i, 1.0) > 0]
    if not ids:
        return None
    values = np.array([scores[i] for i in ids], dtype=float)
    weight = np.array([1.0 if weights is None else weights.get(i, 1.0) for i in ids])
    mean = float((weight * values).sum() / weight.sum())
    clusters = _clusters(ids, groups)
    plain = len(set(clusters)) == len(ids) and set(weight.tolist()) == {1.0}
    if plain and set(values.tolist()) <= {0.0, 1.0}:
        low, high = wilson(int(values.sum()), len(ids))
    else:
        half = _clustered_half_width(values, clusters, weight)
        low, high = max(0.0, mean - half), min(1.0, mean + half)
    return Estimate(mean=mean, low=low, high=high, n_scored=len(scored), n_total=len(scores))


def difference(
    candidate: Scores, incumbent: Scores, groups: Mapping[str, str] | None = None
) -> Difference | None:
    """Mean paired difference over the items that both have a score for; None without any.

    Independent 0/1 items: Tango's score interval (Tango 1998), which keeps its coverage where
    few items differ. Otherwise: mean +- t times the cluster-robust standard error.
    """
    pairs = {
        i: (value, other)
        for i, value in candidate.items()
        if value is not None and (other := incumbent.get(i)) is not None
    }
    if not pairs:
        return None
    ids = list(pairs)
    ours, theirs = (np.array([pairs[i][side] for i in ids]) for side in (0, 1))
    delta = ours - theirs
    n, mean = len(ids), float(delta.mean())
    clusters = _clusters(ids, groups)
    if len(set(clusters)) == n and set(ours.tolist()) | set(theirs.tolist()) <= {0.0, 1.0}:
        low, high = tango(int((delta > 0).sum()), int((delta < 0).sum()), n)
    else:
        half = _clustered_half_width(delta, clusters)
        low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return Difference(mean=mean, low=low, high=high, n=n)


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """Wilson's score interval for a proportion."""
    p, z2 = n_right / n, Z * Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # p lies inside; at 0 and at 1 rounding could leave it a hair outside.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def tango_statistic(n_won: int, n_lost: int, n: int, delta: float) -> float:
    """Score statistic of H0: P(won) - P(lost) = delta (Tango 1998, eq. 4)."""
    a = 2 * n
    b = -n_won - n_lost + (2 * n - n_won + n_lost) * delta
    c = -n_lost * delta * (1 - delta)
    lost = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * lost + delta * (1 - delta))
    gap = n_won - n_lost - n * delta
    if variance <= 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def tango(n_won: int, n_lost: int, n: int) -> tuple[float, float]:
    """Interval of all differences that the score test does not reject.

    Args:
        n_won: items that only the candidate gets right.
        n_lost: items that only the incumbent gets right.
        n: all items.
    """
    mean = (n_won - n_lost) / n

    def crossing(level: float, lower: float, upper: float) -> float:
        def gap(delta: float) -> float:
            value = tango_statistic(n_won, n_lost, n, delta) - level
            return max(-1e6, min(1e6, value))

        if gap(lower) * gap(upper) >= 0:
            return lower if level > 0 else upper
        return float(optimize.brentq(gap, lower, upper, xtol=1e-10))  # pyright: ignore[reportArgumentType]

    return crossing(Z, -1.0, mean), crossing(-Z, mean, 1.0)


def _clusters(ids: Sequence[str], groups: Mapping[str, str] | None) -> list[str]:
    return [f"group {groups[i]}" if groups and i in groups else f"item {i}" for i in ids]


def _clustered_half_width(
    values: np.ndarray, clusters: Sequence[str], weights: np.ndarray | None = None
) -> float:
    """t(G - 1) times sqrt(G / (G - 1) sum_g (sum_i in g w_i (x_i - mean))^2) / sum w.

    Miller 2024, appendix A; with weights the linearised ratio estimator (Cochran 1977, 6.3). Where
    no value differs, that of Wilson's interval for as many successes as clusters.
    """
    weights = np.ones(len(values)) if weights is None else weights
    mean = (weights * values).sum() / weights.sum()
    names = sorted(set(clusters))
    n_clusters = len(names)
    if n_clusters < 2:
        return math.inf
    index = {name: k for k, name in enumerate(names)}
    sums = np.zeros(n_clusters)
    np.add.at(sums, [index[c] for c in clusters], weights * (values - mean))
    if not sums.any():
        # All the same: the spread says nothing, as many clusters as there are say a little.
        return 1 - wilson(n_clusters, n_clusters)[0]
    variance = n_clusters / (n_clusters - 1) * float((sums**2).sum()) / float(weights.sum()) ** 2
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, n_clusters - 1)) * math.sqrt(variance)
