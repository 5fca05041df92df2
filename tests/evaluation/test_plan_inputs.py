"""A study's plan before and after its evaluation: forecast prices, load tests, the pilot."""

from __future__ import annotations

import hashlib
import itertools
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.results import BenchmarkResult, EvaluateResults, PrepareResult
from pipelines.core.study import Study
from pipelines.data import sources
from pipelines.evaluate import evaluate
from pipelines.evaluation import plan_inputs
from pipelines.tracking import store
from tests.conftest import threaded_server

API = "candidates.frontier"
REAL = (f"{API}.standin=null", f"{API}.base_url=http://127.0.0.1:9/v1")
"""Nobody listens there: a question would be an error."""
JUDGED = "workload.metrics.good={metric: rubric, judges: [j], params: {rubric: 'r', scale: 5}}"


def n_items(study: Study) -> int:
    return len(sources.load_eval(study.workload.eval_set))


def tokens(study: Study) -> tuple[int, int]:
    """Four characters each, eight for each message; at most 8 in an answer."""
    n_in = n_out = 0
    system = len(study.workload.instructions)
    for example in sources.load_eval(study.workload.eval_set):
        n_in += round((system + sum(len(m.content) for m in example.messages)) / 4) + 16
        n_out += round(min(8, len(example.target) / 4))
    return n_in, n_out


def test_before_anything_is_measured(small_study: Path) -> None:
    study = load_study(small_study, REAL)
    found = plan_inputs.plan(study, 0.8)
    assert (found.incumbent, found.n_now, found.n_groups) == ("frontier", n_items(study), None)
    row = found.candidates["tfidf-logreg"]
    assert (row.usd_per_task, row.pilot) == (None, None)
    assert "measured first, with python -m pipelines.benchmark" in row.price_from
    assert (found.expected.verdict, found.simulated) == (None, ())
    # gpt-6.1-sol: $2 in, $10 out per million; own machines are not paid per call.
    n_in, n_out = tokens(study)
    assert row.usd_per_item is not None
    assert row.usd_per_item == (n_in * 2 + n_out * 10) / Decimal(1_000_000) / n_items(study)
    # (1.64485 + 0.84162)^2 x 0.2 / 0.1^2 = 123.65.
    assert row.hoped.n_needed == 124
    assert row.hoped.usd == row.usd_per_item * 124


def test_stand_ins_and_recorded_answers_cost_nothing_to_ask(
    small_study: Path, tmp_path: Path
) -> None:
    found = plan_inputs.plan(load_study(small_study), 0.8)
    assert found.candidates["tfidf-logreg"].usd_per_item == 0
    swapped = plan_inputs.plan(load_study(small_study, ["incumbent=tfidf-logreg"]), 0.8)
    row = swapped.candidates["frontier"]
    assert (swapped.simulated, found.simulated) == (("frontier",), ("frontier",))
    assert row.price_from == "likely tokens at its price"
    study = load_study(small_study)
    n_in, n_out = tokens(study)
    assert row.usd_per_task == pytest.approx((n_in * 2 + n_out * 10) / 1e6 / n_items(study))
    file = tmp_path / "answers.jsonl"
    file.write_text('{"id": "refund-0", "text": "refund"}\n')
    recorded = load_study(small_study, [*REAL, f"{API}.recorded={file}"])
    # What more recorded answers would cost nobody knows.
    assert plan_inputs.plan(recorded, 0.8).candidates["tfidf-logreg"].usd_per_item is None


def test_controls_are_not_planned_for(small_study: Path) -> None:
    overrides = ["incumbent=tfidf-logreg", "evaluate.prompt_debt=[frontier]"]
    study = load_study(small_study, overrides)
    assert len(study.candidates) == 3
    assert list(plan_inputs.plan(study, 0.8).candidates) == ["frontier"]


def test_judges_and_repeated_answers_are_paid(small_study: Path) -> None:
    judge = (
        "judges.j={kind: rent, title: J, model: gpt-6.1-sol, price: openai/gpt-6.1-sol,"
        " base_url: 'http://127.0.0.1:9/v1'}"
    )

    def price(*more: str) -> Decimal:
        study = load_study(small_study, [*REAL, *more])
        usd = plan_inputs.plan(study, 0.8).candidates["tfidf-logreg"].usd_per_item
        assert usd is not None
        return usd

    answers, both = price(), price(judge, JUDGED)
    # The answers of both are judged: each verdict is 120 output tokens at $10 a million at least.
    assert both - answers >= 2 * 120 * Decimal(10) / 1_000_000
    assert price(judge, JUDGED, "evaluate.n_samples=3") == pytest.approx(3 * both)


