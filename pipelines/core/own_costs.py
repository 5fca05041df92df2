"""What owning costs beside the price of the machines, and how many of them there must be."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.core.hardware import Amount, Figure, Portion, Positive
from pipelines.core.records import Record


class People(Record):
    """Who keeps the service running."""

    fte: Amount
    """Full-time engineers; a tenth is usual for one service."""
    salary_usd_per_year: Amount
    """Of one, with everything that the employer pays."""
    on_call_usd_per_month: Amount


class Tuning(Record):
    """One tuned model: what it takes to make it, and how long it lasts."""

    labels: Amount
    usd_per_label: Amount
    trials: Amount
    machine_hours_per_trial: Amount
    """On the candidate's own hardware, at its price."""
    eval_calls: Amount
    usd_per_eval_call: Amount
    """To the closed models that it is compared with."""
    judge_calls: Amount
    usd_per_judge_call: Amount
    engineer_days: Amount
    usd_per_engineer_day: Amount
    life_months: Positive
    """Until the base model is retired, or the workload has drifted away."""
    refreshes: Amount
    """How often all of it is done again within that life."""


class Spent(Record):
    """What one round of this study's tuning was measured to take; None = not known."""

    training_hours: float | None = None
    """On the candidate's hardware, one run."""
    evaluation_usd: Decimal | None = None
    """Paid for the answers of closed models."""
    judge_usd: Decimal | None = None
    """Paid for judging the tuned model's answers once."""


class Risk(Record):
    """What outages cost that an API would not have had."""

    outages_per_month: Amount
    hours_per_outage: Amount
    usd_per_hour: Amount


class Outlook(Record):
    """How the comparison develops; tells after how many months owning has paid for its start."""

    upfront_usd: Amount
    """Spent before the first month and not in the monthly bill: migration, set-up."""
    api_price_fall_per_month: Portion
    growth_per_month: Figure
    """Of the volume, as a share; may be negative."""
    wacc: Portion
    """Cost of capital per year."""
    months: int = Field(gt=0, le=240)
    """How far to look."""


class OwnCosts(Record):
    """What owning costs beside the machines. Never zero by default: say it and say why."""

    operations_usd_per_month: Amount | None = None
    """People, on-call and monitoring in one figure; or `people` and `observability_usd_per_month`.
    """
    people: People | None = None
    observability_usd_per_month: Amount | None = None
    """Metrics, logs, traces."""
    storage_usd_per_month: Amount | None = None
    """Disks, and traffic out of the data centre."""
    tuning_usd_per_month: Amount | None = None
    """Labels, training runs and evaluations, spread over the life of the tuned model, in one
    figure; or `tuning`."""
    tuning: Tuning | None = None
    risk: Risk | None = None
    outlook: Outlook | None = None
    """None = no payback is computed."""
    headroom: Amount = Figure.of("0.67")
    """Capacity kept free in the busiest minute, as a share of its load: bursts within the minute,
    and traffic that grows before machines do. 0.67 = the busiest minute uses 60 %."""
    spares: int = Field(default=1, ge=0)
    """Machines beyond those that the load needs: with one, a machine can fail or be updated
    without an outage."""
    min_replicas: int = Field(default=1, ge=1)
    """Machines that stay on without any load, the spares not counted."""
    scaling: Literal["always_on", "hourly"] = "always_on"
    """`hourly`: each hour has the machines that its busiest minute needs."""
    calls_per_task: Positive = Figure.of(1)
    retries_per_call: Amount = Figure.of(0)
    """Calls that are made again: timeouts, answers that cannot be read."""
    source: str
    """Where these figures come from."""

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if (self.operations_usd_per_month is None) == (self.people is None):
            raise ValueError("give either operations_usd_per_month or people")
        if self.operations_usd_per_month is not None and self.observability_usd_per_month:
            raise ValueError("operations_usd_per_month holds observability_usd_per_month already")
        if self.tuning_usd_per_month is not None and self.tuning is not None:
            raise ValueError("give either tuning_usd_per_month or tuning")
        return self
