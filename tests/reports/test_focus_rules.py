"""The cost rows of real logs against the rules of FOCUS 1.2 for every column they have."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple

import pytest

from pipelines.core.paths import ROOT
from pipelines.economics import audited, reconcile
from pipelines.economics.charge import thresholds
from pipelines.reports import focus
from pipelines.usage_logs.read import read

FIXTURES = ROOT / "tests" / "usage_logs" / "fixtures"
LOGS = (
    "requests.jsonl", "openai_usage.json", "openai_costs.json", "anthropic_usage.jsonl",
    "anthropic_costs.json", "azure_monitor.jsonl", "bedrock.jsonl", "litellm.jsonl", "table.csv",
)  # fmt: skip
CATEGORIES = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
SERVICES = (
    "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases",
    "Developer Tools", "Multicloud", "Identity", "Integration", "Internet of Things",
    "Management and Governance", "Media", "Migration", "Mobile", "Networking", "Security",
    "Storage", "Web", "Other",
)  # fmt: skip
FORMATS = {
    # Attributes, Numeric Format: no exponent, no plus, no separator but one point
    "Decimal": r"-?\d+(\.\d+)?",
    # Attributes, Date/Time Format: UTC, ISO 8601
    "Date/Time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    # Attributes, Null Handling: null, never an empty text (a CSV's empty field is null)
    "String": r".*\S.*",
    # Attributes, Unit Format: <quantity> <plural units>, units capitalised
    "Unit": r"([1-9]\d* )?[A-Z][A-Za-z]*s",
    # Attributes, Currency Format: ISO 4217
    "Currency": r"[A-Z]{3}",
}


class Rule(NamedTuple):
    """What a column must be; `priced`: of a usage or a purchase that is no correction."""

    mandatory: bool
    null: Literal["never", "may", "not when priced", "only when not usage"]
    type: str
    allowed: tuple[str, ...] = ()


NEVER, MAY, PRICED, USAGE = "never", "may", "not when priced", "only when not usage"
RULES = {
    # Columns, each in the section of its name: content constraints and nullability
    "BilledCost": Rule(True, NEVER, "Decimal"),
    "BillingAccountId": Rule(True, NEVER, "String"),
    "BillingAccountName": Rule(True, MAY, "String"),
    "BillingCurrency": Rule(True, NEVER, "Currency"),
    "BillingPeriodEnd": Rule(True, NEVER, "Date/Time"),
    "BillingPeriodStart": Rule(True, NEVER, "Date/Time"),
    "ChargeCategory": Rule(True, NEVER, "String", CATEGORIES),
    "ChargeClass": Rule(True, MAY, "String", ("Correction",)),
    "ChargeDescription": Rule(True, MAY, "String"),
    "ChargePeriodEnd": Rule(True, NEVER, "Date/Time"),
    "ChargePeriodStart": Rule(True, NEVER, "Date/Time"),
    "ContractedCost": Rule(True, NEVER, "Decimal"),
    "EffectiveCost": Rule(True, NEVER, "Decimal"),
    "InvoiceIssuerName": Rule(True, NEVER, "String"),  # Invoice Issuer
    "ListCost": Rule(True, NEVER, "Decimal"),
    "PricingQuantity": Rule(True, PRICED, "Decimal"),
    "PricingUnit": Rule(True, PRICED, "Unit"),
    "ProviderName": Rule(True, NEVER, "String"),  # Provider
    "PublisherName": Rule(True, NEVER, "String"),  # Publisher
    "ServiceCategory": Rule(True, NEVER, "String", SERVICES),
    "ServiceName": Rule(True, NEVER, "String"),
    # Conditional: where usage is measured, and where unit prices are published
    "ConsumedQuantity": Rule(False, USAGE, "Decimal"),
    "ConsumedUnit": Rule(False, USAGE, "Unit"),
    "ListUnitPrice": Rule(False, PRICED, "Decimal"),
    "SkuMeter": Rule(False, MAY, "String"),
}
Row = Mapping[str, str]


def broken_columns(columns: Sequence[str]) -> list[str]:
    found = [f"{name} is missing" for name, it in RULES.items() if it.mandatory]
    found = [each for each in found if each.split()[0] not in columns]
    custom = [name.startswith("x_") for name in columns]
    # Attributes, Column Handling: x_ before the name of any other column, and these come last
    found += [f"{name} is unknown" for name in columns if name not in RULES and name[:2] != "x_"]
    return found + ([] if custom == sorted(custom) else ["custom columns are not last"])


def broken_values(row: Row) -> list[str]:
    found: list[str] = []
    category, priced = row["ChargeCategory"], row["ChargeClass"] != "Correction"
    for name, it in RULES.items():
        value = row.get(name, "")
        if name not in row:
            continue
        if not value:
            wrong = {
                "never": True,
                "may": False,
                "not when priced": priced and category in ("Usage", "Purchase"),
                "only when not usage": priced and category == "Usage",
            }[it.null]
            found += [f"{name} is null"] if wrong else []
            continue
        if it.null == USAGE and category != "Usage":
            found.append(f"{name} must be null")
        if re.fullmatch(FORMATS[it.type], value) is None:
            found.append(f"{name} is no {it.type}: {value}")
        if it.allowed and value not in it.allowed:
            found.append(f"{name} has a value of its own: {value}")
    return found or broken_relations(row)


def broken_relations(row: Row) -> list[str]:
    found: list[str] = []
    usd = {name: Decimal(row[name]) for name in row if name.endswith("Cost")}
    if row["ListUnitPrice"]:
        unit_price = Decimal(row["ListUnitPrice"])
        # List Unit Price: non-negative; List Cost: the product, else the billed cost
        if unit_price < 0 or unit_price * Decimal(row["PricingQuantity"]) != usd["ListCost"]:
            found.append("ListCost is not the product")
    elif usd["ListCost"] != usd["BilledCost"] or usd["ContractedCost"] != usd["BilledCost"]:
        found.append("a cost without a unit price is not the billed one")
    # Effective Cost: of a charge that is neither usage nor purchase
    if row["ChargeCategory"] == "Adjustment" and usd["EffectiveCost"] != usd["BilledCost"]:
        found.append("EffectiveCost is not BilledCost")
    # SKU Meter: null when SkuId is null
    if row.get("SkuMeter") and not row.get("SkuId"):
        found.append("SkuMeter without SkuId")
    # Charge Period Start and End, Billing Period Start and End: from inclusive, to exclusive
    ends = ("BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd")
    first, begin, end, last = (row[name] for name in ends)
    return found + ([] if first <= begin < end <= last else ["the periods do not nest"])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Of logs in nine formats, priced as of one day, with two providers' cost reports."""
    log = read([FIXTURES / name for name in LOGS], thresholds=thresholds())
    charges = audited.priced(log.groups, date(2026, 11, 21))
    path = tmp_path_factory.mktemp("focus") / "focus.csv"
    focus.write(path, charges, reconcile.compare(charges, log.billed, {}))
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_keeps_the_rules_of_every_column(rows: list[dict[str, str]]) -> None:
    assert sum(it.mandatory for it in RULES.values()) == 21
    assert broken_columns(list(rows[0])) == []
    assert {row["ChargeCategory"] for row in rows} == {"Usage", "Adjustment"}
    assert {row["ProviderName"] for row in rows} == {"openai", "anthropic", "azure", "bedrock"}
    assert {each for row in rows for each in broken_values(row)} == set()


