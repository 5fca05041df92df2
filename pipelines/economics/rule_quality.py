"""Of the decision rule: who is admissible, and what is shown of quality, latency and slices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from pipelines.core.evidence import Evidence, Floats
from pipelines.core.ruling import CandidateRuling, Interval
from pipelines.economics.expected_loss import effective_margin
from pipelines.economics.rule_words import too_slow, usd
from pipelines.statistics import guards
from pipelines.statistics.intervals import Z, estimate
from pipelines.statistics.multiplicity import fixed_sequence, holm
from pipelines.statistics.non_inferiority import (
    MIN_UNITS,
    PairedComparison,
    compare,
    compare_estimate,
)

P95, SURE = 0.95, 0.95
"""The percentile of the latency, and how surely the truth lies below its bound."""
Flags = NDArray[np.bool_]
Rows = dict[str, CandidateRuling]
Correction = Literal["none", "fixed sequence", "Holm"]


@dataclass(frozen=True)
class Terms:
    """What is asked of the evidence; see `rule.rule`."""

    incumbent: str
    margin: float
    alpha: float
    usd_per_error: float | None
    requests_per_month: int | None
    min_coverage: float
    max_latency_p95_s: float | None
    usd_per_label: float | None
    slice_margin: float


@dataclass(frozen=True)
class Pairs:
    """Scores of a candidate and of the incumbent on the items that both have one for."""

    ours: Floats
    theirs: Floats
    groups: NDArray[np.int64] | None
    items: NDArray[np.intp]
    """Rows of the evidence."""

    def compared(self, margin: float, alpha: float) -> PairedComparison:
        """Candidate - incumbent against a margin."""
        return compare(self.ours, self.theirs, margin, alpha=alpha, groups=self.groups)


def pairs(evidence: Evidence, name: str, incumbent: str) -> Pairs:
    """The items that both have a score for."""
    scores = evidence.scores[:, [evidence.column(name), evidence.column(incumbent)]]
    items = np.flatnonzero(np.isfinite(scores).all(axis=1))
    groups = None if evidence.groups is None else evidence.groups[items]
    return Pairs(scores[items, 0], scores[items, 1], groups, items)


def level_of(evidence: Evidence, name: str, terms: Terms) -> float:
    """One-sided level of a candidate's test: alpha, or what is left of it at an early stop."""
    return evidence.levels.get(name, terms.alpha)


def compared(evidence: Evidence, name: str, margin: float, terms: Terms) -> PairedComparison:
    """A candidate against a margin, corrected by human labels where there are some."""
    level = level_of(evidence, name, terms)
    both, found = pairs(evidence, name, terms.incumbent), evidence.corrected.get(name)
    if found is None or found.difference is None:
        return both.compared(margin, level)
    return compare_estimate(
        found.difference,
        found.difference_error,
        len(both.items),
        found.n_groups,
        margin,
        skew=found.skew,
        alpha=level,
    )


def check(evidence: Evidence, terms: Terms) -> None:
    """Refuse what no verdict can be drawn from.

    Raises:
        ValueError: the incumbent is not among the candidates, or a number is out of range.
    """
    names = evidence.candidates
    if terms.incumbent not in names:
        raise ValueError(f"incumbent {terms.incumbent!r} is not among {', '.join(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a candidate stands twice: {', '.join(names)}")
    if not evidence.ids:
        raise ValueError("no items: give at least one")
    for field, low, high in (
        ("margin", 0, 1),
        ("slice_margin", 0, 1),
        ("min_coverage", 0, 1),
        ("usd_per_error", 0, math.inf),
        ("usd_per_label", 0, math.inf),
        ("requests_per_month", 1, math.inf),
        ("max_latency_p95_s", 0, math.inf),
    ):
        value: float | None = getattr(terms, field)
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            raise ValueError(f"{field}: {value} is not between {low} and {high}")
    for field, most in (("scores", 1.0), ("usd", math.inf), ("latency_s", math.inf)):
        table: Floats | None = getattr(evidence, field)
        if table is None:
            continue
        if table.shape != (len(evidence.ids), len(names)):
            raise ValueError(
                f"{field} are {table.shape}: {len(evidence.ids)} items and {len(names)} "
                "candidates ask for one row each and one column each"
            )
        good = np.isnan(table) | (np.isfinite(table) & (table >= 0) & (table <= most))
        if not good.all():
            item, j = (int(k) for k in np.argwhere(~good)[0])
            raise ValueError(
                f"{field}: {table[item, j]} of {names[j]!r} at item {evidence.ids[item]!r} is not "
                f"a number between 0 and {most:g}; NaN = not known"
            )


