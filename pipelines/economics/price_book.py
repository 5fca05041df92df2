"""The price book: our dated files in configs/prices/, then the catalog inside MLflow."""

from __future__ import annotations

import importlib.util
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError
from pipelines.core.paths import shown
from pipelines.core.prices import PriceBook, TokenPrice


def load_prices(names: set[str]) -> PriceBook:
    """The prices of `names` (`provider/model`); a later file in configs/prices/ wins.

    Raises:
        ConfigError: a file is malformed.
    """
    own: dict[str, TokenPrice] = {}
    for path in sorted((CONFIGS / "prices").glob("*.yaml")):
        try:
            own |= PriceBook.model_validate(read_yaml(path)).tokens
        except ValidationError as error:
            listed = "\n  ".join(
                f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
            )
            raise ConfigError(
                f"{shown(path)}: {error.error_count()} problem(s)\n  {listed}"
            ) from None
    catalog = {name: price for name in names - own.keys() if (price := _from_catalog(name))}
    return PriceBook(tokens=own | catalog)


def _from_catalog(name: str) -> TokenPrice | None:
    """Standard-tier price from MLflow's catalog; None when it lists none.

    MLflow itself is not imported (2.3 s), only its data file is read.
    """
    provider, _, model = name.partition("/")
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None or not provider.isidentifier():
        return None
    path = Path(spec.origin).parent / "utils" / "model_catalog" / f"{provider}.json"
    if not path.exists():
        return None
    entry: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["models"].get(model, {})
    pricing = entry.get("pricing", {})
    if "input_per_million_tokens" not in pricing or "output_per_million_tokens" not in pricing:
        return None
    cached = pricing.get("cache_read_per_million_tokens")
    return TokenPrice(
        usd_per_million_input_tokens=Decimal(str(pricing["input_per_million_tokens"])),
        usd_per_million_cached_input_tokens=None if cached is None else Decimal(str(cached)),
        usd_per_million_output_tokens=Decimal(str(pricing["output_per_million_tokens"])),
        source=f"MLflow model catalog, {provider}.json",
        checked_on=date.fromisoformat(entry["last_updated_at"]),
    )
