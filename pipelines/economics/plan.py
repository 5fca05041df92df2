"""What more items would prove, what they cost, and whether knowing is worth it."""

from __future__ import annotations

import math
from bisect import bisect_right
from decimal import Decimal
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from pipelines.core.item_plan import Sample
from pipelines.core.records import Record
from pipelines.economics.draws import Array
from pipelines.statistics.intervals import CONFIDENCE, tango_statistic

ALPHA = (1 - CONFIDENCE) / 2
"""One-sided: a test at this level and the two-sided 95 % interval say the same."""
POWER = 0.8
"""Chance of showing what is true."""
NORMAL = NormalDist()
NEGLIGIBLE = 1e-12
"""Outcomes less likely than this are left out of a power."""
GRID = 2000
"""Sample sizes tried before the best of them is refined."""


class Proof(Record):
    """Whether a comparison can show what it is asked, with the items and the money there are."""

    n_needed: int | None
    """Items for the power asked for; None = no number of items, the truth is beyond the margin."""
    n_reachable: int | None
    """Items that exist and can be paid; None = any number."""
    power_now: float
    """With the items at hand."""
    power_reachable: float
    """With all that can be reached."""
    usd_needed: Decimal | None
    """Price of the items that are missing; None when no number suffices."""
    is_provable: bool
    reason: str
    """In words, what stands in the way, or what it takes."""


def needed_n(
    margin: float,
    discordant: float,
    true_difference: float = 0.0,
    *,
    design_effect: float = 1.0,
    power: float = POWER,
    alpha: float = ALPHA,
) -> int | None:
    """Items to show that a candidate's quality is no more than the margin lower; None = never.

    n = design effect x (z_(1-alpha) + z_power)^2 (psi - D^2) / (margin + D)^2, where psi is the
    share of items that one of the two gets right and the other wrong. A normal approximation: where
    few items differ the true power is lower (see `exact_power`).

    Args:
        margin: may be negative: the candidate must then be better by that much.
        discordant: psi, of a pilot.
        true_difference: D, candidate - incumbent, as supposed.
        design_effect: variance with the groups over variance without them.
        power: chance to succeed when all of this is true.
        alpha: chance to succeed when the truth lies on the margin.

    Raises:
        ValueError: the shares contradict one another.
    """
    variance = _variance(discordant, true_difference, design_effect)
    room = margin + true_difference
    if room <= 0:
        return None
    z = NORMAL.inv_cdf(1 - alpha) + NORMAL.inv_cdf(power)
    return max(1, math.ceil(z * z * variance / room**2))


def power_at(
    n: int,
    margin: float,
    discordant: float,
    true_difference: float = 0.0,
    *,
    design_effect: float = 1.0,
    alpha: float = ALPHA,
) -> float:
    """Chance to show non-inferiority with n items, by the formula of `needed_n`.

    Args:
        n: items.
        margin: see `needed_n`, like the rest.
        discordant: psi.
        true_difference: D.
        design_effect: of the groups.
        alpha: one-sided.

    Raises:
        ValueError: the shares contradict one another.
    """
    variance = _variance(discordant, true_difference, design_effect)
    room = margin + true_difference
    if n <= 0:
        return 0.0
    if variance == 0:
        return float(room > 0)
    return NORMAL.cdf(room * math.sqrt(n / variance) - NORMAL.inv_cdf(1 - alpha))