def measured(evidence: Evidence, name: str, terms: Terms) -> CandidateRuling:
    """What is known of one candidate alone, and whether that is enough to be chosen."""
    j = evidence.column(name)
    scored = np.isfinite(evidence.scores[:, j])
    coverage = int(scored.sum()) / evidence.n_asked.get(name, len(scored))
    usd_per_task = p95 = high = None
    if evidence.usd is not None:
        known = np.isfinite(evidence.usd[:, j])
        if scored.any() and known[scored].mean() >= terms.min_coverage:
            usd_per_task = float(evidence.usd[known, j].mean())
    if evidence.latency_s is not None:
        timed = np.isfinite(evidence.latency_s[:, j])
        groups = None if evidence.groups is None else evidence.groups[timed]
        p95, high = p95_bound(evidence.latency_s[timed, j], groups)
    groups = evidence.groups
    if (found := evidence.corrected.get(name)) is not None:
        half = Z * found.quality_error
        quality = Interval(
            mean=found.quality,
            low=max(0.0, found.quality - half),
            high=min(1.0, found.quality + half),
        )
    else:
        quality = _uncorrected(evidence.scores[:, j], groups)
    return CandidateRuling(
        kind=evidence.kinds.get(name),
        n=int(scored.sum()),
        n_paired=len(pairs(evidence, name, terms.incumbent).items),
        coverage=coverage,
        quality=quality,
        comparison="incumbent" if name == terms.incumbent else "inconclusive",
        usd_per_task=usd_per_task,
        latency_p95_s=p95,
        latency_p95_high_s=high,
        reason=evidence.out.get(name) or _uncovered(coverage, terms)
        if name == terms.incumbent
        else "",
        excluded_because=None
        if name == terms.incumbent
        else evidence.out.get(name) or _why_out(coverage, p95, high, terms) or None,
    )


def _uncorrected(scores: Floats, groups: NDArray[np.int64] | None) -> Interval | None:
    scored = np.isfinite(scores)
    quality = estimate(
        {
            str(k): value if known else None
            for k, (value, known) in enumerate(zip(scores.tolist(), scored.tolist(), strict=True))
        },
        None if groups is None else {str(k): str(g) for k, g in enumerate(groups.tolist())},
    )
    return quality and Interval(mean=quality.mean, low=quality.low, high=quality.high)


def p95_bound(
    seconds: Floats, groups: NDArray[np.int64] | None = None
) -> tuple[float | None, float | None]:
    """The 95th percentile, and a bound below which the true one lies with 95 % confidence.

    The bound is the order statistic whose rank the number of items below the true percentile, a
    binomial, reaches in at most 5 % of all samples: from 59 independent items on. Items that hang
    together count for fewer: the design effect of "slower than the percentile" divides them.

    Args:
        seconds: of each item, shape (n,), all known.
        groups: items that share a number are not independent, shape (n,).

    Returns:
        Seconds; None = no items, or too few for a bound.
    """
    n = len(seconds)
    if n == 0:
        return None, None
    ordered = np.sort(seconds)
    middle = float(ordered[math.ceil(P95 * n) - 1])
    n_units = n
    if groups is not None:
        place = np.unique(groups, return_inverse=True)[1]
        if int(place.max()) + 1 < MIN_UNITS:
            return middle, None
        slow = (seconds > middle) - float((seconds > middle).mean())
        alone, together = (slow**2).sum(), (np.bincount(place, weights=slow) ** 2).sum()
        n_units = math.floor(n / max(1.0, together / alone if alone else 1.0))
    rank = int(stats.binom.ppf(SURE, n_units, P95)) + 1  # pyright: ignore[reportUnknownMemberType]
    if rank > n_units:
        return middle, None
    return middle, float(ordered[math.ceil(rank / n_units * n) - 1])


def with_margin(row: CandidateRuling, name: str, terms: Terms) -> CandidateRuling:
    """The loss of quality that is good enough for what the candidate saves."""
    if name == terms.incumbent:
        return row
    margin, saved = terms.margin, row.saving
    if saved is not None and saved.low is not None:
        margin = effective_margin(margin, saved.low, terms.usd_per_error)
    if margin > -1:
        return row.model_copy(update={"margin": margin})
    assert saved is not None
    return row.model_copy(
        update={
            "margin": terms.margin,
            "excluded_because": row.excluded_because
            or f"no quality would pay for its price: it costs {usd(-saved.mean)} a request more, "
            f"and an error costs {usd(terms.usd_per_error)}",
        }
    )


