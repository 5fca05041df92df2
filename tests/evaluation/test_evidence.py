"""From the rows of finished evaluations to the evidence of a verdict."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.config import load_study
from pipelines.core.evidence import Evidence
from pipelines.core.hardware import Figure
from pipelines.core.prices import TokenPrice
from pipelines.core.records import Example, Response, Usage
from pipelines.core.results import Cost, EvaluateResult, LooksResult
from pipelines.core.study import Study
from pipelines.economics.token_cost import usd_of_call
from pipelines.evaluation.evidence import Answered, evidence

N = 100
IDS = [f"q{k}" for k in range(N)]
ITEMS = [
    Example.model_validate(
        {
            "id": i,
            "messages": [{"role": "user", "content": "?"}],
            "target": "x",
            "metadata": {"language": "de" if k < 40 else "en"},
        }
    )
    for k, i in enumerate(IDS)
]
PRICE = TokenPrice.model_validate(
    {
        "usd_per_million_input_tokens": 1,
        "usd_per_million_output_tokens": 10,
        "source": "a page",
        "checked_on": "2026-11-21",
    }
)


@pytest.fixture
def study(small_study: Path) -> Study:
    return load_study(small_study, ["workload.slice_by=[language]"])


def answers(value: float = 1.0, **fields: Any) -> Answered:
    """Item k took 100 + k input and 1 output tokens."""
    responses = {
        i: Response.model_validate(
            {
                "example_id": i,
                "request_sha256": "",
                "text": "x",
                "model": "m",
                "started_at_s": 0,
                "latency_s": 0.1,
                "usage": Usage(input_tokens=100 + k, output_tokens=1),
            }
            | fields
        )
        for k, i in enumerate(IDS)
    }
    return Answered(responses, {"accuracy": dict.fromkeys(IDS, value)})


def result(study: Study, name: str, **fields: Any) -> EvaluateResult:
    candidate = study.candidates[name]
    rented = candidate.kind == "rent"
    found: dict[str, Any] = {
        "candidate": name,
        "kind": candidate.kind,
        "quality_metric": "accuracy",
        "metrics": {"accuracy": None},
        "n_total": N,
        "outcomes": {"answered": N},
        "latency_p95_s": 0.1,
        "judge_usd": None,
        "looks": None,
        "tuned": False,
        "spent": None,
        "token_price": PRICE if rented else None,
        "hardware": None if rented else getattr(candidate, "hardware", None),
        "cost": Cost(
            usd_per_month=Decimal(1),
            usd_per_task=Decimal("0.001"),
            capacity_per_s=None if rented else Figure.of(100),
        ),
    }
    return EvaluateResult.model_construct(**found | fields)


def found(study: Study, rows: dict[str, Answered], **changed: EvaluateResult) -> Evidence:
    results = {name: changed.get(name.replace("-", "_")) or result(study, name) for name in rows}
    return evidence(study, results, rows, ITEMS, n_draws=10)


def test_a_rented_call_costs_its_tokens_and_its_share_of_what_failed(study: Study) -> None:
    both = {"frontier": answers(), "tfidf-logreg": answers()}
    told = found(study, both)
    assert told.usd is not None
    # The mean is the bill's $0.001 a task; longer prompts cost more in proportion.
    assert told.usd[:, 0].mean() == pytest.approx(0.001)
    first, last = (
        float(usd_of_call(PRICE, Usage(input_tokens=n, output_tokens=1))) for n in (100, 199)
    )
    assert told.usd[99, 0] / told.usd[0, 0] == pytest.approx(last / first)
    # An owned one costs every item its share of the month.
    assert set(told.usd[:, 1].tolist()) == {0.001}
    assert set(told.usd_draws) == {"tfidf-logreg"}
    assert told.kinds == {"frontier": "rent", "tfidf-logreg": "baseline"}


def test_metadata_makes_slices(study: Study) -> None:
    told = found(study, {"frontier": answers(), "tfidf-logreg": answers()})
    assert {name: int(inside.sum()) for name, inside in told.slices.items()} == {
        "language=de": 40,
        "language=en": 60,
    }


def test_what_has_no_score_no_answer_or_no_price_is_not_known(study: Study) -> None:
    rows = answers()
    rows.values["accuracy"]["q1"] = None
    del rows.responses["q2"]
    free = result(
        study,
        "tfidf-logreg",
        cost=Cost(usd_per_month=None, usd_per_task=None, unknown_because="of me"),
    )
    told = found(study, {"frontier": rows, "tfidf-logreg": answers()}, tfidf_logreg=free)
    assert told.usd is not None
    assert told.latency_s is not None
    assert math.isnan(told.scores[1, 0])
    assert math.isnan(told.usd[2, 0])
    assert math.isnan(told.latency_s[2, 0])
    assert math.isnan(told.usd[0, 1])
    assert told.out == {"tfidf-logreg": "its cost is unknown: of me"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"outcomes": {"answered": 99, "failed": 1}}, "1.0% of the calls failed (limit 0.5%)"),
        ({"latency_p95_s": 7.0}, None),
        ({"outcomes": {"answered": 90, "refused": 10}}, None),
    ],
)
def test_requirements_that_figures_alone_show_to_be_missed(
    study: Study, fields: dict[str, Any], why: str | None
) -> None:
    changed = result(study, "tfidf-logreg", **fields)
    told = found(study, {"frontier": answers(), "tfidf-logreg": answers()}, tfidf_logreg=changed)
    assert told.out.get("tfidf-logreg") == why


def test_an_incumbent_that_is_too_slow_today_is_no_answer(study: Study) -> None:
    slow = result(study, "frontier", latency_p95_s=7.0)
    told = found(study, {"frontier": answers(), "tfidf-logreg": answers()}, frontier=slow)
    assert told.out == {"frontier": "p95 latency 7.00 s (limit 5 s)"}


def test_errors_that_must_hardly_ever_happen(small_study: Path) -> None:
    study = load_study(small_study, ["workload.requirements.max_failure_rates={accuracy: 0.02}"])
    told = found(study, {"frontier": answers(), "tfidf-logreg": answers()})
    # None in 100 shows a rate of up to 3 %, by the rule of three.
    assert told.out["tfidf-logreg"] == (
        "accuracy may fail in 3.00% of the cases (0 of 100 seen; limit 2.00%)"
    )
    study = load_study(small_study, ["workload.requirements.max_failure_rates={accuracy: 0.04}"])
    assert not found(study, {"frontier": answers(), "tfidf-logreg": answers()}).out


def test_who_was_stopped_early_brings_its_level_and_what_it_was_asked(study: Study) -> None:
    looks = LooksResult(
        looks_planned=5, looks_done=2, items_planned=100, items_asked=40, stopped="non-inferior",
        margin=0.1, alpha=0.05, level=0.002, mean=0.0, low=-0.05, high=0.05,
    )  # fmt: skip
    rows = {"frontier": answers(), "tfidf-logreg": answers()}
    told = found(study, rows, tfidf_logreg=result(study, "tfidf-logreg", looks=looks))
    assert (told.n_asked, told.levels) == ({"tfidf-logreg": 40}, {"tfidf-logreg": 0.002})
    assert not told.out
    futile = looks.model_copy(update={"stopped": "futile"})
    told = found(study, rows, tfidf_logreg=result(study, "tfidf-logreg", looks=futile))
    assert "asked no further after 40 of 100 items" in told.out["tfidf-logreg"]


def test_log_probabilities_are_a_confidence(study: Study) -> None:
    rows = answers()
    sure = {
        i: row.model_copy(update={"mean_logprob": -0.01 * k})
        for k, (i, row) in enumerate(rows.responses.items())
    }
    told = found(study, {"frontier": Answered(sure, rows.values), "tfidf-logreg": answers()})
    assert told.confidence is not None
    assert told.confidence[:3, 0].tolist() == pytest.approx([0.0, -0.01, -0.02])
    assert all(math.isnan(value) for value in told.confidence[:, 1])
    assert told.confidence_usd == {"frontier": 0.0}
