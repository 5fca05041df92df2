"""Own machines for the base of the load, an API for its peaks: how many machines are worth it."""

from __future__ import annotations

from decimal import Decimal

from pipelines.core.hardware import End
from pipelines.core.results import SpillOver
from pipelines.economics import fleet, own_cost
from pipelines.economics.own_cost import Owning


def best(
    own: Owning, api_usd_per_task: Decimal, tasks_per_month: int, end: End = "likely"
) -> SpillOver:
    """Add machines as long as the calls that the next one takes are worth its price.

    The n-th machine takes S_n = sum over time of (rate - (n - 1) one), at least 0 and at most one
    machine's load; it is added while the API's price of S_n reaches the machine's. People and the
    like are paid once there is a machine. Within a window the rate counts as even, so an hourly
    profile spills less here than its minutes would.

    Args:
        own: all that owning depends on.
        api_usd_per_task: what the API asks.
        tasks_per_month: the volume.
        end: of the inputs of owning.
    """
    at = own.at(end)
    mean = fleet.calls_per_s(
        tasks_per_month, float(at["calls_per_task"]), float(at["retries_per_call"])
    )
    curve = fleet.duration_curve(own.shape, mean)
    one = float(at["capacity_per_s"] / (1 + at["headroom"]))
    month = Decimal(repr(fleet.HOURS_PER_MONTH)) * at["usd_per_machine_hour"]
    api_usd = api_usd_per_task * tasks_per_month
    n, taken = 0, 0.0
    while taken < 1:
        share = taken_share(curve, n, one)
        if share == 0 or api_usd * Decimal(repr(share)) < month:
            break
        n, taken = n + 1, min(1.0, taken + share)
    spilled = 1 - taken
    fixed = sum(own_cost.beside_machines(at).values(), Decimal(0))
    together = n * month + fixed + api_usd * Decimal(repr(spilled))
    if n == 0 or together >= api_usd:
        n, spilled, together = 0, 1.0, api_usd
    return SpillOver(
        n_replicas=n,
        spilled_share=spilled,
        usd_per_month=together,
        own_usd_per_month=own_cost.usd_per_month(own, tasks_per_month, at),
        api_usd_per_month=api_usd,
    )


def taken_share(curve: tuple[tuple[float, float], ...], n_before: int, one: float) -> float:
    """Share of all calls that one more machine takes.

    Args:
        curve: (calls per second, hours a month).
        n_before: machines that are there already.
        one: calls per second that a machine takes.
    """
    taken = sum(min(max(rate - n_before * one, 0.0), one) * hours for rate, hours in curve)
    return taken / sum(rate * hours for rate, hours in curve)