def tested(
    evidence: Evidence, rows: Rows, terms: Terms, *, priced: bool
) -> tuple[Rows, Correction]:
    """Every candidate against its margin; those that may be chosen share one error rate.

    Where all of them are cheaper than the incumbent, in the fixed sequence from the most to the
    least expensive. A dearer one, which has to be better, would end that sequence for all others:
    then, and without dollars, Holm.
    """
    alone: dict[str, PairedComparison] = {}
    gains: dict[str, float | None] = {}
    for name, row in rows.items():
        if row.margin is not None:
            alone[name] = compared(evidence, name, row.margin, terms)
            gain = compared(evidence, name, min(row.margin, 0.0), terms).p_value
            gains[name] = _at_alpha(gain, alone[name].alpha, terms.alpha)
    order = [name for name in alone if rows[name].excluded_because is None]
    price = {name: rows[name].usd_per_task for name in (*order, terms.incumbent)}
    now = price[terms.incumbent]
    correction: Correction = "Holm"
    if (
        priced
        and now is not None
        and all((p := price[name]) is not None and p < now for name in order)
    ):
        correction = "fixed sequence"
        order.sort(key=lambda name: (-(price[name] or 0.0), name))
    adjust = fixed_sequence if correction == "fixed sequence" else holm
    adjusted = dict(
        zip(
            order,
            adjust(
                [_at_alpha(alone[n].p_value, alone[n].alpha, terms.alpha) for n in order]
            ).tolist(),
            strict=True,
        )
    )
    better = dict(zip(order, holm([gains[n] for n in order]).tolist(), strict=True))
    found = {
        name: row
        if name not in alone
        else _finding(row, alone[name], adjusted.get(name), better.get(name), terms, correction)
        for name, row in rows.items()
    }
    return found, correction if len(order) > 1 else "none"


def guarded(evidence: Evidence, name: str, row: CandidateRuling, terms: Terms) -> CandidateRuling:
    """Exclude who is shown to be worse in a part of the items, however good the mean is."""
    if name == terms.incumbent or row.excluded_because is not None:
        return row
    worse = worse_slices(evidence, pairs(evidence, name, terms.incumbent), terms)
    if not worse:
        return row
    out = f"it is worse by more than {100 * terms.slice_margin:g} points in {', '.join(worse)}"
    return row.model_copy(update={"slices": worse, "excluded_because": out})


def worse_slices(evidence: Evidence, both: Pairs, terms: Terms) -> tuple[str, ...]:
    """Names of the slices that fail the guard."""
    names = tuple(evidence.slices)
    inside = [np.flatnonzero(evidence.slices[name][both.items]) for name in names]
    if not any(len(where) for where in inside):
        return ()
    # Slices may overlap: an item stands once for each of its slices.
    at = np.concatenate(inside)
    found = guards.slices(
        both.ours[at],
        both.theirs[at],
        [str(k) for k, where in enumerate(inside) for _ in where],
        terms.slice_margin,
        alpha=terms.alpha,
        groups=None if both.groups is None else both.groups[at],
    )
    return tuple(names[int(each.name)] for each in found if each.finding == "worse")


def per_item_variance(both: Pairs) -> float:
    """Of a mean difference, times the number of items: clustered where items are."""
    delta = both.ours - both.theirs
    sums = delta - delta.mean()
    if both.groups is not None:
        sums = np.bincount(np.unique(both.groups, return_inverse=True)[1], weights=sums)
    return float((sums**2).sum()) / len(delta)


def n_units(both: Pairs) -> int:
    """Independent groups, or items."""
    return len(both.items if both.groups is None else np.unique(both.groups))


def _at_alpha(p_value: float | None, level: float, alpha: float) -> float | None:
    """A p-value to be read at another level than its own."""
    return None if p_value is None else min(1.0, p_value * alpha / level)


def _why_out(coverage: float, p95: float | None, high: float | None, terms: Terms) -> str:
    """The first precondition that is missed; empty = none."""
    limit = terms.max_latency_p95_s
    return _uncovered(coverage, terms) or (too_slow(p95, high, limit) if limit is not None else "")


def _uncovered(coverage: float, terms: Terms) -> str:
    if coverage == 0:
        return "not one answer could be scored"
    if coverage < terms.min_coverage:
        return (
            f"only {coverage:.1%} of the items were answered and scored "
            f"(limit {terms.min_coverage:.1%})"
        )
    return ""


def _finding(
    row: CandidateRuling,
    alone: PairedComparison,
    adjusted: float | None,
    better: float | None,
    terms: Terms,
    correction: Correction,
) -> CandidateRuling:
    finding, reason = alone.finding, alone.reason
    if adjusted is not None and alone.passes and adjusted >= terms.alpha:
        finding = "inconclusive"
        reason = (
            "it would pass alone, but a dearer candidate before it in the fixed sequence did not"
            if correction == "fixed sequence"
            else "it would pass alone, but not among so many candidates"
        )
    elif finding == "superior" and better is not None and better >= terms.alpha:
        finding = "non-inferior"
    mean = alone.mean
    return row.model_copy(
        update={
            "difference": None
            if mean is None
            else Interval(mean=mean, low=alone.low, high=alone.high),
            "comparison": finding,
            "reason": reason,
            "p_value": alone.p_value,
            "p_adjusted": None if alone.p_value is None else adjusted,
        }
    )
