"""Of the decision rule: is a cheap candidate with the incumbent behind it better than either?"""

from __future__ import annotations

import numpy as np

from pipelines.core.evidence import Evidence
from pipelines.core.ruling import CascadePoint, CascadeRuling, Interval
from pipelines.economics import cascade, plan
from pipelines.economics.expected_loss import TASKS
from pipelines.economics.rule_money import drawn_items, group_names
from pipelines.economics.rule_quality import Pairs, Rows, Terms, p95_bound, worse_slices
from pipelines.economics.rule_words import too_slow
from pipelines.statistics.intervals import Z
from pipelines.statistics.non_inferiority import MIN_UNITS


def best_cascade(
    evidence: Evidence, rows: Rows, terms: Terms, usd_per_1000_to_beat: float
) -> CascadeRuling | None:
    """The cascade that loses least: of those that win, else of all.

    Args:
        evidence: with confidence and dollars.
        rows: cheaper candidates that were not measured well enough take no part; being worse alone
            or in a slice is no hindrance.
        terms: with the cost of an error.
        usd_per_1000_to_beat: expected loss of who else would be chosen.
    """
    now = rows[terms.incumbent].usd_per_task
    if evidence.confidence is None or terms.usd_per_error is None or now is None:
        return None
    names = [
        name
        for name, row in rows.items()
        if (row.excluded_because is None or row.slices)
        and row.usd_per_task is not None
        and row.usd_per_task < now
        and np.isfinite(evidence.confidence[:, evidence.column(name)]).any()
    ]
    tried = [_cascade(evidence, name, terms, len(names), usd_per_1000_to_beat) for name in names]
    found = [each for each in tried if each is not None]
    return min(found, key=lambda c: (not c.wins, c.expected_loss_usd_per_1000), default=None)


def _cascade(
    evidence: Evidence, first: str, terms: Terms, n_tried: int, to_beat: float
) -> CascadeRuling | None:
    """`first` before the incumbent; None with too few items to choose a threshold on."""
    assert evidence.usd is not None
    assert evidence.confidence is not None
    assert terms.usd_per_error is not None
    items = np.flatnonzero(drawn_items(evidence, (first, terms.incumbent)))
    groups = group_names(evidence, items)
    if len(items if groups is None else set(groups)) < MIN_UNITS:
        return None
    a, b = evidence.column(first), evidence.column(terms.incumbent)
    one, two = evidence.scores[items, a], evidence.scores[items, b]
    sure = evidence.confidence[items, a]
    found = cascade.evaluate(
        one,
        two,
        sure,
        first_usd=evidence.usd[items, a] + evidence.confidence_usd.get(first, 0.0),
        second_usd=evidence.usd[items, b],
        stakes=cascade.Stakes(
            usd_per_error=terms.usd_per_error, tasks_per_month=terms.requests_per_month or 1
        ),
        groups=groups,
    )
    # Its intervals are of 95 %, each end a test at 2.5 %: wider where alpha asks for more, or
    # where several cascades share it (Bonferroni).
    wider = max(1.0, plan.NORMAL.inv_cdf(1 - terms.alpha / n_tried) / Z)

    def interval(mean: float, low: float, high: float, times: float = 1.0) -> Interval:
        return Interval(
            mean=times * mean,
            low=times * (mean - wider * (mean - low)),
            high=times * (mean + wider * (high - mean)),
        )

    def saving(found: cascade.Saving) -> Interval:
        return interval(found.mean, found.low, found.high, TASKS)

    gap, quality = found.difference, found.quality
    escalated = ~np.isfinite(sure) | (sure < found.threshold)
    p95 = high = None
    if evidence.latency_s is not None:
        waited = evidence.latency_s[items, a]
        waited = waited + np.where(escalated, evidence.latency_s[items, b], 0.0)
        timed = np.isfinite(waited)
        tied = None if evidence.groups is None else evidence.groups[items][timed]
        p95, high = p95_bound(waited[timed], tied)
    ruling = CascadeRuling(
        first=first,
        second=terms.incumbent,
        n=found.n,
        threshold=found.threshold if np.isfinite(found.threshold) else None,
        escalated_share=found.served.escalated_share,
        quality=Interval(mean=quality.mean, low=quality.low, high=quality.high),
        difference=interval(gap.mean, gap.low, gap.high),
        margin=terms.margin,
        usd_per_task=found.served.usd_per_task,
        expected_loss_usd_per_1000=TASKS * found.served.loss_usd_per_task,
        saving_to_first=saving(found.saving_to_first),
        saving_to_second=saving(found.saving_to_second),
        latency_p95_high_s=high,
        curve=tuple(
            CascadePoint(
                escalated_share=arm.escalated_share,
                quality=arm.quality,
                usd_per_task=arm.usd_per_task,
                expected_loss_usd_per_1000=TASKS * arm.loss_usd_per_task,
            )
            for arm in found.curve
        ),
        wins=False,
        fails_because="",
    )
    fails = _fails(ruling, to_beat)
    if not fails and terms.max_latency_p95_s is not None:
        fails = too_slow(p95, high, terms.max_latency_p95_s)
    if not fails:
        tied = None if evidence.groups is None else evidence.groups[items]
        served = Pairs(np.where(escalated, two, one), two, tied, items)
        if worse := worse_slices(evidence, served, terms):
            fails = f"it is worse by more than the guard allows in {', '.join(worse)}"
    return ruling.model_copy(update={"wins": not fails, "fails_because": fails})


def _fails(found: CascadeRuling, to_beat: float) -> str:
    """The first condition of the dollars and the quality that is not met; empty = none."""
    for against, saving in (
        (found.second, found.saving_to_second),
        (found.first, found.saving_to_first),
    ):
        assert saving.low is not None
        if saving.low <= 0:
            return f"it is not shown to lose less than {against} alone"
    assert found.difference.low is not None
    if found.difference.low <= -found.margin:
        return f"its quality may be more than {100 * found.margin:g} points below {found.second}"
    if found.expected_loss_usd_per_1000 >= to_beat:
        return "another candidate alone loses less"
    return ""
