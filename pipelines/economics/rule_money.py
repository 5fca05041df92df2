"""Of the decision rule: what is drawn of the dollars, and what more items are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.core.evidence import Evidence, Floats
from pipelines.core.ruling import (
    AcceptabilityPoint,
    CandidateRuling,
    Interval,
    Settling,
    VStar,
)
from pipelines.economics import expected_loss, plan
from pipelines.economics.draws import Array, Draws, bootstrap
from pipelines.economics.expected_loss import TASKS, Losses, Spread
from pipelines.economics.rule_quality import (
    Flags,
    Rows,
    Terms,
    level_of,
    n_units,
    pairs,
    per_item_variance,
)
from pipelines.statistics.non_inferiority import MIN_UNITS

CURVE = 10_000
"""The acceptability curve goes from one call of the dearest candidate to so many of them."""


def without_price(rows: Rows, incumbent: str) -> tuple[Rows, bool]:
    """Exclude who has no known dollars; whether dollars count at all.

    They do when those of the incumbent and of another admissible candidate are known.
    """
    others = [row for name, row in rows.items() if name != incumbent and not row.excluded_because]
    if rows[incumbent].usd_per_task is None or all(row.usd_per_task is None for row in others):
        return rows, False
    return {
        name: row
        if row.excluded_because or row.usd_per_task is not None
        else row.model_copy(update={"excluded_because": "its dollars are not known"})
        for name, row in rows.items()
    }, True


def drawn_items(evidence: Evidence, names: Sequence[str]) -> Flags:
    """(items,): those that each of the candidates has a score and dollars for."""
    assert evidence.usd is not None
    columns = [evidence.column(name) for name in names]
    known = np.isfinite(evidence.scores[:, columns]) & np.isfinite(evidence.usd[:, columns])
    return np.all(known, axis=1)


def draws_of(evidence: Evidence, rows: Rows, terms: Terms, n_draws: int, seed: int) -> Draws | None:
    """Quality and dollars of all admissible candidates, resampled together by item.

    What human labels correct is drawn about the corrected means, and differences to the incumbent
    about the corrected ones. None with fewer than two independent items.

    Raises:
        ValueError: there are not as many draws of some candidate's dollars.
    """
    names = [name for name, row in rows.items() if row.excluded_because is None]
    columns, known = [evidence.column(name) for name in names], drawn_items(evidence, names)
    assert evidence.usd is not None
    usd = evidence.usd[known][:, columns]
    groups = group_names(evidence, known)
    if len(usd if groups is None else set(groups)) < 2:
        return None
    # The bootstrap takes what is in [0, 1]; quality and dollars of a draw are of the same items.
    most = float(usd.max()) or 1.0
    means = bootstrap(
        np.hstack([evidence.scores[known][:, columns], usd / most]),
        groups,
        n_draws=n_draws,
        seed=seed,
    )
    quality, dollars = means[:, : len(names)], most * means[:, len(names) :]
    for j, name in enumerate(names):
        if (own := evidence.usd_draws.get(name)) is not None:
            if own.shape != (n_draws,):
                raise ValueError(f"usd_draws of {name!r} are {own.shape}, not {(n_draws,)}")
            dollars[:, j] = own
    if evidence.corrected:
        quality = _corrected(evidence, names, quality, terms.incumbent, seed)
    return Draws(
        names=tuple(names),
        quality=quality,
        usd_per_task=dollars,
        fixed_usd=np.zeros((n_draws, len(names))),
        volume=np.full(n_draws, float(terms.requests_per_month or 1)),
    )


def _corrected(
    evidence: Evidence, names: Sequence[str], quality: Array, incumbent: str, seed: int
) -> Array:
    """Draws of the quality as human labels correct it: the incumbent's, and differences to it."""
    rng = np.random.default_rng([seed, *b"corrected"])
    drawn = quality.copy()
    noise = rng.standard_normal(quality.shape)
    base = names.index(incumbent)
    if (found := evidence.corrected.get(incumbent)) is not None:
        drawn[:, base] = found.quality + found.quality_error * noise[:, base]
    for j, name in enumerate(names):
        found = evidence.corrected.get(name)
        if found is None or j == base:
            continue
        if found.difference is None:
            drawn[:, j] = found.quality + found.quality_error * noise[:, j]
        else:
            gap = found.difference + found.difference_error * noise[:, j]
            drawn[:, j] = drawn[:, base] + gap
    return np.clip(drawn, 0.0, 1.0)


def with_dollars(rows: Rows, draws: Draws, losses: Losses | None, incumbent: str) -> Rows:
    """What the draws say of each candidate that is in them."""
    found = dict(rows)
    for name in draws.names:
        good = expected_loss.usd_per_good_task(draws, name)
        loss = losses and losses.candidates[name]
        found[name] = rows[name].model_copy(
            update={
                "usd_per_good_task": good and Interval(mean=good.usd, low=good.low, high=good.high),
                "usd_per_1000": _price(draws, name, rows[name].usd_per_task),
                "saving": None
                if name == incumbent
                else _interval(expected_loss.saving(draws, name, incumbent)),
                "expected_loss": loss and _interval(loss.usd_per_1000_tasks),
                "probability_best": loss and loss.probability_best,
            }
        )
    return found


