"""From a study to a verdict without any LLM: everything real but the stand-in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.decision import Decision
from pipelines.core.errors import ConfigError, MissingRunError, Refused, ServerError
from pipelines.core.paths import ROOT
from pipelines.core.results import BenchmarkResult, EvaluateResult, PromoteResult
from pipelines.core.ruling import CandidateRuling
from pipelines.decide import REPORT, decide
from pipelines.promote import promote
from pipelines.reports import terminal
from pipelines.tracking import store


def options(uri: str) -> Options:
    return Options(Path("study.yaml"), uri, dry_run=False, json=False)


def decision_of(path: Path, uri: str, *overrides: str) -> Decision:
    found = decide(load_study(path, overrides), options(uri))
    assert isinstance(found, Decision)
    return found


def test_simulated_shows_wherever_it_is_touched(small_study: Path, store_uri: str) -> None:
    decision = decision_of(small_study, store_uri)
    assert decision.simulated == ("frontier",)
    assert decision.reasons[0].startswith("SIMULATED")
    assert terminal.table(decision).startswith("SIMULATED - Verdict")
    assert "frontier [simulated" in terminal.table(decision)
    report = store.artifact(decision.run_id, REPORT).read_text(encoding="utf-8")
    assert report.count("SIMULATED") >= 2
    runs = {
        r.info.run_name: r
        for r in mlflow.search_runs(search_all_experiments=True, output_format="list")
    }
    assert runs["evaluate frontier"].data.tags["simulated"] == "true"
    assert runs["evaluate tfidf-logreg"].data.tags["simulated"] == "false"
    assert runs["decide"].data.tags["simulated"] == "true"
    rows = store.artifact(runs["evaluate frontier"].info.run_id, "responses.jsonl").read_text()
    assert rows.count('"simulated":true') == 60
    note = mlflow.get_experiment_by_name("small")
    assert note is not None
    assert "SIMULATED" in note.tags["mlflow.note.content"]


def test_a_simulated_verdict_cannot_be_promoted(small_study: Path, store_uri: str) -> None:
    decision_of(small_study, store_uri)
    with pytest.raises(Refused, match="rests on simulated answers of frontier") as caught:
        promote(load_study(small_study), options(store_uri))
    assert caught.value.exit_code == 4


def test_promotion_needs_a_decision_first(small_study: Path, store_uri: str) -> None:
    with pytest.raises(MissingRunError, match=r"python -m pipelines\.decide"):
        promote(load_study(small_study), options(store_uri))


def test_the_chosen_candidate_becomes_champion(small_study: Path, store_uri: str) -> None:
    overrides = ["candidates=[tfidf-logreg]", "incumbent=tfidf-logreg"]
    decision = decision_of(small_study, store_uri, *overrides)
    assert (decision.verdict, decision.chosen, decision.simulated) == ("own", "tfidf-logreg", ())
    result = promote(load_study(small_study, overrides), options(store_uri))
    assert isinstance(result, PromoteResult)
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("small", "champion")
    assert str(version.version) == result.version
    assert version.tags["decision_run_id"] == decision.run_id
    assert version.tags["candidate"] == "tfidf-logreg"
    again = promote(load_study(small_study, overrides), options(store_uri))
    assert isinstance(again, PromoteResult)
    assert again.version == result.version, "the same candidate is not registered twice"


def test_an_insufficient_decision_promotes_nobody(small_study: Path, store_uri: str) -> None:
    overrides = [
        "candidates=[tfidf-logreg]",
        "incumbent=tfidf-logreg",
        "workload.requirements.max_latency_p95_s=0.000001",
    ]
    decision = decision_of(small_study, store_uri, *overrides)
    assert decision.verdict == "insufficient"
    with pytest.raises(Refused, match="names no candidate"):
        promote(load_study(small_study, overrides), options(store_uri))


def test_every_candidate_has_the_same_metric_names(small_study: Path, store_uri: str) -> None:
    decision_of(small_study, store_uri)
    runs = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.stage = 'evaluate'", output_format="list"
    )
    names = [set(r.data.metrics) for r in runs]
    assert names[0] == names[1]
    assert {"quality", "quality_low", "quality_high", "coverage", "usd_per_1k_tasks"} <= names[0]


def test_a_new_volume_prices_the_old_answers_anew_without_asking(
    small_study: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = decision_of(small_study, store_uri)

    async def no_ask(*_: Any, **__: Any) -> None:
        raise AssertionError("a request was sent again")

    monkeypatch.setattr("pipelines.providers.http.Caller.stream", no_ask)
    after = decision_of(small_study, store_uri, "workload.traffic.tasks_per_month=2_000_000")
    now, then = after.candidates["frontier"], before.candidates["frontier"]
    assert now.quality == then.quality
    assert now.usd_per_month is not None
    assert then.usd_per_month is not None
    assert now.usd_per_month == 2 * then.usd_per_month


def test_own_machines_are_counted_by_the_load_test(small_study: Path, store_uri: str) -> None:
    quick = ("benchmark.candidates=null", "benchmark.max_rate=20", "benchmark.step_s=0.5")
    row = decision_of(small_study, store_uri, *quick).candidates["tfidf-logreg"]
    result = store.load_result(row.evaluate_run_id, EvaluateResult)
    capacity = result.cost.capacity_per_s
    assert capacity is not None
    assert (capacity.source or "").startswith("load test on ")
    run_id = (capacity.source or "").rpartition(" ")[2]
    measured = store.load_result(run_id, BenchmarkResult)
    assert float(capacity.likely) == measured.capacity_per_s
    assert float(capacity.low) == measured.capacity_low

    # Without one, the throughput of the evaluation counts, and the bill says so.
    row = decision_of(small_study, store_uri).candidates["tfidf-logreg"]
    result = store.load_result(row.evaluate_run_id, EvaluateResult)
    assert result.cost.capacity_per_s is not None
    assert "no load test" in (result.cost.capacity_per_s.source or "")


def test_a_missing_price_stops_before_the_first_call(small_study: Path, store_uri: str) -> None:
    with pytest.raises(ConfigError, match="no token price for 'openai/none'"):
        decision_of(small_study, store_uri, "candidates.frontier.price=openai/none")
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []


def test_a_real_candidate_without_its_key_stops_before_the_first_call(
    small_study: Path, store_uri: str
) -> None:
    with pytest.raises(
        ConfigError, match="candidate gpt-6-luna needs an API key: set OPENAI_API_KEY"
    ):
        decision_of(small_study, store_uri, "candidates=[frontier, gpt-6-luna]")


def test_without_vllm_own_candidates_say_what_to_install(
    small_study: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "vllm" else find(name, *a)
    )
    with pytest.raises(ServerError, match="vLLM is not installed.*scripts/setup"):
        decision_of(small_study, store_uri, "candidates=[frontier, own-base]")


def test_the_report_is_self_contained_and_escapes_what_it_shows(
    small_study: Path, store_uri: str
) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    decision = decision_of(small_study, store_uri, f"candidates.frontier.title='{hostile}'")
    report = store.artifact(decision.run_id, REPORT).read_text(encoding="utf-8")
    # Two scripts, both ours: the chart's data, and what draws it.
    assert report.count("<script") == 2
    words = report.partition("<script>")[0]
    assert words.count("<script") == 1
    assert "<img" not in words
    assert "&lt;script&gt;" in report
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", report.replace("xlink:", ""))
    assert len(report.encode()) < 3_000_000


def test_failed_calls_lower_coverage_and_are_asked_again(
    small_study: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.core.errors import ProviderError
    from pipelines.providers import http

    real = http.Caller.stream
    calls = 0

    async def flaky(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise ProviderError("HTTP 503: out of order")
        return await real(*args)

    monkeypatch.setattr(http.Caller, "stream", flaky)
    broken = decision_of(small_study, store_uri)
    row = broken.candidates["frontier"]
    # Every third of 60 calls failed: 40 answered, two thirds covered, below the limit of 98 %.
    assert row.coverage == pytest.approx(40 / 60)
    assert row.reason == "33.3% of the calls failed (limit 0.5%)"
    assert broken.verdict == "insufficient"
    monkeypatch.setattr(http.Caller, "stream", real)
    mended = decision_of(small_study, store_uri)
    assert mended.candidates["frontier"].coverage == 1.0


def test_the_stand_in_errs_at_its_rate_and_always_the_same_way(
    small_study: Path, store_uri: str
) -> None:
    always = decision_of(small_study, store_uri, "candidates.frontier.standin.error_rate=1.0")
    quality = always.candidates["frontier"].quality
    assert quality is not None
    assert quality.mean == 0.0
    never = decision_of(small_study, store_uri, "candidates.frontier.standin.error_rate=0.0")
    quality = never.candidates["frontier"].quality
    assert quality is not None
    assert quality.mean == 1.0


@pytest.mark.slow
def test_the_banking77_baseline_reproduces_its_anchor(public_data: Path, store_uri: str) -> None:
    study = load_study(
        ROOT / "configs" / "banking77.yaml",
        ["candidates=[tfidf-logreg]", "incumbent=tfidf-logreg", "benchmark.candidates=[]"],
    )
    decision = decide(study, options(store_uri))
    assert isinstance(decision, Decision)
    row = decision.candidates["tfidf-logreg"]
    quality = row.quality
    assert quality is not None
    assert row.n == decision.n_items == 3080
    # Measured on these files with the same method: 0.914; the near-copies we remove cost little.
    assert quality.mean == pytest.approx(0.914, abs=0.005)


def test_a_decision_says_at_least_what_a_ruling_says(small_study: Path, store_uri: str) -> None:
    decision = decision_of(
        small_study, store_uri, "workload.requirements.usd_per_error=0.5"
    ).model_dump(mode="json")
    assert {"verdict", "chosen", "incumbent", "margin", "reasons", "flips_when", "required_n",
            "candidates", "schema_version"} <= set(decision)  # fmt: skip
    row = decision["candidates"]["tfidf-logreg"]
    assert {"n", "coverage", "quality", "difference", "comparison", "usd_per_task",
            "usd_per_good_task", "latency_p95_s", "probability_best",
            "excluded_because"} <= set(row)  # fmt: skip
    for name in ("quality", "difference", "usd_per_good_task", "expected_loss"):
        assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"], name
    assert 0 <= row["probability_best"] <= 1
    # The table without a study says the same with the same words.
    assert set(CandidateRuling.model_fields) <= set(row)
    assert [each["input"] for each in decision["sensitivity"]][:2] == [
        "prices of rented candidates",
        "volume",
    ]


def test_a_saving_that_is_worth_less_than_the_errors_it_brings_is_not_taken(
    small_study: Path, store_uri: str
) -> None:
    # Owning is cheaper at a hundred million tasks, and 30 points of quality may be lost for it...
    much = "workload.traffic.tasks_per_month=100_000_000"
    loose = "workload.requirements.max_quality_loss=0.3"
    cheap = decision_of(small_study, store_uri, much, loose)
    row = cheap.candidates["tfidf-logreg"]
    assert row.saving is not None
    assert row.saving.low is not None
    assert row.saving.low > 0
    assert row.margin == 0.3
    # ... unless an error costs ten times what a task saves: then a tenth of that may be lost.
    dear = decision_of(
        small_study, store_uri, much, loose,
        f"workload.requirements.usd_per_error={10 * row.saving.low}",
    )  # fmt: skip
    assert dear.candidates["tfidf-logreg"].margin == pytest.approx(0.1)
