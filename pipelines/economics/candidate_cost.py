"""Dollars per task and per month of one candidate at the study's volume."""

from __future__ import annotations

from decimal import Decimal

from pipelines.core.hardware import Figure, Hardware
from pipelines.core.own_costs import OwnCosts, Spent
from pipelines.core.results import Cost
from pipelines.core.workload import Traffic
from pipelines.economics import own_cost


def unknown(because: str) -> Cost:
    """No dollars, and why."""
    return Cost(usd_per_month=None, usd_per_task=None, unknown_because=because)


def rented(usd_per_call: Decimal | None, traffic: Traffic) -> Cost:
    """Paid per call."""
    if usd_per_call is None:
        return unknown("the provider reported no usage")
    return Cost(usd_per_month=usd_per_call * traffic.tasks_per_month, usd_per_task=usd_per_call)


def owned(
    capacity_per_s: Figure | float,
    hardware: Hardware,
    traffic: Traffic,
    costs: OwnCosts,
    tuned: bool,
    spent: Spent | None = None,
) -> Cost:
    """Paid by the hour, busy or idle.

    Args:
        capacity_per_s: calls per second of one machine.
        hardware: the machine and its contract.
        traffic: the volume and its shape.
        costs: people and the rest.
        tuned: whether there is tuning to pay for.
        spent: what this study's tuning has cost, where it is known.

    Raises:
        ValueError: the low end of the capacity is not above 0.
    """
    capacity = capacity_per_s if isinstance(capacity_per_s, Figure) else Figure.of(capacity_per_s)
    if capacity.low <= 0:
        raise ValueError(f"capacity_per_s: {capacity.low} at its low end buys no finite fleet")
    own = own_cost.owning(capacity, hardware, traffic, costs, tuned, spent)
    tasks = traffic.tasks_per_month
    low, likely, high = (
        own_cost.usd_per_month(own, tasks, own.at(end)) for end in ("low", "likely", "high")
    )
    used = own_cost.machines(own, tasks, own.at("likely"))
    return Cost(
        usd_per_month=likely,
        usd_per_task=likely / tasks,
        usd_per_month_low=low,
        usd_per_month_high=high,
        lines=own_cost.lines(own, tasks, tuned),
        n_replicas=used.n_replicas,
        utilisation=used.utilisation,
        capacity_per_s=capacity,
    )


def usd_per_good_task(usd_per_task: Decimal | None, quality: float | None) -> Decimal | None:
    """Dollars per task that is right; None when nothing is known or nothing is right."""
    if usd_per_task is None or not quality:
        return None
    return usd_per_task / Decimal(repr(quality))
