"""Group-sequential bounds against published ones, paths that are walked, and the fixed order."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.statistics.non_inferiority import score_p_values
from pipelines.statistics.sequential import (
    Design,
    crossings,
    expected_n,
    fixed_order,
    obrien_fleming,
    plan,
    repeated_interval,
    spending_design,
)


def kim_demets(total: float, fractions: list[float], power: float) -> list[float]:
    return [total * t**power for t in fractions]


def walked(n_paths: int, design: Design, drift: float) -> np.ndarray:
    """Z of random studies at every look, shape (n_paths, n_looks)."""
    t = np.array(design.fractions)
    steps = np.diff(t, prepend=0.0)
    noise = np.random.default_rng(11).standard_normal((n_paths, len(t)))
    return (np.sqrt(steps) * noise + drift * steps).cumsum(1) / np.sqrt(t)


def test_five_looks_are_those_of_lan_and_demets() -> None:
    # ld98 (Reboussin, DeMets, Kim and Lan 2000), O'Brien-Fleming-type spending of 0.025.
    expected = [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]
    assert plan(5, 0.025).efficacy == pytest.approx(expected, abs=1e-4)


def test_one_look_is_the_ordinary_test() -> None:
    found = plan(1, 0.05, 0.8)
    assert found.efficacy == pytest.approx([1.6448536], abs=1e-6)
    assert found.inflation == pytest.approx(1.0)
    assert found.levels == pytest.approx([0.05])


@pytest.mark.parametrize(
    ("fractions", "efficacy", "futility", "power"),
    [  # rpact 3, getDesignGroupSequential(alpha 0.13, beta 0.41, "asOF", "bsKD", gammaB 2.5)
        (
            [0.4, 0.75, 1.0],
            [2.1280732, 1.4368565, 1.2468994],
            [-0.83725762, 0.35992547],
            [0.10903632, 0.42541278, 0.59],
        ),
        (
            [0.4, 0.75, 0.85, 1.0],
            [2.1280732, 1.4368565, 1.422873, 1.2970881],
            [-0.82676531, 0.3743303, 0.65077266],
            [0.1110095, 0.43099683, 0.50326205, 0.59],
        ),
    ],
)
def test_bounds_with_futility_are_rpacts(
    fractions: list[float], efficacy: list[float], futility: list[float], power: list[float]
) -> None:
    found = spending_design(
        fractions, obrien_fleming(0.13, fractions), kim_demets(0.41, fractions, 2.5)
    )
    assert found.futility is not None
    assert found.efficacy == pytest.approx(efficacy, abs=1e-6)
    assert found.futility == pytest.approx([*futility, efficacy[-1]], abs=1e-6)
    assert crossings(found, found.drift).efficacy.cumsum() == pytest.approx(power, abs=1e-6)


def test_inflation_and_expected_n_are_rpacts() -> None:
    # getDesignCharacteristics of kMax 3, rates 0.2, 0.4, 1, with the errors spent as printed.
    alpha, beta = [0.0090195874, 0.020036136, 0.07], [0.010777094, 0.026854629, 0.14]
    found = spending_design([0.2, 0.4, 1.0], alpha, beta)
    assert found.inflation == pytest.approx(1.0869177, abs=1e-6)
    shares = [expected_n(found, 1.0, found.drift * k) for k in (1.0, 0.5, 0.0)]
    assert shares == pytest.approx([0.82636428, 0.916142, 0.79471657], abs=1e-6)
    alone = spending_design(
        [0.2, 0.4, 1.0], [0.006, 0.012, 0.03], [0, 0, 0.14], stop_for_futility=False
    )
    assert alone.futility is None
    assert alone.efficacy == pytest.approx([2.5121443, 2.4228747, 2.0280392], abs=1e-6)
    assert alone.inflation == pytest.approx(1.0788327, abs=1e-6)
    shares = [expected_n(alone, 1.0, alone.drift * k) for k in (1.0, 0.5, 0.0)]
    assert shares == pytest.approx([0.83081135, 1.0142116, 1.0697705], abs=1e-6)


@pytest.mark.parametrize(
    ("bound", "spent", "digits"),
    [
        # Jennison and Turnbull 2000, tables 2.1 and 2.3: five looks, two-sided 0.05.
        (lambda t: np.full(len(t), 2.413), 0.025, 2e-5),
        (lambda t: 2.040 / np.sqrt(t), 0.025, 2e-5),
        (lambda t: np.full(len(t), 1.959964), 0.071, 1e-3),  # peeking: 14.2 % two-sided
    ],
)
def test_constants_of_pocock_and_of_obrien_and_fleming(
    bound: Callable[[np.ndarray], np.ndarray], spent: float, digits: float
) -> None:
    t = np.arange(1, 6) / 5
    efficacy = tuple(bound(t).tolist())
    found = Design(
        fractions=tuple(t.tolist()),
        alpha=0.025,
        power=0.8,
        efficacy=efficacy,
        futility=None,
        drift=3.0,
    )
    assert crossings(found, 0.0).efficacy.sum() == pytest.approx(spent, abs=digits)


@pytest.mark.parametrize("n_looks", [2, 5, 12, 20])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.025, 0.95), (0.2, 0.5)])
def test_a_plan_spends_what_it_says(n_looks: int, alpha: float, power: float) -> None:
    found = plan(n_looks, alpha, power)
    assert found.futility is not None
    # Whoever goes on in spite of futility makes alpha errors, not more; whoever obeys, fewer.
    ignored = crossings(found, 0.0, obey_futility=False)
    assert ignored.efficacy.cumsum() == pytest.approx(
        obrien_fleming(alpha, found.fractions), abs=1e-8
    )
    assert alpha / 2 < crossings(found, 0.0).efficacy.sum() < alpha
    hits, misses = crossings(found, found.drift)
    assert hits.sum() == pytest.approx(power, abs=1e-7)
    assert misses.cumsum() == pytest.approx(obrien_fleming(1 - power, found.fractions), abs=1e-7)
    assert all(low <= high for low, high in zip(found.futility, found.efficacy, strict=True))
    assert 1.0 < found.inflation < (1.3 if power > 0.5 else 2.1)


def test_the_default_plan() -> None:
    found = plan()
    assert found.futility is not None
    assert found.efficacy == pytest.approx([4.2292, 2.8881, 2.2981, 1.9618, 1.7397], abs=1e-4)
    assert found.futility[:4] == pytest.approx([-1.4321, -0.0283, 0.7201, 1.2479], abs=1e-4)
    assert found.inflation == pytest.approx(1.1773, abs=1e-4)


@pytest.mark.parametrize("share", [-1.0, 0.0, 1.0, 5 / 3])
def test_expected_n_is_that_of_walked_paths(share: float) -> None:
    found, n_paths = plan(), 40_000
    drift = share * found.drift
    z = walked(n_paths, found, drift)
    assert found.futility is not None
    stopped = (z >= found.efficacy) | (z < found.futility)
    looks = stopped.argmax(1)
    n_used = np.array(found.fractions)[looks] * 1000 * found.inflation
    assert expected_n(found, 1000, drift) == pytest.approx(n_used.mean(), abs=6.0)
    passed = z[np.arange(n_paths), looks] >= np.array(found.efficacy)[looks]
    assert crossings(found, drift).efficacy.sum() == pytest.approx(passed.mean(), abs=0.008)


def test_repeated_intervals_hold_at_all_looks_at_once() -> None:
    found, truth = plan(5, 0.05), 1.2
    z, errors = walked(40_000, found, truth), 1 / np.sqrt(np.array(found.fractions))
    holds = np.ones(len(z), dtype=bool)
    assert repeated_interval(found, 2, 3.0, 0.5) == pytest.approx(
        (3 - 1.4441, 3 + 1.4441), abs=1e-4
    )
    for look in range(1, 6):
        below, _ = repeated_interval(found, look, 0.0, float(errors[look - 1]))
        holds &= z[:, look - 1] * errors[look - 1] + below <= truth
    assert 1 - holds.mean() == pytest.approx(0.05, abs=0.004)


def test_looking_five_times_keeps_the_rate_of_the_score_test() -> None:
    # 750 items, a tenth of which differ; the candidate loses exactly the margin of 3 points.
    counts = np.random.default_rng(2).multinomial(150, [0.035, 0.065, 0.9], (20_000, 5)).cumsum(1)
    p = score_p_values(counts[..., 0], counts[..., 1], 150 * np.arange(1, 6), 0.03)
    assert 0.04 < (p < np.array(plan().levels)).any(1).mean() < 0.055
    assert (p < 0.05).any(1).mean() > 0.11  # what peeking would do


@pytest.mark.parametrize(
    ("n_looks", "alpha", "power"), [(0, 0.05, 0.8), (21, 0.05, 0.8), (5, 0.3, 0.8), (5, 0.05, 1.0)]
)
def test_impossible_plans_are_refused(n_looks: int, alpha: float, power: float) -> None:
    with pytest.raises(ValueError, match=r"must be in|can be planned"):
        plan(n_looks, alpha, power)


def test_the_order_is_written_down() -> None:
    # printf '0\nd' | sha256sum, and so on; the same on every machine and Python.
    assert fixed_order("abcdefg", 0) == tuple("dabgfec")
    assert fixed_order("abcdefg", 1) == tuple("dbegcaf")


@settings(deadline=None, derandomize=True)
@given(st.sets(st.text(max_size=8), max_size=30), st.integers(), st.randoms())
def test_the_order_ignores_the_order_of_arrival(
    ids: set[str], seed: int, shuffler: random.Random
) -> None:
    arrived = sorted(ids)
    shuffler.shuffle(arrived)
    found = fixed_order(arrived, seed)
    assert found == fixed_order(sorted(ids), seed)
    assert set(found) == ids


def test_the_order_is_random() -> None:
    # The place of one id under 2,000 seeds: uniform over 50 places.
    ids = [f"item-{k}" for k in range(50)]
    places = [fixed_order(ids, seed).index("item-7") for seed in range(2000)]
    assert stats.chisquare(np.bincount(places, minlength=50)).pvalue > 0.001


def test_items_that_take_longer_do_not_come_later() -> None:
    # An item the candidate loses takes longer: by arrival the losses are missing from a prefix.
    rng = random.Random(1)
    lost = {f"q{k}": rng.random() < 0.3 for k in range(4000)}
    arrived = sorted(lost, key=lambda i: rng.expovariate(1 / 3 if lost[i] else 1.0))
    share = {
        name: np.mean([lost[i] for i in order[:800]])
        for name, order in (("arrival", arrived), ("fixed", fixed_order(arrived, 0)))
    }
    assert share["arrival"] < 0.2
    assert share["fixed"] == pytest.approx(0.3, abs=0.05)


def test_ids_may_be_anything_that_json_can_hold() -> None:
    assert set(fixed_order(["\ud800", "", "\n0"], 0)) == {"\ud800", "", "\n0"}


def test_an_id_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'b' occurs twice"):
        fixed_order("abcb", 0)
