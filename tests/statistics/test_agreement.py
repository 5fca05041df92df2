"""Agreement of judges with humans: tables by hand, other implementations, degenerate judges."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from pipelines.statistics.agreement import (
    agreement,
    cohen_kappa,
    length_bias,
    pair_agreement,
    position_flips,
    self_preference,
)
from pipelines.statistics.intervals import tango, wilson


def table(both: int, missed: int, false_alarms: int, neither: int) -> tuple[dict, dict]:
    """Verdicts and labels with these counts of (human 1, judge 1), (1, 0), (0, 1), (0, 0)."""
    cells = [(1.0, 1.0)] * both + [(0.0, 1.0)] * missed
    cells += [(1.0, 0.0)] * false_alarms + [(0.0, 0.0)] * neither
    judge = {str(k): mine for k, (mine, _) in enumerate(cells)}
    return judge, {str(k): theirs for k, (_, theirs) in enumerate(cells)}


def test_two_by_two_table_by_hand() -> None:
    # Human passes 50 of 100, the judge 45: 40 in common; 45 fail with both.
    found = agreement(*table(both=40, missed=10, false_alarms=5, neither=45))
    assert found.n_total == found.agreement.n == 100
    assert found.agreement.value == 0.85  # (40 + 45) / 100
    assert (found.agreement.low, found.agreement.high) == wilson(85, 100)
    # Chance: 0.5 x 0.45 + 0.5 x 0.55 = 0.5; kappa = (0.85 - 0.5) / (1 - 0.5)
    assert found.kappa.value == pytest.approx(0.7)
    assert found.true_positive_rate.value == 0.8  # 40 / 50
    assert (found.true_positive_rate.low, found.true_positive_rate.high) == wilson(40, 50)
    assert found.false_positive_rate.value == 0.1  # 5 / 50
    assert (found.false_positive_rate.n, found.prevalence.value) == (50, 0.5)


def test_kappa_error_is_fleiss_cohen_everitt() -> None:
    # statsmodels.stats.inter_rater.cohens_kappa([[40, 10], [5, 45]]).std_kappa = 0.0710563157.
    # Ours: t(99) sqrt(100/99 x 0.0710563^2 + (1 / (0.5 x 100))^2) = 1.98422 x 0.07416 = 0.14714
    found = cohen_kappa(*table(40, 10, 5, 45))
    error = math.sqrt(100 / 99 * 0.0710563157**2 + 0.02**2)
    assert found.low == pytest.approx(0.7 - stats.t.ppf(0.975, 99) * error, abs=1e-9)
    assert found.high == pytest.approx(0.7 + 0.14714, abs=1e-4)


def test_kappa_of_three_categories_is_the_textbooks() -> None:
    # Fleiss, Statistical Methods for Rates and Proportions, 100 diagnoses by two raters:
    # kappa 0.68, standard error 0.087 (statsmodels: 0.0877030).
    counts = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    cells = [(a, b) for a in range(3) for b in range(3) for _ in range(counts[a][b])]
    judge = {str(k): float(a) for k, (a, _) in enumerate(cells)}
    human = {str(k): float(b) for k, (_, b) in enumerate(cells)}
    found = cohen_kappa(judge, human)
    # Agreement 0.89; chance 0.8 x 0.8 + 0.1 x 0.05 + 0.1 x 0.15 = 0.66; 0.23 / 0.34 = 0.6765
    assert found.value == pytest.approx(0.23 / 0.34)
    error = math.sqrt(100 / 99 * 0.0877029535**2 + (1 / 0.34 / 100) ** 2)
    assert found.high == pytest.approx(0.23 / 0.34 + stats.t.ppf(0.975, 99) * error, abs=1e-9)


def test_kappa_is_sklearns() -> None:
    rng = random.Random(1)
    for categories in (2, 3, 5):
        human = {str(k): float(rng.randrange(categories)) for k in range(200)}
        judge = {i: h if rng.random() < 0.7 else float(rng.randrange(3)) for i, h in human.items()}
        theirs = cohen_kappa_score(list(judge.values()), list(human.values()))
        assert cohen_kappa(judge, human).value == pytest.approx(theirs)


def test_kappa_interval_covers_95_percent() -> None:
    # True table: prevalence 0.8, TPR 0.9, FPR 0.2. Agreement 0.72 + 0.16 = 0.88, the judge
    # passes 0.76, chance 0.8 x 0.76 + 0.2 x 0.24 = 0.656: kappa = 0.224 / 0.344 = 0.6512.
    rng, covered, n = np.random.default_rng(5), 0, 150
    for _ in range(800):
        human = rng.random(n) < 0.8
        judge = np.where(human, rng.random(n) < 0.9, rng.random(n) < 0.2)
        mine, theirs = ({str(k): float(v) for k, v in enumerate(x)} for x in (judge, human))
        found = cohen_kappa(mine, theirs)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.224 / 0.344 <= found.high
    assert 0.93 <= covered / 800 <= 0.97


def test_groups_widen_every_interval() -> None:
    # Each answer counted ten times over: the same shares, a tenth of the evidence.
    alone = agreement(*table(16, 4, 2, 18))
    judge, human = table(160, 40, 20, 180)
    tied = agreement(judge, human, groups={i: str(int(i) // 10) for i in judge})
    for name in ("agreement", "kappa", "true_positive_rate", "false_positive_rate"):
        one, ten = getattr(alone, name), getattr(tied, name)
        assert one.value == pytest.approx(ten.value)
        assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.2)


def test_a_missing_verdict_lowers_n_and_is_not_a_disagreement() -> None:
    found = agreement({"a": 1.0, "b": None, "c": 0.0}, {"a": 1.0, "b": 1.0, "c": 0.0, "d": None})
    assert (found.agreement.value, found.agreement.n, found.n_total) == (1.0, 2, 3)


@pytest.mark.parametrize(
    ("counts", "absent", "reason"),
    [
        ((0, 0, 0, 0), "agreement", "no item has both"),
        ((0, 0, 0, 0), "kappa", "no item has both"),
        ((30, 10, 0, 0), "kappa", "humans give the same verdict on all 40"),
        ((30, 0, 10, 0), "kappa", "the judge gives the same verdict on all 40"),
        ((40, 0, 0, 0), "kappa", "the same verdict on all 40"),
        ((30, 10, 0, 0), "false_positive_rate", "humans fail none"),
        ((0, 0, 10, 30), "true_positive_rate", "humans pass none"),
    ],
)
def test_what_cannot_be_told_is_none_with_a_reason(
    counts: tuple[int, int, int, int], absent: str, reason: str
) -> None:
    figure = getattr(agreement(*table(*counts)), absent)
    assert (figure.value, figure.low, figure.high) == (None, None, None)
    assert reason in figure.reason


def test_a_perfect_judge_on_few_items_is_not_certain() -> None:
    small, large = (agreement(*table(n, 0, 0, n)) for n in (10, 100))
    assert small.kappa.value == large.kappa.value == 1.0
    # One disagreement among 200: 1 - t(199) / (0.5 x 200) = 0.98028; among 20: 0.79070
    assert large.kappa.low == pytest.approx(1 - 1.97196 / 100, abs=1e-4)
    assert small.kappa.low == pytest.approx(1 - 2.09302 / 10, abs=1e-4)
    judge, human = table(10, 0, 0, 10)
    tied = agreement(judge, human, groups={i: str(int(i) // 5) for i in judge})
    # Four groups without any spread: Wilson's interval of 4 of 4, not [1, 1].
    assert (tied.agreement.low, tied.agreement.high) == wilson(4, 4)


def test_graded_scores_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"b: 0.7 is none of 0, 1; cut graded scores first"):
        agreement({"a": 1.0, "b": 0.7}, {"a": 1.0, "b": 1.0})


def test_a_flipped_pair_is_half_right() -> None:
    first = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0, "e": None}
    swapped = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0, "e": 1.0}
    human = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0}
    found = pair_agreement(first, swapped, human)
    # a right twice, b and d right once, c wrong twice: (1 + 0.5 + 0 + 0.5) / 4; e has no verdict.
    assert (found.agreement.value, found.agreement.n, found.n_total) == (0.5, 4, 5)
    assert (found.first_order.value, found.first_order.n) == (0.5, 4)  # a, b
    assert (found.swapped_order.value, found.swapped_order.n) == (0.6, 5)  # a, d, e
    assert found.flips.value == 0.5  # b, d
    assert (found.flips.low, found.flips.high) == wilson(2, 4)
    assert position_flips({"a": None}, {"a": 1.0}).reason == "no pair has a verdict in both orders"


def test_length_bias_is_the_excess_over_humans() -> None:
    # 40 pairs, A longer in the first half, B in the second. Humans prefer the longer in 20;
    # the judge in those and in 10 more: 30/40 - 20/40 = 0.25, 10 gained and none lost.
    lengths = {str(k): (200.0, 100.0) if k < 20 else (90.0, 180.0) for k in range(40)}
    longer = {i: float(a > b) for i, (a, b) in lengths.items()}
    human = {i: w if int(i) % 2 else 1 - w for i, w in longer.items()}
    judge = {i: w if int(i) % 4 else 1 - w for i, w in longer.items()}
    found = length_bias(judge, human, lengths)
    assert (found.value, found.n) == (0.25, 40)
    assert (found.low, found.high) == pytest.approx(tango(10, 0, 40))
    same = length_bias(judge, human, dict.fromkeys(lengths, (5.0, 5.0)))
    assert (same.value, same.n) == (None, 0)
    assert "no pair of unequal length" in same.reason


def test_self_preference_is_a_difference_of_leniencies() -> None:
    # Own family: 100 answers, humans pass 60, the judge the same and 20 more: +0.2.
    # Others: 200, humans pass 120, the judge 10 more and 10 fewer: 0.
    own = {f"own{i}": p for i, p in table(60, 0, 20, 20)[0].items()}
    own_human = {f"own{i}": p for i, p in table(60, 0, 20, 20)[1].items()}
    judge, human = table(110, 10, 10, 70)
    found = self_preference(judge | own, human | own_human, own.keys())
    assert (found.value, found.n) == (pytest.approx(0.2), 300)
    # MOVER: 0.2 - sqrt((0.2 - l1)^2 + (u2 - 0)^2), with Tango's intervals of each side.
    (low, high), (rest_low, rest_high) = tango(20, 0, 100), tango(10, 10, 200)
    assert found.low == pytest.approx(0.2 - math.hypot(0.2 - low, rest_high))
    assert found.high == pytest.approx(0.2 + math.hypot(high - 0.2, rest_low))
    alone = self_preference(judge, human, set())
    assert alone.reason == "no answer of its own family is both judged and labelled"


def test_an_even_handed_judge_shows_no_self_preference() -> None:
    # Lenient to all alike: +0.2 on either side is leniency, not self-preference.
    judge, human = table(60, 0, 20, 20)
    twice = {f"own{i}": j for i, j in judge.items()}, {f"own{i}": h for i, h in human.items()}
    found = self_preference(judge | twice[0], human | twice[1], twice[0].keys())
    assert found.value == pytest.approx(0.0)
    assert found.low is not None
    assert found.low < 0
