"""Draws of quality and dollars: against analytic standard errors, and the same every time."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from pipelines.core.hardware import Figure
from pipelines.economics.draws import Array, Dollars, Draws, bootstrap, doubts, draw, pert
from pipelines.statistics.intervals import difference


def figure(low: float, likely: float, high: float) -> Figure:
    return Figure(low=Decimal(str(low)), likely=Decimal(str(likely)), high=Decimal(str(high)))


def graded(n: int, k: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((n, k))


def grouped(n_groups: int, seed: int = 1) -> tuple[Array, list[str]]:
    """Two candidates on groups of 1 to 9 items that share half of their luck."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, n_groups)
    luck = np.repeat(rng.random((n_groups, 2)), sizes, axis=0)
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    return (luck + rng.random((len(groups), 2))) / 2, groups


def test_independent_items_give_the_usual_standard_error() -> None:
    scores = graded(400, 3)
    found = bootstrap(scores, n_draws=40_000)
    se = scores.std(axis=0, ddof=1) / np.sqrt(400)
    # The standard deviation of 40,000 draws is known to 1 / sqrt(2 x 40,000) = 0.35 %.
    assert found.std(axis=0) == pytest.approx(se, rel=0.015)
    # Their mean is known to se / 200.
    assert np.abs(found.mean(axis=0) - scores.mean(axis=0)).max() < se.max() / 50


def test_few_items_give_it_too() -> None:
    # 0, 1, 1: the mean's standard error is sqrt((4 + 1 + 1) / 9 / 2 / 3) = 1/3, not sqrt(2/9/3).
    found = bootstrap(np.array([[0.0], [1.0], [1.0]]), n_draws=40_000)
    assert float(found.std()) == pytest.approx(1 / 3, rel=0.02)


def test_the_same_items_are_drawn_for_every_candidate() -> None:
    one = (graded(300, 1) > 0.3).astype(float)
    scores = np.hstack([one, one, 1 - one])
    found = bootstrap(scores, n_draws=200)
    assert np.array_equal(found[:, 0], found[:, 1])
    assert found[:, 0] + found[:, 2] == pytest.approx(np.ones(200))


def test_equal_candidates_stay_equal() -> None:
    found = bootstrap(np.repeat(graded(500, 1), 5, axis=1), n_draws=300)
    assert (found == found[:, :1]).all()


def test_groups_give_the_cluster_robust_standard_error() -> None:
    scores, groups = grouped(80)
    means = scores.mean(axis=0)
    residuals = np.array(
        [(scores - means)[np.array(groups) == g].sum(axis=0) for g in dict.fromkeys(groups)]
    )
    se = np.sqrt(80 / 79 * (residuals**2).sum(axis=0)) / len(groups)
    found = bootstrap(scores, groups, n_draws=40_000)
    assert found.std(axis=0) == pytest.approx(se, rel=0.02)
    naive = scores.std(axis=0, ddof=1) / np.sqrt(len(groups))
    assert (se > 1.5 * naive).all(), "the groups must matter in this test"


def test_the_cluster_interval_of_a_difference_is_the_analytic_one() -> None:
    scores, groups = grouped(200)
    ids = [str(i) for i in range(len(groups))]
    ours, theirs = (dict(zip(ids, scores[:, j].tolist(), strict=True)) for j in (0, 1))
    analytic = difference(ours, theirs, dict(zip(ids, groups, strict=True)))
    assert analytic is not None
    found = bootstrap(scores, groups, n_draws=40_000)
    low, high = np.quantile(found[:, 0] - found[:, 1], [0.025, 0.975])
    # t(199) is 0.6 % wider than the normal; the 2.5 % quantile of 40,000 draws is known to
    # sqrt(0.025 x 0.975 / 40,000) / phi(1.96) = 1.3 % of a standard error, 0.7 % of the half-width.
    half = (analytic.high - analytic.low) / 2
    assert low == pytest.approx(analytic.low, abs=0.03 * half)
    assert high == pytest.approx(analytic.high, abs=0.03 * half)


def test_a_group_of_one_is_an_item() -> None:
    scores = graded(50, 2)
    alone: list[str | None] = [None] * 50
    assert np.array_equal(bootstrap(scores, alone, n_draws=50), bootstrap(scores, n_draws=50))


