"""Load on real servers, from a study to MLflow; vLLM itself is loaded by scripts/bench."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from http.server import ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import mlflow
import pytest
from aiohttp import web
from pydantic import ValidationError

from pipelines import serve
from pipelines.benchmark import benchmark, show
from pipelines.core.candidate import Own, Serving
from pipelines.core.command import Options, plan_table
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError, ServerError
from pipelines.core.paths import ROOT
from pipelines.core.results import BenchmarkResult, BenchmarkResults, Plan
from pipelines.core.study import ServeConfig, Study
from pipelines.economics import own_prices
from pipelines.evaluate import evaluate
from pipelines.evaluation import load_test
from pipelines.evaluation.load_test import REQUESTS
from pipelines.load.send import Exchange
from pipelines.serving.vllm_server import vllm_server
from pipelines.tracking import store
from pipelines.tracking.spent import spent_usd
from tests.conftest import scripted_server, sse, threaded_server

QUICK = (
    "benchmark.candidates=null",
    "benchmark.max_rate=40",
    "benchmark.step_s=0.5",
    "workload.requirements.max_latency_p95_s=1",
)
RENT = ("benchmark.rent=true", "benchmark.budget_usd=5", "benchmark.candidates=[frontier]")


@pytest.fixture(autouse=True)
def many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's server turns the sixth of several simultaneous connections away for a second."""
    monkeypatch.setattr(ThreadingHTTPServer, "request_queue_size", 512)


def options(uri: str, dry_run: bool = False) -> Options:
    return Options(Path("study.yaml"), uri, dry_run=dry_run, json=False)


def measured(path: Path, uri: str, *overrides: str) -> BenchmarkResults:
    found = benchmark(load_study(path, [*QUICK, *overrides]), options(uri))
    assert isinstance(found, BenchmarkResults)
    return found


def paid(url: str) -> tuple[str, ...]:
    """The study's rented candidate, answered at `url` and paid by the token."""
    spec = {
        "kind": "rent", "title": "Paid", "model": "m", "price": "openai/gpt-6.1-sol",
        "base_url": url, "request": {"reasoning_effort": "low"},
    }  # fmt: skip
    return (f"candidates.frontier={json.dumps(spec | {'standin': None})}", *RENT)


def exchanges(result: BenchmarkResult) -> list[Exchange]:
    text = store.artifact(result.run_id, REQUESTS).read_text(encoding="utf-8")
    return [Exchange.model_validate_json(line) for line in text.splitlines()]


@pytest.mark.alone
def test_a_baseline_is_loaded_and_the_result_is_kept(small_study: Path, store_uri: str) -> None:
    found = measured(small_study, store_uri)
    assert list(found.results) == ["tfidf-logreg"]  # what is rented is left out
    result = found.results["tfidf-logreg"]
    # A classifier of a millisecond holds the highest rate that is offered.
    assert (result.capacity_per_s, result.capacity_low) == (40.0, 40.0)
    assert (result.capacity_high, result.limited_by) == (None, "max_rate")
    assert result.limits == {"latency_p95_s": 1.0}
    assert result.at_capacity is not None
    assert result.at_capacity.latency.p95 is not None
    assert 0 < result.at_capacity.latency.p95 < 1.0
    assert result.at_capacity.tpot.n == 0  # it has no tokens
    assert result.send_error_p99_s is not None
    assert 0 < result.send_error_p99_s < 0.2
    assert not result.simulated
    assert (result.hardware, result.spent_usd) == ("vm-2cpu", None)
    rows = exchanges(result)
    assert len(rows) == result.n_requests == 3 + 2 * 60 + 2 * 60
    assert result.n_items == 60
    run = mlflow.get_run(result.run_id)
    assert run.data.metrics["capacity_per_s"] == 40.0
    assert "capacity_high" not in run.data.metrics  # not known is not 0
    assert run.data.metrics["latency_p95_s"] == result.at_capacity.latency.p95
    assert (run.data.tags["stage"], run.data.tags["candidate"]) == ("benchmark", "tfidf-logreg")
    assert "tfidf-logreg" in show(found)
    again = measured(small_study, store_uri)
    assert again == found


