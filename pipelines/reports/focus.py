"""The audit as cost rows in the format of FinOps tools: FOCUS 1.2, CSV."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

from pipelines.core.audit import Comparison, TokenClass
from pipelines.economics.charge import Charge
from pipelines.economics.token_cost import MILLION
from pipelines.reports.names import spreadsheet

MANDATORY = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
)
COLUMNS: tuple[str, ...] = (
    *MANDATORY,
    "ConsumedQuantity",
    "ConsumedUnit",
    "ListUnitPrice",
    "x_token_class",
    "x_model",
    "x_service_tier",
    "x_context_tier",
    "x_workload",
    "x_task_count",
)
"""No `SkuMeter`: the format wants it empty without a `SkuId`, and no log states one."""
NAMES = {
    "BillingAccountId",
    "ChargeDescription",
    "InvoiceIssuerName",
    "ProviderName",
    "PublisherName",
    "ServiceName",
    "x_model",
    "x_workload",
}
"""Columns that hold words of the log."""
METERS: dict[TokenClass, str] = {
    "fresh_input": "Input Tokens",
    "cached_input": "Cached Input Tokens",
    "cache_write_5m": "Cache Write Tokens, 5 minutes",
    "cache_write_1h": "Cache Write Tokens, 1 hour",
    "output": "Output Tokens",
}
UNKNOWN = "unknown"
"""Where the format demands a value that no log holds."""

Row = dict[str, str]
Key = tuple[date, str, str, str, str, int]


def write(path: Path, charges: Iterable[Charge], comparisons: Iterable[Comparison]) -> int:
    """Write the rows; returns how many there are.

    A row is a day, workload, model, service tier, length of prompt and class of tokens. Its
    `ListCost` is our dollars, unit price times quantity. The format wants a `BilledCost` in every
    row, and a log knows of no discount: it is the list cost. Where a provider's cost report gives
    a day's bill, one more row of the category `Adjustment` holds bill - list cost, so that
    `BilledCost` sums to the bill, and nothing is spread over workloads. As the format demands of a
    charge without a unit price, its `ListCost` is its `BilledCost`: the audit's total is the sum
    over the category `Usage`. An invoice is not of one day and makes no row.

    `ListCost` is at list prices; what was contracted, billed and is effective is at the terms of
    the calls, or the same where there are none. `BillingAccountId` is what the terms state.

    Calls without a price have no row, for a cost of 0 would be wrong. `x_task_count` stands in
    the first row of each group of calls alone, so that it can be summed.

    Args:
        path: of the CSV.
        charges: of the whole log.
        comparisons: give the cost reports' days.

    Raises:
        OSError: the file cannot be written.
    """
    n = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in (*_usage(charges), *_adjustments(comparisons)):
            writer.writerow(row | {name: spreadsheet(row[name]) for name in NAMES & row.keys()})
            n += 1
    return n


def _usage(charges: Iterable[Charge]) -> Iterator[Row]:
    groups: dict[Key, list[Charge]] = defaultdict(list)
    for each in charges:
        if not each.why_not:
            group = each.group
            groups[
                group.day,
                group.workload,
                each.provider,
                group.model,
                group.service_tier,
                group.context_over,
            ].append(each)
    for key in sorted(groups):
        yield from _rows(key, groups[key])


def _rows(key: Key, charges: Sequence[Charge]) -> Iterator[Row]:
    day, workload, provider, model, tier, context_over = key
    context = f"over {context_over}" if context_over else "standard"
    n_calls = str(sum(each.group.n_calls - each.group.n_without_usage for each in charges))
    for name, meter in METERS.items():
        by_price: dict[tuple[Decimal, Decimal, str], int] = defaultdict(int)
        for each in charges:
            if n := each.tokens[name]:
                account = (each.terms and each.terms.account) or UNKNOWN
                by_price[each.per_million[name], each.factor, account] += n
        for (unit_price, factor, account), n in by_price.items():
            quantity = n / MILLION
            cost = quantity * unit_price
            yield {
                **_charge(day, provider, cost * factor, account),
                "ChargeCategory": "Usage",
                "ChargeDescription": f"{model}, {meter}, {tier}",
                "ListCost": _number(cost),
                "ContractedCost": _number(cost * factor),
                "PricingQuantity": _number(quantity),
                "PricingUnit": "1000000 Tokens",
                "ConsumedQuantity": str(n),
                "ConsumedUnit": "Tokens",
                "ListUnitPrice": _number(unit_price),
                "x_token_class": meter,
                "x_model": model,
                "x_service_tier": tier,
                "x_context_tier": context,
                "x_workload": workload,
                "x_task_count": n_calls,
            }
            n_calls = ""


def _adjustments(comparisons: Iterable[Comparison]) -> Iterator[Row]:
    for each in comparisons:
        if each.against == "cost report" and each.day is not None and each.usd_stated is not None:
            ours = each.usd_list if each.usd_at_terms is None else each.usd_at_terms
            cost = each.usd_stated - (ours or 0)
            yield {
                **_charge(each.day, each.subject, cost),
                "ChargeCategory": "Adjustment",
                "ChargeDescription": "Cost report of the provider less the calls of the log",
                "ListCost": _number(cost),
                "ContractedCost": _number(cost),
            }


def _charge(day: date, provider: str, cost: Decimal, account: str = UNKNOWN) -> Row:
    month = day.replace(day=1)
    name = provider or UNKNOWN
    return {
        "BilledCost": _number(cost),
        "EffectiveCost": _number(cost),
        "BillingAccountId": account,
        "BillingCurrency": "USD",
        "BillingPeriodStart": _instant(month),
        "BillingPeriodEnd": _instant((month + timedelta(days=32)).replace(day=1)),
        "ChargePeriodStart": _instant(day),
        "ChargePeriodEnd": _instant(day + timedelta(days=1)),
        "InvoiceIssuerName": name,
        "ProviderName": name,
        "PublisherName": name,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{name} API",
    }


def _instant(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _number(value: Decimal) -> str:
    """Digits without an exponent and without zeros at the end."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text
