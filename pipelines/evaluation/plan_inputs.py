"""What the plan of a study rests on: forecast dollars, finished evaluations and load tests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np

from pipelines.core.candidate import Own, Rent
from pipelines.core.evidence import Evidence
from pipelines.core.item_plan import ItemPlan
from pipelines.core.paths import MLRUNS
from pipelines.core.prices import PriceBook
from pipelines.core.records import Example, Score
from pipelines.core.results import (
    SCORES,
    BenchmarkResult,
    EvaluateResult,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.data import labels, sources
from pipelines.economics import candidate_cost, own_measured, study_plan
from pipelines.economics.planned_candidate import Offer, Terms
from pipelines.economics.price_book import load_prices
from pipelines.evaluation import asked, forecast
from pipelines.evaluation.job import rows_of, stage_of
from pipelines.tracking import store, traces

SQLITE = "sqlite:///"


def has_store(tracking_uri: str | None) -> bool:
    """Whether there is an MLflow store to read; connecting to none would make one.

    Args:
        tracking_uri: None = $MLFLOW_TRACKING_URI, else the project's own.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{MLRUNS}/mlflow.db"
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


def plan(
    study: Study,
    power: float,
    prepared: PrepareResult | None = None,
    tuned: FinetuneResult | None = None,
    loads: Mapping[str, BenchmarkResult] | None = None,
) -> ItemPlan:
    """What it takes to settle the study's question; asks nobody and writes nothing.

    Args:
        study: the study; controls are left out, since nobody chooses them.
        power: chance to succeed.
        prepared: its finished `prepare`; None = there is none, and so no finished evaluation.
        tuned: its finished adapter.
        loads: its finished load tests, by candidate.

    Raises:
        ConfigError: a rented model has no price.
        DataError: the eval set is absent or wrong.
    """
    workload = study.workload
    models = (*study.candidates.values(), *study.judges.values())
    prices = load_prices({model.price for model in models if isinstance(model, Rent)})
    examples = sources.load_eval(workload.eval_set)
    done = {} if prepared is None else _finished(study, prepared, tuned, prices, loads or {})
    sizes = Counter(example.group or example.id for example in examples)
    return study_plan.plan(
        workload.title,
        _offers(study, prices, examples, done, loads or {}),
        Terms(
            incumbent=study.incumbent,
            margin=workload.requirements.max_quality_loss,
            n_now=len(examples),
            group_sizes=tuple(sizes.values()) if len(sizes) < len(examples) else (),
            power=power,
            usd_per_error=_float(workload.requirements.usd_per_error),
            tasks_per_month=workload.traffic.tasks_per_month,
        ),
        _pilot(study, examples, done),
        "finished evaluations",
    )


def _finished(
    study: Study,
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    prices: PriceBook,
    loads: Mapping[str, BenchmarkResult],
) -> dict[str, EvaluateResult]:
    """Evaluations that `evaluate` would find done."""
    workload = study.workload
    judged = [name for name, spec in workload.metrics.items() if spec.judges]
    given: list[labels.Label] = []
    if judged:
        items = {item.id: item for item in sources.load_eval(workload.eval_set)}
        given = labels.load(workload.labels, items, judged) if workload.labels else []
        given += [labels.Label(**row) for row in traces.human_labels(workload.name, judged)]
    found: dict[str, EvaluateResult] = {}
    for name, candidate in study.candidates.items():
        if isinstance(candidate, Own) and candidate.tuned and tuned is None:
            continue
        stage = stage_of(study, name, prepared, tuned, prices, given, loads.get(name))
        if run_id := store.find_finished(stage):
            found[name] = store.load_result(run_id, EvaluateResult)
    return found


def _offers(
    study: Study,
    prices: PriceBook,
    examples: Sequence[Example],
    done: Mapping[str, EvaluateResult],
    loads: Mapping[str, BenchmarkResult],
) -> dict[str, Offer]:
    # A study that was never prepared has nothing done: every line has its dollars.
    upstream = Plan(stages=(PlannedStage(stage="prepare", state="to do"),))
    lines = forecast.plan(study, prices, upstream, (), lambda *_: {}).stages
    found: dict[str, Offer] = {}
    for name, candidate in study.candidates.items():
        if candidate.control_of is not None:
            continue
        usd = sum(
            (
                line.usd or Decimal(0)
                for line in lines
                if line.stage == f"evaluate {name}" or line.stage.startswith(f"judge {name}: ")
            ),
            Decimal(0),
        )
        recorded = isinstance(candidate, Rent) and candidate.recorded
        per_task, source = _price(study, name, prices, examples, done.get(name), loads.get(name))
        found[name] = Offer(
            kind=candidate.kind,
            simulated=candidate.simulated,
            usd_per_task=per_task,
            price_from=source,
            usd_per_answer=None if recorded else usd / len(examples),
        )
    return found


def _price(
    study: Study,
    name: str,
    prices: PriceBook,
    examples: Sequence[Example],
    done: EvaluateResult | None,
    load: BenchmarkResult | None,
) -> tuple[float | None, str]:
    """Dollars per task and where they come from, or why they are not known yet."""
    candidate, workload = study.candidates[name], study.workload
    if done is not None and done.cost.usd_per_task is not None:
        capacity = done.cost.capacity_per_s
        source = f"; capacity: {capacity.source}" if capacity and capacity.source else ""
        return float(done.cost.usd_per_task), f"its evaluation, run {done.run_id}{source}"
    if isinstance(candidate, Rent):
        request_of = asked.request_maker(
            study, name, asked.instructions(study, candidate, None), name
        )
        usd = forecast.usd_of_answers(
            prices.token_price(candidate.price),
            ((request_of(each).messages, each.target) for each in examples),
            workload.max_output_tokens,
            candidate.terms,
        )
        return float(usd.likely / len(examples)), "likely tokens at its price"
    if load is None:
        return None, "its capacity must be measured first, with python -m pipelines.benchmark"
    capacity = own_measured.calls_per_s(candidate, load, None, study.evaluate.concurrency)
    if isinstance(capacity, str):
        return None, capacity
    tuned = isinstance(candidate, Own) and candidate.tuned
    cost = candidate_cost.owned(
        capacity, candidate.hardware, workload.traffic, workload.own_costs, tuned
    )
    return _float(cost.usd_per_task), f"the monthly bill; capacity: {capacity.source}"


def _pilot(
    study: Study, examples: Sequence[Example], done: Mapping[str, EvaluateResult]
) -> Evidence | None:
    """Scores of the finished evaluations; several answers to an item count as their mean."""
    if study.incumbent not in done or len(done) < 2:
        return None
    columns: list[list[float]] = []
    for result in done.values():
        values = {
            score.example_id: score.value
            for score in rows_of(result.run_id, SCORES, Score)
            if score.metric == result.quality_metric
        }
        columns.append([_mean(values, example, study.evaluate.n_samples) for example in examples])
    groups = None
    if any(example.group is not None for example in examples):
        names = [example.group or example.id for example in examples]
        groups = np.unique(names, return_inverse=True)[1]
    return Evidence(
        candidates=tuple(done),
        ids=tuple(example.id for example in examples),
        scores=np.array(columns).T,
        groups=groups,
    )


def _mean(values: Mapping[str, float | None], example: Example, n_samples: int) -> float:
    """NaN without a score."""
    samples = (values.get(each.id) for each in asked.repeated([example], n_samples))
    known = [value for value in samples if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _float(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)
