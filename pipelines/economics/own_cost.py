"""Dollars per month of machines of our own, and the volume at which they beat an API."""

from __future__ import annotations

import math
from decimal import Decimal

from pipelines.core.prices import Hardware
from pipelines.core.workload import OwnCosts, Traffic

HOURS_PER_MONTH = Decimal("730.5")
"""365.25 days / 12 x 24 h."""
SECONDS_PER_MONTH = float(HOURS_PER_MONTH) * 3600


def tasks_per_month_of_one(capacity_per_s: float, peak_to_mean: float, costs: OwnCosts) -> float:
    """Monthly volume that one machine carries when its busiest minute may use its share.

    Args:
        capacity_per_s: measured tasks per second of one machine.
        peak_to_mean: of the traffic.
        costs: gives `max_utilisation`.
    """
    return capacity_per_s * costs.max_utilisation / peak_to_mean * SECONDS_PER_MONTH


def replicas(capacity_per_s: float, traffic: Traffic, costs: OwnCosts) -> int:
    """Machines for the busiest minute, at least one."""
    one = tasks_per_month_of_one(capacity_per_s, traffic.peak_to_mean, costs)
    return max(1, math.ceil(traffic.tasks_per_month / one))


def fixed_usd_per_month(costs: OwnCosts, tuned: bool) -> Decimal:
    """What is paid however few tasks there are, beside the machines."""
    return costs.operations_usd_per_month + (costs.tuning_usd_per_month if tuned else 0)


def usd_per_month(n_replicas: int, hardware: Hardware, costs: OwnCosts, tuned: bool) -> Decimal:
    """Machines around the clock, busy or idle, and people."""
    machines = n_replicas * hardware.usd_per_hour * HOURS_PER_MONTH
    return machines + fixed_usd_per_month(costs, tuned)


def break_even_tasks_per_month(
    api_usd_per_task: Decimal,
    capacity_per_s: float,
    hardware: Hardware,
    costs: OwnCosts,
    traffic: Traffic,
    tuned: bool,
) -> int | None:
    """Smallest monthly volume at which owning costs no more than the API; None = never.

    Owning costs F + r c with r machines, each for up to `one` tasks; the API costs p V. With r
    machines the two meet at V = (F + r c) / p, if r machines can carry that many. They never
    meet when a full machine costs at least what the API asks for the same tasks.
    """
    one = tasks_per_month_of_one(capacity_per_s, traffic.peak_to_mean, costs)
    machine = hardware.usd_per_hour * HOURS_PER_MONTH
    fixed = fixed_usd_per_month(costs, tuned)
    saving_per_machine = api_usd_per_task * Decimal(one) - machine
    if api_usd_per_task <= 0 or saving_per_machine <= 0:
        return None
    # r full machines pay for themselves and for F from this r on.
    r = max(1, math.ceil(fixed / saving_per_machine))
    meets = math.ceil((fixed + r * machine) / api_usd_per_task)
    return max(meets, math.floor((r - 1) * one) + 1)
