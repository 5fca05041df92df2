"""The catalog inside MLflow: prices of some 3,800 models, and the names that logs give them.

Only its data files are read; importing MLflow takes seconds.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pipelines.core.prices import LongContext, PartialRates, TokenPrice
from pipelines.economics import own_prices

RATES = {
    "input": "input_per_million_tokens",
    "cached_input": "cache_read_per_million_tokens",
    "cache_write_5m": "cache_write_per_million_tokens",
    "cache_write_1h": "cache_write_1hr_per_million_tokens",
    "output": "output_per_million_tokens",
}
"""Our name of a rate <- the catalog's."""
TIERS = ("batch", "flex", "priority")
PROVIDERS = {
    "azure_openai": "azure",
    "az.ai.openai": "azure",
    "azure.ai.openai": "azure",
    "google": "gemini",
    "google_ai_studio": "gemini",
    "google_genai": "gemini",
    "gcp.gemini": "gemini",
    "gcp.gen_ai": "gemini",
    "gcp.vertex_ai": "vertex_ai",
    "vertex": "vertex_ai",
    "vertexai": "vertex_ai",
    "google_vertex": "vertex_ai",
    "aws.bedrock": "bedrock",
    "aws_bedrock": "bedrock",
    "amazon_bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "together": "together_ai",
    "fireworks": "fireworks_ai",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "x_ai": "xai",
    "x-ai": "xai",
}
"""Names of providers in logs -> the catalog's; others are the same in both."""
MAKERS = ("openai", "anthropic", "gemini", "mistral", "xai", "deepseek", "cohere")
"""Who is meant by a model's name alone: those that sell models of their own."""
BEDROCK = re.compile(
    r"((us|eu|apac|jp|au|ca|global|us-gov)\.)?"
    r"(ai21|amazon|anthropic|cohere|deepseek|meta|minimax|mistral|moonshot|nvidia|openai|qwen|zai)\."
)
"""How identifiers of Amazon Bedrock begin: a region, perhaps, then the maker."""
REGION = re.compile(r"^(us|eu|apac|jp|au|ca|global|us-gov)\.(?=[a-z0-9]+\.)")
SNAPSHOT = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|latest)$")
"""What a snapshot's name ends with."""


@cache
def models(provider: str) -> Mapping[str, TokenPrice]:
    """What the catalog lists with a price, by the model's name.

    Args:
        provider: a file of the catalog, such as `openai`; nothing is listed for others.
    """
    folder = _folder()
    if folder is None or not re.fullmatch(r"[\w-]+", provider):
        return {}
    path = folder / f"{provider}.json"
    if not path.exists():
        return {}
    entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["models"]
    return {
        model: price
        for model, entry in entries.items()
        if (price := _price(entry, path.name)) is not None
    }


def price_of(name: str) -> TokenPrice | None:
    """Price of `provider/model`; None when the catalog lists none."""
    provider, _, model = name.partition("/")
    return models(provider).get(model)


def nearest(name: str) -> list[str]:
    """Up to three names with a price that look like `provider/model`, the likeliest first."""
    provider = name.partition("/")[0]
    known = [f"{provider}/{model}" for model in models(provider)]
    if not known:
        known = [f"{maker}/{model}" for maker in MAKERS for model in models(maker)]
    return get_close_matches(name, [*known, *own_prices.read(own_prices.FOLDER)], n=3, cutoff=0.5)


def find(model: str, provider: str = "") -> str | None:
    """The name in the price book of a model as a log writes it; None when it is not certain.

    In this order: the name itself; the name in other case; a snapshot (`-2026-09-01`,
    `-20251001`, `@20251001`, `-latest`) or a region (`eu.`) that is not listed, if all that is
    listed of the same model has the same price. A price in configs/prices/ comes before the
    catalog's. Without a provider, one is taken from the name (`openai/`, `models/`,
    `us.anthropic.`, an ARN); a bare name means the model's maker, and the name of an open model
    nobody, for everybody sells those, at different prices.

    Args:
        model: such as `gpt-6.1-sol-2026-09-01` or `us.anthropic.claude-haiku-4-5-20251001-v1:0`.
        provider: as the log names it; empty = not known.
    """
    return _find(model, provider, own_prices.FOLDER)


