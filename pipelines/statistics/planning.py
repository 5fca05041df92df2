"""How many items would settle an open comparison."""

from __future__ import annotations

import math

from scipy import stats

from pipelines.core.records import Difference
from pipelines.statistics.intervals import Z

POWER = 0.8


def required_n(difference: Difference, margin: float) -> int | None:
    """Items for 80 % power to show non-inferiority, if the true difference is the observed one.

    n = (z_0.975 + z_0.8)^2 sd^2 / (margin + mean)^2, with sd from the interval at hand.
    None when the observed difference is already beyond the margin: more items would confirm
    that the candidate is worse.
    """
    room = margin + difference.mean
    half = (difference.high - difference.low) / 2
    if room <= 0 or not math.isfinite(half):
        return None
    variance = difference.n * (half / Z) ** 2
    z = Z + float(stats.norm.ppf(POWER))
    return max(difference.n + 1, math.ceil(z * z * variance / room**2))
