"""What one group of logged calls costs, by hand."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from pipelines.economics import catalog
from pipelines.economics.charge import Charge, charge, thresholds
from tests.conftest import CALLS
from tests.economics.conftest import haiku, sol, unknown


@pytest.mark.parametrize(
    ("group", "usd"),
    [
        # 600,000 x $2 + 400,000 x $0.20 + 20,000 x $10 per million = 1.20 + 0.08 + 0.20
        (sol(), "1.48"),
        # batch: input $1, output $4; cached follows the input: 0.20 x 1/2 = 0.10
        # 0.6 x 1 + 0.4 x 0.10 + 0.02 x 4 = 0.60 + 0.04 + 0.08
        (sol(service_tier="batch"), "0.72"),
        # over 200,000: input $4, output $15; cached 0.20 x 4/2 = 0.40
        # 0.6 x 4 + 0.4 x 0.40 + 0.02 x 15 = 2.40 + 0.16 + 0.30
        (sol(context_over=200_000), "2.86"),
        # a smaller threshold of other models changes nothing
        (sol(context_over=128_000), "1.48"),
        # batch and over 200,000: input 4 x 1/2, cached 0.40 x 0.10/0.20, output 15 x 4/10
        # 0.6 x 2 + 0.4 x 0.20 + 0.02 x 6 = 1.20 + 0.08 + 0.12
        (sol(service_tier="batch", context_over=272_000), "1.40"),
        # fresh 1,000,000 - 400,000 - 100,000 - 50,000 = 450,000 x $1 = 0.45; cached 0.4 x 0.1 =
        # 0.04; written 0.1 x 1.25 = 0.125 and 0.05 x 2 = 0.10; output 0.02 x 5 = 0.10
        (haiku(cache_write_5m_tokens=100_000, cache_write_1h_tokens=50_000), "0.815"),
    ],
)
def test_a_group_is_priced_by_its_tier_and_its_prompt_length(group: Charge, usd: str) -> None:
    assert group.why_not == ""
    assert group.usd == Decimal(usd)


def test_what_has_no_price_has_no_dollars_and_a_reason() -> None:
    assert unknown().usd is None
    assert unknown().why_not == "no price is known for mystery"
    tier = sol(service_tier="flex")
    assert tier.usd is None
    assert tier.why_not == "openai/sol has no price for the service tier flex"
    written = sol(cache_write_1h_tokens=1)
    assert written.usd is None
    assert "one-hour cache write" in written.why_not
    no_day = charge(CALLS, "openai/sol", None)
    assert no_day.why_not == "openai/sol has no price on 2026-11-02"
    silent = sol(input_tokens=0, cached_input_tokens=0, output_tokens=0, n_without_usage=100)
    assert silent.usd is None
    assert silent.why_not == "the log does not state the tokens"


def test_every_long_context_threshold_of_the_catalog_is_known() -> None:
    folder = catalog._folder()
    assert folder is not None
    found = {
        step["threshold_tokens"]
        for path in folder.glob("*.json")
        for model in json.loads(path.read_text(encoding="utf-8"))["models"].values()
        for step in (model.get("pricing") or {}).get("long_context") or []
    }
    assert found
    assert found <= set(thresholds())