def test_owning_is_priced_by_its_load_test(small_study: Path) -> None:
    load = BenchmarkResult(
        run_id="r", candidate="tfidf-logreg", title="t", kind="baseline", simulated=False,
        toy=False, limits={}, capacity_per_s=10, capacity_low=9, capacity_high=11, limited_by="",
        at_capacity=None, steps=(), n_requests=1, n_items=1, send_error_p99_s=None, spent_usd=None,
        hardware="vm-2cpu", machine="two cores", serving={},
    )  # fmt: skip
    study = load_study(small_study, [*REAL, "workload.requirements.max_quality_loss=0.4"])
    found = plan_inputs.plan(study, 0.8, loads={"tfidf-logreg": load})
    row = found.candidates["tfidf-logreg"]
    # 0.38 a second, four times that in the busiest minute: one machine and a spare. $0.10 an hour
    # for 730.5 hours each, and $100 of operations.
    assert row.usd_per_task == pytest.approx(246.1 / 1e6)
    assert row.price_from == "the monthly bill; capacity: load test on two cores, run r"
    n_in, n_out = tokens(study)
    api = (n_in * 2 + n_out * 10) / n_items(study)
    assert row.saving_usd_per_month == pytest.approx(api - 246.1)
    # (2.48648 / 0.4)^2 x 0.2 = 7.7, but 20 items at least.
    assert (row.hoped.n_needed, row.finding) == (20, "items at hand suffice")
    assert (found.expected.verdict, found.expected.winner) == ("rent", "frontier")
    study = load_study(small_study, [*REAL, "workload.traffic.tasks_per_month=3_000_000",
                                     "workload.requirements.max_quality_loss=0.4"])  # fmt: skip
    found = plan_inputs.plan(study, 0.8, loads={"tfidf-logreg": load})
    assert found.expected.verdict == ("own" if 3 * api > 246.1 else "rent")


def test_finished_evaluations_are_the_pilot_and_nothing_is_written(
    small_study: Path, store_uri: str, tmp_path: Path
) -> None:
    study = load_study(small_study, ["workload.requirements.usd_per_error=0.25"])
    evaluated = evaluate(study, Options(small_study, store_uri, dry_run=False, json=False))
    assert isinstance(evaluated, EvaluateResults)
    prepared = store.load_result(evaluated.prepare_run_id, PrepareResult)

    def written() -> dict[str, str]:
        files = (path for path in tmp_path.rglob("*") if path.is_file())
        return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}

    before = written()
    found = plan_inputs.plan(study, 0.8, prepared)
    assert written() == before
    row = found.candidates["tfidf-logreg"]
    assert row.pilot is not None
    assert (row.pilot.n, row.pilot.source) == (n_items(study), "finished evaluations")
    quality = {name: each.metrics["accuracy"] for name, each in evaluated.results.items()}
    ours, theirs = quality["tfidf-logreg"], quality["frontier"]
    assert ours is not None
    assert theirs is not None
    assert row.pilot.difference == pytest.approx(ours.mean - theirs.mean)
    assert row.hoped.discordant >= abs(row.pilot.difference)
    result = evaluated.results["tfidf-logreg"]
    assert result.cost.usd_per_task is not None
    assert row.usd_per_task == float(result.cost.usd_per_task)
    assert row.price_from.startswith(f"its evaluation, run {result.run_id}; capacity: what the")
    assert found.usd_per_error == 0.25
    # Other instructions are other answers: the pilot is not theirs.
    other = load_study(small_study, ["workload.instructions=Name it."])
    assert plan_inputs.plan(other, 0.8, prepared).candidates["tfidf-logreg"].pilot is None


def test_several_answers_to_an_item_count_as_one(small_study: Path, store_uri: str) -> None:
    calls = itertools.count()
    with threaded_server(lambda _: "no" if next(calls) % 2 else "refund") as server:
        study = load_study(
            small_study,
            [REAL[0], f"{API}.base_url={server.url}/v1", "evaluate.n_samples=2",
             "evaluate.concurrency=1"],
        )  # fmt: skip
        evaluated = evaluate(study, Options(small_study, store_uri, dry_run=False, json=False))
    assert isinstance(evaluated, EvaluateResults)
    prepared = store.load_result(evaluated.prepare_run_id, PrepareResult)
    row = plan_inputs.plan(study, 0.8, prepared).candidates["tfidf-logreg"]
    assert row.pilot is not None
    assert row.pilot.n == n_items(study)
    ours = evaluated.results["tfidf-logreg"].metrics["accuracy"]
    assert ours is not None
    # A third of the items ask for a refund; each was answered so once in two times.
    assert row.pilot.difference == pytest.approx(ours.mean - 1 / 6)


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert not plan_inputs.has_store(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not plan_inputs.has_store(None)
    (tmp_path / "mlflow.db").touch()
    assert plan_inputs.has_store(None)
    assert plan_inputs.has_store("http://127.0.0.1:9")
