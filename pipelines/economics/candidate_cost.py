"""Dollars per task and per month of one candidate at the study's volume."""

from __future__ import annotations

from decimal import Decimal

from pipelines.core.prices import Hardware
from pipelines.core.results import Cost
from pipelines.core.workload import OwnCosts, Traffic
from pipelines.economics import own_cost


def rented(usd_per_call: Decimal | None, traffic: Traffic) -> Cost:
    """Paid per call."""
    if usd_per_call is None:
        return Cost(usd_per_month=None, usd_per_task=None)
    return Cost(usd_per_month=usd_per_call * traffic.tasks_per_month, usd_per_task=usd_per_call)


def owned(
    tasks_per_s: float | None, hardware: Hardware, traffic: Traffic, costs: OwnCosts, tuned: bool
) -> Cost:
    """Paid by the hour, busy or idle."""
    if tasks_per_s is None:
        return Cost(usd_per_month=None, usd_per_task=None)
    n_replicas = own_cost.replicas(tasks_per_s, traffic, costs)
    usd_per_month = own_cost.usd_per_month(n_replicas, hardware, costs, tuned)
    return Cost(
        usd_per_month=usd_per_month,
        usd_per_task=usd_per_month / traffic.tasks_per_month,
        n_replicas=n_replicas,
    )


def usd_per_good_task(usd_per_task: Decimal | None, quality: float | None) -> Decimal | None:
    """Dollars per task that is right; None when nothing is known or nothing is right."""
    if usd_per_task is None or not quality:
        return None
    return usd_per_task / Decimal(repr(quality))
