"""From responses and scores to one EvaluateResult, its MLflow metrics and its words."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import get_args

import numpy as np

from pipelines.core.candidate import Own, Rent
from pipelines.core.prices import TokenPrice
from pipelines.core.records import NOBODYS, Outcome, Response
from pipelines.core.results import BenchmarkResult, EvaluateResult, FinetuneResult, LooksResult
from pipelines.core.study import Study
from pipelines.economics import candidate_cost, own_measured
from pipelines.economics.token_cost import mean_usd, usd_of_response
from pipelines.evaluation.looks import words
from pipelines.evaluation.runner import Answers
from pipelines.evaluation.scores import ScoreBook


@dataclass
class Tally:
    """One pass over the responses of a candidate; numbers only, so that memory stays small."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    ttfts: array[float] = field(default_factory=lambda: array("d"))
    starts: array[float] = field(default_factory=lambda: array("d"))
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    models: set[str] = field(default_factory=set)
    simulated: bool = False
    n_broken_off: int = 0

    def add(self, response: Response) -> None:
        """Count one response."""
        self.outcomes[response.outcome] += 1
        self.simulated |= response.simulated
        self.n_broken_off += response.n_broken_off
        if response.text is None:
            self.errors[response.error or response.outcome] += 1
            return
        self.models.add(response.model)
        if response.latency_s is not None:
            self.latencies.append(response.latency_s)
            self.starts.append(response.started_at_s)
        if response.ttft_s is not None:
            self.ttfts.append(response.ttft_s)


def throughput(starts: Sequence[float], latencies: Sequence[float]) -> float | None:
    """Answers per second of wall time in which at least one request was in flight.

    Independent of pauses, so that a run which was killed and resumed measures the same.
    None when nothing was answered.

    Args:
        starts: Unix time at which each answered request was sent.
        latencies: seconds until its last token.
    """
    busy_s, until = 0.0, float("-inf")
    for start, latency in sorted(zip(starts, latencies, strict=True)):
        end = start + latency
        busy_s += max(0.0, end - max(start, until))
        until = max(until, end)
    return len(starts) / busy_s if busy_s else None


def summarise(
    study: Study,
    name: str,
    answers: Answers,
    scores: ScoreBook,
    price: TokenPrice | None,
    *,
    judge_usd: Decimal | None,
    simulated_metrics: tuple[str, ...],
    run_id: str,
    model_id: str,
    eval_sha256: str,
    adapter_sha256: str | None,
    load: BenchmarkResult | None,
    trained: FinetuneResult | None,
    looks: LooksResult | None,
) -> EvaluateResult:
    """Estimates, latencies and dollars of one candidate.

    Args:
        study: the study.
        name: the candidate's.
        answers: one response for each item, and what else was received.
        scores: all that were noted.
        price: per token; None when owned.
        judge_usd: what the judges have cost; None when none is paid by the token.
        simulated_metrics: those that a stand-in judged.
        run_id: MLflow run.
        model_id: MLflow LoggedModel.
        eval_sha256: digest of the items.
        adapter_sha256: of the adapter that answered.
        load: its load test; None = rented, or not made: then the machines are counted by what the
            evaluation reached.
        trained: how its adapter came about; None = it has none.
        looks: how it came about that no further items were asked; None = all were.
    """
    candidate, workload = study.candidates[name], study.workload
    groups = {e.id: e.group for e in answers.examples if e.group is not None}
    tally = Tally()
    for response in answers:
        tally.add(response)
    tasks_per_s = throughput(tally.starts, tally.latencies)
    tuned = isinstance(candidate, Own) and candidate.tuned
    spent_usd, title = None, candidate.title
    spent = None
    if isinstance(candidate, Own) and trained is not None:
        paid_for = None if simulated_metrics else judge_usd
        spent = own_measured.spent(candidate, trained, paid_for)
    if isinstance(candidate, Rent):
        per_call = None
        if price is not None:
            terms = candidate.terms
            title += f" ({terms.words})" if terms.words else ""
            per_call = mean_usd(price, answers.received(), terms)
            if not tally.simulated:
                paid = (usd_of_response(price, r, terms.as_sent) for r in answers.received())
                spent_usd = sum(paid, Decimal(0))
        cost = candidate_cost.rented(per_call, workload.traffic)
    else:
        capacity = own_measured.calls_per_s(
            candidate, load, tasks_per_s, study.evaluate.concurrency
        )
        cost = (
            candidate_cost.unknown(capacity)
            if isinstance(capacity, str)
            else candidate_cost.owned(
                capacity, candidate.hardware, workload.traffic, workload.own_costs, tuned, spent
            )
        )
    return EvaluateResult(
        run_id=run_id,
        candidate=name,
        title=title,
        kind=candidate.kind,
        tuned=tuned,
        model_id=model_id,
        simulated=tally.simulated or workload.quality in simulated_metrics,
        toy=isinstance(candidate, Own) and study.finetune.base.build == "toy",
        eval_sha256=eval_sha256,
        quality_metric=workload.quality,
        metrics=scores.estimates(groups),
        judged=scores.judged(groups),
        simulated_metrics=simulated_metrics,
        n_total=len(answers),
        n_errors=sum(tally.outcomes[outcome] for outcome in NOBODYS),
        errors=dict(tally.errors.most_common(10)),
        outcomes={str(outcome): count for outcome, count in sorted(tally.outcomes.items())},
        n_unparseable=scores.n_unparseable[workload.quality],
        latency_p50_s=_percentile(tally.latencies, 50),
        latency_p95_s=_percentile(tally.latencies, 95),
        ttft_p50_s=_percentile(tally.ttfts, 50),
        tasks_per_s=tasks_per_s,
        cost=cost,
        spent=spent,
        spent_usd=spent_usd,
        judge_usd=judge_usd,
        n_broken_off=tally.n_broken_off,
        token_price=price,
        hardware=None if isinstance(candidate, Rent) else candidate.hardware,
        adapter_sha256=adapter_sha256,
        served_models=tuple(sorted(tally.models)),
        looks=looks,
    )