def test_the_server_of_a_baseline_ends_when_its_parent_does(small_study: Path) -> None:
    candidate = {
        "kind": "baseline", "title": "Patterns", "method": "patterns", "hardware": "vm-2cpu",
        "patterns": {"n": ["(\\d+)"]},
    }  # fmt: skip
    study = load_study(small_study, [f"candidates.rules={json.dumps(candidate)}"])
    rules = study.candidates["rules"].model_dump(mode="json")
    code = "from pipelines.serving.apart import serve_apart; serve_apart()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps({"candidate": rules, "items": [], "rows": []}).encode() + b"\n")
    child.stdin.flush()
    assert child.stdout.readline().startswith(b"http://127.0.0.1:")
    child.stdin.close()  # as the kernel does for a parent that was killed
    assert child.wait(timeout=60) == 0


def test_a_stand_in_is_marked_wherever_it_appears(small_study: Path, store_uri: str) -> None:
    found = measured(small_study, store_uri, *RENT)
    result = found.results["frontier"]
    assert result.simulated
    assert result.spent_usd is None
    assert "(simulated)" in show(found)
    run = mlflow.get_run(result.run_id)
    assert run.data.tags["simulated"] == "true"
    assert "SIMULATED" in run.data.tags["mlflow.note.content"]


def test_the_load_is_made_of_the_requests_of_the_quality_run(
    small_study: Path, store_uri: str
) -> None:
    bodies: list[str] = []

    def answer(body: dict[str, Any]) -> str:
        bodies.append(json.dumps(body, sort_keys=True))
        return "refund"

    with threaded_server(answer) as server:
        overrides = paid(server.url)
        evaluate(load_study(small_study, overrides), options(store_uri))
        asked = {body for body in bodies if "reasoning_effort" in body}
        assert len(asked) == 60
        bodies.clear()
        result = measured(small_study, store_uri, *overrides).results["frontier"]
    assert set(bodies) == asked
    assert len(bodies) == result.n_requests
    assert result.spent_usd is not None
    assert 0 < result.spent_usd < 5


@contextmanager
def caching_server() -> Generator[str]:
    """Reports 100 tokens in, 20 of them read from a cache and 30 written to it, and 5 out."""
    usage = {
        "prompt_tokens": 100, "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 30},
    }  # fmt: skip
    choice = {"delta": {"content": "refund"}, "finish_reason": "stop"}

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(request, [{"choices": [choice], "usage": usage}])

    url: Queue[str] = Queue()
    end = threading.Event()

    async def serve() -> None:
        async with scripted_server("/chat/completions", answer) as address:
            url.put(address)
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    try:
        yield url.get(timeout=30)
    finally:
        end.set()
        thread.join()


def test_what_was_written_to_a_cache_is_in_the_price(
    small_study: Path, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "acme.yaml").write_text(
        "tokens: {acme/m: {usd_per_million_input_tokens: 2, usd_per_million_output_tokens: 8, "
        "usd_per_million_cached_input_tokens: 0.5, usd_per_million_cache_write_5m_tokens: 10, "
        "source: a page, checked_on: 2026-09-01}}",
        encoding="utf-8",
    )
    monkeypatch.setattr(own_prices, "FOLDER", tmp_path / "prices")
    with caching_server() as url:
        # A limit that nothing keeps: only the three requests one after another are sent.
        more = ("candidates.frontier.price=acme/m", "benchmark.limits={latency_p95_s: 0.000001}")
        result = measured(small_study, store_uri, *paid(url), *more).results["frontier"]
    assert (result.n_requests, [e.error for e in exchanges(result)]) == (3, [None] * 3)
    # Each: 50 x $2 + 20 x $0.50 + 30 x $10 + 5 x $8 per million = $0.00045.
    assert result.spent_usd == Decimal("0.00135")


