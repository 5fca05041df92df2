"""Non-inferiority by hand, against published intervals, by counting every outcome, by property."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from pipelines.statistics.intervals import difference
from pipelines.statistics.non_inferiority import (
    PairedComparison,
    compare,
    compare_estimate,
    score_intervals,
    score_p_values,
    tango_statistics,
)

MARGINS = st.floats(-0.3, 0.3)


def counted(
    n_won: int, n_lost: int, n: int, margin: float, alpha: float = 0.05
) -> PairedComparison:
    """0/1 scores of n items of which the candidate wins and loses so many."""
    ours, theirs = np.ones(n), np.ones(n)
    theirs[:n_won] = 0
    ours[n_won : n_won + n_lost] = 0
    return compare(ours, theirs, margin, alpha=alpha)


def graded(delta: np.ndarray, margin: float, groups: np.ndarray | None = None) -> PairedComparison:
    """Scores around 0.5 with these differences."""
    return compare(0.5 + delta / 2, 0.5 - delta / 2, margin, groups=groups)


def test_score_test_by_hand() -> None:
    # 12 won, 3 lost of 100, margin 0.05: A = 200, B = -15 + 191 x -0.05 = -24.55,
    # C = -3 x -0.05 x 1.05 = 0.1575; P(lost) = (sqrt(602.7025 - 126) + 24.55) / 400 = 0.1159588;
    # z = (9 + 5) / sqrt(100 x (0.2319176 - 0.0525)) = 14 / 4.235772 = 3.30518
    found = counted(12, 3, 100, 0.05)
    assert found.p_value == pytest.approx(stats.norm.sf(3.30518), rel=1e-4)
    assert (found.n, found.n_groups, found.n_differ) == (100, 100, 15)
    assert found.mean == pytest.approx(0.09)
    assert found.level == pytest.approx(0.9)
    assert found.finding == "superior"
    assert found.passes


def test_score_statistic_at_zero_is_mcnemar() -> None:
    # statsmodels 0.15.0, mcnemar(exact=False, correction=False): 16 and 6: 4.545455, p 0.0330063;
    # 12 and 3: 5.4, p 0.0201368. Both are two-sided.
    assert tango_statistics(16, 6, 161, 0.0) ** 2 == pytest.approx(4.545454545)
    assert score_p_values(16, 6, 161, 0.0) == pytest.approx(0.0330062576612 / 2)
    assert score_p_values(12, 3, 100, 0.0) == pytest.approx(0.0201367515503 / 2)
    assert score_p_values(3, 12, 100, 0.0) == pytest.approx(1 - 0.0201367515503 / 2)


@pytest.mark.parametrize(
    ("n_won", "n_lost", "n", "level", "low", "high"),
    [
        (28, 25, 618, 0.90, -0.0148, 0.0247),  # R, PropCIs::scoreci.mp(25, 28, 618, 0.90)
        (1, 7, 21, 0.95, -0.517, -0.026),  # Fagerland, Lydersen and Laake 2014: Bentur 2009
    ],
)
def test_uncorrected_statistic_gives_the_published_intervals(
    n_won: int, n_lost: int, n: int, level: float, low: float, high: float
) -> None:
    z, mean = float(stats.norm.ppf(0.5 + level / 2)), (n_won - n_lost) / n

    def crossing(target: float, below: float, above: float) -> float:
        return float(
            optimize.brentq(
                lambda delta: float(tango_statistics(n_won, n_lost, n, delta)) - target,
                below,
                above,
            )  # pyright: ignore[reportArgumentType]
        )

    digits = 5e-4 if n < 100 else 5e-5
    assert crossing(z, -0.9, mean) == pytest.approx(low, abs=digits)
    assert crossing(-z, mean, 0.9) == pytest.approx(high, abs=digits)


def test_interval_where_enough_differ_is_tangos_as_published() -> None:
    low, high = score_intervals(28, 25, 618, 0.05)
    assert (float(low), float(high)) == pytest.approx((-0.0148, 0.0247), abs=5e-5)
    # The interval of the decision table, at its level, on the side that is not corrected.
    scores = {str(k): float(k >= 40) for k in range(300)}
    others = {str(k): float(not 30 <= k < 65) for k in range(300)}
    old = difference(scores, others)
    assert old is not None
    new = compare(np.array([*scores.values()]), np.array([*others.values()]), 0.05, alpha=0.025)
    assert (new.mean, new.low) == (pytest.approx(old.mean), pytest.approx(old.low, abs=1e-8))


def test_graded_scores_get_the_t_test() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(60), rng.random(60)
    # Each item and its mirror image: no skewness.
    ours, theirs = np.concatenate([ours, theirs]), np.concatenate([theirs, ours])
    found = compare(ours, theirs, 0.1, alpha=0.025)
    reference = stats.ttest_rel(ours, theirs - 0.1, alternative="greater")
    both = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.method == "cluster-robust t"
    assert found.p_value == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((both.low, both.high))


def test_rare_losses_are_corrected_for_their_skewness() -> None:
    # 40 of 400 lose 0.3: mean -0.03; deviations -0.27 and 0.03: second moment 0.0081, third
    # -0.001944, skewness -0.001944 / 0.0081^1.5 = -2.6667, over sqrt(400) -2/15;
    # error = sqrt(400/399 x 3.24) / 400 = 0.0045056; t(399, 0.95) = 1.648682. Hall turned round:
    # 3 / (-2/15) x (cbrt(1 - 2/15 x (1.648682 + 1/45)) - 1) = 1.813080, the wider one below.
    delta = np.repeat([-0.3, 0.0], [40, 360])
    found = graded(delta, 0.037)
    assert found.low == pytest.approx(-0.03 - 0.0045056 * 1.813080, abs=1e-6)
    assert found.high == pytest.approx(-0.03 + 0.0045056 * 1.648682, abs=1e-6)
    # 0.007 / 0.0045056 = 1.553610; transformed 1.426581, the smaller one.
    assert found.p_value == pytest.approx(stats.t.sf(1.426581, 399), rel=1e-4)
    gains = graded(-delta, 0.0)
    assert gains.low == pytest.approx(0.03 - 0.0045056 * 1.648682, abs=1e-6)
    assert gains.high == pytest.approx(0.03 + 0.0045056 * 1.813080, abs=1e-6)


def test_clusters_by_hand() -> None:
    # 20 groups of 3: ten differ by 0.2, ten by -0.1; mean 0.05. Group sums of deviations:
    # 10 x 0.45^2 + 10 x 0.45^2 = 4.05; error = sqrt(20/19 x 4.05) / 60 = 0.0344124;
    # t(19, 0.95) = 1.729133: 0.05 -+ 0.0595036; margin 0.02: t = 0.07 / 0.0344124 = 2.034152
    delta, groups = np.repeat([0.2, -0.1], 30), np.repeat(np.arange(20), 3)
    found = graded(delta, 0.02, groups)
    assert (found.n, found.n_groups, found.n_differ) == (60, 20, 20)
    assert (found.low, found.high) == pytest.approx((-0.0095036, 0.1095036), abs=1e-6)
    assert found.p_value == pytest.approx(stats.t.sf(2.034152, 19), rel=1e-5)
    assert found.finding == "non-inferior"
    # As 60 independent items the same numbers would have half the error.
    alone = graded(delta, 0.02)
    assert alone.low is not None
    assert alone.low > 0


def test_groups_of_one_item_are_no_groups() -> None:
    ours, theirs = np.tile([1.0, 0.0, 1.0, 1.0], 20), np.tile([1.0, 1.0, 0.0, 1.0], 20)
    assert compare(ours, theirs, 0.1, groups=np.arange(80)) == compare(ours, theirs, 0.1)


@pytest.mark.parametrize(
    ("n_won", "n_lost", "margin", "finding"),
    [
        (40, 10, 0.05, "superior"),
        (20, 20, 0.05, "non-inferior"),
        (10, 30, 0.10, "non-inferior-but-worse"),
        (10, 60, 0.05, "inferior"),
        (20, 30, 0.03, "inconclusive"),
        (40, 10, -0.02, "superior"),
        (40, 10, -0.06, "inconclusive"),  # better, but not shown better by six points
        (40, 10, -0.20, "inferior"),  # better by less than the twenty points demanded
    ],
)
def test_findings(n_won: int, n_lost: int, margin: float, finding: str) -> None:
    assert counted(n_won, n_lost, 500, margin).finding == finding


def test_no_item_differs_is_the_rule_of_three() -> None:
    # Of 100: 0.95^100 = 0.00592; the loss that 100 items would show 95 times in 100 is
    # 1 - 0.05^(1/100) = 0.029513. Ten points: 0.9^28 = 0.0523, 0.9^29 = 0.0471.
    found = counted(0, 0, 100, 0.05)
    assert found.p_value == pytest.approx(0.95**100)
    assert (found.low, found.high) == pytest.approx((-0.029513, 0.029513), abs=1e-6)
    assert found.finding == "non-inferior"
    assert counted(0, 0, 100, 0.029).finding == "inconclusive"
    assert counted(0, 0, 28, 0.10).finding == "inconclusive"
    assert counted(0, 0, 29, 0.10).finding == "non-inferior"
    assert counted(0, 0, 100, 0.0).p_value == 1.0


def test_differences_without_spread_are_not_certain() -> None:
    # 40 times +0.1: what 40 items have not shown is rarer than 1 - 0.05^(1/40) = 0.072158, and
    # may be -1: 0.1 - 0.072158 x 1.1 = 0.020626; or +1: 0.1 + 0.072158 x 0.9 = 0.164942.
    found = graded(np.full(40, 0.1), 0.0)
    assert found.method == "exact bound"
    assert (found.low, found.high) == pytest.approx((0.020626, 0.164942), abs=1e-6)
    assert found.p_value == pytest.approx((1 - 0.1 / 1.1) ** 40)
    # In 30 groups of two, 30 say it; in groups of 31 and 29 x 1: 60^2 / (31^2 + 29) = 3.636.
    even = graded(np.full(60, 0.1), 0.0, np.repeat(np.arange(30), 2))
    assert even.p_value == pytest.approx((1 - 0.1 / 1.1) ** 30)
    uneven = graded(np.full(60, 0.1), 0.0, np.r_[np.zeros(31), np.arange(1, 30)].astype(int))
    assert uneven.p_value == pytest.approx((1 - 0.1 / 1.1) ** (3600 / 990))
    # Identical graded scores: the same bound as for identical 0/1 scores.
    assert graded(np.zeros(100), 0.05).low == pytest.approx(-0.029513, abs=1e-6)
    assert graded(np.full(40, -1.0), 0.5).finding == "inferior"


@pytest.mark.parametrize("n", [0, 1, 2, 19])
def test_too_few_items_decide_nothing(n: int) -> None:
    found = compare(np.ones(n), np.zeros(n), 0.1)
    assert found.finding == "inconclusive"
    assert not found.passes
    assert (found.low, found.high, found.p_value, found.method) == (None,) * 4
    assert found.reason == f"too few independent units: {n}, and 20 are needed"
    assert found.mean == (1.0 if n else None)


def test_many_items_in_few_groups_are_few() -> None:
    ours = np.tile([1.0, 1.0, 1.0, 0.0], 100)
    found = compare(ours, np.zeros(400), 0.1, groups=np.repeat(np.arange(10), 40))
    assert found.n == 400
    assert found.reason == "too few independent units: 10, and 20 are needed"


def test_graded_scores_that_seldom_differ_decide_nothing() -> None:
    delta = np.zeros(200)
    delta[:19] = 0.1
    delta[0] = -0.1
    found = graded(delta, 0.1)
    assert found.reason == "too few independent units that differ: 19 of 200, and 20 are needed"
    assert found.finding == "inconclusive"
    delta[19] = 0.1
    assert graded(delta, 0.1).passes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(np.ones(3), np.ones(4), 0.1), "paired lists of one length"),
        (lambda: compare(np.ones(3), np.ones(3), 0.1, groups=np.zeros(2, int)), "one length"),
        (lambda: compare(np.ones(3), np.array([0, 1.5, 1]), 0.1), "1.5 of the incumbent's item 1"),
        (lambda: compare(np.array([0, 1, math.nan]), np.ones(3), 0.1), "nan of the candidate's"),
        (lambda: compare(np.ones(3), np.ones(3), 2.0), "margin 2.0"),
        (lambda: compare(np.ones(3), np.ones(3), 0.1, alpha=0.5), "alpha 0.5"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def false_passes(n: int, psi: float, margin: float) -> float:
    """P(pass) at the boundary, over all outcomes of n items of which a share psi differ."""
    p_won = max(0.0, (psi - margin) / 2)
    differ = np.arange(n + 1)
    differ = differ[stats.binom.pmf(differ, n, psi) > 1e-12]
    won, all_ = np.meshgrid(np.arange(differ.max() + 1), differ)
    won, all_ = won[won <= all_], all_[won <= all_]
    weight = stats.binom.pmf(all_, n, psi) * stats.binom.pmf(won, all_, p_won / psi)
    return float(weight[score_p_values(won, all_ - won, n, margin) < 0.05].sum())


def test_false_positive_rate_by_counting_every_outcome() -> None:
    rates = {
        (n, margin, psi): false_passes(n, psi, margin)
        for n in (50, 100, 200, 1000)
        for margin in (-0.05, -4.2 / n, -3 / n, 0.0, 2.8 / n, 0.01, 0.03, 0.1)
        for psi in sorted(
            {abs(margin) + extra / n for extra in (0.0, 0.1, 1, 10)} | {0.05, 0.1, 0.3}
        )
        if psi >= abs(margin) and psi > 0
    }
    assert max(rates.values()) <= 0.056, max(rates, key=lambda key: rates[key])
    assert 0.02 <= np.mean([*rates.values()]) <= 0.05


def test_the_corners_need_their_corrections() -> None:
    # The same outcomes without them: a candidate that must win by three items of n passes 8 times
    # in 100; with no wins and 2.8 expected losses 6 times in 100.
    def uncorrected(n: int, psi: float, margin: float) -> float:
        won, lost = np.meshgrid(np.arange(40), np.arange(40))
        p = [(psi - margin) / 2, (psi + margin) / 2]
        weight = stats.multinomial.pmf(np.stack([won, lost, n - won - lost], -1), n, [*p, 1 - psi])
        return float(weight[tango_statistics(won, lost, n, -margin) > stats.norm.ppf(0.95)].sum())

    assert uncorrected(300, 4 / 300, -3.02 / 300) > 0.085
    assert false_passes(300, 4 / 300, -3.02 / 300) < 0.05
    assert uncorrected(300, 2.72 / 300, 2.72 / 300) > 0.06
    assert false_passes(300, 2.72 / 300, 2.72 / 300) < 0.05


def test_where_a_candidate_must_win_a_quarter_item_is_enough_and_needed() -> None:
    # Without it 6.1 % pass here; with half an item the interval below holds the truth in 91.2 %.
    assert false_passes(200, 0.05, -0.04) < 0.055
    n, psi, truth = 100, 0.2, -0.03
    won, lost = (x.ravel() for x in np.meshgrid(np.arange(45), np.arange(45)))
    shares = [(psi + truth) / 2, (psi - truth) / 2, 1 - psi]
    weight = stats.multinomial.pmf(np.stack([won, lost, n - won - lost], -1), n, shares)
    low, high = score_intervals(won, lost, n)
    covered = float(weight[(low <= truth) & (truth <= high)].sum())
    assert 0.895 < covered < 0.91


def test_power_is_that_of_the_sample_size_formula() -> None:
    # (1.644854 + 0.841621)^2 x 0.1 / 0.03^2 = 687 items for 80 %, if nothing is lost.
    rng = np.random.default_rng(5)
    counts = rng.multinomial(687, [0.05, 0.05, 0.9], 40_000)
    passed = score_p_values(counts[:, 0], counts[:, 1], 687, 0.03) < 0.05
    assert 0.78 < passed.mean() < 0.81


def test_clusters_keep_the_rate() -> None:
    # True loss 0.05 = the margin; what is lost varies by group. 1.6 standard errors of 600 runs.
    rng, passed, n_runs = np.random.default_rng(7), 0, 600
    groups = np.repeat(np.arange(30), 8)
    for _ in range(n_runs):
        shift = np.repeat(rng.uniform(-0.1, 0.1, 30), 8)
        u = rng.random(240)
        won, lost = u < 0.1 - shift, u > 0.85 - shift
        passed += compare(won.astype(float), lost.astype(float), 0.05, groups=groups).passes
    assert 0.03 <= passed / n_runs <= 0.065


counts = st.integers(20, 400).flatmap(
    lambda n: st.tuples(st.integers(0, min(n, 60)), st.just(n)).flatmap(
        lambda pair: st.tuples(
            st.just(pair[0]), st.integers(0, min(60, pair[1] - pair[0])), st.just(pair[1])
        )
    )
)
differences = st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=20, max_size=60)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(counts, MARGINS)
def test_swapping_the_arms_mirrors_the_interval(case: tuple[int, int, int], margin: float) -> None:
    won, lost, n = case
    found, mirror = counted(won, lost, n, margin), counted(lost, won, n, margin)
    assert found.low is not None
    assert found.high is not None
    assert (mirror.low, mirror.high) == pytest.approx((-found.high, -found.low))
    assert found.low <= (won - lost) / n <= found.high


@settings(deadline=None, derandomize=True, max_examples=60)
@given(counts, MARGINS)
def test_the_test_and_the_interval_agree(case: tuple[int, int, int], margin: float) -> None:
    found = counted(*case, margin)
    assert found.low is not None
    assert found.p_value is not None
    if abs(found.low + margin) > 1e-9:
        assert (found.p_value < 0.05) == (found.low > -margin) == found.passes


@settings(deadline=None, derandomize=True, max_examples=200)
@given(counts, MARGINS, MARGINS)
def test_more_margin_never_turns_a_pass_into_a_fail(
    case: tuple[int, int, int], margin: float, other: float
) -> None:
    small, large = sorted((margin, other))
    strict, lenient = (float(score_p_values(*case, m)) for m in (small, large))
    assert lenient < 0.05 or strict >= 0.05


@settings(deadline=None, derandomize=True, max_examples=60)
@given(differences, MARGINS, MARGINS)
def test_graded_scores_swap_agree_and_are_monotone(
    values: list[float], margin: float, other: float
) -> None:
    delta = np.array(values)
    found, mirror = graded(delta, margin), graded(-delta, margin)
    assert found.mean == pytest.approx(float(delta.mean()), abs=1e-12)
    if found.low is None or found.high is None or found.p_value is None:
        assert found.reason
        assert mirror.low is None
        return
    assert (mirror.low, mirror.high) == pytest.approx((-found.high, -found.low))
    if abs(found.low + margin) > 1e-9:
        assert (found.p_value < 0.05) == found.passes
    more = graded(delta, max(margin, other))
    assert more.passes or not found.passes


@settings(deadline=None, derandomize=True, max_examples=40)
@given(differences, st.integers(2, 4))
def test_copies_of_the_clusters_leave_the_mean(values: list[float], n_copies: int) -> None:
    delta = np.array(values)
    groups = np.arange(len(delta)) // 2
    once = graded(delta, 0.1, groups)
    copies = [groups + k * (groups.max() + 1) for k in range(n_copies)]
    again = graded(np.tile(delta, n_copies), 0.1, np.concatenate(copies))
    assert again.mean == pytest.approx(once.mean, abs=1e-12)
    assert again.n_groups == n_copies * once.n_groups
    # Items copied inside their clusters bring nothing new: the interval stays as well.
    inside = graded(np.tile(delta, n_copies), 0.1, np.tile(groups, n_copies))
    assert (inside.mean, inside.low, inside.high) == pytest.approx(
        (once.mean, once.low, once.high), abs=1e-9
    )


def test_an_estimate_is_tested_by_t_or_by_hall_whichever_is_more_cautious() -> None:
    def p_value(skew: float) -> float:
        found = compare_estimate(-0.01, 0.01, 1000, 100, 0.03, skew=skew)
        assert found.p_value is not None
        return found.p_value

    # (-0.01 + 0.03) / 0.01 = 2, with 99 degrees.
    assert p_value(0.0) == pytest.approx(stats.t.sf(2, 99))
    # Rare large losses: 2 - 0.3 x 4 / 3 + 0.09 x 8 / 27 - 0.3 / 6 = 1.57667.
    assert p_value(-0.3) == pytest.approx(stats.t.sf(1.5766667, 99), rel=1e-5)
    assert p_value(0.3) == p_value(0.0)
    few = compare_estimate(-0.01, 0.01, 1000, 19, 0.03)
    assert (few.p_value, few.finding) == (None, "inconclusive")
    with pytest.raises(ValueError, match="standard error 0"):
        compare_estimate(0.0, 0.0, 100, 100, 0.03)