def v_star(draws: Draws, serving: str) -> VStar | None:
    """Who takes over from `serving` as errors cost more, from which cost on.

    That is, of the dearer and better ones, who does so first. Without any: of the cheaper and worse
    ones, who does so first as errors cost less. Without these, too, somebody who never does.
    """
    a = draws.column(serving)
    usd, quality = draws.all_in_usd.mean(axis=0), draws.quality.mean(axis=0)
    others = [j for j in range(len(draws.names)) if j != a]
    above = [j for j in others if usd[j] > usd[a] and quality[j] > quality[a]]
    below = [j for j in others if usd[j] < usd[a] and quality[j] < quality[a]]

    def cost(j: int) -> float:
        return float((usd[j] - usd[a]) / (quality[j] - quality[a]))

    if not others:
        return None
    other = min(above, key=cost) if above else max(below, key=cost) if below else others[0]
    return VStar(**dict(expected_loss.v_star(draws, serving, draws.names[other])))


def acceptability(draws: Draws, usd_per_error: float | None) -> tuple[AcceptabilityPoint, ...]:
    """Who is best, and how surely, as errors cost more."""
    call = float(draws.all_in_usd.mean(axis=0).max())
    if call <= 0:
        return ()
    ends = (call, CURVE * call, *([usd_per_error] if usd_per_error else []))
    points = expected_loss.acceptability(draws, expected_loss.error_costs(min(ends), max(ends)))
    return tuple(
        AcceptabilityPoint(usd_per_error=p.usd_per_error, probability_best=p.probability_best)
        for p in points
    )


def settling(evidence: Evidence, name: str, rows: Rows, terms: Terms, n_tests: int) -> Settling:
    """What it takes to settle an inconclusive comparison, and whether that is worth its price.

    Args:
        evidence: what was measured.
        name: of the candidate.
        rows: of all, after the tests.
        terms: with the price of a label, the cost of an error and the requests.
        n_tests: that share alpha.
    """
    row, now = rows[name], rows[terms.incumbent]
    nothing = Settling(
        n_needed=None,
        n_groups=None,
        n_more=None,
        usd=None,
        saving_usd=None,
        evsi_usd=None,
        worth_it=None,
    )
    both = pairs(evidence, name, terms.incumbent)
    margin, units, n = row.margin, n_units(both), len(both.items)
    if margin is None or row.difference is None or units < 2:
        return nothing.model_copy(update={"reason": "too few independent items to plan with"})
    if name in evidence.corrected:
        return nothing.model_copy(
            update={"reason": "human labels correct its judge: more of them settle it"}
        )
    if row.p_value is not None and row.p_value < level_of(evidence, name, terms) / n_tests:
        return nothing.model_copy(
            update={"reason": "more items do not help while the candidate before it is not shown"}
        )
    mean, variance = row.difference.mean, per_item_variance(both)
    needed = _needed(both.ours - both.theirs, variance, margin, terms.alpha / n_tests)
    if needed is None:
        return nothing.model_copy(
            update={
                "reason": f"no number of items can show it, if the true difference is the observed "
                f"{100 * mean:+.1f} points"
            }
        )
    needed = max(needed, n + 1, math.ceil(MIN_UNITS * n / units))
    more = needed - n
    parts = (terms.usd_per_label, now.usd_per_task, row.usd_per_task)
    price = None if parts == (None, None, None) else sum(part or 0.0 for part in parts)
    gap, tasks, v = _gap(row, now), terms.requests_per_month, terms.usd_per_error
    saving = evsi = None
    if gap is not None and tasks is not None:
        saving = gap * tasks if gap > 0 else None
        if v is not None:
            error = v * math.sqrt(variance / n)
            evsi = plan.evsi(gap, error, units, math.ceil(more * units / n), tasks)
    usd = None if price is None else more * price
    worth = max(plan.POWER * (saving or 0.0), evsi or 0.0)
    return Settling(
        n_needed=needed,
        n_groups=None if both.groups is None else math.ceil(needed * units / n),
        n_more=more,
        usd=usd,
        saving_usd=saving,
        evsi_usd=evsi,
        worth_it=None if usd is None or gap is None or tasks is None else usd < worth,
    )


def group_names(evidence: Evidence, picked: Flags | NDArray[np.intp]) -> list[str | None] | None:
    """Groups of the picked items as words."""
    if evidence.groups is None:
        return None
    return [str(group) for group in evidence.groups[picked].tolist()]


def _price(draws: Draws, name: str, usd_per_task: float | None) -> Interval:
    assert usd_per_task is not None, "it was drawn"
    found = expected_loss.spread(TASKS * draws.all_in_usd[:, draws.column(name)])
    return Interval(mean=TASKS * usd_per_task, low=found.low, high=found.high)


def _gap(row: CandidateRuling, now: CandidateRuling) -> float | None:
    """Dollars per task that a candidate saves, wrong answers included where their cost is known."""
    ours, theirs = row.expected_loss or row.usd_per_1000, now.expected_loss or now.usd_per_1000
    return None if ours is None or theirs is None else (theirs.mean - ours.mean) / TASKS


def _needed(delta: Floats, variance: float, margin: float, alpha: float) -> int | None:
    """Items for 80 % power, if what was seen is true; `variance` is that of one item, clustered."""
    mean = float(delta.mean())
    differ = max(float(np.abs(delta).mean()), abs(mean))
    if differ == 0:
        # All that n equal items show is (1 - margin)^n: the rule of three.
        return math.ceil(math.log(alpha) / math.log(1 - margin)) if margin > 0 else None
    alone = differ - mean**2
    return plan.needed_n(
        margin,
        differ,
        mean,
        design_effect=variance / alone if alone > 0 and variance > 0 else 1.0,
        alpha=alpha,
    )


def _interval(found: Spread) -> Interval:
    return Interval(mean=found.mean, low=found.low, high=found.high)