@lru_cache(maxsize=4096)
def _find(model: str, provider: str, folder: Path) -> str | None:
    seller, model = _seller(model.strip(), provider.strip().casefold())
    own = own_prices.read(folder)
    found: set[str] = set()
    for each in (seller,) if seller else MAKERS:
        listed: dict[str, object] = {m: _comparable(price) for m, price in models(each).items()}
        listed |= {
            name.partition("/")[2]: [_comparable(price) for price in prices]
            for name, prices in own.items()
            if PROVIDERS.get(name.partition("/")[0], name.partition("/")[0]) == each
        }
        if (name := _listed(model, listed)) is not None:
            found.add(_full_name(each, name, own))
    return found.pop() if len(found) == 1 else None


def _seller(model: str, provider: str) -> tuple[str, str]:
    """Catalog's name of the provider, empty when unknown, and the model without its prefixes."""
    provider = PROVIDERS.get(provider, provider)
    if model.startswith("arn:aws"):
        return provider or "bedrock", model.rpartition("/")[2]
    if "publishers/" in model and "/models/" in model:
        return provider or "vertex_ai", model.rpartition("/models/")[2]
    if model.startswith("models/"):
        return provider or "gemini", model.removeprefix("models/")
    head, slash, rest = model.partition("/")
    head = PROVIDERS.get(head.casefold(), head.casefold())
    if slash and head == (provider or head):
        return head, rest
    if not provider and BEDROCK.match(model):
        return "bedrock", model
    return provider, model


def _listed(model: str, listed: Mapping[str, object]) -> str | None:
    """The entry that is meant; None when there is none, or several with different prices."""
    if model in listed:
        return model
    same = [name for name in listed if name.casefold() == model.casefold()]
    if len(same) == 1:
        return same[0]
    base = _base(model)
    alike = sorted(name for name in listed if _base(name) == base)
    if not alike or any(listed[name] != listed[alike[0]] for name in alike):
        return None
    return next((name for name in alike if name.casefold() == base), alike[-1])


def _base(model: str) -> str:
    return SNAPSHOT.sub("", REGION.sub("", model.casefold()))


def _full_name(provider: str, model: str, own: Iterable[str]) -> str:
    """The name as configs/prices/ writes it, where it does."""
    names = (name for name in own if name.partition("/")[2] == model)
    same = (n for n in names if PROVIDERS.get(n.partition("/")[0], n.partition("/")[0]) == provider)
    return next(same, f"{provider}/{model}")


def _comparable(price: TokenPrice) -> TokenPrice:
    """The price alone: when it was looked up and when the model ends are left out."""
    return price.model_copy(update={"source": "", "checked_on": date.min, "deprecation_date": None})


def _folder() -> Path | None:
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "utils" / "model_catalog"


def _price(entry: Mapping[str, Any], file: str) -> TokenPrice | None:
    pricing: dict[str, Any] = entry.get("pricing") or {}
    rates = _rates(pricing)
    if "input" not in rates or "output" not in rates:
        return None
    tiers: dict[str, dict[str, Any]] = pricing.get("service_tiers") or {}
    steps: list[dict[str, Any]] = pricing.get("long_context") or []
    return TokenPrice(
        **{f"usd_per_million_{name}_tokens": usd for name, usd in rates.items()},
        long_context=tuple(
            LongContext(threshold_tokens=step["threshold_tokens"], **_rates(step)) for step in steps
        ),
        service_tiers={
            tier: PartialRates(**_rates(tiers[tier])) for tier in TIERS if tier in tiers
        },
        deprecation_date=entry.get("deprecation_date"),
        source=f"MLflow model catalog, {file}",
        checked_on=entry["last_updated_at"],
    )


def _rates(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Exact Decimals of what is stated, by our names."""
    return {
        ours: Decimal(str(stated[theirs]))
        for ours, theirs in RATES.items()
        if stated.get(theirs) is not None
    }
