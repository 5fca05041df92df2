"""MLflow's catalog: exact prices, and the names that logs give to models."""

from __future__ import annotations

import importlib.util
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines.economics import catalog, own_prices
from pipelines.economics.catalog import find


def test_an_entry_is_read_whole_and_exactly() -> None:
    price = catalog.price_of("anthropic/claude-sonnet-4-5")
    assert price is not None
    assert price.usd_per_million_input_tokens == 3
    assert price.usd_per_million_cached_input_tokens == Decimal("0.3")
    assert price.usd_per_million_cache_write_5m_tokens == Decimal("3.75")
    assert price.usd_per_million_cache_write_1h_tokens == 6
    assert price.usd_per_million_output_tokens == 15
    [long] = price.long_context
    assert (long.threshold_tokens, long.input, long.output) == (200_000, 6, Decimal("22.5"))
    assert (long.cached_input, long.cache_write_5m) == (Decimal("0.6"), Decimal("7.5"))
    assert long.cache_write_1h is None
    assert price.service_tiers["batch"].cached_input == Decimal("0.15")
    assert price.deprecation_date == date(2026, 11, 30)
    assert price.checked_on == date(2026, 10, 2)
    assert price.source == "MLflow model catalog, anthropic.json"


@pytest.mark.parametrize(
    "name", ["openai/none", "acme/gpt-6.1-sol", "../openai/gpt-6.1-sol", "gpt-6.1-sol", "openai/"]
)
def test_what_is_not_listed_has_no_price(name: str) -> None:
    assert catalog.price_of(name) is None


def test_every_price_that_the_catalog_states_can_be_read() -> None:
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    files = (Path(spec.origin).parent / "utils" / "model_catalog").glob("*.json")
    assert sum(len(catalog.models(file.stem)) for file in files) > 3_000


@pytest.mark.parametrize(
    ("model", "provider", "found"),
    [
        ("gpt-6.1-sol", "openai", "openai/gpt-6.1-sol"),
        ("gpt-6.1-sol", "", "openai/gpt-6.1-sol"),
        ("GPT-6.1-Sol", "OpenAI", "openai/gpt-6.1-sol"),
        # A snapshot that is not listed, of a model whose entries all cost the same.
        ("gpt-6.1-sol-2026-09-01", "openai", "openai/gpt-6.1-sol"),
        ("claude-haiku-4-5-20991001", "", "anthropic/claude-haiku-4-5"),
        # A snapshot that is listed.
        ("claude-haiku-4-5-20251001", "", "anthropic/claude-haiku-4-5-20251001"),
        ("gpt-4o-2024-05-13", "openai", "openai/gpt-4o-2024-05-13"),
        # Only a snapshot is listed.
        ("claude-opus-4", "anthropic", "anthropic/claude-opus-4-20250514"),
        # gpt-4o costs $2.50, its first snapshot $5: which one a new snapshot costs is not known.
        ("gpt-4o-2025-12-24", "openai", None),
        # Prefixes.
        ("openai/gpt-6.1-sol", "", "openai/gpt-6.1-sol"),
        ("openai/gpt-6.1-sol", "openai", "openai/gpt-6.1-sol"),
        ("anthropic/claude-haiku-4-5", "", "anthropic/claude-haiku-4-5"),
        ("models/gemini-3.8-flash", "", "gemini/gemini-3.8-flash"),
        ("models/gemini-3.8-flash", "google", "gemini/gemini-3.8-flash"),
        ("gemini-3.8-flash", "gcp.gemini", "gemini/gemini-3.8-flash"),
        ("publishers/google/models/gemini-2.5-pro", "", "vertex_ai/gemini-2.5-pro"),
        ("claude-haiku-4-5@20251001", "vertex_ai", "vertex_ai/claude-haiku-4-5@20251001"),
        ("openai/gpt-5.2", "openrouter", "openrouter/openai/gpt-5.2"),
        ("openrouter/openai/gpt-5.2", "", "openrouter/openai/gpt-5.2"),
        # Amazon Bedrock: a region of its own has a price of its own.
        (
            "anthropic.claude-haiku-4-5-20251001-v1:0",
            "",
            "bedrock/anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
        (
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "aws.bedrock",
            "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/"
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "",
            "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
        # $1 without a region, $1.10 in those that are listed: not known for another.
        ("ca.anthropic.claude-haiku-4-5-20251001-v1:0", "bedrock", None),
        # The same $0.22 with and without.
        (
            "ca.meta.llama3-1-8b-instruct-v1:0",
            "bedrock",
            "bedrock/meta.llama3-1-8b-instruct-v1:0",
        ),
        # Azure: a deployment is found if it is named after its model, and is never OpenAI's.
        ("gpt-6.1-sol", "azure_openai", "azure/gpt-6.1-sol"),
        ("azure/gpt-6.1-sol", "", "azure/gpt-6.1-sol"),
        ("sol-eu", "azure", None),
        # Open models are sold by many, at different prices, or run on machines of one's own.
        ("meta-llama/Llama-3.1-8B-Instruct", "", None),
        ("Llama-3.1-8B-Instruct", "", None),
        ("meta-llama/Llama-3.1-8B-Instruct", "vllm", None),
        # Ours.
        ("llama-3.1-8b", "together", "together/llama-3.1-8b"),
        ("llama-3.1-8b", "together_ai", "together/llama-3.1-8b"),
        ("together/llama-3.1-8b", "", "together/llama-3.1-8b"),
        ("", "", None),
        ("none", "openai", None),
        ("../../secret", "..", None),
    ],
)
def test_a_model_is_found_or_nothing_is_guessed(
    model: str, provider: str, found: str | None
) -> None:
    assert find(model, provider) == found


@pytest.mark.parametrize("maker", ["openai", "anthropic", "gemini", "azure", "bedrock"])
def test_every_listed_model_is_found_under_its_own_name(maker: str) -> None:
    for model in catalog.models(maker):
        assert find(model, maker) == f"{maker}/{model}"


def test_a_price_of_ours_is_found_before_the_catalogs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = (
        "{usd_per_million_input_tokens: 9, usd_per_million_output_tokens: 9, source: contract, "
        "checked_on: 2026-11-21}"
    )
    (tmp_path / "contract.yaml").write_text(
        f"tokens: {{openai/gpt-4o: {entry}, openai/gpt-9: {entry}}}", encoding="utf-8"
    )
    monkeypatch.setattr(own_prices, "FOLDER", tmp_path)
    assert find("gpt-9-2026-11-01", "openai") == "openai/gpt-9"
    assert find("gpt-9") == "openai/gpt-9"
    # Its price differs from that of the listed snapshots now.
    assert find("gpt-4o", "openai") == "openai/gpt-4o"
    assert find("gpt-4o-2025-12-24", "openai") is None


def test_a_name_that_is_wrong_is_answered_with_the_nearest() -> None:
    assert catalog.nearest("openai/gpt-6.1sol")[0] == "openai/gpt-6.1-sol"
    assert "openai/gpt-6.1-sol" in catalog.nearest("opnai/gpt-6.1-sol")