def exact_power(
    n: int, margin: float, discordant: float, true_difference: float = 0.0, *, alpha: float = ALPHA
) -> float:
    """Chance that Tango's test shows non-inferiority with n independent items, without a formula.

    Sums the probabilities of all outcomes (items won, items lost) that pass.

    Args:
        n: items, each right or wrong.
        margin: see `needed_n`, like the rest; within -1 and 1.
        discordant: psi.
        true_difference: D.
        alpha: one-sided.

    Raises:
        ValueError: the shares contradict one another.
    """
    _variance(discordant, true_difference, 1.0)
    z = NORMAL.inv_cdf(1 - alpha)
    won, lost = (discordant + true_difference) / 2, (discordant - true_difference) / 2
    n_lost = np.arange(n + 1)
    chance: Array = np.diff(special.bdtr(n_lost, n, lost), prepend=0.0)
    share = won / (1 - lost) if lost < 1 else 0.0
    total = 0.0
    for c in np.flatnonzero(chance > NEGLIGIBLE).tolist():
        # With every item won the statistic rises: the first that passes is found by halving.
        passes = bisect_right(
            range(n - c + 1), z, key=lambda b, c=c: tango_statistic(b, c, n, -margin)
        )
        total += float(chance[c]) * float(special.bdtrc(passes - 1, n - c, share))
    return total


