"""The evaluate command against a model server in another process: faults, budget, money."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import BudgetReached
from pipelines.core.paths import ROOT
from pipelines.core.results import EvaluateResult, EvaluateResults
from pipelines.decide import decide
from pipelines.evaluate import evaluate
from tests.conftest import write_jsonl

N = 200
API = "candidates.api"


@contextmanager
def server(*arguments: str) -> Generator[str]:
    path = ROOT / "scripts" / "benchmarks" / "model_server.py"
    process = subprocess.Popen(
        [sys.executable, path, "--delay-s", "0.005", *arguments], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def counts(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/counts") as answer:
        return json.load(answer)


@pytest.fixture
def study_path(tmp_path: Path) -> Path:
    rows = [
        {"id": f"i{k}", "messages": [{"role": "user", "content": f"q{k}"}], "target": f"a{k}"}
        for k in range(N)
    ]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
    write_jsonl(tmp_path / "train.jsonl", [{"messages": turns}])
    path = tmp_path / "study.yaml"
    path.write_text(f"""
workload:
  name: served
  title: Served
  tier: public
  eval_set: {{path: {tmp_path}/eval.jsonl}}
  instructions: ""
  metrics: {{accuracy: {{metric: exact_match}}}}
  quality: accuracy
  max_output_tokens: 4
  requirements: {{max_quality_loss: 0.1, max_latency_p95_s: 5}}
  traffic: {{tasks_per_month: 1_000_000}}
  own_costs: {{operations_usd_per_month: 100, source: test}}
prepare: {{train: {{path: {tmp_path}/train.jsonl}}}}
finetune: {{preset: tiny}}
evaluate: {{timeout_s: 0.5}}
incumbent: api
candidates:
  api:
    {{kind: rent, title: A, provider: openai_compatible, model: bench, price: openai/gpt-6.1-sol}}
""")
    return path


def run(study_path: Path, store_uri: str, url: str, *overrides: str) -> EvaluateResult:
    study = load_study(study_path, [f"{API}.base_url={url}/v1", *overrides])
    evaluated = evaluate(study, Options(study_path, store_uri, dry_run=False, json=False))
    assert isinstance(evaluated, EvaluateResults)
    return evaluated.results["api"]


def test_every_fault_is_ridden_out_and_no_answer_is_bought_twice(
    study_path: Path, store_uri: str
) -> None:
    with server("--faults", "storm") as url:
        result = run(study_path, store_uri, url)
        seen = counts(url)
    assert result.outcomes == {"answered": N}
    assert sum(seen["sent"].values()) > 1.2 * N, "the storm must have hit many"
    assert set(seen["answered"].values()) == {1}
    quality = result.metrics["accuracy"]
    assert quality is not None
    assert (quality.mean, quality.coverage) == (0.9, 1.0)
    assert result.n_broken_off > 0


def test_a_permanent_400_is_not_retried_and_named_with_its_count(
    study_path: Path, store_uri: str
) -> None:
    with server("--faults", "bad-request") as url:
        result = run(study_path, store_uri, url)
        seen = counts(url)
    refused = [q for q in seen["sent"] if q not in seen["answered"]]
    assert refused
    assert all(seen["sent"][q] == 1 for q in refused)
    assert result.outcomes == {"answered": N - len(refused), "failed": len(refused)}
    [(reason, count)] = result.errors.items()
    assert "HTTP 400" in reason
    assert count == len(refused)
    quality = result.metrics["accuracy"]
    assert quality is not None
    assert quality.n_scored == N - len(refused)


def test_the_budget_stops_before_the_dollar_that_exceeds_it(
    study_path: Path, store_uri: str
) -> None:
    with server() as url:
        # 12 input and 3 output tokens a call, at the price in the book.
        whole = run(study_path, store_uri, url, "workload.instructions=first")
        assert whole.spent_usd is not None
        assert whole.token_price is not None
        per_call = (
            12 * whole.token_price.usd_per_million_input_tokens
            + 3 * whole.token_price.usd_per_million_output_tokens
        ) / 1_000_000
        assert whole.spent_usd == N * per_call
        assert whole.cost.usd_per_task == per_call
        half = f"evaluate.budget_usd={whole.spent_usd / 2}"
        with pytest.raises(BudgetReached, match="go on with") as caught:
            run(study_path, store_uri, url, half)
        assert caught.value.exit_code == 3
        n_asked = sum(counts(url)["sent"].values()) - N
        assert n_asked * per_call <= whole.spent_usd / 2
        assert n_asked > N / 3, "it must not stop long before the limit"
        rest = run(study_path, store_uri, url, "evaluate.budget_usd=1")
        assert sum(counts(url)["sent"].values()) == 2 * N, "nothing is bought twice"
    assert rest.spent_usd == whole.spent_usd
    assert rest.metrics == whole.metrics


def test_a_partial_result_gives_no_verdict(study_path: Path, store_uri: str) -> None:
    with server() as url:
        overrides = [f"{API}.base_url={url}/v1", "evaluate.budget_usd=0.001"]
        study = load_study(study_path, overrides)
        with pytest.raises(BudgetReached):
            decide(study, Options(study_path, store_uri, dry_run=False, json=False))


def test_the_price_of_a_dry_run_is_an_estimate_and_sends_nothing(
    study_path: Path, store_uri: str
) -> None:
    from pipelines.core.results import Plan

    with server() as url:
        study = load_study(study_path, [f"{API}.base_url={url}/v1"])
        plan = evaluate(study, Options(study_path, store_uri, dry_run=True, json=False))
        assert isinstance(plan, Plan)
        assert counts(url) == {"sent": {}, "answered": {}}
    [line] = [each for each in plan.stages if each.stage == "evaluate api"]
    assert line.calls == N
    assert line.usd is not None
    assert line.usd > Decimal(0)
