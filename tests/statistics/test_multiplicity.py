"""Adjusted p-values by hand, against statsmodels, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.statistics.multiplicity import fixed_sequence, holm


def test_holm_by_hand() -> None:
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, never falling: 0.02, 0.03, 0.06, 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_statsmodels() -> None:
    # statsmodels 0.15.0: multipletests([...], method="holm")[1]
    theirs = [0.06, 0.4, 0.0042, 0.132, 0.132, 0.8]
    assert holm([0.012, 0.2, 0.0007, 0.033, 0.033, 0.8]) == pytest.approx(theirs)


def test_a_fixed_sequence_ends_at_the_first_failure() -> None:
    assert fixed_sequence([0.01, 0.03, 0.2, 0.001]).tolist() == [0.01, 0.03, 0.2, 0.2]


def test_what_could_not_be_tested_never_passes() -> None:
    assert fixed_sequence([0.01, None, 0.001]).tolist() == [0.01, 1.0, 1.0]
    assert holm([0.01, None]).tolist() == pytest.approx([0.02, 1.0])


def test_none_and_one() -> None:
    assert holm([]).tolist() == fixed_sequence([]).tolist() == []
    assert holm([0.04]).tolist() == fixed_sequence([0.04]).tolist() == [0.04]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(wrong: float) -> None:
    for adjust in (holm, fixed_sequence):
        with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
            adjust([0.5, wrong])


def test_both_keep_the_rate_of_any_false_pass() -> None:
    # Five candidates, all exactly at the margin: uncorrected 1 - 0.95^5 = 22.6 % pass one.
    p = np.random.default_rng(0).random((4000, 5))
    assert 0.20 < (p < 0.05).any(1).mean() < 0.25
    for adjust in (holm, fixed_sequence):
        rate = np.mean([(adjust(row.tolist()) < 0.05).any() for row in p])
        assert 0.04 < rate < 0.06
