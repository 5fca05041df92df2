"""Slices and rare errors, by hand and by counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipelines.statistics.guards import rare_errors, slices
from pipelines.statistics.non_inferiority import compare, score_p_values


def scores(won: int, lost: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores of candidate and incumbent that differ on so many of n items."""
    ours, theirs = np.ones(n), np.ones(n)
    theirs[:won] = 0
    ours[won : won + lost] = 0
    return ours, theirs


def joined(*parts: tuple[str, int, int, int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Slices of (name, won, lost, n)."""
    pairs = [scores(won, lost, n) for _, won, lost, n in parts]
    ours, theirs = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return ours, theirs, [name for name, _, _, n in parts for _ in range(n)]


def test_a_bad_slice_in_a_good_mean() -> None:
    parts = (("german", 2, 25, 100), ("english", 40, 10, 300), ("thai", 0, 5, 5))
    ours, theirs, labels = joined(*parts)
    assert compare(ours, theirs, 0.05).passes
    found = {guard.name: guard for guard in slices(ours, theirs, labels, 0.05)}
    assert list(found) == ["english", "german", "thai"]
    assert [g.finding for g in found.values()] == ["not shown worse", "worse", "too few items"]
    # Losing 25 and winning 2 of 100 against a guard of 5 points, times the two judged slices.
    german = found["german"]
    assert german.p_worse == pytest.approx(2 * float(score_p_values(25, 2, 100, -0.05)))
    assert german.comparison.mean == pytest.approx(-0.23)
    assert german.comparison == compare(*scores(2, 25, 100), 0.05)
    assert found["thai"].reason == "too few items: 5, and 20 are needed"
    assert found["thai"].p_worse is None


def test_holm_counts_the_judged_slices_only() -> None:
    # Nine lost of 100, guard 3 points: enough alone, not among ten; slices too small do not count.
    alone = slices(*joined(("bad", 1, 11, 100)), 0.03)
    p = float(score_p_values(11, 1, 100, -0.03))
    assert 0.005 < p < 0.05
    assert (alone[0].finding, alone[0].p_worse) == ("worse", pytest.approx(p))
    small = [(f"small {k}", 0, 3, 4) for k in range(9)]
    assert slices(*joined(("bad", 1, 11, 100), *small), 0.03)[0] == alone[0]
    good = [(f"good {k}", 5, 5, 100) for k in range(9)]
    among = slices(*joined(("bad", 1, 11, 100), *good), 0.03)[0]
    assert (among.finding, among.p_worse) == ("not shown worse", pytest.approx(10 * p))


def test_min_items_names_the_slice() -> None:
    found = slices(*joined(("bad", 0, 30, 60)), 0.05, min_items=100)[0]
    assert (found.finding, found.reason) == (
        "too few items",
        "too few items: 60, and 100 are needed",
    )
    assert found.comparison.finding == "inferior"


def test_groups_count_inside_a_slice() -> None:
    ours, theirs, labels = joined(("bad", 0, 30, 60), ("good", 30, 30, 120))
    # 60 items in 6 groups are 6 units; 120 in 40 are 40.
    groups = np.r_[np.repeat(np.arange(6), 10), 6 + np.arange(120) % 40]
    bad, good = slices(ours, theirs, labels, 0.05, groups=groups)
    assert bad.reason == "too few independent units: 6, and 20 are needed"
    assert good.comparison.method == "cluster-robust t"
    assert good.comparison.n_groups == 40


def test_false_alarms_stay_under_alpha() -> None:
    # Three slices of 80 items that lose exactly the guard's 5 points, by counting one slice:
    # Holm alarms at all only if the smallest p is below 0.05 / 3.
    won, lost = np.meshgrid(np.arange(40), np.arange(40))
    weight = stats.multinomial.pmf(
        np.stack([won, lost, 80 - won - lost], -1), 80, [0.05, 0.1, 0.85]
    )
    alarm = float(weight[score_p_values(lost, won, 80, -0.05) < 0.05 / 3].sum())
    assert alarm > 0.005
    assert 1 - (1 - alarm) ** 3 < 0.05


def test_bad_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="2 slice labels for 3 items"):
        slices(np.ones(3), np.ones(3), ["a", "b"], 0.05)
    with pytest.raises(ValueError, match="negative"):
        slices(np.ones(2), np.ones(2), ["a", "b"], -0.05)


def test_nothing_seen_is_the_rule_of_three() -> None:
    found = rare_errors(0, 300)
    assert (found.rate, found.high, found.method) == (0.0, 0.01, "rule of three")
    assert stats.binom.pmf(0, 300, found.high) < 0.05  # 0.99^300 = 0.049
    assert rare_errors(0, 2).high == 1.0


@pytest.mark.parametrize(("n_seen", "n"), [(1, 100), (3, 50), (7, 1000)])
def test_seen_errors_are_bounded_exactly(n_seen: int, n: int) -> None:
    found = rare_errors(n_seen, n)
    assert found.method == "Clopper-Pearson"
    # At the bound, so few errors are seen one time in 20.
    assert stats.binom.cdf(n_seen, n, found.high) == pytest.approx(0.05)
    assert found.rate == n_seen / n < found.high
    reference = stats.binomtest(n_seen, n, alternative="less").proportion_ci(0.95, "exact")
    assert found.high == pytest.approx(reference.high)


def test_only_errors_bound_nothing() -> None:
    assert rare_errors(4, 4).high == 1.0


@pytest.mark.parametrize(("n_seen", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(n_seen: int, n: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        rare_errors(n_seen, n)
