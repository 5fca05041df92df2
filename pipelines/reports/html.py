"""The decision as one self-contained HTML file: no network, readable without scripts and on paper.

The only script is the one that moves the break-even chart; the page's policy lets no other run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.core.decision import Decision
from pipelines.core.results import EvaluateResults, PrepareResult
from pipelines.core.study import Study
from pipelines.economics import fleet
from pipelines.economics.verdict import usd
from pipelines.reports import charts, figures, live, terminal
from pipelines.reports.names import plain

if TYPE_CHECKING:
    from pipelines.evaluation.judge_figures import JudgeFigures
    from pipelines.reports.answers import Answers


def render(
    study: Study,
    decision: Decision,
    evaluated: EvaluateResults,
    prepared: PrepareResult,
    judges: Sequence[JudgeFigures],
    latencies: Mapping[str, Sequence[float]],
    answers: Answers | None = None,
) -> str:
    """The report.

    Args:
        study: for the assumptions.
        decision: what is reported.
        evaluated: what it rests on.
        prepared: gives the retrievers.
        judges: as measured; empty when none was.
        latencies: candidate -> seconds of every answered item.
        answers: the worst ones and the slices; None = they are not shown.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.filters["usd"] = usd
    environment.filters["money"] = _money
    environment.filters["readable"] = figures.readable
    results = evaluated.results
    limit_s = study.workload.requirements.max_latency_p95_s
    recorded = [
        name
        for name, candidate in study.candidates.items()
        if candidate.kind == "rent" and candidate.recorded and name in decision.candidates
    ]
    moving = live.live(study, decision, results)
    return environment.get_template("report.html.j2").render(
        study=study,
        decision=decision,
        evaluated=evaluated,
        answers=answers,
        recorded=recorded,
        stamp=" \N{MIDDLE DOT} ".join(
            ["SIMULATED"] * bool(decision.simulated) + ["RECORDED"] * bool(recorded)
        ),
        spans={name: charts.usd_span(row, decision) for name, row in decision.candidates.items()},
        key_figures=figures.key_figures(study, results),
        slices=figures.slices(answers.slices if answers else ()),
        acceptability=figures.acceptability(decision),
        sensitivity=figures.sensitivity(decision),
        inputs=figures.inputs(study, results),
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
        live=moving,
        script=live.script() if moving else None,
        script_hash=live.script_hash() if moving else None,
        acceptability_chart=charts.acceptability(decision),
        cascade_chart=charts.cascade(decision.cascade) if decision.cascade else None,
        tornados={
            name: chart
            for name, row in decision.candidates.items()
            if row.excluded_because is None and (chart := charts.tornado(row)) is not None
        },
        latency_chart=charts.latency(decision, latencies, limit_s),
    )


def _money(amount: float) -> str:
    """`-$1.20`."""
    return f"{'-' if amount < 0 else ''}${abs(amount):,.2f}"


def _harmless(value: object) -> object:
    """Text without what a terminal obeys or what turns the reading direction; lines stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(plain(line) for line in value.split("\n"))
