"""Corrected estimates: by hand, against ppi_py, against published examples and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.statistics.intervals import Scores, estimate
from pipelines.statistics.judge_correction import (
    corrected_difference,
    corrected_mean,
    corrected_share,
    lang_reiczigel,
)


def named(values: np.ndarray, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{k}": value for k, value in enumerate(values.astype(float).tolist())}


def labelled_and_not(
    cells: tuple[int, int, int, int], unlabelled: tuple[int, int]
) -> tuple[Scores, Scores]:
    """Verdicts and labels: counts of (human, judge) 11, 10, 01, 00, then of verdicts 1 and 0."""
    labels = np.repeat([1, 1, 0, 0], cells)
    verdicts = np.repeat([1, 0, 1, 0], cells)
    return named(verdicts) | named(np.repeat([1, 0], unlabelled), "u"), named(labels)


def test_power_tuned_mean_by_hand() -> None:
    found = corrected_mean(*labelled_and_not((3, 1, 1, 3), (6, 2)))
    assert (found.n_labelled, found.n_judged) == (8, 8)  # a labelled item is not counted twice
    # cov_n = 3/8 - 1/2 x 1/2 = 1/8; 10 of all 16 verdicts are 1: var = 16 x 5/8 x 3/8 / 15 = 1/4;
    # lam = (1/8) / ((1 + 8/8) / 4) = 1/4; theta = 1/4 x 6/8 + (4/8 - 1/4 x 4/8) = 0.5625
    assert found.judge_weight == pytest.approx(0.25)
    assert found.corrected is not None
    assert found.corrected.mean == pytest.approx(0.5625)
    # Y - lam J: 3 x 0.75, 1, -0.25, 3 x 0, mean 0.375, squares 1.625: 1.625 / (8 x 7) = 0.0290179;
    # verdicts: 1/16 x 1.5 / (8 x 7) = 0.0016741; one more error 1/64. t(7) = 2.364624.
    half = 2.364624 * math.sqrt(0.0290179 + 0.0016741 + 1 / 64)
    assert found.corrected.low == pytest.approx(0.5625 - half, abs=1e-5)
    assert (found.corrected.high, found.corrected.n_scored) == (1.0, 16)
    assert found.judge_only is not None
    assert found.judge_only.mean == 10 / 16
    assert found.human_only == estimate(labelled_and_not((3, 1, 1, 3), (6, 2))[1])


@pytest.mark.parametrize(
    ("cells", "unlabelled", "mean", "low", "high"),
    [  # ppi_py 0.2.3: ppi_mean_pointestimate(Y, J, U), ppi_mean_ci(Y, J, U, alpha=0.05)
        ((110, 30, 20, 40), (620, 380), 0.6898751111, 0.6315425605, 0.7482076617),
        ((150, 10, 30, 10), (1500, 300), 0.7866138393, 0.7325452525, 0.8406824261),
        ((50, 50, 50, 50), (300, 700), 0.5, 0.4307048088, 0.5692951912),
    ],
)
def test_point_is_ppi_pys_and_the_interval_a_little_wider(
    cells: tuple[int, int, int, int],
    unlabelled: tuple[int, int],
    mean: float,
    low: float,
    high: float,
) -> None:
    found = corrected_mean(*labelled_and_not(cells, unlabelled)).corrected
    assert found is not None
    assert found.mean == pytest.approx(mean, abs=1e-9)
    # t(199) for z, n - 1 for n, and one more error: at most 3 %.
    assert 1.005 < (found.high - found.low) / (high - low) < 1.03


def test_the_interval_covers_95_percent() -> None:
    # P(right) = 0.8, TPR 0.9, FPR 0.2: the judge alone says 0.8 x 0.9 + 0.2 x 0.2 = 0.76.
    rng, covered, judge_covers, n_runs = np.random.default_rng(11), 0, 0, 800
    for _ in range(n_runs):
        right = rng.random(600) < 0.8
        verdict = np.where(right, rng.random(600) < 0.9, rng.random(600) < 0.2)
        found = corrected_mean(named(verdict), named(right[:100]))
        assert found.corrected is not None
        assert found.judge_only is not None
        covered += found.corrected.low <= 0.8 <= found.corrected.high
        judge_covers += found.judge_only.low <= 0.8 <= found.judge_only.high
    assert 0.93 <= covered / n_runs <= 0.97
    assert judge_covers / n_runs < 0.5


def test_a_good_candidate_and_a_good_judge_are_covered_too() -> None:
    # P(right) = 0.95, TPR 0.98, FPR 0.05, 100 labels: PPI++ without the added error covers 88 %.
    rng, covered, n_runs = np.random.default_rng(12), 0, 500
    for _ in range(n_runs):
        right = rng.random(600) < 0.95
        verdict = np.where(right, rng.random(600) < 0.98, rng.random(600) < 0.05)
        found = corrected_mean(named(verdict), named(right[:100])).corrected
        assert found is not None
        covered += found.low <= 0.95 <= found.high
    assert covered / n_runs >= 0.93


def test_grouped_items_keep_the_coverage() -> None:
    # 160 conversations of 5 turns; a third of them are right or wrong as a whole, for both.
    rng, n_runs, covered, naive = np.random.default_rng(13), 300, 0, 0
    groups = {str(k): str(k // 5) for k in range(800)}
    for _ in range(n_runs):
        whole = np.repeat(rng.random(160) < 1 / 3, 5)
        right = np.where(whole, np.repeat(rng.random(160) < 0.7, 5), rng.random(800) < 0.7)
        verdict = np.where(right, rng.random(800) < 0.9, rng.random(800) < 0.2)
        labels = named(right[:200])
        tied = corrected_mean(named(verdict), labels, groups).corrected
        alone = corrected_mean(named(verdict), labels).corrected
        assert tied is not None
        assert alone is not None
        covered += tied.low <= 0.7 <= tied.high
        naive += alone.low <= 0.7 <= alone.high
    # The added error counts a whole group of 5 and is more than these half-tied turns need.
    assert covered / n_runs >= 0.95
    assert naive < covered


def test_a_judge_lenient_to_one_side_fools_itself_and_not_the_correction() -> None:
    # Incumbent right 0.80, candidate 0.80 x 0.85 + 0.20 x 0.35 = 0.75: worse by just the margin.
    # The judge passes 0.8 x 0.9 + 0.2 x 0.15 = 0.75 of the incumbent's answers, and, lenient,
    # 0.75 x 0.95 + 0.25 x 0.35 = 0.80 of the candidate's: it turns -0.05 into +0.05.
    rng, n_runs, n, margin = np.random.default_rng(14), 300, 1500, 0.05
    fooled_judge = fooled = missed = 0
    width, human_width = 0.0, 0.0
    for _ in range(n_runs):
        incumbent = rng.random(n) < 0.8
        candidate = rng.random(n) < np.where(incumbent, 0.85, 0.35)
        verdicts = (
            named(rng.random(n) < np.where(candidate, 0.95, 0.35)),
            named(rng.random(n) < np.where(incumbent, 0.9, 0.15)),
        )
        labels = named(candidate[:200]), named(incumbent[:200])
        found = corrected_difference(verdicts, labels)
        assert found.corrected is not None
        assert found.judge_only is not None
        assert found.human_only is not None
        assert (found.n_labelled, found.n_judged) == (200, 1300)
        fooled_judge += found.judge_only.low > -margin
        fooled += found.corrected.low > -margin
        missed += not found.corrected.low <= -margin <= found.corrected.high
        width += found.corrected.high - found.corrected.low
        human_width += found.human_only.high - found.human_only.low
    assert fooled_judge == n_runs  # "not worse than the margin", every time
    assert fooled / n_runs <= 0.05  # nominal: 2.5 %, the lower side of a 95 % interval
    assert missed / n_runs <= 0.08  # nominal: 5 %
    assert width < 0.95 * human_width  # and the judge is of use


def test_a_useless_judge_gets_no_weight() -> None:
    # Verdicts that tell nothing (25 / 25 / 25 / 25) or the contrary of the truth: humans alone.
    for cells in ((25, 25, 25, 25), (5, 45, 45, 5)):
        found = corrected_mean(*labelled_and_not(cells, (900, 100)))
        assert found.judge_weight == 0.0
        assert found.corrected is not None
        assert (found.corrected.mean, found.corrected.n_scored) == (0.5, 100)
    # A judge that passes everything has no variance to learn from.
    assert corrected_mean(*labelled_and_not((60, 0, 40, 0), (500, 0))).judge_weight == 0.0


def test_without_unlabelled_items_humans_are_all_there_is() -> None:
    found = corrected_mean(*labelled_and_not((60, 10, 10, 20), (0, 0)))
    assert (found.judge_weight, found.n_judged) == (0.0, 0)
    assert found.corrected is not None
    assert found.corrected.mean == pytest.approx(0.7)


def test_without_labels_there_is_no_correction() -> None:
    for labels, n in (({}, 0), ({"a": 1.0}, 1)):
        found = corrected_mean({"a": 1.0, "b": 0.0, "c": 1.0}, labels)
        assert (found.corrected, found.judge_weight) == (None, None)
        assert found.reason.startswith(f"{n} independent item(s) with a label")
        assert found.judge_only is not None
    one_group = corrected_difference(
        ({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}),
        ({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}),
        groups={"a": "g", "b": "g"},
    )
    assert (one_group.corrected, one_group.n_labelled) == (None, 2)


@pytest.mark.parametrize(
    ("judged", "sensitivity", "specificity", "low", "high"),
    [  # Lang and Reiczigel 2014, their four examples, as R's asht 1.0 documents them
        ((4060, 11284), (178, 179), (358, 359), 0.349, 0.372),
        ((51, 2971), (32, 33), (20, 20), 0.0, 0.053),
        ((712, 11862), (8, 10), (12, 12), 0.0, 0.147),
        ((259, 509), (84, 127), (96, 109), 0.58, 0.87),
        ((51, 509), (23, 41), (187, 195), 0.037, 0.195),
    ],
)
def test_interval_is_lang_and_reiczigels(
    judged: tuple[int, int],
    sensitivity: tuple[int, int],
    specificity: tuple[int, int],
    low: float,
    high: float,
) -> None:
    found = lang_reiczigel(judged, sensitivity, specificity)
    assert found == pytest.approx((low, high), abs=0.005 if high == 0.87 else 0.0005)


def test_rogan_gladen_by_hand() -> None:
    # TPR 45/50 = 0.9, FPR 10/50 = 0.2, 620 of 1,000 passed: (0.62 - 0.2) / (0.9 - 0.2) = 0.6
    found = corrected_share(*labelled_and_not((45, 5, 10, 40), (620, 380)))
    assert found.judge_only is not None
    assert (found.judge_only.mean, found.judge_only.n_scored) == (0.62, 1000)
    assert found.corrected.value == pytest.approx(0.6)
    interval = lang_reiczigel((620, 1000), (45, 50), (40, 50))
    assert (found.corrected.low, found.corrected.high) == pytest.approx(interval)


@pytest.mark.parametrize(
    ("cells", "unlabelled", "reason"),
    [
        ((25, 25, 25, 25), (500, 500), "passes 50% of what humans pass (n = 50) and 50%"),
        ((10, 40, 20, 30), (500, 500), "that cannot be inverted"),
        ((50, 0, 0, 0), (500, 500), "humans fail none of the judged answers"),
        ((0, 0, 10, 40), (500, 500), "humans pass none of the judged answers"),
        ((45, 5, 10, 40), (0, 0), "every verdict is on a labelled answer"),
    ],
)
def test_what_cannot_be_inverted_is_none_with_a_reason(
    cells: tuple[int, int, int, int], unlabelled: tuple[int, int], reason: str
) -> None:
    found = corrected_share(*labelled_and_not(cells, unlabelled)).corrected
    assert (found.value, found.low, found.high) == (None, None, None)
    assert reason in found.reason
    assert lang_reiczigel((5, 10), (1, 1), (22, 1000)) is None  # 0.667 + 0.023 after shrinking
