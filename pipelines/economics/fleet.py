"""Traffic over time -> machines over time: how many, how busy, how often started."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

from pipelines.core.records import Record
from pipelines.core.traffic import MINUTE_S, counts, times_s
from pipelines.core.workload import Traffic

HOURS_PER_MONTH = 730.5
"""365.25 days / 12 x 24 h."""
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
PEAK_TO_MEAN = 4.0
"""Where a study says nothing of its traffic: an assumption."""
ROUNDING = 1e-9
"""Share of a machine that is not worth another machine."""


class Shape(Record):
    """Traffic as multiples of its mean rate, over a period that repeats."""

    window_s: int
    """A minute of real requests, an hour of a profile."""
    windows: tuple[float, ...]
    """Rate in each window; the mean is 1."""
    hours: tuple[float, ...]
    """Rate in the busiest minute of each hour."""

    @property
    def peak_to_mean(self) -> float:
        """Busiest minute over the mean rate."""
        return max(self.hours)


class Fleet(Record):
    """The machines of an average month."""

    n_replicas: int
    """In the busiest hour, spares included."""
    n_base: int
    """Of these, the ones that stay on without any load."""
    base_hours: float
    """Machine hours a month of the base."""
    load_hours: float
    """Machine hours a month beyond it."""
    n_cold_starts: float
    """A month."""
    utilisation: float
    """Calls over what all machines that are on could answer."""


def shape_of(traffic: Traffic) -> Shape:
    """The traffic's shape, from its timestamps or its profile."""
    if traffic.timestamps is not None:
        return _of_times(times_s(traffic.timestamps))
    peak = PEAK_TO_MEAN if traffic.peak_to_mean is None else traffic.peak_to_mean
    weights = traffic.profile.weights if traffic.profile else (1.0,)
    mean = sum(weights) / len(weights)
    rates = tuple(weight / mean for weight in weights)
    return Shape(window_s=3600, windows=rates, hours=tuple(peak * rate for rate in rates))


def calls_per_s(tasks_per_month: float, calls_per_task: float, retries_per_call: float) -> float:
    """Mean rate of calls."""
    return tasks_per_month * calls_per_task * (1 + retries_per_call) / SECONDS_PER_MONTH


def plan(
    shape: Shape,
    mean_calls_per_s: float,
    capacity_per_s: float,
    *,
    headroom: float,
    spares: int,
    min_replicas: int,
    scaling: Literal["always_on", "hourly"],
) -> Fleet:
    """Machines for the busiest minute of each hour, or of the whole period.

    N = max(min_replicas, ceil(rate x (1 + headroom) / capacity)) + spares

    Args:
        shape: of the traffic.
        mean_calls_per_s: over the month.
        capacity_per_s: calls per second of one machine within the latency limits.
        headroom: capacity kept free, as a share of the load.
        spares: machines beyond those.
        min_replicas: least machines without the spares.
        scaling: `always_on` keeps the machines of the busiest hour all month.
    """
    n_base = min_replicas + spares
    one = capacity_per_s / (1 + headroom)
    peaks = shape.hours if scaling == "hourly" else (shape.peak_to_mean,)
    needed = [
        max(min_replicas, math.ceil(peak * mean_calls_per_s / one - ROUNDING)) for peak in peaks
    ]
    mean_needed = sum(needed) / len(needed)
    # The period repeats: its first hour follows its last.
    started = sum(
        max(0, n - before) for before, n in zip([needed[-1], *needed], needed, strict=False)
    )
    hours_on = (mean_needed + spares) * HOURS_PER_MONTH
    return Fleet(
        n_replicas=max(needed) + spares,
        n_base=n_base,
        base_hours=n_base * HOURS_PER_MONTH,
        load_hours=hours_on - n_base * HOURS_PER_MONTH,
        n_cold_starts=started * HOURS_PER_MONTH / len(needed),
        utilisation=mean_calls_per_s * HOURS_PER_MONTH / (hours_on * capacity_per_s),
    )


def duration_curve(shape: Shape, mean_calls_per_s: float) -> tuple[tuple[float, float], ...]:
    """The load-duration curve: (calls per second, hours a month), busiest first."""
    hours = HOURS_PER_MONTH / len(shape.windows)
    return tuple((rate * mean_calls_per_s, hours) for rate in sorted(shape.windows, reverse=True))


@lru_cache(maxsize=8)
def _of_times(times: tuple[float, ...]) -> Shape:
    found = counts(times, MINUTE_S)
    mean = sum(found) / len(found)
    rates = tuple(count / mean for count in found)
    hours = tuple(max(rates[k : k + 60]) for k in range(0, len(rates), 60))
    return Shape(window_s=MINUTE_S, windows=rates, hours=hours)
