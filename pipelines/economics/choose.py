"""The rule: who is admissible, who is as good as the incumbent, who of them is the cheapest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from pipelines.core.records import Difference, Estimate
from pipelines.core.results import CandidateDecision, Comparison, Kind, Verdict
from pipelines.core.workload import Requirements

GOOD_ENOUGH = ("incumbent", "superior", "non-inferior", "non-inferior-but-worse")


@dataclass(frozen=True)
class Choice:
    """The verdict before it is put into words."""

    verdict: Verdict
    chosen: str | None
    open_questions: tuple[str, ...]
    """Cheaper candidates that are neither shown good enough nor shown worse."""


def compare(difference: Difference | None, margin: float) -> Comparison:
    """Where the 95 % interval of candidate - incumbent lies.

    superior: above 0 · non-inferior: above -margin · non-inferior-but-worse: between -margin
    and 0 · inferior: below -margin · inconclusive: it contains -margin.
    """
    if difference is None:
        return "inconclusive"
    if difference.low > 0:
        return "superior"
    if difference.low > -margin:
        return "non-inferior-but-worse" if difference.high < 0 else "non-inferior"
    return "inferior" if difference.high < -margin else "inconclusive"


def misses(
    need: Requirements,
    *,
    quality: Estimate | None,
    latency_p95_s: float | None,
    usd_per_month: Decimal | None,
    no_usd_because: str = "",
) -> str | None:
    """The first requirement that a candidate misses, in words; None when it meets all."""
    if quality is None:
        return "not one answer could be scored"
    if quality.coverage < need.min_coverage:
        return (
            f"only {quality.coverage:.1%} of the items were answered and scored "
            f"(limit {need.min_coverage:.1%})"
        )
    if quality.low < need.min_quality:
        return f"quality may be as low as {quality.low:.1%} (limit {need.min_quality:.1%})"
    if latency_p95_s is None:
        return "its latency is unknown"
    if latency_p95_s > need.max_latency_p95_s:
        return f"p95 latency {latency_p95_s:.2f} s (limit {need.max_latency_p95_s:g} s)"
    if usd_per_month is None:
        return f"its cost is unknown: {no_usd_because or 'it was not measured'}"
    return None


def choose(candidates: Mapping[str, CandidateDecision], incumbent: str) -> Choice:
    """The cheapest admissible candidate that is shown to be as good as the incumbent.

    `insufficient` when the incumbent itself is not measured well enough to compare with, when
    nobody meets the requirements, or when the incumbent stays only because a cheaper candidate
    is undecided. `hybrid` needs a cascade among the candidates; none exists yet.
    """
    base = candidates[incumbent]
    if base.quality is None:
        return Choice("insufficient", None, ())
    eligible = {
        name: c
        for name, c in candidates.items()
        if c.excluded_because is None and c.comparison in GOOD_ENOUGH
    }
    undecided = {
        name: c
        for name, c in candidates.items()
        if c.excluded_because is None and c.comparison == "inconclusive"
    }
    if not eligible:
        return Choice("insufficient", None, tuple(undecided))
    # At the same price the incumbent stays: changing costs something, too.
    chosen = min(eligible, key=lambda name: (_usd(eligible[name]), name != incumbent))
    cheaper = tuple(n for n, c in undecided.items() if _usd(c) < _usd(eligible[chosen]))
    if chosen == incumbent and cheaper:
        return Choice("insufficient", None, cheaper)
    return Choice(verdict_of(eligible[chosen].kind), chosen, cheaper)


def verdict_of(kind: Kind) -> Verdict:
    """A classical baseline runs on one's own machine, too: it is owned."""
    return "rent" if kind == "rent" else "own"


def _usd(candidate: CandidateDecision) -> Decimal:
    assert candidate.usd_per_month is not None, "eligible candidates have a price"
    return candidate.usd_per_month
