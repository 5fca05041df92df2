"""Our dollars beside those of cost reports, invoices and the logs themselves, day by day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Literal

from pipelines.core.audit import Comparison, Spend
from pipelines.core.usage_log import BilledLine
from pipelines.economics.charge import Charge, grouped
from pipelines.economics.spend import counted, summed

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
    return _comparison(provider, "invoice", None, summed(part), stated)


def _cost_reports(charges: Sequence[Charge], billed: Iterable[BilledLine]) -> list[Comparison]:
    stated: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for line in billed:
        stated[line.provider][line.day] += line.usd
    found: list[Comparison] = []
    for provider, by_day in sorted(stated.items()):
        part = [each for each in charges if each.provider == provider]
        ours = grouped(part, lambda each: each.group.day)
        both = sorted(ours.keys() & by_day.keys())
        spend = summed(each for day in both for each in ours[day])
        notes = [f"{counted(len(both), 'day')} that both cover"]
        if only := by_day.keys() - ours.keys():
            usd = sum((by_day[day] for day in only), Decimal(0))
            notes.append(f"${usd:,.2f} billed on {counted(len(only), 'day')} without a logged call")
        if only := ours.keys() - by_day.keys():
            notes.append(f"{counted(len(only), 'day')} of the logs not in the cost report")
        total = sum((by_day[day] for day in both), Decimal(0)) if both else None
        found.append(_comparison(provider, "cost report", None, spend, total, *notes))
        for day in sorted(ours.keys() | by_day.keys()):
            note = "no logged call on this day" if day not in ours else ""
            if day not in by_day:
                note = "not in the cost report"
            spend = summed(ours.get(day, ()))
            found.append(_comparison(provider, "cost report", day, spend, by_day.get(day), note))
    return found


def _stated_by_the_log(charges: Sequence[Charge]) -> list[Comparison]:
    telling = (each for each in charges if each.group.usd_reported is not None)
    parts = grouped(telling, lambda each: (each.label, each.group.format))
    found: list[Comparison] = []
    for (label, format_), part in sorted(parts.items()):
        both = [each for each in part if not each.why_not] or part
        stated = sum((each.group.usd_reported or Decimal(0) for each in both), Decimal(0))
        compared = _comparison(label, "log", None, summed(part), stated)
        found.append(compared.model_copy(update={"format": format_}))
    return found


def _comparison(
    subject: str,
    against: Literal["cost report", "invoice", "log"],
    day: date | None,
    spend: Spend,
    stated: Decimal | None,
    *notes: str,
) -> Comparison:
    # What a log states is a list price, too; a bill is what was agreed.
    paid = None if against == "log" else spend.usd_at_terms
    ours, n = spend.usd if paid is None else paid, spend.n_calls - spend.n_calls_priced
    difference = None if ours is None or stated is None else ours - stated
    unpriced = f"{counted(n, 'logged call')} without a price" if n else ""
    return Comparison(
        subject=subject,
        against=against,
        day=day,
        usd_list=spend.usd,
        usd_at_terms=paid,
        usd_stated=stated,
        usd_difference=difference,
        share=float(difference / stated) if difference is not None and stated else None,
        agrees=None
        if difference is None or stated is None
        else abs(difference) <= TOLERANCE * abs(stated),
        note="; ".join(filter(None, (*notes, unpriced))),
    )
