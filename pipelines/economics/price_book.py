"""The price book: our dated files in configs/prices/, then the catalog inside MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from pipelines.core.errors import ConfigError
from pipelines.core.prices import PriceBook, TokenPrice
from pipelines.economics import catalog, own_prices

MAX_AGE_DAYS = 90


def load_prices(names: Iterable[str], as_of: date | None = None) -> PriceBook:
    """The prices of `names`; one of ours that is charged on the day wins over the catalog.

    The catalog has no history: it answers for any day. `stale` says when that is doubtful.

    Args:
        names: `provider/model`.
        as_of: the day; None = today.

    Raises:
        ConfigError: a name has no price, or a file in configs/prices/ is wrong.
    """
    day = as_of or date.today()
    own = own_prices.read(own_prices.FOLDER)
    tokens: dict[str, TokenPrice] = {}
    for name in sorted(names):
        dated = (price for price in own.get(name, ()) if price.is_charged_on(day))
        price = next(dated, None) or catalog.price_of(name)
        if price is None:
            near = ", ".join(catalog.nearest(name)) or "none"
            raise ConfigError(
                f"no token price for {name!r} on {day}. Add it to a file in configs/prices/ with "
                f"source and checked_on; names with a price that look like it: {near}."
            )
        tokens[name] = price
    return PriceBook(tokens=tokens)


def stale(price: TokenPrice, as_of: date) -> str | None:
    """Why the price may not be that of the day, as a sentence; None when it was looked up near it.

    A price is known from the day it was looked up, or from its `valid_from`, to its
    `valid_until`; more than `MAX_AGE_DAYS` before or after, it may have been another.
    """
    first = min(price.checked_on, price.valid_from or price.checked_on)
    last = max(price.checked_on, price.valid_until or price.checked_on)
    n_days = max((first - as_of).days, (as_of - last).days)
    if n_days <= MAX_AGE_DAYS:
        return None
    return f"price checked on {price.checked_on}, {n_days} days from {as_of}, for which it is used"
