"""Intervals against worked examples, against other implementations and by counting."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from scipy import optimize, stats

from pipelines.statistics.intervals import difference, estimate, tango, tango_statistic, wilson


def test_wilson_is_scipys() -> None:
    for n_right, n in [(0, 10), (7, 10), (10, 10), (263, 309)]:
        theirs = stats.binomtest(n_right, n).proportion_ci(method="wilson")
        assert wilson(n_right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_missing_scores_lower_coverage_and_leave_the_mean_alone() -> None:
    # 3 of 4 scored values are 1; two items have none.
    scores = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0, "e": None, "f": None}
    result = estimate(scores)
    assert result is not None
    assert result.mean == 0.75
    assert (result.n_scored, result.n_total) == (4, 6)
    assert result.coverage == pytest.approx(4 / 6)


def test_nothing_scored_is_none_not_zero() -> None:
    assert estimate({"a": None}) is None
    assert difference({"a": None}, {"a": 1.0}) is None
    assert difference({"a": 1.0}, {"b": 1.0}) is None


def test_graded_scores_get_the_t_interval() -> None:
    # mean 0.5, sd of (0.2, 0.4, 0.6, 0.8) = 0.2582, se = 0.1291, t(3) = 3.1824
    result = estimate({"a": 0.2, "b": 0.4, "c": 0.6, "d": 0.8})
    assert result is not None
    assert result.mean == pytest.approx(0.5)
    assert result.high - result.mean == pytest.approx(3.18245 * 0.258199 / 2, rel=1e-4)


def test_weights_make_the_mean_a_ratio_of_sums() -> None:
    # Fields right over fields found: 2 of 2, 1 of 4, nothing found: 3 / 6, not the mean of shares.
    scores = {"a": 1.0, "b": 0.25, "c": 0.0, "d": None}
    result = estimate(scores, weights={"a": 2.0, "b": 4.0, "c": 0.0})
    assert result is not None
    assert result.mean == pytest.approx(0.5)
    assert (result.n_scored, result.n_total) == (3, 4)
    # w (x - mean): 2 x 0.5 = 1 and 4 x -0.25 = -1; variance = 2/1 x 2 / 6^2, se = 1/3,
    # t(1) = 12.706: the interval is everything.
    assert (result.low, result.high) == (0.0, 1.0)
    many = {f"{k}-{i}": v for k in range(50) for i, v in (("a", 1.0), ("b", 0.25))}
    wide = estimate(many, weights={i: 2.0 if i.endswith("a") else 4.0 for i in many})
    assert wide is not None
    # 100 items: sum of squares 100 x 1, variance 100/99 x 100 / 300^2, t(99) = 1.98422.
    assert wide.high - wide.mean == pytest.approx(1.98422 * math.sqrt(100 / 99 * 100) / 300, 1e-5)


def test_values_that_are_all_the_same_do_not_prove_that_the_next_is() -> None:
    # 40 right answers in 10 conversations: 10 units, Wilson (10 of 10) = 0.7225 to 1.
    scores = {f"{g}-{k}": 1.0 for g in range(10) for k in range(4)}
    tied = estimate(scores, {name: name.split("-")[0] for name in scores})
    assert tied is not None
    assert (tied.low, tied.high) == pytest.approx((0.72246, 1.0), abs=1e-5)


def test_weights_of_0_and_1_choose_the_items_and_keep_wilson() -> None:
    scores = {f"{k}": float(k < 7) for k in range(20)}
    chosen = estimate(scores, weights={name: float(int(name) < 10) for name in scores})
    assert chosen is not None
    assert (chosen.low, chosen.high) == pytest.approx(wilson(7, 10))
    assert chosen.coverage == 1.0
    assert estimate(scores, weights=dict.fromkeys(scores, 0.0)) is None


def test_groups_widen_the_interval() -> None:
    # Ten conversations of ten turns that are right or wrong together: 10 units, not 100.
    scores = {f"{g}-{k}": float(g < 7) for g in range(10) for k in range(10)}
    groups = {name: name.split("-")[0] for name in scores}
    alone, tied = estimate(scores), estimate(scores, groups)
    assert alone is not None
    assert tied is not None
    assert alone.mean == tied.mean == 0.7
    # Group sums of deviations: 7 x (10 x 0.3)^2 + 3 x (10 x -0.7)^2 = 210; variance
    # = 10/9 x 210 / 100^2 = 0.02333, se = 0.15275, t(9) = 2.26216: half-width 0.3456, cut at 1.
    assert tied.low == pytest.approx(0.7 - 0.34555, abs=1e-4)
    assert tied.high == 1.0


def likelihood_statistic(n_won: int, n_lost: int, n: int, delta: float) -> float:
    """The same score statistic with the constrained maximum found by a numerical search."""

    def loss(p_lost: float) -> float:
        p_won, p_tie = p_lost + delta, 1 - 2 * p_lost - delta
        total = 0.0
        for count, p in ((n_won, p_won), (n_lost, p_lost), (n - n_won - n_lost, p_tie)):
            if count:
                total -= count * math.log(max(p, 1e-300))
        return total

    low, high = max(0.0, -delta), (1 - delta) / 2
    found = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    )
    p_lost = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    variance = n * (2 * p_lost + delta - delta**2)
    return (n_won - n_lost - n * delta) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("n_won", "n_lost", "n"), [(12, 3, 100), (5, 9, 60), (1, 1, 30), (40, 2, 300)]
)
def test_tango_solves_the_constrained_likelihood(n_won: int, n_lost: int, n: int) -> None:
    for delta in (-0.2, -0.05, 0.03, 0.15):
        ours = tango_statistic(n_won, n_lost, n, delta)
        assert ours == pytest.approx(likelihood_statistic(n_won, n_lost, n, delta), abs=2e-4)


def test_tango_at_zero_is_mcnemar_without_correction() -> None:
    # (b - c) / sqrt(b + c) = (12 - 3) / sqrt(15) = 2.3238
    assert tango_statistic(12, 3, 100, 0.0) == pytest.approx(9 / math.sqrt(15))


def test_tango_interval_ends_where_the_statistic_crosses() -> None:
    low, high = tango(12, 3, 100)
    assert tango_statistic(12, 3, 100, low) == pytest.approx(1.959964, abs=1e-6)
    assert tango_statistic(12, 3, 100, high) == pytest.approx(-1.959964, abs=1e-6)
    assert low < 0.09 < high


@pytest.mark.parametrize(("n_won", "n_lost"), [(0, 0), (30, 0), (0, 30)])
def test_tango_survives_the_corners(n_won: int, n_lost: int) -> None:
    low, high = tango(n_won, n_lost, 30)
    assert -1 <= low <= (n_won - n_lost) / 30 <= high <= 1
    assert high - low > 0.05  # thirty items never prove equality


def test_tango_covers_95_percent_by_exact_enumeration() -> None:
    # All outcomes of n = 40 with P(won) = 0.15, P(lost) = 0.10, each with its probability.
    n, p_won, p_lost = 40, 0.15, 0.10
    covered = 0.0
    for n_won, n_lost in itertools.product(range(n + 1), repeat=2):
        if n_won + n_lost > n:
            continue
        p = stats.multinomial.pmf([n_won, n_lost, n - n_won - n_lost], n, [p_won, p_lost, 0.75])
        if p < 1e-9:
            continue
        low, high = tango(n_won, n_lost, n)
        covered += float(p) * (low <= p_won - p_lost <= high)
    assert 0.935 <= covered <= 0.97


def test_graded_difference_is_the_paired_t_test() -> None:
    rng = random.Random(0)
    ours = {str(k): rng.random() for k in range(50)}
    theirs = {k: min(1.0, v * 0.8 + 0.1 * rng.random()) for k, v in ours.items()}
    result = difference(ours, theirs)
    assert result is not None
    test = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    interval = test.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


def test_only_items_that_both_answered_are_compared() -> None:
    result = difference({"a": 1.0, "b": None, "c": 1.0}, {"a": 0.0, "b": 1.0, "c": 1.0})
    assert result is not None
    assert result.n == 2
    assert result.mean == 0.5


def test_estimates_do_not_depend_on_the_order() -> None:
    scores = {str(k): float(k % 3 == 0) for k in range(100)}
    turned = dict(reversed(scores.items()))
    assert estimate(scores) == estimate(turned)
    assert np.isfinite(estimate(scores).mean)  # pyright: ignore[reportOptionalMemberAccess]
