"""Candidates compared by expected dollars, the damage of wrong answers included.

One task loses V (1 - quality) + dollars per task + fixed dollars / volume, V being what a wrong
answer that nobody notices costs. Everything here follows from draws of quality, dollars and volume;
intervals hold 95 % of the draws, their ends are draws themselves. Dollars are floats: they are
estimates, not bills.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.core.records import Record
from pipelines.economics.draws import Array, Draws
from pipelines.statistics.intervals import CONFIDENCE

TASKS = 1000
"""Losses are told per so many tasks."""


class Spread(Record):
    """A number that follows from draws: their mean, and where 95 % of them lie."""

    mean: float
    low: float
    high: float


class CandidateLoss(Record):
    """What one candidate loses per 1,000 tasks, in dollars."""

    usd_per_1000_tasks: Spread
    probability_best: float
    """Share of the draws in which nobody loses less; equals share a draw."""
    regret_usd_per_1000_tasks: float
    """How much more it loses than the best of each draw, on average; that of the plug-in choice is
    the expected value of perfect information."""


class Losses(Record):
    """All candidates at one cost of an error."""

    usd_per_error: float
    candidates: dict[str, CandidateLoss]
    plug_in: str
    """The candidate with the lowest mean loss; at a tie the first."""


class CurvePoint(Record):
    """Who is best at one cost of an error."""

    usd_per_error: float
    probability_best: dict[str, float]
    plug_in: str
    """Lowest mean loss; not always who is most often best."""


class Threshold(Record):
    """From where upward something pays, with its 95 % interval; None = never, above all numbers."""

    likely: float | None
    """At the means of the draws; 0 = it always pays."""
    low: float | None
    high: float | None
    probability_never: float


class ErrorCostThreshold(Threshold):
    """V*: what an error must cost, in dollars, for the dearer of two candidates to pay."""

    dearer: str
    cheaper: str


class GoodTask(Record):
    """Dollars per task that is right."""

    usd: float
    """Mean dollars over mean quality."""
    low: float
    high: float


def losses(draws: Draws, usd_per_error: float) -> Losses:
    """Expected loss, chance of being best and regret of every candidate.

    Args:
        draws: of all candidates.
        usd_per_error: V.

    Raises:
        ValueError: V is negative or not a number.
    """
    loss = loss_per_task(draws, usd_per_error)
    best = _share_best(loss)
    regret = (loss - loss.min(axis=1, keepdims=True)).mean(axis=0)
    return Losses(
        usd_per_error=usd_per_error,
        candidates={
            name: CandidateLoss(
                usd_per_1000_tasks=spread(TASKS * loss[:, j]),
                probability_best=float(best[j]),
                regret_usd_per_1000_tasks=TASKS * float(regret[j]),
            )
            for j, name in enumerate(draws.names)
        },
        plug_in=_plug_in(draws, loss),
    )


def loss_per_task(draws: Draws, usd_per_error: float) -> Array:
    """(n_draws, n_candidates): V (1 - quality) + dollars per task + fixed dollars / volume.

    Args:
        draws: of all candidates.
        usd_per_error: V.

    Raises:
        ValueError: V is negative or not a number.
    """
    _check(usd_per_error)
    return usd_per_error * (1 - draws.quality) + draws.all_in_usd


def acceptability(draws: Draws, usd_per_error: Sequence[float]) -> tuple[CurvePoint, ...]:
    """The acceptability curve: who is best, and how surely, as errors cost more.

    Args:
        draws: of all candidates.
        usd_per_error: values of V, such as `error_costs` gives.

    Raises:
        ValueError: one of them is negative or not a number.
    """
    points: list[CurvePoint] = []
    for value in usd_per_error:
        loss = loss_per_task(draws, value)
        best = dict(zip(draws.names, _share_best(loss).tolist(), strict=True))
        points.append(
            CurvePoint(usd_per_error=value, probability_best=best, plug_in=_plug_in(draws, loss))
        )
    return tuple(points)


def error_costs(low: float, high: float, n: int = 25) -> tuple[float, ...]:
    """0, then `n` values from `low` to `high`, each the same multiple of the one before.

    Raises:
        ValueError: low is not above 0 or high not above low.
    """
    if not (0 < low < high < np.inf and n >= 2):
        raise ValueError(
            f"costs of an error from {low} to {high} in {n} steps: give 0 < low < high"
        )
    return (0.0, *(float(value) for value in np.geomspace(low, high, n)))


def v_star(draws: Draws, one: str, other: str) -> ErrorCostThreshold:
    """The cost of an error from which upward the dearer of two candidates pays for itself.

    V* = difference in dollars / difference in quality, draw by draw. A draw in which it is better
    and costs no more says 0. One in which it is worse says never, even if it is the cheaper one
    there, for it would pay only while errors cost little; so does one in which both are equally
    good, unless it costs no more there.

    Args:
        draws: of both.
        one: a candidate.
        other: another one; which of them has the higher mean dollars is found here.

    Raises:
        ValueError: there are no draws of one of them.
    """
    usd = draws.all_in_usd
    dearer, cheaper = one, other
    if usd[:, draws.column(one)].mean() < usd[:, draws.column(other)].mean():
        dearer, cheaper = other, one
    a, b = draws.column(dearer), draws.column(cheaper)
    found = threshold(usd[:, a] - usd[:, b], draws.quality[:, a] - draws.quality[:, b])
    return ErrorCostThreshold(dearer=dearer, cheaper=cheaper, **dict(found))


def usd_per_good_task(draws: Draws, candidate: str) -> GoodTask | None:
    """Dollars per task that is right: mean dollars over mean quality (cost of pass).

    To be reported, not decided by: it takes a wrong answer to be noticed and free.

    Args:
        draws: of the candidate.
        candidate: its name.

    Returns:
        None when the quality may be 0: its 95 % interval begins there.

    Raises:
        ValueError: there are no draws of it.
    """
    j = draws.column(candidate)
    usd, quality = draws.all_in_usd[:, j], draws.quality[:, j]
    if spread(quality).low <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(quality > 0, usd / quality, np.inf)
    low, high = _ends(ratio)
    return GoodTask(usd=float(usd.mean() / quality.mean()), low=low, high=high)


def saving(draws: Draws, candidate: str, incumbent: str) -> Spread:
    """Dollars per task that a candidate costs less than the incumbent, fixed ones included.

    Args:
        draws: of both.
        candidate: its name.
        incumbent: the other one's.

    Raises:
        ValueError: there are no draws of one of them.
    """
    usd = draws.all_in_usd
    return spread(usd[:, draws.column(incumbent)] - usd[:, draws.column(candidate)])


def effective_margin(
    policy_margin: float, saving_low_usd: float, usd_per_error: float | None
) -> float:
    """How much quality a candidate may lose: no more than the policy grants, nor than is saved.

    The net benefit V x difference + saving is above 0 exactly where the difference is above
    -saving / V. So one test of the difference against this margin asks for both.

    Args:
        policy_margin: the largest loss of quality that is allowed at all.
        saving_low_usd: lower end of the saving per task, as `saving` gives it; negative = the
            candidate may cost more.
        usd_per_error: V; None = not known, the policy alone counts.

    Returns:
        The margin. Negative: the candidate must be better, by that much. Below -1: no quality would
        pay.

    Raises:
        ValueError: V is negative or not a number.
    """
    if usd_per_error is None:
        return policy_margin
    _check(usd_per_error)
    if saving_low_usd == 0:
        return min(policy_margin, 0.0)
    if usd_per_error == 0:
        return policy_margin if saving_low_usd > 0 else -np.inf
    return min(policy_margin, saving_low_usd / usd_per_error)


def threshold(price: Array, gain: Array) -> Threshold:
    """The x from which upward x gain - price >= 0, draw by draw and at the means.

    A draw without a gain says never (unless its price is 0 or less and its gain exactly 0), one
    with a gain and no price says 0.

    Args:
        price: (n_draws,).
        gain: (n_draws,).
    """
    found = _from_where(price, gain)
    low, high = _ends(found)
    likely = float(_from_where(price.mean(keepdims=True), gain.mean(keepdims=True))[0])
    return Threshold(
        likely=_or_never(likely),
        low=_or_never(low),
        high=_or_never(high),
        probability_never=float(np.isinf(found).mean()),
    )


def spread(values: Array) -> Spread:
    """Mean and 95 % interval of draws.

    Args:
        values: (n_draws,).
    """
    low, high = _ends(values)
    return Spread(mean=float(values.mean()), low=low, high=high)


def _check(usd_per_error: float) -> None:
    if not 0 <= usd_per_error < np.inf:
        raise ValueError(f"usd_per_error: {usd_per_error}; it must be 0 or a positive number")


def _from_where(price: Array, gain: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        pays = np.maximum(price / gain, 0.0)
    return np.where(gain > 0, pays, np.where((gain == 0) & (price <= 0), 0.0, np.inf))


def _ends(values: Array) -> tuple[float, float]:
    """The draws that leave half of the rest below and above; infinite ones are above all others."""
    outside = int(len(values) * (1 - CONFIDENCE) / 2)
    ordered = np.sort(values)
    return float(ordered[outside]), float(ordered[len(values) - 1 - outside])


def _or_never(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _share_best(loss: Array) -> Array:
    best = loss == loss.min(axis=1, keepdims=True)
    return (best / best.sum(axis=1, keepdims=True)).mean(axis=0)


def _plug_in(draws: Draws, loss: Array) -> str:
    return draws.names[int(loss.mean(axis=0).argmin())]