def _percentile(seconds: Sequence[float], percent: int) -> float | None:
    return float(np.percentile(seconds, percent)) if len(seconds) else None


def figures(result: EvaluateResult) -> dict[str, float | None]:
    """MLflow metrics: the same names for every candidate, so that the UI can compare them."""
    quality, cost = result.metrics[result.quality_metric], result.cost
    good = candidate_cost.usd_per_good_task(cost.usd_per_task, quality.mean if quality else None)
    values: dict[str, float | None] = {
        "quality": quality.mean if quality else None,
        "quality_low": quality.low if quality else None,
        "quality_high": quality.high if quality else None,
        "coverage": quality.coverage if quality else 0.0,
        "looks_done": result.looks.looks_done if result.looks else None,
        "share_saved": result.looks.share_saved if result.looks else None,
        "errors": result.n_errors,
        "unparseable": result.n_unparseable,
        "spent_usd": _number(result.spent_usd),
        "judge_usd": _number(result.judge_usd),
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
    for outcome in get_args(Outcome):
        values[f"outcome/{outcome}"] = result.outcomes.get(outcome, 0)
    for name, value in result.metrics.items():
        values[f"metric/{name}"] = value.mean if value else None
        values[f"metric/{name}_coverage"] = value.coverage if value else 0.0
    for name, value in result.judged.items():
        values[f"judge_alone/{name}"] = value.mean if value else None
    return values


def describe(result: EvaluateResult) -> str:
    """One line for the UI."""
    mark = "**SIMULATED: no model produced these answers.** " if result.simulated else ""
    if result.simulated_metrics:
        judged = ", ".join(result.simulated_metrics)
        mark += f"**SIMULATED judge: {judged} say nothing about quality.** "
    toy = "A toy model, for trying things out. " if result.toy else ""
    quality = result.metrics[result.quality_metric]
    if quality is None:
        return f"{mark}{toy}{result.title}. Not one answer could be scored."
    ends = ", ".join(f"{count} {how}" for how, count in result.outcomes.items())
    early = f" Looks: {words(result.looks)}." if result.looks else ""
    several = ""
    if len(result.served_models) > 1:
        several = (
            f" **Several models answered under this name: {', '.join(result.served_models)}.**"
        )
    return (
        f"{mark}{toy}{result.title}. {result.quality_metric} {quality.mean:.3f} "
        f"({quality.low:.3f} to {quality.high:.3f}), coverage {quality.coverage:.1%} "
        f"of {quality.n_total} items ({ends}; {result.n_unparseable} unparseable).{early}{several}"
    )


def _number(usd: object, times: int = 1) -> float | None:
    return None if usd is None else float(str(usd)) * times