def test_mandatory_columns_are_named_as_such() -> None:
    assert set(focus.MANDATORY) == {name for name, it in RULES.items() if it.mandatory}


@pytest.mark.parametrize(
    ("category", "changes", "complaint"),
    [
        ("Usage", {"BilledCost": "1.2E-5"}, "BilledCost is no Decimal: 1.2E-5"),
        ("Usage", {"BillingAccountId": ""}, "BillingAccountId is null"),
        ("Usage", {"ChargeCategory": "usage"}, "ChargeCategory has a value of its own: usage"),
        ("Usage", {"ChargeClass": "Normal"}, "ChargeClass has a value of its own: Normal"),
        ("Usage", {"PricingUnit": ""}, "PricingUnit is null"),
        ("Usage", {"PricingUnit": "1M tokens"}, "PricingUnit is no Unit: 1M tokens"),
        ("Usage", {"ConsumedQuantity": ""}, "ConsumedQuantity is null"),
        ("Usage", {"ListCost": "99"}, "ListCost is not the product"),
        ("Usage", {"SkuMeter": "Input Tokens"}, "SkuMeter without SkuId"),
        ("Usage", {"ChargePeriodEnd": "2099-01-01T00:00:00Z"}, "the periods do not nest"),
        ("Adjustment", {"ConsumedUnit": "Tokens"}, "ConsumedUnit must be null"),
        ("Adjustment", {"ListCost": "99"}, "a cost without a unit price is not the billed one"),
        ("Adjustment", {"EffectiveCost": "99"}, "EffectiveCost is not BilledCost"),
    ],
)
def test_the_rules_can_be_broken(
    rows: list[dict[str, str]], category: str, changes: Row, complaint: str
) -> None:
    row = next(row for row in rows if row["ChargeCategory"] == category)
    assert complaint in broken_values({**row, **changes})


def test_the_rules_of_the_columns_can_be_broken() -> None:
    columns = list(focus.COLUMNS)
    assert broken_columns(columns[1:]) == ["BilledCost is missing"]
    assert broken_columns([*columns, "TokenClass"]) == [
        "TokenClass is unknown",
        "custom columns are not last",
    ]