def test_the_spending_cap_ends_the_load_before_it_is_passed(
    small_study: Path, store_uri: str
) -> None:
    with threaded_server(lambda body: "refund") as server:
        cap = "benchmark.budget_usd=0.012"
        result = measured(small_study, store_uri, *paid(server.url), cap).results["frontier"]
        assert result.limited_by == "budget"
        assert result.spent_usd is not None
        assert 0 < result.spent_usd <= Decimal("0.012")
        assert server.n_requests == result.n_requests
        # With more money it is measured anew.
        again = measured(small_study, store_uri, *paid(server.url)).results["frontier"]
    assert again.limited_by != "budget"
    assert again.n_requests > result.n_requests


def test_the_spending_cap_counts_what_earlier_runs_spent(
    small_study: Path,
    store_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "acme.yaml").write_text(
        "tokens: {acme/m: {usd_per_million_input_tokens: 2, usd_per_million_output_tokens: 0, "
        "source: a page, checked_on: 2026-09-01}}",
        encoding="utf-8",
    )
    monkeypatch.setattr(own_prices, "FOLDER", tmp_path / "prices")
    with caching_server() as url:
        # A limit that nothing keeps: only the three requests one after another are sent.
        more = (*paid(url), "candidates.frontier.price=acme/m")
        more += ("benchmark.limits={latency_p95_s: 0.000001}",)
        first = measured(small_study, store_uri, *more).results["frontier"]
        # Another load test of the study: three requests again, unless the cap knows of the first.
        more += ("benchmark.seed=1",)
        cap = f"benchmark.budget_usd={first.spent_usd}"
        second = measured(small_study, store_uri, *more, cap).results["frontier"]
        # 100 tokens x $2 per million, of which $0.0001 are left.
        dearer = "benchmark.budget_usd=0.0007"
        dry = benchmark(load_study(small_study, [*QUICK, *more, dearer]), options(store_uri, True))
        # What was sent when a run is cut counts at the most that it can cost.
        name = load_study(small_study).workload.name
        assert spent_usd("benchmark", name) == Decimal("0.0006")

        async def cut(*_: object) -> list[Exchange]:
            raise KeyboardInterrupt

        monkeypatch.setattr(load_test, "send", cut)
        with pytest.raises(KeyboardInterrupt):
            measured(small_study, store_uri, *more, "benchmark.seed=2")
        assert spent_usd("benchmark", name) > Decimal("0.0006")
    assert first.spent_usd == Decimal("0.0006")
    assert (second.n_requests, second.limited_by, second.spent_usd) == (0, "budget", Decimal(0))
    assert isinstance(dry, Plan)
    assert dry.stages[-1].usd_high == Decimal("0.0001")
    said = "benchmark: $0.0006 of benchmark.budget_usd 0.0006 is spent by earlier runs; raise it"
    assert said in capfd.readouterr().err


def test_what_is_too_slow_alone_has_no_capacity_and_is_not_loaded(
    small_study: Path, store_uri: str
) -> None:
    def slow(body: dict[str, Any]) -> str:
        time.sleep(0.3)
        return "refund"

    with threaded_server(slow) as server:
        limit = "benchmark.limits={ttft_p95_s: 0.2}"
        result = measured(small_study, store_uri, *paid(server.url), limit).results["frontier"]
    assert (result.capacity_per_s, result.limited_by) == (None, "ttft_p95_s")
    assert (result.n_requests, result.steps, result.send_error_p99_s) == (3, (), None)
    assert "capacity_per_s" not in mlflow.get_run(result.run_id).data.metrics


