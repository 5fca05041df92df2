"""What things cost. Dollars are Decimal, every name carries its unit, every price its source."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from pydantic import Field

from pipelines.core.errors import ConfigError
from pipelines.core.records import Record


class TokenPrice(Record):
    """What a provider charges per token, standard tier."""

    usd_per_million_input_tokens: Decimal = Field(ge=0)
    usd_per_million_cached_input_tokens: Decimal | None = Field(default=None, ge=0)
    """None = cached tokens are billed at the full input price."""
    usd_per_million_output_tokens: Decimal = Field(ge=0)
    source: str
    checked_on: date


class Hardware(Record):
    """A machine that is paid by the hour, busy or idle."""

    name: str
    description: str
    usd_per_hour: Decimal = Field(gt=0)
    source: str
    checked_on: date


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