def proof(
    margin: float,
    discordant: float,
    true_difference: float = 0.0,
    *,
    n_now: int,
    usd_per_item: Decimal,
    n_available: int | None = None,
    budget_usd: Decimal | None = None,
    design_effect: float = 1.0,
    power: float = POWER,
    alpha: float = ALPHA,
) -> Proof:
    """Whether a margin can be shown at all, before money is spent on it.

    Args:
        margin: see `needed_n`; `expected_loss.effective_margin` gives it.
        discordant: psi.
        true_difference: D.
        n_now: items that both candidates have a score for.
        usd_per_item: what one more item costs: the answers of both, the judge, the label.
        n_available: items that exist, those of `n_now` included; None = more can be made.
        budget_usd: what may be spent on more items; None = no limit.
        design_effect: of the groups.
        power: see `needed_n`.
        alpha: one-sided.

    Raises:
        ValueError: the shares contradict one another, or a number is negative.
    """
    if n_now < 0 or usd_per_item < 0 or (budget_usd is not None and budget_usd < 0):
        raise ValueError(
            f"n_now {n_now}, usd_per_item {usd_per_item}, budget_usd {budget_usd}: none of them "
            "may be negative"
        )
    if n_available is not None and n_available < n_now:
        raise ValueError(f"n_available: {n_available} are fewer than the {n_now} at hand")
    needed = needed_n(
        margin, discordant, true_difference, design_effect=design_effect, power=power, alpha=alpha
    )
    limits = [] if n_available is None else [n_available]
    if budget_usd is not None and usd_per_item > 0:
        limits.append(n_now + int(budget_usd // usd_per_item))
    reachable = min(limits, default=None)

    def chance(n: int) -> float:
        return power_at(
            n, margin, discordant, true_difference, design_effect=design_effect, alpha=alpha
        )

    now = chance(n_now)
    missing = None if needed is None else max(0, needed - n_now)
    usd = None if missing is None else missing * usd_per_item
    if needed is None:
        reason = (
            f"no number of items: a true difference of {100 * true_difference:+.1f} points is not "
            f"above {-100 * margin:+.1f}"
        )
    elif missing == 0:
        reason = f"the {n_now:,} items at hand suffice"
    elif reachable is None or needed <= reachable:
        reason = f"{missing:,} more items, ${usd:,.2f}"
    else:
        what = "exist" if reachable == n_available else "can be paid"
        reason = f"it takes {needed:,} items, and only {reachable:,} {what}"
    return Proof(
        n_needed=needed,
        n_reachable=reachable,
        power_now=now,
        power_reachable=max(now, float(margin + true_difference > 0))
        if reachable is None
        else chance(reachable),
        usd_needed=usd,
        is_provable=needed is not None and (reachable is None or needed <= reachable),
        reason=reason,
    )


def evsi(mean_usd: float, se_usd: float, n: int, k: int, tasks: float) -> float:
    """Dollars that k more items are worth before they are seen: EVSI of a choice between two.

    With s^2 = se^2 k / (n + k), by which the items are expected to move the mean:
    tasks x (s phi(|mean| / s) - |mean| Phi(-|mean| / s)), errors being normal (Raiffa and Schlaifer
    1961).

    Args:
        mean_usd: expected difference of the two losses, dollars per task; the sign does not matter.
        se_usd: its standard error, as far as items reduce it: cost of an error x that of the
            difference in quality. Doubt about dollars stays, however many items there are.
        n: independent items, or groups, behind `se_usd`.
        k: more of them.
        tasks: that the decision is for.

    Raises:
        ValueError: a number is negative, or there are no items.
    """
    if k < 0:
        raise ValueError(f"k: {k} more items; it may not be negative")
    _check(se_usd, n, tasks)
    return float(_value(mean_usd, se_usd, n, np.array([k]), tasks)[0])


def best_sample(
    mean_usd: float,
    se_usd: float,
    n: int,
    tasks: float,
    usd_per_item: Decimal,
    k_max: int | None = None,
) -> Sample:
    """The number of further items whose worth exceeds their price by the most.

    It only plans: the test's error rate must be kept by the stage that takes them.

    Args:
        mean_usd: see `evsi`, like the next three.
        se_usd: of the mean, as far as items reduce it.
        n: items behind it.
        tasks: that the decision is for.
        usd_per_item: price of one more.
        k_max: no more than these can be had; None = any number.

    Raises:
        ValueError: a number is negative, there are no items, or free ones have no limit.
    """
    _check(se_usd, n, tasks)
    if usd_per_item < 0 or (k_max is not None and k_max < 0):
        raise ValueError(f"usd_per_item {usd_per_item}, k_max {k_max}: neither may be negative")
    if usd_per_item == 0 and k_max is None:
        raise ValueError("usd_per_item: 0 asks for infinitely many items; give k_max")
    price = float(usd_per_item)
    # Nobody pays more than certainty is worth.
    certain = float(_unit_loss(np.array([se_usd]), mean_usd)[0]) * tasks
    most = min(certain / price if price else math.inf, math.inf if k_max is None else k_max)
    low, high = 1, math.floor(most)
    if high < 1:
        return Sample(k=0, value_usd=0.0, usd=0.0)
    while True:
        sizes = np.unique(np.geomspace(low, high, GRID).round().astype(np.int64))
        worth = _value(mean_usd, se_usd, n, sizes, tasks)
        best = int((worth - price * sizes).argmax())
        if len(sizes) == high - low + 1:
            break
        low, high = int(sizes[max(best - 1, 0)]), int(sizes[min(best + 1, len(sizes) - 1)])
    k, value = int(sizes[best]), float(worth[best])
    if value <= price * k:
        return Sample(k=0, value_usd=0.0, usd=0.0)
    return Sample(k=k, value_usd=value, usd=price * k)


def _variance(discordant: float, true_difference: float, design_effect: float) -> float:
    """Of one item's difference, times the design effect."""
    if not abs(true_difference) <= discordant <= 1:
        raise ValueError(
            f"discordant {discordant}, true difference {true_difference}: of items that differ "
            "there are at most all and at least as many as the difference"
        )
    if design_effect <= 0:
        raise ValueError(f"design_effect: {design_effect} is not above 0")
    return design_effect * (discordant - true_difference**2)


def _check(se_usd: float, n: int, tasks: float) -> None:
    if se_usd < 0 or tasks < 0 or n < 1:
        raise ValueError(
            f"se_usd {se_usd}, tasks {tasks}, n {n}: the first two may not be negative, and there "
            "must be at least one item"
        )


def _value(mean_usd: float, se_usd: float, n: int, k: NDArray[np.int64], tasks: float) -> Array:
    """(len(k),): EVSI of each number of items."""
    return tasks * _unit_loss(se_usd * np.sqrt(k / (n + k)), mean_usd)


def _unit_loss(moves: Array, mean: float) -> Array:
    """E[max(0, X)] - max(0, mean) for X normal about `mean` with standard deviation `moves`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(moves > 0, abs(mean) / moves, np.inf)
    density = np.exp(-(distance**2) / 2) / math.sqrt(2 * math.pi)
    beyond: Array = special.ndtr(-distance)
    return np.maximum(moves * density - abs(mean) * beyond, 0.0)
