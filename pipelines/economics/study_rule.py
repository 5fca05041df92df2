"""The decision rule on a study: its requirements, its volume."""

from __future__ import annotations

from pipelines.core.evidence import Evidence
from pipelines.core.ruling import Ruling
from pipelines.core.study import Study
from pipelines.economics.draws import N_DRAWS
from pipelines.economics.rule import rule


def ruled(
    study: Study,
    evidence: Evidence,
    *,
    requests_per_month: int | None = None,
    n_draws: int = N_DRAWS,
) -> Ruling:
    """The rule with a study's requirements and, unless another is given, its volume."""
    need, tuning = study.workload.requirements, study.workload.own_costs.tuning
    return rule(
        evidence,
        incumbent=study.incumbent,
        margin=need.max_quality_loss,
        usd_per_error=None if need.usd_per_error is None else float(need.usd_per_error),
        requests_per_month=requests_per_month or study.workload.traffic.tasks_per_month,
        min_coverage=need.min_coverage,
        max_latency_p95_s=need.max_latency_p95_s,
        usd_per_label=None if tuning is None else float(tuning.usd_per_label.likely),
        slice_margin=need.slice_margin,
        n_draws=n_draws,
    )