@pytest.mark.parametrize(
    ("scores", "groups", "message"),
    [
        ([[0.5], [float("nan")]], None, "item 1, candidate 0 is nan"),
        ([[0.5, 0.2], [0.1, 1.5]], None, "item 1, candidate 1 is 1.5"),
        ([[0.5]], None, "at least 2"),
        ([[0.5], [0.6]], ["a", "a"], "at least 2"),
        ([[0.5], [0.6]], ["a"], "groups: 1 for 2 items"),
        ([0.5, 0.6], None, "one row per item"),
    ],
)
def test_bad_scores_are_refused(scores: Any, groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(scores, groups, n_draws=10)


def test_pert_has_the_mean_and_the_spread_of_its_beta() -> None:
    # 1, 2, 7: shapes 1 + 4/6 = 5/3 and 1 + 20/6 = 13/3. Mean (1 + 8 + 7) / 6 = 8/3; variance
    # 36 x (5/3)(13/3) / (6^2 x 7) = 65/63.
    found = pert(figure(1, 2, 7), 100_000, 3)
    assert found.min() >= 1
    assert found.max() <= 7
    assert float(found.mean()) == pytest.approx(8 / 3, abs=0.015)
    assert float(found.var()) == pytest.approx(65 / 63, rel=0.02)


def test_pert_thins_the_ends() -> None:
    # Beta(3, 3) below 1/6: 10/6^3 - 15/6^4 + 6/6^5 = 0.03549; a triangle: 2/6^2 = 0.0556.
    found = pert(figure(0, 3, 6), 100_000, 3)
    assert float((found < 1).mean()) == pytest.approx(0.0355, abs=0.003)


def test_a_known_figure_does_not_vary() -> None:
    assert set(pert(Figure.of("0.02"), 5, 0).tolist()) == {0.02}


@pytest.mark.parametrize("likely", [1, 3])
def test_the_likely_value_may_be_an_end(likely: float) -> None:
    found = pert(figure(1, likely, 3), 50_000, 0)
    assert float(found.mean()) == pytest.approx((1 + 4 * likely + 3) / 6, abs=0.01)


DOLLARS = {
    "api": Dollars(usd_per_task=Figure.of("0.01")),
    "own": Dollars(fixed_usd=figure(1000, 2000, 4000), moves_with="gpu"),
    "lora": Dollars(fixed_usd=figure(1100, 2100, 5000), moves_with="gpu"),
    "other": Dollars(fixed_usd=figure(1000, 2000, 4000)),
}


def drawn(names: list[str], seed: int = 0) -> Draws:
    scores = dict(zip(DOLLARS, graded(100, 4).T, strict=True))
    volume = figure(50_000, 100_000, 200_000)
    columns = np.column_stack([scores[name] for name in names])
    return draw(names, columns, DOLLARS, volume, n_draws=4000, seed=seed)


def test_the_same_seed_gives_the_same_draws() -> None:
    one, again, other = drawn(list(DOLLARS)), drawn(list(DOLLARS)), drawn(list(DOLLARS), seed=1)
    for field in ("quality", "usd_per_task", "fixed_usd", "volume"):
        assert np.array_equal(getattr(one, field), getattr(again, field))
    assert not np.array_equal(one.quality, other.quality)
    assert not np.array_equal(one.fixed_usd, other.fixed_usd)
    assert not np.array_equal(one.volume, other.volume)


def test_another_candidate_changes_nothing_for_the_rest() -> None:
    every, two = drawn(list(DOLLARS)), drawn(["lora", "api"])
    assert np.array_equal(every.volume, two.volume)
    for name in two.names:
        for field in ("fixed_usd", "usd_per_task", "quality"):
            there = getattr(every, field)[:, every.column(name)]
            assert getattr(two, field)[:, two.column(name)] == pytest.approx(there, abs=1e-12)


def test_shared_inputs_move_together() -> None:
    fixed = drawn(list(DOLLARS)).fixed_usd
    own, lora, other = (fixed[:, list(DOLLARS).index(name)] for name in ("own", "lora", "other"))
    assert np.array_equal(own.argsort(), lora.argsort())
    # Independent: 4,000 draws know a correlation to 1 / sqrt(4,000) = 0.016.
    assert abs(float(np.corrcoef(own, other)[0, 1])) < 0.06


def test_the_volume_is_one_for_all() -> None:
    found = drawn(list(DOLLARS))
    shared = found.fixed_usd / (found.all_in_usd - found.usd_per_task + 1e-300)
    assert shared[:, 1] == pytest.approx(found.volume)
    assert shared[:, 3] == pytest.approx(found.volume)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="none are given for nobody"):
        draw(["nobody"], graded(5, 1), DOLLARS, Figure.of(1))
    with pytest.raises(ValueError, match="one column for each of api, own"):
        draw(["api", "own"], graded(5, 1), DOLLARS, Figure.of(1))
    with pytest.raises(ValueError, match="volume: 0"):
        draw(["api"], graded(5, 1), DOLLARS, figure(0, 1, 2))
    with pytest.raises(ValueError, match="no draws of 'x'"):
        drawn(["api"]).column("x")
    two = np.ones((3, 2))
    with pytest.raises(ValueError, match="fixed_usd is"):
        Draws(("a", "b"), two, two, np.ones((3, 1)), np.ones(3))
    with pytest.raises(ValueError, match="stands twice"):
        Draws(("a", "a"), two, two, two, np.ones(3))
    with pytest.raises(ValueError, match="n_draws: 0"):
        bootstrap(two, n_draws=0)
    with pytest.raises(ValueError, match="volume"):
        Draws(("a", "b"), two, two, two, np.array([1.0, 0.0, 1.0]))


def test_doubts_name_what_the_bootstrap_cannot_see() -> None:
    rows = np.array([[1, 1, 0.5], [1, 1, 0.6]] * 10)
    assert doubts(["a", "b", "c"], rows) == (
        "a has the same score on every item: its quality seems certain",
        "b has the same score on every item: its quality seems certain",
        "b scores like a on every item: no difference can be drawn",
    )
    assert doubts(["c"], rows[:, 2:]) == ()
    assert doubts(["c"], rows[:19, 2:])[0].startswith("only 19 independent")
    assert doubts(["c"], rows[:, 2:], ["a", "b"] * 10)[0].startswith("only 2 independent")
