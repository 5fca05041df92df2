"""One group of logged calls with what its tokens cost at list prices."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TypeVar

from pipelines.core.audit import AgreedTerms, TokenClass
from pipelines.core.prices import Rates, ServiceTier, TokenPrice
from pipelines.core.records import Usage
from pipelines.core.usage_log import UsageGroup
from pipelines.economics import own_prices
from pipelines.economics.token_cost import MILLION, rates_of, usd_of_tokens

Key = TypeVar("Key", bound=Hashable)

NO_TOKENS = "the log does not state the tokens"
THRESHOLDS = (32_000, 128_000, 200_000, 256_000, 272_000, 512_000)
"""Prompt lengths beyond which a model of the catalog costs more."""
BATCHABLE: tuple[ServiceTier, ...] = ("standard", "priority")
"""Tiers whose calls could have gone out as batches instead."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One group of calls with what its tokens cost."""

    group: UsageGroup
    provider: str
    """The group's, else that of the price; empty = not known."""
    price_name: str | None
    price: TokenPrice | None
    tokens: Mapping[TokenClass, int]
    per_million: Mapping[TokenClass, Decimal]
    """Dollars per million tokens of each class; empty when the group is not priced."""
    batch_per_million: Mapping[TokenClass, Decimal]
    """The same at batch rates; empty where the calls were batched, or there is no such rate."""
    why_not: str
    """Why the group is not priced; empty when it is."""
    terms: AgreedTerms | None = None
    """What is paid instead of the list price; None = no terms for these calls."""
    has_terms: bool = False
    """True where terms were given, if for other calls: what they cost is then known, too."""

    @property
    def label(self) -> str:
        """`provider/model`, or the model alone."""
        model = self.group.model
        known = self.provider and not model.startswith(f"{self.provider}/")
        return f"{self.provider}/{model}" if known else model

    @property
    def usd(self) -> Decimal | None:
        """Dollars of the group; None when it is not priced."""
        return None if self.why_not else dollars(self.tokens, self.per_million)

    @property
    def factor(self) -> Decimal:
        """What of the list price is paid."""
        return Decimal(1) if self.terms is None else self.terms.factor


def charge(group: UsageGroup, price_name: str | None, price: TokenPrice | None) -> Charge:
    """Price one group at the rates of its tier and prompt length.

    Args:
        group: calls that are priced alike.
        price_name: `provider/model` in the price book; None = the model was not found there.
        price: valid on the group's day; None = there is none.
    """
    tokens = _tokens(group)
    per_million: Mapping[TokenClass, Decimal] = {}
    batched: Mapping[TokenClass, Decimal] = {}
    why_not = ""
    if not any(tokens.values()) and group.n_without_usage >= group.n_calls:
        why_not = NO_TOKENS
    elif price_name is None:
        why_not = f"no price is known for {_named(group)}"
    elif price is None:
        why_not = f"{price_name} has no price on {group.day}"
    elif group.service_tier != "standard" and group.service_tier not in price.service_tiers:
        why_not = f"{price_name} has no price for the service tier {group.service_tier}"
    else:
        per_million = _per_million(price, group.service_tier, group)
        if tokens["cache_write_1h"] and "cache_write_1h" not in per_million:
            per_million = {}
            why_not = f"the price of {price_name} does not say what a one-hour cache write costs"
        elif group.service_tier in BATCHABLE and "batch" in price.service_tiers:
            batched = _per_million(price, "batch", group)
    provider = group.provider or (price_name or "").partition("/")[0]
    return Charge(group, provider, price_name, price, tokens, per_million, batched, why_not)


def thresholds() -> tuple[int, ...]:
    """Prompt lengths beyond which some model costs more, in our own price files or elsewhere."""
    own = (price for prices in own_prices.read(own_prices.FOLDER).values() for price in prices)
    return tuple(
        sorted({*THRESHOLDS, *(step.threshold_tokens for p in own for step in p.long_context)})
    )


def dollars(tokens: Mapping[TokenClass, int], per_million: Mapping[TokenClass, Decimal]) -> Decimal:
    """Exact sum over the classes."""
    parts = (n * per_million[each] for each, n in tokens.items() if n)
    return sum(parts, Decimal(0)) / MILLION


def grouped(charges: Iterable[Charge], by: Callable[[Charge], Key]) -> dict[Key, list[Charge]]:
    """Charges that `by` answers alike, in the order of their first."""
    parts: dict[Key, list[Charge]] = {}
    for each in charges:
        parts.setdefault(by(each), []).append(each)
    return parts


def _tokens(group: UsageGroup) -> dict[TokenClass, int]:
    written = group.cache_write_5m_tokens + group.cache_write_1h_tokens
    return {
        "fresh_input": group.input_tokens - group.cached_input_tokens - written,
        "cached_input": group.cached_input_tokens,
        "cache_write_5m": group.cache_write_5m_tokens,
        "cache_write_1h": group.cache_write_1h_tokens,
        "output": group.output_tokens,
    }


def _per_million(
    price: TokenPrice, tier: ServiceTier, group: UsageGroup
) -> Mapping[TokenClass, Decimal]:
    """Dollars per million tokens of each class; a class whose rate is not known is left out.

    The prompts count as just longer than the threshold that the group's prompts exceed.
    """
    rates = rates_of(price, tier, group.context_over + 1 if group.context_over else 0)
    return _of_classes(tuple(rates.model_dump().items()))


@lru_cache(maxsize=4096)
def _of_classes(rate_items: tuple[tuple[str, Decimal | None], ...]) -> Mapping[TokenClass, Decimal]:
    rates = Rates.model_validate(dict(rate_items))
    million = int(MILLION)
    usages: dict[TokenClass, Usage] = {
        "fresh_input": Usage(input_tokens=million, output_tokens=0),
        "cached_input": Usage(input_tokens=million, cached_input_tokens=million, output_tokens=0),
        "cache_write_5m": Usage(
            input_tokens=million, cache_write_5m_tokens=million, output_tokens=0
        ),
        "output": Usage(input_tokens=0, output_tokens=million),
    }
    if rates.cache_write_1h is not None:
        usages["cache_write_1h"] = Usage(
            input_tokens=million, cache_write_1h_tokens=million, output_tokens=0
        )
    return {name: usd_of_tokens(rates, usage) for name, usage in usages.items()}


def _named(group: UsageGroup) -> str:
    return f"{group.model} of {group.provider}" if group.provider else group.model
