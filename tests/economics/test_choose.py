"""The rule, one case after the other."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from pipelines.core.records import Difference, Estimate
from pipelines.core.results import CandidateDecision
from pipelines.core.workload import Requirements
from pipelines.economics.choose import choose, compare, misses

NEED = Requirements(max_quality_loss=0.03, min_quality=0.5, min_coverage=0.98, max_latency_p95_s=2)


def estimate(mean: float, low: float, n: int = 100, scored: int = 100) -> Estimate:
    return Estimate(mean=mean, low=low, high=min(1.0, 2 * mean - low), n_scored=scored, n_total=n)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.05, "superior"),
        (-0.02, 0.02, "non-inferior"),
        (-0.025, -0.01, "non-inferior-but-worse"),
        (-0.10, -0.04, "inferior"),
        (-0.05, 0.02, "inconclusive"),
        (-0.05, -0.01, "inconclusive"),
        (-0.03, 0.02, "inconclusive"),  # exactly the margin is not within it
    ],
)
def test_a_comparison_is_where_the_interval_lies(low: float, high: float, expected: str) -> None:
    assert compare(Difference(mean=(low + high) / 2, low=low, high=high, n=300), 0.03) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quality": None}, "not one answer"),
        ({"quality": estimate(0.9, 0.85, scored=97)}, "only 97.0%"),
        ({"quality": estimate(0.6, 0.49)}, "as low as 49.0%"),
        ({"latency_p95_s": 2.5}, "p95 latency 2.50 s"),
        ({"latency_p95_s": None}, "latency is unknown"),
        ({"usd_per_month": None, "no_usd_because": "of me"}, "cost is unknown: of me"),
    ],
)
def test_each_requirement_excludes_with_its_reason(change: dict[str, Any], reason: str) -> None:
    good: dict[str, Any] = {
        "quality": estimate(0.9, 0.85),
        "latency_p95_s": 1.0,
        "usd_per_month": Decimal(10),
    }
    assert misses(NEED, **good) is None
    found = misses(NEED, **{**good, **change})
    assert found is not None
    assert reason in found


def row(kind: str, usd: int, comparison: str, excluded: str | None = None) -> CandidateDecision:
    return CandidateDecision.model_validate(
        {
            "title": "",
            "kind": kind,
            "simulated": False,
            "toy": False,
            "n": 100,
            "coverage": 1.0,
            "quality": estimate(0.9, 0.85),
            "difference": None,
            "comparison": comparison,
            "latency_p50_s": 1.0,
            "latency_p95_s": 1.0,
            "usd_per_task": Decimal(1),
            "usd_per_month": Decimal(usd),
            "usd_per_good_task": None,
            "n_replicas": None,
            "break_even_tasks_per_month": None,
            "excluded_because": excluded,
            "evaluate_run_id": "r",
            "model_id": "m",
        }
    )


API = row("rent", 1000, "incumbent")


def test_own_when_a_cheaper_own_model_is_as_good() -> None:
    choice = choose({"api": API, "lora": row("own", 400, "non-inferior")}, "api")
    assert (choice.verdict, choice.chosen) == ("own", "lora")


def test_rent_when_the_cheaper_one_is_worse() -> None:
    choice = choose({"api": API, "lora": row("own", 400, "inferior")}, "api")
    assert (choice.verdict, choice.chosen) == ("rent", "api")


def test_rent_when_the_equal_one_is_dearer() -> None:
    choice = choose({"api": API, "lora": row("own", 1400, "superior")}, "api")
    assert (choice.verdict, choice.chosen) == ("rent", "api")


def test_a_cheaper_api_is_rent_too() -> None:
    choice = choose({"api": API, "mini": row("rent", 100, "non-inferior")}, "api")
    assert (choice.verdict, choice.chosen) == ("rent", "mini")


def test_a_classical_model_is_owned() -> None:
    rows = {
        "api": API,
        "lora": row("own", 400, "non-inferior"),
        "tfidf": row("baseline", 90, "superior"),
    }
    choice = choose(rows, "api")
    assert (choice.verdict, choice.chosen) == ("own", "tfidf")


def test_not_enough_evidence_when_only_the_undecided_is_cheaper() -> None:
    choice = choose({"api": API, "lora": row("own", 400, "inconclusive")}, "api")
    assert (choice.verdict, choice.chosen) == ("insufficient", None)
    assert choice.open_questions == ("lora",)


def test_an_undecided_dearer_candidate_changes_nothing() -> None:
    choice = choose({"api": API, "lora": row("own", 4000, "inconclusive")}, "api")
    assert (choice.verdict, choice.chosen) == ("rent", "api")


def test_an_excluded_candidate_is_never_chosen_however_cheap() -> None:
    choice = choose({"api": API, "lora": row("own", 1, "superior", "too slow")}, "api")
    assert (choice.verdict, choice.chosen) == ("rent", "api")


def test_not_enough_evidence_when_nobody_meets_the_requirements() -> None:
    slow = row("rent", 1000, "incumbent", "too slow")
    assert choose({"api": slow}, "api").verdict == "insufficient"


def test_at_the_same_price_the_incumbent_stays() -> None:
    choice = choose({"lora": row("own", 1000, "non-inferior"), "api": API}, "api")
    assert choice.chosen == "api"
