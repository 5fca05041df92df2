"""Items for a proof, its power, and what information is worth: tables, integrals, brute force."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import pairwise

import pytest
from scipy import integrate, stats

from pipelines.economics.plan import (
    Sample,
    best_sample,
    evsi,
    exact_power,
    needed_n,
    power_at,
    proof,
)
from pipelines.statistics.intervals import tango

PRICE = Decimal("0.02")


@pytest.mark.parametrize(
    ("margin", "true_difference", "one_sided_5", "one_sided_2_5"),
    [
        (0.02, 0.0, [773, 1546, 3092, 4637], [982, 1963, 3925, 5887]),
        (0.02, 0.01, [343, 687, 1374, 2061], [436, 872, 1744, 2616]),
        (0.02, -0.01, [3086, 6177, 12359, 18542], [3917, 7842, None, None]),
        (0.03, 0.0, [344, 687, 1374, 2061], [437, 873, 1745, 2617]),
        (0.03, 0.01, [193, 387, 773, 1159], [245, 491, 981, None]),
        (0.03, -0.01, [772, 1545, 3090, 4636], [980, 1961, 3923, None]),
        (0.05, 0.0, [124, 248, 495, 742], [157, 314, 628, None]),
        (0.01, 0.0, [3092, 6183, 12366, 18548], [None] * 4),
    ],
)
def test_the_table_of_sample_sizes(
    margin: float, true_difference: float, one_sided_5: list[int], one_sided_2_5: list[int | None]
) -> None:
    for psi, wide, narrow in zip((0.05, 0.1, 0.2, 0.3), one_sided_5, one_sided_2_5, strict=True):
        assert needed_n(margin, psi, true_difference, alpha=0.05) == wide
        if narrow is not None:
            assert needed_n(margin, psi, true_difference) == narrow


def test_needed_n_by_hand() -> None:
    # (1.64485 + 0.84162)^2 = 6.18256; x (0.1 - 0.0001) / 0.03^2 = 686.26.
    assert needed_n(0.02, 0.1, 0.01, alpha=0.05) == 687
    # Groups that double the variance: 1372.53.
    assert needed_n(0.02, 0.1, 0.01, alpha=0.05, design_effect=2) == 1373
    # $0.006 saved and errors at $1: 0.6 points. 6.18256 x 0.1 / 0.000036 = 17,173.8.
    assert needed_n(0.006, 0.1, alpha=0.05) == 17174


def test_what_is_not_true_cannot_be_shown() -> None:
    assert needed_n(0.02, 0.1, -0.02) is None
    assert needed_n(-0.01, 0.1, 0.0) is None
    # Superiority by 1 point, with a true one of 3: like a margin of 2 points and no difference.
    assert needed_n(-0.01, 0.1, 0.03, alpha=0.05) == math.ceil(6.18256 * (0.1 - 0.0009) / 0.0004)


@pytest.mark.parametrize(("psi", "gap"), [(0.05, 0.06), (1.2, 0.0), (-0.1, 0.0)])
def test_shares_that_contradict_one_another(psi: float, gap: float) -> None:
    for call in (
        lambda: needed_n(0.02, psi, gap),
        lambda: power_at(100, 0.02, psi, gap),
        lambda: exact_power(100, 0.02, psi, gap),
    ):
        with pytest.raises(ValueError, match="discordant"):
            call()
    with pytest.raises(ValueError, match="design_effect"):
        needed_n(0.02, 0.1, design_effect=0)


def test_power_at() -> None:
    # 0.02 x sqrt(1546 / 0.1) - 1.64485 = 0.84188, Phi = 0.80007.
    assert power_at(1546, 0.02, 0.1, alpha=0.05) == pytest.approx(0.80007, abs=1e-4)
    # On the margin it is alpha.
    assert power_at(1000, 0.02, 0.1, -0.02) == pytest.approx(0.025)
    assert power_at(3092, 0.02, 0.1, alpha=0.05, design_effect=2) == pytest.approx(0.8, abs=1e-3)
    assert power_at(0, 0.02, 0.1) == 0
    assert power_at(10, 0.02, 0.0) == 1


@pytest.mark.parametrize(("margin", "psi", "gap"), [(0.3, 0.3, 0.05), (-0.05, 0.8, 0.5)])
def test_exact_power_sums_all_outcomes(margin: float, psi: float, gap: float) -> None:
    n, total = 14, 0.0
    shares = [(psi + gap) / 2, (psi - gap) / 2, 1 - psi]
    for won in range(n + 1):
        for lost in range(n + 1 - won):
            if tango(won, lost, n)[0] > -margin:
                total += float(stats.multinomial.pmf([won, lost, n - won - lost], n, shares))
    assert 0.1 < total < 0.99
    assert exact_power(n, margin, psi, gap) == pytest.approx(total, abs=1e-9)


def test_exact_power_agrees_with_the_formula_where_many_items_differ() -> None:
    assert exact_power(6177, 0.02, 0.1, -0.01, alpha=0.05) == pytest.approx(0.80, abs=0.005)
    # 124 x 0.05 = 6 items that differ: the formula promises 0.80 and is wrong.
    assert exact_power(124, 0.05, 0.05, alpha=0.05) < 0.75


def test_exact_power_holds_its_level() -> None:
    assert exact_power(1000, 0.03, 0.1, -0.03) <= 0.027


def test_a_proof_that_can_be_paid() -> None:
    # 1,963 are needed; 963 more at $0.02 are $19.26; $30 pay 1,500.
    found = proof(0.02, 0.1, n_now=1000, usd_per_item=PRICE, budget_usd=Decimal(30))
    assert found.n_needed == 1963
    assert found.n_reachable == 2500
    assert found.usd_needed == Decimal("19.26")
    assert found.is_provable
    assert found.power_now < 0.8 < found.power_reachable
    assert found.reason == "963 more items, $19.26"


@pytest.mark.parametrize(
    ("available", "budget", "reachable", "reason"),
    [
        (1500, None, 1500, "it takes 1,963 items, and only 1,500 exist"),
        (None, Decimal(10), 1500, "it takes 1,963 items, and only 1,500 can be paid"),
        (1962, Decimal(100), 1962, "it takes 1,963 items, and only 1,962 exist"),
    ],
)
def test_a_proof_out_of_reach(
    available: int | None, budget: Decimal | None, reachable: int, reason: str
) -> None:
    found = proof(
        0.02, 0.1, n_now=1000, usd_per_item=PRICE, n_available=available, budget_usd=budget
    )
    assert not found.is_provable
    assert found.n_reachable == reachable
    assert found.reason == reason
    assert found.power_reachable < 0.8


def test_a_proof_that_is_there_or_never_comes() -> None:
    there = proof(0.02, 0.1, n_now=1963, usd_per_item=PRICE, budget_usd=Decimal(0))
    assert (there.is_provable, there.usd_needed) == (True, 0)
    assert there.reason == "the 1,963 items at hand suffice"
    never = proof(0.02, 0.1, -0.03, n_now=100, usd_per_item=PRICE)
    assert not never.is_provable
    assert never.n_needed is None
    assert never.usd_needed is None
    assert never.reason == "no number of items: a true difference of -3.0 points is not above -2.0"
    with pytest.raises(ValueError, match="n_available: 5"):
        proof(0.02, 0.1, n_now=10, usd_per_item=PRICE, n_available=5)
    with pytest.raises(ValueError, match="negative"):
        proof(0.02, 0.1, n_now=-1, usd_per_item=PRICE)


@pytest.mark.parametrize(
    ("distance", "loss"), [(0.0, 0.3989), (0.5, 0.1978), (1.0, 0.08332), (2.0, 0.008491)]
)
def test_the_published_unit_normal_loss(distance: float, loss: float) -> None:
    # The standard table of decision analysis. With n = 1 and k = 10^12 the mean moves by all of se.
    found = evsi(distance * 0.5, 0.5, 1, 10**12, tasks=2)
    assert found == pytest.approx(loss, rel=5e-4)


def test_evsi_by_hand() -> None:
    # se 0.01 from 100 items; 300 more move the mean by 0.01 sqrt(300 / 400) = 0.0086603. At a tie
    # that is worth 10^6 x 0.0086603 x 0.398942 = $3,454.94.
    assert evsi(0.0, 0.01, 100, 300, 1e6) == pytest.approx(3454.94, abs=0.01)


@pytest.mark.parametrize("mean", [-0.012, -0.003, 0.0, 0.007])
def test_evsi_is_the_integral_over_what_may_be_seen(mean: float) -> None:
    se, n, k = 0.006, 250, 700
    moves = se * math.sqrt(k / (n + k))
    # Take what loses less after the items: E[max(0, X)], instead of max(0, mean) without them.
    after, _ = integrate.quad(
        lambda x: x * float(stats.norm.pdf(x, mean, moves)), 0, 0.1, points=[0.005], epsabs=1e-14
    )
    assert evsi(mean, se, n, k, 1e5) == pytest.approx(1e5 * (after - max(0.0, mean)), rel=1e-6)


def test_evsi_is_nothing_where_nothing_can_change() -> None:
    assert evsi(0.01, 0.0, 100, 50, 1e6) == 0
    assert evsi(0.0, 0.0, 100, 50, 1e6) == 0
    assert evsi(0.01, 0.005, 100, 0, 1e6) == 0
    assert evsi(1.0, 0.001, 100, 50, 1e6) == 0


def test_evsi_grows_with_the_items_up_to_perfect_information() -> None:
    values = [evsi(0.004, 0.005, 200, k, 1e6) for k in (0, 1, 10, 100, 1000, 10**4, 10**5, 10**7)]
    assert all(fewer < more for fewer, more in pairwise(values[1:]))
    perfect = 1e6 * (0.005 * stats.norm.pdf(0.8) - 0.004 * stats.norm.sf(0.8))
    assert values[-1] < perfect
    assert values[-1] == pytest.approx(perfect, rel=1e-3)


@pytest.mark.parametrize(
    ("mean", "k_max"), [(0.0, None), (0.005, None), (0.01, None), (0.005, 900)]
)
def test_best_sample_is_the_best_of_all(mean: float, k_max: int | None) -> None:
    se, n, tasks, price = 0.006, 150, 300_000, 0.02

    def worth(k: int) -> float:
        return evsi(mean, se, n, k, tasks) - price * k

    best = max(range((k_max or 5000) + 1), key=worth)
    found = best_sample(mean, se, n, tasks, PRICE, k_max)
    assert found.k == best > 0
    assert found.value_usd == pytest.approx(evsi(mean, se, n, best, tasks))
    assert found.usd == pytest.approx(price * best)


def test_the_best_of_very_many() -> None:
    # At a tie the slope is M se / sqrt(2 pi) x n / (2 sqrt(k) (n + k)^1.5) = price. With 10^9 tasks
    # it is at k^2 = about 10^9 x 0.01 x 100 x 0.398942 / (2 x 0.0001) = 1.9947e12: 1.412e6.
    found = best_sample(0.0, 0.01, 100, 1e9, Decimal("0.0001"))
    assert found.k == pytest.approx(1.412e6, rel=1e-3)


def test_none_is_bought_where_knowing_costs_more() -> None:
    # All there is to know is worth 100 x 0.01 x 0.3989 = $0.40.
    nothing = Sample(k=0, value_usd=0, usd=0)
    assert best_sample(0.0, 0.01, 100, 100, Decimal(1)) == nothing
    # That of 1,000 tasks is $3.99; but k items move the mean by sqrt(k / (100 + k)) of 0.01, which
    # is worth less than $0.40 sqrt(k) and costs k dollars.
    assert best_sample(0.0, 0.01, 100, 1000, Decimal(1)) == nothing
    assert best_sample(0.0, 0.0, 100, 1e9, PRICE) == nothing
    assert best_sample(0.0, 0.01, 100, 1e9, PRICE, k_max=0) == nothing


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="k: -1"):
        evsi(0.0, 0.01, 100, -1, 1e6)
    with pytest.raises(ValueError, match="at least one item"):
        evsi(0.0, 0.01, 0, 1, 1e6)
    with pytest.raises(ValueError, match="give k_max"):
        best_sample(0.0, 0.01, 100, 1e6, Decimal(0))
    with pytest.raises(ValueError, match="usd_per_item -1"):
        best_sample(0.0, 0.01, 100, 1e6, Decimal(-1))
