"""From responses and scores to one EvaluateResult, its MLflow metrics and its words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.core.prices import TokenPrice
from pipelines.core.records import Example, Response, Score
from pipelines.core.results import EvaluateResult
from pipelines.core.study import Own, Rent, Study
from pipelines.economics import candidate_cost
from pipelines.economics.token_cost import mean_usd
from pipelines.evaluation.runner import throughput
from pipelines.statistics.intervals import estimate


def summarise(
    study: Study,
    name: str,
    examples: Sequence[Example],
    responses: Sequence[Response],
    scores: Mapping[str, Sequence[Score]],
    price: TokenPrice | None,
    *,
    run_id: str,
    model_id: str,
    eval_sha256: str,
    adapter_sha256: str | None,
) -> EvaluateResult:
    """Estimates, latencies and dollars of one candidate."""
    candidate, workload = study.candidates[name], study.workload
    groups = {e.id: e.group for e in examples if e.group is not None}
    answered = [r for r in responses if r.error is None]
    latencies = [r.latency_s for r in answered]
    ttfts = [r.ttft_s for r in answered if r.ttft_s is not None]
    tasks_per_s = throughput(responses)
    tuned = isinstance(candidate, Own) and candidate.tuned
    if isinstance(candidate, Rent):
        per_call = None if price is None else mean_usd(price, responses)
        cost = candidate_cost.rented(per_call, workload.traffic)
    else:
        cost = candidate_cost.owned(
            tasks_per_s, candidate.hardware, workload.traffic, workload.own_costs, tuned
        )
    return EvaluateResult(
        run_id=run_id,
        candidate=name,
        title=candidate.title,
        kind=candidate.kind,
        tuned=tuned,
        model_id=model_id,
        simulated=any(r.simulated for r in responses),
        toy=isinstance(candidate, Own) and study.finetune.base.build == "toy",
        eval_sha256=eval_sha256,
        quality_metric=workload.quality,
        metrics={
            metric: estimate({s.example_id: s.value for s in each}, groups)
            for metric, each in scores.items()
        },
        n_total=len(examples),
        n_errors=len(responses) - len(answered),
        errors=dict(Counter(r.error for r in responses if r.error is not None).most_common(10)),
        latency_p50_s=float(np.percentile(latencies, 50)) if latencies else None,
        latency_p95_s=float(np.percentile(latencies, 95)) if latencies else None,
        ttft_p50_s=float(np.percentile(ttfts, 50)) if ttfts else None,
        tasks_per_s=tasks_per_s,
        cost=cost,
        token_price=price,
        hardware=None if isinstance(candidate, Rent) else candidate.hardware,
        adapter_sha256=adapter_sha256,
        served_models=tuple(sorted({r.model for r in answered})),
    )


def figures(result: EvaluateResult) -> dict[str, float | None]:
    """MLflow metrics: the same names for every candidate, so that the UI can compare them."""
    quality, cost = result.metrics[result.quality_metric], result.cost
    good = candidate_cost.usd_per_good_task(cost.usd_per_task, quality.mean if quality else None)
    values: dict[str, float | None] = {
        "quality": quality.mean if quality else None,
        "quality_low": quality.low if quality else None,
        "quality_high": quality.high if quality else None,
        "coverage": quality.coverage if quality else 0.0,
        "errors": result.n_errors,
        "latency_p50_s": result.latency_p50_s,
        "latency_p95_s": result.latency_p95_s,
        "ttft_p50_s": result.ttft_p50_s,
        "tasks_per_s": result.tasks_per_s,
        "usd_per_month": _number(cost.usd_per_month),
        "usd_per_task": _number(cost.usd_per_task),
        # The UI rounds to cents: a task shows as $0.00.
        "usd_per_1k_tasks": _number(cost.usd_per_task, 1000),
        "usd_per_1k_good_tasks": _number(good, 1000),
        "usd_per_good_task": _number(good),
    }
    for name, value in result.metrics.items():
        values[f"metric/{name}"] = value.mean if value else None
        values[f"metric/{name}_coverage"] = value.coverage if value else 0.0
    return values


def describe(result: EvaluateResult) -> str:
    """One line for the UI."""
    mark = "**SIMULATED: no model produced these answers.** " if result.simulated else ""
    toy = "A toy model, for trying things out. " if result.toy else ""
    quality = result.metrics[result.quality_metric]
    if quality is None:
        return f"{mark}{toy}{result.title}. Not one answer could be scored."
    return (
        f"{mark}{toy}{result.title}. {result.quality_metric} {quality.mean:.3f} "
        f"({quality.low:.3f} to {quality.high:.3f}), coverage {quality.coverage:.1%} "
        f"of {quality.n_total} items."
    )


def _number(usd: object, times: int = 1) -> float | None:
    return None if usd is None else float(str(usd)) * times
