"""Our dollars beside those of cost reports, invoices and the logs themselves, day by day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Literal

from pipelines.core.audit import Comparison
from pipelines.core.usage_log import BilledLine
from pipelines.economics.spend import Charge, counted

TOLERANCE = Decimal("0.005")
"""Share of the stated dollars by which ours may differ."""


def compare(
    charges: Sequence[Charge], billed: Iterable[BilledLine], invoices: Mapping[str, Decimal]
) -> tuple[Comparison, ...]:
    """Every comparison that can be made: invoices first, then cost reports, then the logs' own.

    Nothing is scaled or spread: a cost report is held against the same days of the same provider,
    and what only one side has stands there alone.

    Args:
        charges: of the whole log.
        billed: lines of the providers' cost reports.
        invoices: provider -> dollars of the log's whole period; the key "" is for all of them.
    """
    return (
        *(_invoice(charges, provider, usd) for provider, usd in invoices.items()),
        *_cost_reports(charges, billed),
        *_stated_by_the_log(charges),
    )


def _invoice(charges: Sequence[Charge], provider: str, stated: Decimal) -> Comparison:
    part = [each for each in charges if provider in ("", each.provider)]
    return _comparison(provider, "invoice", None, _usd(part), stated, _unpriced(part))


def _cost_reports(charges: Sequence[Charge], billed: Iterable[BilledLine]) -> list[Comparison]:
    stated: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for line in billed:
        stated[line.provider][line.day] += line.usd
    found: list[Comparison] = []
    for provider, by_day in sorted(stated.items()):
        ours: dict[date, list[Charge]] = defaultdict(list)
        for each in charges:
            if each.provider == provider:
                ours[each.group.day].append(each)
        both = sorted(ours.keys() & by_day.keys())
        part = [each for day in both for each in ours[day]]
        notes = [f"{counted(len(both), 'day')} that both cover"]
        if only := by_day.keys() - ours.keys():
            usd = sum((by_day[day] for day in only), Decimal(0))
            notes.append(f"${usd:,.2f} billed on {counted(len(only), 'day')} without a logged call")
        if only := ours.keys() - by_day.keys():
            notes.append(f"{counted(len(only), 'day')} of the logs not in the cost report")
        total = sum((by_day[day] for day in both), Decimal(0)) if both else None
        notes.append(_unpriced(part))
        found.append(
            _comparison(
                provider, "cost report", None, _usd(part), total, "; ".join(filter(None, notes))
            )
        )
        for day in sorted(ours.keys() | by_day.keys()):
            note = _unpriced(ours[day]) if day in ours else "no logged call on this day"
            if day not in by_day:
                note = "; ".join(filter(None, ("not in the cost report", note)))
            usd = _usd(ours[day]) if day in ours else None
            found.append(_comparison(provider, "cost report", day, usd, by_day.get(day), note))
    return found


def _stated_by_the_log(charges: Sequence[Charge]) -> list[Comparison]:
    parts: dict[str, list[Charge]] = defaultdict(list)
    for each in charges:
        if each.group.usd_reported is not None:
            parts[each.label].append(each)
    found: list[Comparison] = []
    for label, part in sorted(parts.items()):
        priced = [each for each in part if not each.why_not]
        both = priced or part
        stated = sum((each.group.usd_reported or Decimal(0) for each in both), Decimal(0))
        note = _unpriced(part)
        found.append(_comparison(label, "log", None, _usd(priced), stated, note))
    return found


def _comparison(
    subject: str,
    against: Literal["cost report", "invoice", "log"],
    day: date | None,
    ours: Decimal | None,
    stated: Decimal | None,
    note: str,
) -> Comparison:
    difference = None if ours is None or stated is None else ours - stated
    return Comparison(
        subject=subject,
        against=against,
        day=day,
        usd_list=ours,
        usd_stated=stated,
        usd_difference=difference,
        share=float(difference / stated) if difference is not None and stated else None,
        agrees=None
        if difference is None or stated is None
        else abs(difference) <= TOLERANCE * abs(stated),
        note=note,
    )


def _usd(charges: Iterable[Charge]) -> Decimal | None:
    """Of those that are priced; None when there is none."""
    known = [usd for each in charges if (usd := each.usd) is not None]
    return sum(known, Decimal(0)) if known else None


def _unpriced(charges: Iterable[Charge]) -> str:
    n = sum(each.group.n_calls if each.why_not else each.group.n_without_usage for each in charges)
    return f"{counted(n, 'logged call')} without a price" if n else ""
