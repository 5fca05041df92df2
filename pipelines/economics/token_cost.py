"""Dollars of one call from the tokens the provider reported."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from pipelines.core.prices import TokenPrice
from pipelines.core.records import Response, Usage

MILLION = Decimal(1_000_000)


def usd_of_call(price: TokenPrice, usage: Usage) -> Decimal:
    """Standard-tier price of one call: fresh input, cached input, output."""
    cached_price = price.usd_per_million_cached_input_tokens
    if cached_price is None:
        cached_price = price.usd_per_million_input_tokens
    fresh = usage.input_tokens - usage.cached_input_tokens
    return (
        fresh * price.usd_per_million_input_tokens
        + usage.cached_input_tokens * cached_price
        + usage.output_tokens * price.usd_per_million_output_tokens
    ) / MILLION


def mean_usd(price: TokenPrice, responses: Sequence[Response]) -> Decimal | None:
    """Mean dollars of the answered calls; None when the provider reported no usage for one."""
    answered = [r for r in responses if r.error is None]
    if not answered or any(r.usage is None for r in answered):
        return None
    total = sum((usd_of_call(price, r.usage) for r in answered if r.usage), Decimal(0))
    return total / len(answered)
