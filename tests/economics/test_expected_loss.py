"""Expected loss, V*, M*, regret and the effective margin, computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from pipelines.core.hardware import Figure
from pipelines.economics.draws import Dollars, Draws, draw
from pipelines.economics.expected_loss import (
    Threshold,
    acceptability,
    effective_margin,
    error_costs,
    losses,
    saving,
    threshold,
    usd_per_good_task,
    v_star,
)

Z = float(stats.norm.ppf(0.975))


def states(
    quality: Sequence[Sequence[float]],
    usd: Sequence[Sequence[float]],
    fixed: Sequence[Sequence[float]] | None = None,
    volume: float = 1000,
) -> Draws:
    """Draws of `a` and `b`, given candidate by candidate."""
    q = np.array(quality, dtype=float).T
    return Draws(
        names=("a", "b"),
        quality=q,
        usd_per_task=np.array(usd, dtype=float).T,
        fixed_usd=np.zeros_like(q) if fixed is None else np.array(fixed, dtype=float).T,
        volume=np.full(len(q), volume),
    )


FOUR = states(
    quality=[[0.9, 0.8, 0.9, 0.8], [0.7, 0.7, 0.9, 0.9]],
    usd=[[0.10] * 4, [0.05] * 4],
    fixed=[[0] * 4, [10] * 4],
)
# At V = $2, b's $10 over 1,000 tasks being $0.01 each:
#   a: 0.2 + 0.10, 0.4 + 0.10, 0.2 + 0.10, 0.4 + 0.10 = 0.30, 0.50, 0.30, 0.50; mean 0.40
#   b: 0.6 + 0.06, 0.6 + 0.06, 0.2 + 0.06, 0.2 + 0.06 = 0.66, 0.66, 0.26, 0.26; mean 0.46
#   the best of each draw:                              0.30, 0.50, 0.26, 0.26; mean 0.33


def test_losses() -> None:
    found = losses(FOUR, 2.0)
    a, b = found.candidates["a"], found.candidates["b"]
    assert found.plug_in == "a"
    assert a.usd_per_1000_tasks.mean == pytest.approx(400)
    assert (a.usd_per_1000_tasks.low, a.usd_per_1000_tasks.high) == pytest.approx((300, 500))
    assert b.usd_per_1000_tasks.mean == pytest.approx(460)
    assert (a.probability_best, b.probability_best) == (0.5, 0.5)
    assert a.regret_usd_per_1000_tasks == pytest.approx(70)
    assert b.regret_usd_per_1000_tasks == pytest.approx(130)


def test_equals_share_a_draw() -> None:
    same = states([[0.5, 0.5], [0.5, 0.4]], [[0.1, 0.1], [0.1, 0.1]])
    found = losses(same, 1.0).candidates
    assert (found["a"].probability_best, found["b"].probability_best) == (0.75, 0.25)


def test_the_interval_leaves_a_fortieth_out_on_each_side() -> None:
    # Losses 0.000, 0.001 ... 0.999: of 1,000 draws 25 lie below 0.025 and 25 above 0.974.
    steps = [k / 1000 for k in range(1000)]
    found = losses(states([[1.0] * 1000] * 2, [steps, [1.0] * 1000]), 0.0)
    spread = found.candidates["a"].usd_per_1000_tasks
    assert (spread.low, spread.high) == pytest.approx((25, 974))


def test_acceptability_turns_where_errors_pay_for_quality() -> None:
    # b saves $0.04 a task; a is better by 0.2, 0.1, 0, -0.1: it wins draw 1 from V = 0.2 and draw 2
    # from V = 0.4. On average it is 0.05 better: its mean loss is lower from V = 0.8.
    curve = acceptability(FOUR, [0.0, 0.3, 0.7, 0.9])
    assert [point.probability_best["a"] for point in curve] == [0, 0.25, 0.5, 0.5]
    assert [point.probability_best["b"] for point in curve] == [1, 0.75, 0.5, 0.5]
    assert [point.plug_in for point in curve] == ["b", "b", "b", "a"]


def test_error_costs_begin_with_none_and_grow_by_a_factor() -> None:
    assert error_costs(0.01, 100, 5) == pytest.approx((0, 0.01, 0.1, 1, 10, 100))
    with pytest.raises(ValueError, match="0 < low < high"):
        error_costs(0, 1)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_an_error_costs_a_finite_positive_sum(value: float) -> None:
    for call in (
        lambda: losses(FOUR, value),
        lambda: effective_margin(0.03, 0.1, value),
    ):
        with pytest.raises(ValueError, match="usd_per_error"):
            call()


@pytest.mark.parametrize(
    ("price", "gain", "expected"),
    [
        (1, 2, 0.5),
        (1, -1, None),  # dearer and worse
        (-1, 1, 0.0),  # cheaper and better
        (-1, -1, None),  # cheaper and worse: pays only below 1
        (0, 0, 0.0),
        (-1, 0, 0.0),  # cheaper and as good
        (1, 0, None),  # dearer and as good
        (0, 1, 0.0),
        (0, -1, None),
    ],
)
def test_from_where_upward_it_pays(price: float, gain: float, expected: float | None) -> None:
    found = threshold(np.array([price]), np.array([gain]))
    assert found.likely == found.low == found.high == expected
    assert found.probability_never == (1 if expected is None else 0)


@pytest.mark.parametrize(("never", "high"), [(2, 1 / 3), (3, None)])
def test_never_is_an_end_of_the_interval(never: int, high: float | None) -> None:
    # Of 100 draws the two largest are left out.
    gain = np.array([-1.0] * never + [3.0] * (100 - never))
    found = threshold(np.ones(100), gain)
    assert found.low == pytest.approx(1 / 3)
    assert found.high == (None if high is None else pytest.approx(high))
    assert found.probability_never == never / 100


def test_never_may_be_both_ends() -> None:
    found = threshold(np.ones(100), np.array([-1.0] * 98 + [1.0] * 2))
    assert found == Threshold(likely=None, low=None, high=None, probability_never=0.98)


def test_v_star_finds_the_dearer_itself() -> None:
    # a costs 0.10, b 0.06; mean qualities 0.85 and 0.80: 0.04 / 0.05 = 0.8. By draws: 0.04 / 0.2,
    # 0.04 / 0.1, never, never.
    for one, other in (("a", "b"), ("b", "a")):
        found = v_star(FOUR, one, other)
        assert (found.dearer, found.cheaper) == ("a", "b")
        assert found.likely == pytest.approx(0.8)
        assert found.low == pytest.approx(0.2)
        assert found.high is None
        assert found.probability_never == 0.5


def test_v_star_has_fiellers_interval() -> None:
    # Independent normals: dollars 0.02 +- 0.003, quality 0.06 +- 0.01. Fieller: the roots of
    # (0.02 - 0.06 V)^2 = z^2 (0.003^2 + 0.01^2 V^2).
    rng = np.random.default_rng(5)
    n = 200_000
    usd, better = rng.normal(0.02, 0.003, n), rng.normal(0.06, 0.01, n)
    zeros = np.zeros(n)
    found = v_star(
        Draws(
            names=("dear", "cheap"),
            quality=np.column_stack([0.8 + better, zeros + 0.8]),
            usd_per_task=np.column_stack([0.05 + usd, zeros + 0.05]),
            fixed_usd=np.zeros((n, 2)),
            volume=np.ones(n),
        ),
        "dear",
        "cheap",
    )
    low, high = sorted(
        np.roots([0.06**2 - Z**2 * 0.01**2, -2 * 0.02 * 0.06, 0.02**2 - Z**2 * 0.003**2]).tolist()
    )
    # 200,000 draws know the 2.5 % quantile to 0.6 % of a standard error.
    assert found.low == pytest.approx(low, rel=0.01)
    assert found.high == pytest.approx(high, rel=0.01)
    # Log-delta is the first approximation of it.
    half = Z * math.hypot(0.003 / 0.02, 0.01 / 0.06)
    assert found.likely == pytest.approx(1 / 3, rel=0.01)
    assert found.low == pytest.approx(math.exp(-half) / 3, rel=0.1)
    assert found.high == pytest.approx(math.exp(half) / 3, rel=0.1)


def paired(n_both: int, n_dear: int, n_cheap: int, n_none: int) -> Draws:
    """From counted items: right for both, one, none; the dear one costs $0.02 more."""
    rows = [[1, 1]] * n_both + [[1, 0]] * n_dear + [[0, 1]] * n_cheap + [[0, 0]] * n_none
    dollars = {
        "dear": Dollars(usd_per_task=Figure.of("0.03")),
        "cheap": Dollars(usd_per_task=Figure.of("0.01")),
    }
    return draw(["dear", "cheap"], rows, dollars, Figure.of(1), n_draws=40_000)


def test_v_star_of_paired_items_has_fiellers_interval() -> None:
    # 2,000 items, 200 to 100: difference 0.05, variance 0.15 - 0.0025 = 0.1475, standard error
    # sqrt(0.1475 / 1999) = 0.00859. Dollars are certain: 0.02 / (0.05 +- z x 0.00859).
    found = v_star(paired(1500, 200, 100, 200), "dear", "cheap")
    se = math.sqrt(0.1475 / 1999)
    assert found.likely == pytest.approx(0.4, rel=0.01)
    assert found.low == pytest.approx(0.02 / (0.05 + Z * se), rel=0.02)
    assert found.high == pytest.approx(0.02 / (0.05 - Z * se), rel=0.02)
    assert found.probability_never == 0


def test_v_star_has_no_upper_end_where_quality_may_be_the_same() -> None:
    # 110 to 100: 0.005 +- 0.0073. Never in Phi(-0.005 / 0.00725) = 24.5 % of the draws.
    found = v_star(paired(1500, 110, 100, 290), "dear", "cheap")
    assert found.high is None
    assert found.low is not None
    assert found.probability_never == pytest.approx(0.245, abs=0.015)


def test_v_star_is_where_the_curve_crosses_its_levels() -> None:
    states_of = paired(1500, 200, 100, 200)
    found = v_star(states_of, "dear", "cheap")
    assert found.low is not None
    assert found.high is not None
    ends = acceptability(states_of, [found.low * (1 + 1e-9), found.high * (1 + 1e-9)])
    shares = [point.probability_best["dear"] for point in ends]
    assert shares == pytest.approx([0.025, 0.975], abs=0.003)


def test_usd_per_good_task() -> None:
    # a: 0.10 / 0.85; draws 0.10 / 0.9 and 0.10 / 0.8. b: 0.06 / 0.80.
    found = usd_per_good_task(FOUR, "a")
    assert found is not None
    assert (found.usd, found.low, found.high) == pytest.approx((0.1 / 0.85, 0.1 / 0.9, 0.125))
    other = usd_per_good_task(FOUR, "b")
    assert other is not None
    assert other.usd == pytest.approx(0.075)


@pytest.mark.parametrize(("right", "known"), [(0, False), (3, False), (5, True)])
def test_it_is_unknown_where_nothing_may_be_right(right: int, known: bool) -> None:
    # A resample of 300 items misses 3 right ones in exp(-3) = 5 % of the cases, 5 in 0.7 %.
    found = usd_per_good_task(paired(right, 0, 0, 300 - right), "dear")
    assert (found is not None) == known
    if found:
        assert found.usd == pytest.approx(0.03 * 60, rel=0.02)
        assert math.isfinite(found.high)


def test_saving() -> None:
    found = saving(FOUR, "b", "a")
    assert (found.mean, found.low, found.high) == pytest.approx((0.04, 0.04, 0.04))


@pytest.mark.parametrize(
    ("policy", "saved", "error", "margin"),
    [
        (0.03, 0.006, 1.0, 0.006),
        (0.03, 0.006, 0.1, 0.03),  # 0.06 would pay, 0.03 is allowed
        (0.03, -0.01, 0.5, -0.02),  # must be better by 2 points
        (0.03, -0.01, None, 0.03),
        (0.03, 0.01, 0.0, 0.03),
        (0.03, 0.0, 0.0, 0.0),
        (0.03, 0.0, 5.0, 0.0),
        (0.03, -0.01, 0.0, -math.inf),  # nothing that is dearer pays when errors are free
    ],
)
def test_effective_margin(policy: float, saved: float, error: float | None, margin: float) -> None:
    assert effective_margin(policy, saved, error) == pytest.approx(margin)


def test_one_margin_asks_for_both() -> None:
    rng = np.random.default_rng(0)
    both = 0
    for _ in range(5000):
        policy, saved = float(rng.uniform(0, 0.1)), float(rng.normal(0, 0.02))
        error, gap = float(rng.uniform(0.01, 5)), float(rng.normal(0, 0.05))
        asked = gap > -policy and error * gap + saved > 0
        assert (gap > -effective_margin(policy, saved, error)) == asked
        both += asked
    assert 500 < both < 4500
