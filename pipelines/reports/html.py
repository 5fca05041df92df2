"""The decision as one self-contained HTML file: no script, no network, readable when printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.core.decision import Decision
from pipelines.core.results import EvaluateResult, EvaluateResults, PrepareResult
from pipelines.core.study import Study
from pipelines.economics import candidate_cost, fleet
from pipelines.economics.verdict import usd
from pipelines.reports import charts, figures, terminal

if TYPE_CHECKING:
    from pipelines.evaluation.judge_figures import JudgeFigures

N_VOLUMES = 60
"""Points of the break-even curve."""


def render(
    study: Study,
    decision: Decision,
    evaluated: EvaluateResults,
    prepared: PrepareResult,
    judges: Sequence[JudgeFigures],
    latencies: Mapping[str, Sequence[float]],
) -> str:
    """The report.

    Args:
        study: for the assumptions.
        decision: what is reported.
        evaluated: what it rests on.
        prepared: gives the retrievers.
        judges: as measured; empty when none was.
        latencies: candidate -> seconds of every answered item.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["usd"] = usd
    environment.filters["readable"] = figures.readable
    results = evaluated.results
    limit_s = study.workload.requirements.max_latency_p95_s
    return environment.get_template("report.html.j2").render(
        study=study,
        decision=decision,
        evaluated=evaluated,
        key_figures=figures.key_figures(study, results),
        endings=figures.endings(results),
        errors=figures.errors(results),
        retrievers=figures.retrievers(prepared),
        owning=figures.owning(decision),
        machines=figures.machines(study.workload.own_costs),
        peak_to_mean=fleet.shape_of(study.workload.traffic).peak_to_mean,
        judged=any(spec.judges for spec in study.workload.metrics.values()),
        judges=figures.judges(judges),
        verdict_line=terminal.verdict_line(decision),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        quality_chart=charts.quality_against_dollars(decision),
        break_even_chart=charts.break_even(decision, _cost_at(study, results)),
        latency_chart=charts.latency(decision, latencies, limit_s),
    )


def _cost_at(
    study: Study, results: Mapping[str, EvaluateResult]
) -> dict[str, list[tuple[int, float]]]:
    """Dollars per month at volumes from a hundredth to a hundred times the study's."""
    traffic = study.workload.traffic
    volumes = sorted(
        {
            max(1, round(traffic.tasks_per_month * 10 ** (4 * k / (N_VOLUMES - 1) - 2)))
            for k in range(N_VOLUMES)
        }
    )
    found: dict[str, list[tuple[int, float]]] = {}
    for name, result in results.items():
        if result.cost.usd_per_task is None:
            continue
        points: list[tuple[int, float]] = []
        for volume in volumes:
            at = traffic.model_copy(update={"tasks_per_month": volume})
            capacity = result.cost.capacity_per_s
            if result.hardware is None or capacity is None:
                cost = candidate_cost.rented(result.cost.usd_per_task, at)
            else:
                cost = candidate_cost.owned(
                    capacity,
                    result.hardware,
                    at,
                    study.workload.own_costs,
                    result.tuned,
                    result.spent,
                )
            if cost.usd_per_month is not None:
                points.append((volume, float(cost.usd_per_month)))
        found[name] = points
    return found
