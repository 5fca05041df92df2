"""The verdict on a study: a ruling, and what its candidates cost, run on and come from."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from pipelines.core.hardware import Figure, Hardware
from pipelines.core.prices import TokenPrice
from pipelines.core.records import Difference, Record
from pipelines.core.results import CostLine, SpillOver, Swing
from pipelines.core.ruling import CandidateRuling, Ruling, RulingVerdict


class Scenario(Record):
    """The answer with one input changed."""

    value: float
    """Of the input: times today's where today's is 1, else in its own unit."""
    verdict: RulingVerdict
    chosen: str | None
    changes: bool
    """Whether that is another answer than today's."""


class Sensitivity(Record):
    """What one input does to the answer, all others as they are."""

    input: str
    """Its name in `own_costs`, or what it is."""
    today: float | None
    """None = an output that has no one value."""
    scenarios: tuple[Scenario, ...]
    flips_at: float | None
    """The value nearest to today's at which the answer is another one; None = none that was tried
    changes it."""
    flips_to: tuple[RulingVerdict, str | None] | None = None
    """Verdict and choice there."""


class CandidateDecision(CandidateRuling):
    """One row of the decision table; `usd_per_task` is the month's bill over its tasks."""

    title: str
    simulated: bool
    toy: bool
    latency_p50_s: float | None
    usd_per_month: Decimal | None
    usd_per_month_low: Decimal | None = None
    """When every input lies where it makes owning cheap; None when rented."""
    usd_per_month_high: Decimal | None = None
    cost_lines: tuple[CostLine, ...] = ()
    """What owning costs, line by line; empty when rented."""
    n_replicas: int | None
    """Machines for the busiest minute, spares included; None when rented."""
    utilisation: float | None = None
    """Calls over what all machines that are on could answer; None when rented."""
    capacity_per_s: Figure | None = None
    """Calls per second of one machine that the machines are counted by; None when rented."""
    break_even_tasks_per_month: int | None
    """Volume from which this candidate is cheaper than the incumbent; None = never, or rented."""
    swings: tuple[Swing, ...] = ()
    """What each input alone changes of the saving against the incumbent, the largest first; empty
    when rented, or when the incumbent is not."""
    payback_months: int | None = None
    """Until owning has paid for its start; None = never, rented, or the study has no `outlook`."""
    spill_over: SpillOver | None = None
    """Own machines for the base of the load and the incumbent for its peaks; None when rented, or
    when the incumbent is not."""
    confidence_from: str = ""
    """What a cascade would read the answers' confidence from; empty = there is none."""
    control_of: str | None = None
    """It was asked for comparison with that candidate, and is never chosen."""
    control_difference: Difference | None = None
    """Paired, this control - that candidate: what the other prompt, or no passages, changes."""
    evaluate_run_id: str
    model_id: str


class Decision(Ruling):
    """The answer for one workload; `requests_per_month` is its volume."""

    run_id: str
    workload: str
    title: str
    quality_metric: str
    tasks_per_month: int
    unverified: str | None = None
    """Why the judges of the quality may not decide; None = they may, or none is judged."""
    would_be: tuple[RulingVerdict, str | None] | None = None
    """Verdict and choice if they might; None = `verdict` stands."""
    sensitivity: tuple[Sensitivity, ...] = ()
    simulated: tuple[str, ...]
    """Candidates whose answers are simulated; a verdict that rests on one cannot be promoted."""
    eval_sha256: str
    candidates: Mapping[str, CandidateDecision]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    prices: dict[str, TokenPrice]
    hardware: dict[str, Hardware]
