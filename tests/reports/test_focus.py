"""Cost rows in the format of FinOps tools."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

from pipelines.core.prices import LongContext, TokenPrice
from pipelines.core.usage_log import BilledLine
from pipelines.economics import charge as charges_of
from pipelines.economics import reconcile, spend
from pipelines.economics.charge import Charge
from pipelines.reports import focus
from tests import conftest

PRICE = TokenPrice(
    usd_per_million_input_tokens=Decimal(2),
    usd_per_million_cached_input_tokens=Decimal("0.2"),
    usd_per_million_output_tokens=Decimal(10),
    long_context=(LongContext(threshold_tokens=200_000, input=Decimal(4), output=Decimal(15)),),
    source="test",
    checked_on=date(2026, 11, 2),
)
CALLS = replace(conftest.CALLS, day=date(2026, 12, 31))


def charge(**changes: object) -> Charge:
    return charges_of.charge(replace(CALLS, **changes), "openai/sol", PRICE)  # pyright: ignore[reportArgumentType]


def rows(
    path: Path, charges: Sequence[Charge], billed: Sequence[BilledLine] = ()
) -> list[dict[str, str]]:
    n = focus.write(path, charges, reconcile.compare(charges, billed, {}))
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == n
    return found


def test_one_row_for_each_class_of_tokens(tmp_path: Path) -> None:
    regions = [charge(region="eu"), charge(region="us")]
    fresh, cached, output = rows(tmp_path / "focus.csv", regions)
    assert list(fresh) == list(focus.COLUMNS)
    # Both regions: 1,200,000 fresh x $2, 800,000 cached x $0.20, 40,000 out x $10.
    assert [(r["x_token_class"], r["PricingQuantity"], r["ListUnitPrice"], r["ListCost"])
            for r in (fresh, cached, output)] == [
        ("Input Tokens", "1.2", "2", "2.4"),
        ("Cached Input Tokens", "0.8", "0.2", "0.16"),
        ("Output Tokens", "0.04", "10", "0.4"),
    ]  # fmt: skip
    assert (fresh["ConsumedQuantity"], fresh["ConsumedUnit"]) == ("1200000", "Tokens")
    assert fresh["ChargePeriodStart"] == "2026-12-31T00:00:00Z"
    assert fresh["ChargePeriodEnd"] == "2027-01-01T00:00:00Z"
    assert fresh["BillingPeriodStart"] == "2026-12-01T00:00:00Z"
    assert fresh["BillingPeriodEnd"] == "2027-01-01T00:00:00Z"
    assert [r["x_task_count"] for r in (fresh, cached, output)] == ["200", "", ""]
    assert (fresh["x_workload"], fresh["x_model"], fresh["x_context_tier"]) == (
        "claims",
        "sol",
        "standard",
    )


def test_usage_sums_to_the_audits_total_and_all_rows_to_the_bill(tmp_path: Path) -> None:
    charges = [
        charge(),
        charge(workload="other", context_over=200_000, output_tokens=333),
        charge(day=date(2026, 12, 30), cached_input_tokens=7),
        charges_of.charge(replace(CALLS, model="mystery"), None, None),
    ]
    billed = [
        BilledLine(day=CALLS.day, provider="openai", project="", description="", usd=Decimal(4)),
        BilledLine(
            day=date(2026, 12, 30), provider="openai", project="", description="", usd=Decimal(3)
        ),
    ]
    found = rows(tmp_path / "focus.csv", charges, billed)
    usage = [row for row in found if row["ChargeCategory"] == "Usage"]
    assert sum(Decimal(row["ListCost"]) for row in usage) == spend.summed(charges).usd
    assert sum(Decimal(row["BilledCost"]) for row in found) == 7
    assert sum(int(row["x_task_count"] or 0) for row in found) == 300
    assert {row["x_context_tier"] for row in usage} == {"standard", "over 200000"}
    assert "mystery" not in (tmp_path / "focus.csv").read_text(encoding="utf-8")


def test_names_from_logs_are_neither_formulas_nor_new_lines(tmp_path: Path) -> None:
    [row, *_] = rows(tmp_path / "focus.csv", [charge(workload="=HYPERLINK(1)\n\x1b[31m")])
    assert (
        row["x_workload"] == "'=HYPERLINK(1)\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m"
    )
