"""Workloads ranked by their dollars, with what speaks for a study of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pipelines.core.audit import (
    Batching,
    Machine,
    Sign,
    Spend,
    TrafficShape,
    WorkloadSpend,
)
from pipelines.economics.charge import NO_TOKENS, Charge, grouped
from pipelines.economics.savings import batching, caching
from pipelines.economics.spend import HOURS_PER_MONTH, by_label, per_month, summed

HOURS_PER_WEEK = 168
EPOCH_HOUR_OF_WEEK = 72
"""1970 began on a Thursday."""
ONE_MODEL_SHARE = 0.9
SHORT_OUTPUT_TOKENS = 300
STEADY_PEAK_TO_MEAN = 4.0
NO_CALLS = "the log does not say how many calls it sums"


def workloads(
    charges: Sequence[Charge],
    hourly: Mapping[str, Mapping[int, int]],
    n_days: int,
    machine: Machine | None,
) -> tuple[WorkloadSpend, ...]:
    """Every workload, ranked by dollars per month; those without dollars follow, by tokens.

    Args:
        charges: of the whole log.
        hourly: workload -> Unix hour -> calls.
        n_days: days that the log covers.
        machine: what the dollars are translated into.
    """
    parts = grouped(charges, lambda each: each.group.workload)
    found = [
        _workload(name, part, hourly.get(name, {}), n_days, machine) for name, part in parts.items()
    ]
    return tuple(
        sorted(found, key=lambda w: (-(w.usd_per_month or 0), -w.spend.n_tokens, w.workload))
    )


def traffic(hours: Mapping[int, int], n_days: int) -> TrafficShape | None:
    """How the calls spread over the hours; None when no call has a time of day.

    Args:
        hours: Unix hour -> calls.
        n_days: days that the log covers; the mean is taken over all their hours.
    """
    n_timed = sum(hours.values())
    if not n_timed:
        return None
    week = [0] * HOURS_PER_WEEK
    for hour, n in hours.items():
        week[(hour + EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK] += n
    busiest = max(hours, key=lambda hour: (hours[hour], -hour))
    return TrafficShape(
        n_calls=n_timed,
        busiest_hour=datetime.fromtimestamp(busiest * 3600, UTC),
        busiest_hour_calls=hours[busiest],
        peak_to_mean=hours[busiest] * 24 * n_days / n_timed,
        hour_of_week=tuple(week),
    )


def _workload(
    name: str,
    charges: Sequence[Charge],
    hours: Mapping[int, int],
    n_days: int,
    machine: Machine | None,
) -> WorkloadSpend:
    spend = summed(charges)
    month, paid = per_month(spend.usd, n_days), per_month(spend.usd_at_terms, n_days)
    shape = traffic(hours, n_days)
    by_model = by_label(charges)
    batch = batching(charges)
    costs = month if paid is None else paid
    hourly = None if costs is None else costs / HOURS_PER_MONTH
    n_machines = None
    if hourly is not None and machine is not None:
        n_machines = int(hourly // machine.usd_per_hour)
    return WorkloadSpend(
        workload=name,
        grouped_by=charges[0].group.grouped_by,
        spend=spend,
        usd_per_month=month,
        usd_per_month_at_terms=paid,
        calls_per_month=_calls_per_month(spend, n_days),
        by_model=by_model,
        caching=caching(charges),
        batching=batch,
        traffic=shape,
        signs=(
            _one_model(by_model),
            _short_outputs(spend),
            _steady(shape),
            _batchable(batch, spend.n_calls),
        ),
        usd_per_hour=hourly,
        n_machines_paid=n_machines,
    )


def _one_model(by_model: Mapping[str, Spend]) -> Sign:
    known = {label: float(it.usd) for label, it in by_model.items() if it.usd is not None}
    what = "dollars"
    if len(known) < len(by_model):
        what, known = "tokens", {label: float(it.n_tokens) for label, it in by_model.items()}
    total = sum(known.values())
    if not total:
        return Sign(name="one model", holds=None, figure=f"no {what}")
    label = max(known, key=lambda name: known[name])
    share = known[label] / total
    limit = f"limit {100 * ONE_MODEL_SHARE:.0f} %"
    figure = f"{100 * share:.0f} % of the {what} are {label}; {limit}"
    return Sign(name="one model", holds=share >= ONE_MODEL_SHARE, figure=figure)


def _short_outputs(spend: Spend) -> Sign:
    n = spend.n_calls - spend.n_without_usage
    if spend.n_tokens_without_calls or n <= 0:
        figure = NO_CALLS if spend.n_tokens_without_calls else NO_TOKENS
        return Sign(name="short outputs", holds=None, figure=figure)
    mean = spend.tokens["output"] / n
    figure = f"{mean:,.0f} output tokens a call; limit {SHORT_OUTPUT_TOKENS}"
    return Sign(name="short outputs", holds=mean <= SHORT_OUTPUT_TOKENS, figure=figure)


def _steady(shape: TrafficShape | None) -> Sign:
    if shape is None:
        return Sign(name="steady traffic", holds=None, figure="the log states no time of day")
    figure = (
        f"busiest hour {shape.peak_to_mean:.1f} times the mean; limit {STEADY_PEAK_TO_MEAN:.0f}"
    )
    holds = shape.peak_to_mean <= STEADY_PEAK_TO_MEAN
    return Sign(name="steady traffic", holds=holds, figure=figure)


def _batchable(batch: Batching, n_calls: int) -> Sign:
    share = batch.n_calls_batched / n_calls if n_calls else 0.0
    figure = f"{100 * share:.0f} % of the calls came as batches"
    # That a call was not batched does not say that nobody could have waited.
    return Sign(name="batchable", holds=True if share >= 0.5 else None, figure=figure)


def _calls_per_month(spend: Spend, n_days: int) -> int | None:
    if spend.n_tokens_without_calls:
        return None
    return round(spend.n_calls * HOURS_PER_MONTH / (24 * n_days))
