"""Dollars of one call from the tokens the provider reported."""

from __future__ import annotations

from collections.abc import Iterable
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


def usd_of_response(price: TokenPrice, response: Response) -> Decimal:
    """What one request cost as far as the provider reported it, broken-off attempts included."""
    known = [usage for usage in (response.usage, response.wasted_usage) if usage is not None]
    return sum((usd_of_call(price, usage) for usage in known), Decimal(0))


def mean_usd(price: TokenPrice, responses: Iterable[Response]) -> Decimal | None:
    """Dollars per answer: all that was paid, failures included, over the answers.

    None without an answer, or when the provider reported no usage for one.
    """
    total, n_answered = Decimal(0), 0
    for response in responses:
        if response.text is not None and response.usage is None:
            return None
        total += usd_of_response(price, response)
        n_answered += response.text is not None
    return total / n_answered if n_answered else None
