"""Answers that were given elsewhere are graded and priced; what is unknown stays unknown."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.decision import Decision
from pipelines.core.errors import DataError
from pipelines.core.records import Response
from pipelines.core.results import RESPONSES, EvaluateResult, EvaluateResults
from pipelines.decide import decide
from pipelines.evaluate import evaluate
from pipelines.evaluation.job import rows_of
from pipelines.evaluation.recorded import load
from tests.conftest import INTENTS, write_jsonl

USAGE = {"input_tokens": 100, "output_tokens": 5}
IDS = [f"{intent}-{k}" for intent in INTENTS for k in range(20)]


def rows(**more: Any) -> list[dict[str, Any]]:
    """Right answers to all 60 items, but for the first, which is wrong."""
    answers = [name.rsplit("-", 1)[0] for name in IDS]
    answers[0] = "delivery"
    return [{"id": i, "text": a, **more} for i, a in zip(IDS, answers, strict=True)]


def overrides(path: Path) -> list[str]:
    return [f"candidates.frontier.recorded={path}"]


def run(study: Path, store_uri: str, path: Path) -> EvaluateResult:
    options = Options(study, store_uri, dry_run=False, json=False)
    evaluated = evaluate(load_study(study, overrides(path)), options)
    assert isinstance(evaluated, EvaluateResults)
    return evaluated.results["frontier"]


def test_recorded_answers_are_graded_priced_and_not_simulated(
    small_study: Path, store_uri: str, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "answers.jsonl", rows(usage=USAGE, latency_s=0.5))
    result = run(small_study, store_uri, path)
    quality = result.metrics["accuracy"]
    assert quality is not None
    assert quality.mean == pytest.approx(59 / 60)
    assert not result.simulated
    assert result.latency_p95_s == 0.5
    assert result.token_price is not None
    price = result.token_price
    assert result.cost.usd_per_task == (
        100 * price.usd_per_million_input_tokens + 5 * price.usd_per_million_output_tokens
    ) / Decimal(1_000_000)


def test_how_likely_the_tokens_were_comes_along(
    small_study: Path, store_uri: str, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "answers.jsonl", rows(usage=USAGE, mean_logprob=-0.5))
    result = run(small_study, store_uri, path)
    responses = rows_of(result.run_id, RESPONSES, Response)
    assert [response.mean_logprob for response in responses] == [-0.5] * len(IDS)


def test_an_item_without_an_answer_lowers_the_coverage(
    small_study: Path, store_uri: str, tmp_path: Path
) -> None:
    some = rows(usage=USAGE, latency_s=0.5)[:58]
    some.append({"id": IDS[58], "error": "declined", "outcome": "refused"})
    result = run(small_study, store_uri, write_jsonl(tmp_path / "answers.jsonl", some))
    assert result.outcomes == {"answered": 58, "failed": 1, "refused": 1}
    assert result.errors["no recorded answer"] == 1
    quality = result.metrics["accuracy"]
    assert quality is not None
    # 57 right of 59: the refusal is the candidate's, the missing one nobody's.
    assert quality.mean == pytest.approx(57 / 59)
    assert (quality.n_scored, quality.n_total) == (59, 60)


def test_unknown_cost_and_latency_keep_it_from_being_chosen(
    small_study: Path, store_uri: str, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "answers.jsonl", rows())
    study = load_study(small_study, [*overrides(path), "incumbent=tfidf-logreg"])
    decision = decide(study, Options(small_study, store_uri, dry_run=False, json=False))
    assert isinstance(decision, Decision)
    row = decision.candidates["frontier"]
    assert row.latency_p95_s is None
    assert row.usd_per_month is None
    assert row.excluded_because == "its cost is unknown: the provider reported no usage"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([{"id": "x", "text": "a"}], "answers none of the items"),
        ([{"id": IDS[0]}], "line 1: needs either text or error"),
        ([{"id": IDS[0], "text": "a"}, {"id": IDS[0], "text": "b"}], "line 2: id: 'refund-0'"),
        ([{"id": IDS[0], "text": "a", "cost": 3}], "line 1: cost: Extra inputs"),
        ([{"id": IDS[0], "text": "a", "latency_s": float("inf")}], "line 1: latency_s: "),
        ([{"id": IDS[0], "text": "a", "mean_logprob": 0.5}], "line 1: mean_logprob: "),
        ([{"id": IDS[0], "text": "a", "scores": {"f1": 1.1}}], "line 1: scores.f1: "),
        ([{"id": i} for i in IDS], r"60 problem\(s\)\n(  line .*\n){20}  ... and 40 more"),
        ([], "no answers"),
    ],
)
def test_a_bad_file_is_one_clear_error(
    small_study: Path, store_uri: str, tmp_path: Path, bad: list[dict[str, Any]], message: str
) -> None:
    path = write_jsonl(tmp_path / "answers.jsonl", bad)
    with pytest.raises(DataError, match=message):
        run(small_study, store_uri, path)


def test_a_line_ends_at_a_newline_only(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('\ufeff{"id": "a", "text": "one\u2028two\x85"}\n\n{"id": "b", "text": ""}')
    answers = load(str(path)).answers
    assert {name: answer.text for name, answer in answers.items()} == {
        "a": "one\u2028two\x85",
        "b": "",
    }