def test_a_server_that_refuses_all_has_no_capacity_and_is_tried_again(
    small_study: Path, store_uri: str
) -> None:
    def refuse(body: dict[str, Any]) -> str:
        raise ConnectionError("no")

    with threaded_server(refuse) as server:
        result = measured(small_study, store_uri, *paid(server.url)).results["frontier"]
        assert (result.capacity_per_s, result.limited_by) == (None, "errors")
        assert all(e.error for e in exchanges(result))
        n_first = server.n_requests
        measured(small_study, store_uri, *paid(server.url))
        assert server.n_requests == 2 * n_first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("benchmark.candidates=[nobody]",), "no candidate 'nobody'.*frontier, tfidf-logreg"),
        (("benchmark.candidates=[frontier]",), "frontier is rented.*benchmark.rent=true"),
        ((*RENT, "candidates.frontier.recorded=x.jsonl"), "recorded answers can carry no load"),
        (
            (*RENT, "candidates.frontier.standin=null", "candidates.frontier.api_key_env=NO_KEY"),
            "set NO_KEY",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    small_study: Path, store_uri: str, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(small_study, store_uri, *overrides)


def test_a_dry_run_says_calls_dollars_and_time_and_sends_nothing(
    small_study: Path, store_uri: str
) -> None:
    with threaded_server(lambda body: "refund") as server:
        overrides = [*paid(server.url), "benchmark.candidates=[frontier, tfidf-logreg]"]
        study = load_study(small_study, [*QUICK, *overrides])
        plan = benchmark(study, options(store_uri, dry_run=True))
        assert server.n_requests == 0
    assert isinstance(plan, Plan)
    lines = {line.stage: line for line in plan.stages}
    frontier, baseline = lines["benchmark frontier"], lines["benchmark tfidf-logreg"]
    assert frontier.calls == baseline.calls == 3 + 60 * (2 + 5 + 2)
    assert frontier.usd is not None
    assert 0 < frontier.usd <= 5
    assert (frontier.usd_high, baseline.usd) == (5, None)
    assert baseline.hours is not None
    assert 0 < baseline.hours < 0.1
    assert "benchmark frontier" in plan_table(plan)


def own(**more: Any) -> Own:
    tuned = load_study(ROOT / "configs" / "quickstart.yaml").candidates["tiny-lora"]
    return Own.model_validate(tuned.model_dump() | more)


def test_only_a_tuned_model_is_merged_and_never_into_awq() -> None:
    assert own(serving={"weights": "merged", "quantization": "int8"}).serving.weights == "merged"
    with pytest.raises(ValidationError, match="merged needs tuned: true"):
        own(tuned=False, serving={"weights": "merged"})
    with pytest.raises(ValidationError, match="cannot be merged into awq"):
        own(serving={"weights": "merged", "quantization": "awq"})


@pytest.mark.parametrize(
    ("quantization", "message"),
    [("fp8", "needs an NVIDIA GPU"), ("awq", "published as AWQ")],
)
def test_weights_that_cannot_be_served_so_are_refused_before_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, message: str
) -> None:
    monkeypatch.setattr("pipelines.serving.vllm_server.has_cuda", lambda: False)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ServerError, match=message):
        with vllm_server(
            tmp_path, None, 16, {}, ServeConfig(), tmp_path / "log", quantization=quantization
        ):
            pass
    assert not (tmp_path / "log").exists()


def test_one_server_at_a_time_is_up_and_equal_settings_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    @contextmanager
    def endpoint(_study: Study, _tuned: object, serving: Serving) -> Generator[str]:
        said.append(f"start {serving.weights}")
        yield f"http://{serving.weights}"
        said.append(f"stop {serving.weights}")

    monkeypatch.setattr(serve, "endpoint", endpoint)
    study = load_study(ROOT / "configs" / "quickstart.yaml")
    with serve.Servers(study, None) as servers:
        assert servers.url(Serving()) == servers.url(Serving()) == "http://adapter"
        assert servers.url(Serving(weights="merged")) == "http://merged"
    assert said == ["start adapter", "stop adapter", "start merged", "stop merged"]


def test_an_own_judge_and_another_serving_are_refused_together(
    small_study: Path, store_uri: str
) -> None:
    judge = own().model_dump(mode="json")
    candidate = own(serving={"weights": "merged"}).model_dump(mode="json")
    overrides = [f"judges={json.dumps({'me': judge})}", f"candidates.own={json.dumps(candidate)}"]
    with pytest.raises(ConfigError, match="one vLLM server for all"):
        evaluate(load_study(small_study, overrides), options(store_uri))
