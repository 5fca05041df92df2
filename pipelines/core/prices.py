"""What things cost. Dollars are Decimal, every name carries its unit, every price its source."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.core.errors import ConfigError
from pipelines.core.records import Record

ServiceTier = Literal["standard", "batch", "flex", "priority"]
"""batch: answers within a day · flex: when there is room · priority: before the others."""


class Rates(Record):
    """Dollars per million tokens of calls that are billed alike."""

    input: Decimal
    cached_input: Decimal | None = None
    """Tokens read from a prompt cache; None = at the input rate."""
    cache_write_5m: Decimal | None = None
    """Tokens written to a cache that lives for minutes; None = at the input rate."""
    cache_write_1h: Decimal | None = None
    """Tokens written to a cache that lives for an hour; None = not known."""
    output: Decimal


class PartialRates(Record):
    """Rates of a tier or of long prompts; what is not stated changes as the input rate does."""

    input: Decimal = Field(ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)
    cache_write_5m: Decimal | None = Field(default=None, ge=0)
    cache_write_1h: Decimal | None = Field(default=None, ge=0)
    output: Decimal | None = Field(default=None, ge=0)


class LongContext(PartialRates):
    """Rates of a whole prompt that is longer than the threshold."""

    threshold_tokens: int = Field(gt=0)


class TokenPrice(Record):
    """What a provider charges per token: the standard tier, and what differs from it."""

    usd_per_million_input_tokens: Decimal = Field(ge=0)
    usd_per_million_cached_input_tokens: Decimal | None = Field(default=None, ge=0)
    """None = cached tokens are billed at the full input price."""
    usd_per_million_cache_write_5m_tokens: Decimal | None = Field(default=None, ge=0)
    """None = tokens that are written to the cache are billed at the input price."""
    usd_per_million_cache_write_1h_tokens: Decimal | None = Field(default=None, ge=0)
    """None = not known; calls that write to such a cache cannot be priced."""
    usd_per_million_output_tokens: Decimal = Field(ge=0)
    long_context: tuple[LongContext, ...] = ()
    """The whole prompt pays the rates of the largest threshold that its input tokens exceed."""
    service_tiers: dict[Literal["batch", "flex", "priority"], PartialRates] = {}
    """Beyond a threshold, a tier changes the long-context rates as it does the standard ones."""
    valid_from: date | None = None
    """First day on which it is charged; None = as far back as is known."""
    valid_until: date | None = None
    """Last day on which it is charged; None = until further notice."""
    deprecation_date: date | None = None
    """Day on which the provider retires the model; None = not announced."""
    source: str
    checked_on: date

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.valid_from and self.valid_until and self.valid_from > self.valid_until:
            raise ValueError(f"valid_from {self.valid_from} is after valid_until")
        return self

    @property
    def standard(self) -> Rates:
        """Rates of the standard tier up to the first threshold."""
        return Rates(
            input=self.usd_per_million_input_tokens,
            cached_input=self.usd_per_million_cached_input_tokens,
            cache_write_5m=self.usd_per_million_cache_write_5m_tokens,
            cache_write_1h=self.usd_per_million_cache_write_1h_tokens,
            output=self.usd_per_million_output_tokens,
        )

    def is_charged_on(self, day: date) -> bool:
        """True when `day` lies between `valid_from` and `valid_until`, both included."""
        return (self.valid_from or date.min) <= day <= (self.valid_until or date.max)


class Terms(Record):
    """What one customer pays of the list price, and for which service."""

    service_tier: ServiceTier = "standard"
    discount: Decimal = Field(default=Decimal(0), ge=0, le=1)
    """Negotiated: the share of the list price that is not paid."""
    regional_uplift: Decimal = Field(default=Decimal(1), ge=1)
    """Factor for data that stays in a region, such as 1.10."""

    @property
    def words(self) -> str:
        """What differs from the list price, such as `batch, 20 % off`; empty when nothing does."""
        said = [] if self.service_tier == "standard" else [self.service_tier]
        if self.discount:
            said.append(f"{(100 * self.discount).normalize():f} % off")
        if self.regional_uplift != 1:
            said.append(f"x {self.regional_uplift} for the region")
        return ", ".join(said)

    @property
    def factor(self) -> Decimal:
        """What the list price is multiplied by."""
        return (1 - self.discount) * self.regional_uplift

    @property
    def as_sent(self) -> Terms:
        """The terms of the calls that an evaluation makes: no batch waits for its answers."""
        if self.service_tier == "batch":
            return self.model_copy(update={"service_tier": "standard"})
        return self


STANDARD = Terms()


class PriceBook(Record):
    """Token prices by `provider/model`; the decision keeps a copy of the ones it used."""

    tokens: dict[str, TokenPrice] = {}

    def token_price(self, name: str) -> TokenPrice:
        """Price of `provider/model`.

        Raises:
            ConfigError: the book has no such entry. A missing price is never 0.
        """
        if name not in self.tokens:
            raise ConfigError(
                f"no token price for {name!r}; priced: {', '.join(sorted(self.tokens)) or 'none'}. "
                "Add it to a file in configs/prices/ with source and checked_on."
            )
        return self.tokens[name]
