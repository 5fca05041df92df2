"""Dollars of one call from the tokens the provider reported."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from pipelines.core.errors import ConfigError
from pipelines.core.prices import STANDARD, PartialRates, Rates, ServiceTier, Terms, TokenPrice
from pipelines.core.records import Response, Usage

MILLION = Decimal(1_000_000)
KINDS = ("input", "cached_input", "cache_write_5m", "cache_write_1h", "output")
"""Of tokens, each with a rate of its own."""


def rates_of(price: TokenPrice, tier: ServiceTier, n_input_tokens: int) -> Rates:
    """What each kind of token of one call costs at list price.

    Args:
        price: of the model.
        tier: under which the call is billed.
        n_input_tokens: of the whole prompt, cached ones included: beyond a threshold, all of the
            call pays the rates for long prompts.

    Raises:
        ConfigError: the price has no such tier.
    """
    standard = price.standard
    over = [step for step in price.long_context if n_input_tokens > step.threshold_tokens]
    rates = standard
    if over:
        rates = _completed(max(over, key=lambda step: step.threshold_tokens), standard)
    if tier == "standard":
        return rates
    if tier not in price.service_tiers:
        known = ", ".join(["standard", *price.service_tiers])
        raise ConfigError(
            f"no price for the service tier {tier!r} in {price.source}; known: {known}. Take one "
            "of these, or add the model with its tiers to a file in configs/prices/."
        )
    in_tier = _completed(price.service_tiers[tier], standard)
    return Rates.model_validate(
        {
            kind: _scaled(_rate(rates, kind), _rate(in_tier, kind), _rate(standard, kind))
            for kind in KINDS
        }
    )


def usd_of_tokens(rates: Rates, usage: Usage) -> Decimal:
    """List price of one call, or of the sum of several that share their rates.

    Raises:
        ConfigError: tokens were written to a one-hour cache, and what that costs is not known.
    """
    if usage.cache_write_1h_tokens and rates.cache_write_1h is None:
        raise ConfigError(
            f"{usage.cache_write_1h_tokens} tokens were written to a one-hour cache, and the price "
            "does not say what that costs: add the model to a file in configs/prices/, with "
            "usd_per_million_cache_write_1h_tokens."
        )
    counts = {
        "cached_input": usage.cached_input_tokens,
        "cache_write_5m": usage.cache_write_5m_tokens,
        "cache_write_1h": usage.cache_write_1h_tokens,
        "output": usage.output_tokens,
    }
    counts["input"] = usage.input_tokens + usage.output_tokens - sum(counts.values())
    return sum((n * (_rate(rates, kind) or 0) for kind, n in counts.items()), Decimal(0)) / MILLION


def usd_of_call(price: TokenPrice, usage: Usage, terms: Terms = STANDARD) -> Decimal:
    """What one call costs a customer with these terms."""
    rates = rates_of(price, terms.service_tier, usage.input_tokens)
    return usd_of_tokens(rates, usage) * terms.factor


def usd_of_response(price: TokenPrice, response: Response, terms: Terms = STANDARD) -> Decimal:
    """What one request cost as far as the provider reported it, broken-off attempts included.

    Each attempt is a call of its own: their sum passes no threshold that the prompt does not.
    """
    usage, wasted = response.usage, response.wasted_usage
    usd = Decimal(0) if usage is None else usd_of_call(price, usage, terms)
    if wasted is not None:
        n_input_tokens = wasted.input_tokens // max(1, response.n_broken_off)
        if usage is not None:
            n_input_tokens = usage.input_tokens
        rates = rates_of(price, terms.service_tier, n_input_tokens)
        usd += usd_of_tokens(rates, wasted) * terms.factor
    return usd


def mean_usd(
    price: TokenPrice, responses: Iterable[Response], terms: Terms = STANDARD
) -> Decimal | None:
    """Dollars per answer: all that was paid, failures included, over the answers.

    None without an answer, or when the provider reported no usage for one.
    """
    total, n_answered = Decimal(0), 0
    for response in responses:
        if response.text is not None and response.usage is None:
            return None
        total += usd_of_response(price, response, terms)
        n_answered += response.text is not None
    return total / n_answered if n_answered else None


def _completed(partial: PartialRates, standard: Rates) -> Rates:
    """`partial`, and what it does not state changed as the input rate is."""
    rates = {kind: _scaled(_rate(standard, kind), partial.input, standard.input) for kind in KINDS}
    return Rates.model_validate(rates | partial.model_dump(include={*KINDS}, exclude_none=True))


def _rate(rates: Rates, kind: str) -> Decimal | None:
    rate: Decimal | None = getattr(rates, kind)
    return rates.input if rate is None and kind != "cache_write_1h" else rate


def _scaled(rate: Decimal | None, to: Decimal | None, of: Decimal | None) -> Decimal | None:
    """`rate` changed as `of` is changed to `to`; None when one is not known."""
    if rate is None or to is None or of is None:
        return None
    return rate * to / of if of else rate
