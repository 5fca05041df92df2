"""Charges that the tests of logged spend are made from."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from pipelines.core.prices import LongContext, PartialRates, TokenPrice
from pipelines.economics.charge import Charge, charge
from tests.conftest import CALLS

DAY = CALLS.day
SOL = TokenPrice(
    usd_per_million_input_tokens=Decimal(2),
    usd_per_million_cached_input_tokens=Decimal("0.2"),
    usd_per_million_output_tokens=Decimal(10),
    long_context=(LongContext(threshold_tokens=200_000, input=Decimal(4), output=Decimal(15)),),
    service_tiers={"batch": PartialRates(input=Decimal(1), output=Decimal(4))},
    deprecation_date=date(2027, 3, 1),
    source="test",
    checked_on=DAY,
)
HAIKU = TokenPrice(
    usd_per_million_input_tokens=Decimal(1),
    usd_per_million_cached_input_tokens=Decimal("0.1"),
    usd_per_million_cache_write_5m_tokens=Decimal("1.25"),
    usd_per_million_cache_write_1h_tokens=Decimal(2),
    usd_per_million_output_tokens=Decimal(5),
    source="test",
    checked_on=DAY,
)


def sol(**changes: object) -> Charge:
    return charge(replace(CALLS, **changes), "openai/sol", SOL)  # pyright: ignore[reportArgumentType]


def haiku(**changes: object) -> Charge:
    group = replace(CALLS, provider="anthropic", model="haiku", **changes)  # pyright: ignore[reportArgumentType]
    return charge(group, "anthropic/haiku", HAIKU)


def unknown(**changes: object) -> Charge:
    return charge(replace(CALLS, provider="", model="mystery", **changes), None, None)  # pyright: ignore[reportArgumentType]
