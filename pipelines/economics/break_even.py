"""From which volume, after how many months, and with which inputs owning beats an API."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal

from pipelines.core.hardware import End, Figure
from pipelines.core.own_costs import Outlook
from pipelines.core.results import Swing
from pipelines.economics import fleet, own_cost
from pipelines.economics.own_cost import Owning

API_PRICE = "api_usd_per_task"
HUGE = 10**15
"""Tasks a month at which nothing but machines counts."""


def volume(
    own: Owning,
    api_usd_per_task: Decimal,
    *,
    max_replicas: int | None = None,
    end: End = "likely",
) -> int | None:
    """Smallest monthly volume at which owning costs no more than the API; None = never.

    Owning costs C(V), which only rises, in steps, as machines are added (a machine's hour costs
    more than its start); the API costs p V. A
    volume V that is too small stays so up to C(V) / p, so V = C(V) / p is repeated until it
    stands still: the first volume of all numbers of machines, none is left out.

    Args:
        own: all that C depends on.
        api_usd_per_task: p.
        max_replicas: a larger fleet is out of the question, spares included; None = any size.
        end: of the inputs of owning.
    """
    at = own.at(end)

    def bill(tasks: int) -> Decimal:
        return own_cost.usd_per_month(own, tasks, at)

    if api_usd_per_task <= 0 or bill(HUGE) / HUGE >= api_usd_per_task:
        return None
    tasks = _at_least(own, api_usd_per_task, at)
    while True:
        if max_replicas and own_cost.machines(own, tasks, at).n_replicas > max_replicas:
            return None
        meets = math.ceil(bill(tasks) / api_usd_per_task)
        if meets <= tasks:
            return tasks
        tasks = meets


def payback_months(
    own_usd_at: Callable[[float], Decimal],
    api_usd_per_task: Decimal,
    tasks_per_month: int,
    outlook: Outlook,
    end: End = "likely",
) -> int | None:
    """Months until the savings, discounted, have paid for the start; None = not in that time.

    In month m = 1, 2, ... the volume is V (1 + growth)^(m-1), the API's price p (1 - fall)^(m-1);
    the saving arrives at the month's end and is divided by (1 + wacc)^(m/12).

    Args:
        own_usd_at: tasks per month -> dollars per month of owning.
        api_usd_per_task: p, today.
        tasks_per_month: V, today.
        outlook: the rest.
        end: of the outlook's figures.
    """
    balance = -outlook.upfront_usd.at(end)
    growth, fall = outlook.growth_per_month.at(end), outlook.api_price_fall_per_month.at(end)
    monthly = (1 + outlook.wacc.at(end)) ** (Decimal(1) / 12)
    for month in range(1, outlook.months + 1):
        tasks = tasks_per_month * (1 + growth) ** (month - 1)
        price = api_usd_per_task * (1 - fall) ** (month - 1)
        balance += (price * tasks - own_usd_at(float(tasks))) / monthly**month
        if balance >= 0:
            return month
    return None


def is_unclear(own_usd: Figure, api_usd: Figure) -> bool:
    """Whether the inputs at their best and at their worst give opposite answers.

    Args:
        own_usd: the bill of owning.
        api_usd: the API's bill for the same tasks.
    """
    return own_usd.low < api_usd.high and api_usd.low <= own_usd.high


def swings(own: Owning, api_usd_per_task: Figure, tasks_per_month: int) -> tuple[Swing, ...]:
    """What each uncertain input alone does to the saving, the largest first: the tornado.

    Inputs that change nothing at this volume are left out.

    Args:
        own: the inputs of owning.
        api_usd_per_task: what the API asks.
        tasks_per_month: the volume.
    """
    likely = own.at("likely") | {API_PRICE: api_usd_per_task.likely}

    def saved(symbol: str, value: Decimal) -> Decimal:
        at = likely | {symbol: value}
        return at[API_PRICE] * tasks_per_month - own_cost.usd_per_month(own, tasks_per_month, at)

    found = [
        Swing(
            symbol=symbol,
            low=figure.low,
            high=figure.high,
            saving_at_low=saved(symbol, figure.low),
            saving_at_high=saved(symbol, figure.high),
        )
        for symbol, figure in {**own.symbols, API_PRICE: api_usd_per_task}.items()
        if figure.low < figure.high
    ]
    moved = [each for each in found if each.saving_at_low != each.saving_at_high]
    return tuple(sorted(moved, key=lambda each: -abs(each.saving_at_high - each.saving_at_low)))


def _at_least(own: Owning, api_usd_per_task: Decimal, at: Mapping[str, Decimal]) -> int:
    """A volume below which owning is dearer even if machines could be had in fractions."""
    month = Decimal(repr(fleet.HOURS_PER_MONTH)) * at["usd_per_machine_hour"]
    fixed = sum(own_cost.beside_machines(at).values(), own.spares * month)
    peaks = own.shape.hours if own.scaling == "hourly" else (own.shape.peak_to_mean,)
    rate = fleet.calls_per_s(1, float(at["calls_per_task"]), float(at["retries_per_call"]))
    needed = sum(peaks) / len(peaks) * rate * float((1 + at["headroom"]) / at["capacity_per_s"])
    per_task = Decimal(repr(needed)) * month
    if per_task >= api_usd_per_task:
        return 1
    # A hair less, because rates are floats.
    return max(1, math.floor(fixed / (api_usd_per_task - per_task) * Decimal("0.999999")))
