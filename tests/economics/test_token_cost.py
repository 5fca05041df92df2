"""What calls cost: the prices are the catalog's, the arithmetic stands above each case."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import ConfigError
from pipelines.core.prices import STANDARD, PartialRates, Rates, ServiceTier, Terms, TokenPrice
from pipelines.core.records import Response, Usage
from pipelines.economics import catalog
from pipelines.economics.token_cost import rates_of, usd_of_call, usd_of_response, usd_of_tokens

GPT, HAIKU = "openai/gpt-5.6", "anthropic/claude-haiku-4-5"
SONNET, GEMINI = "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-pro"
MAKERS = ("openai", "anthropic", "gemini", "azure", "bedrock", "vertex_ai", "xai", "mistral")
PRICED = sorted(f"{maker}/{model}" for maker in MAKERS for model in catalog.models(maker))
PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


def price(name: str) -> TokenPrice:
    found = catalog.price_of(name)
    assert found is not None
    return found


def rates(*usd: str | None) -> Rates:
    """Input, cached, written for minutes, written for an hour, output."""
    fresh, cached, minutes, hour, output = (None if u is None else Decimal(u) for u in usd)
    assert fresh is not None
    assert output is not None
    return Rates(
        input=fresh, cached_input=cached, cache_write_5m=minutes, cache_write_1h=hour, output=output
    )


@pytest.mark.parametrize(
    ("name", "tier", "n_input", "expected"),
    [
        (GPT, "standard", 272_000, rates("4", "0.4", "5", None, "20")),
        (GPT, "standard", 272_001, rates("8", "0.8", "10", None, "30")),
        (GPT, "priority", 1, rates("8", "0.8", "10", None, "40")),
        (HAIKU, "standard", 1, rates("1", "0.1", "1.25", "2", "5")),
        (HAIKU, "batch", 1, rates("0.5", "0.05", "0.625", "1", "2.5")),
        (SONNET, "standard", 200_000, rates("3", "0.3", "3.75", "6", "15")),
        (SONNET, "standard", 200_001, rates("6", "0.6", "7.5", "12", "22.5")),
        (GEMINI, "batch", 1, rates("0.625", "0.125", "0.625", None, "5")),
        (GEMINI, "standard", 200_001, rates("2.5", "0.25", "2.5", None, "15")),
    ],
)
def test_the_catalog_still_says_what_these_cases_were_computed_with(
    name: str, tier: Any, n_input: int, expected: Rates
) -> None:
    assert_same(rates_of(price(name), tier, n_input), expected)


def assert_same(found: Rates, expected: Rates) -> None:
    """Equal, where a rate that is not stated is the input's."""
    for kind in ("input", "cached_input", "cache_write_5m", "output"):
        said, due = getattr(found, kind), getattr(expected, kind)
        assert (found.input if said is None else said) == due, kind
    assert found.cache_write_1h == expected.cache_write_1h


def usage(n_input: int, n_output: int, **parts: int) -> Usage:
    return Usage(
        input_tokens=n_input,
        cached_input_tokens=parts.get("cached", 0),
        cache_write_5m_tokens=parts.get("minutes", 0),
        cache_write_1h_tokens=parts.get("hour", 0),
        output_tokens=n_output,
        reasoning_tokens=parts.get("thought", 0),
    )


BATCH, FLEX, PRIORITY = (Terms(service_tier=tier) for tier in ("batch", "flex", "priority"))
# (input x rate + cached x rate + written x rate + output x rate) / 1,000,000
CASES = [
    # OpenAI. 10,000 x 4 + 1,000 x 20 = 60,000
    (GPT, usage(10_000, 1_000), STANDARD, "0.06"),
    # Nothing was generated: 10,000 x 4 = 40,000
    (GPT, usage(10_000, 0), STANDARD, "0.04"),
    # 4,000 x 4 + 6,000 x 0.4 + 1,000 x 20 = 16,000 + 2,400 + 20,000 = 38,400
    (GPT, usage(10_000, 1_000, cached=6_000), STANDARD, "0.0384"),
    # 8,000 x 4 + 2,000 x 5 + 1,000 x 20 = 32,000 + 10,000 + 20,000 = 62,000
    (GPT, usage(10_000, 1_000, minutes=2_000), STANDARD, "0.062"),
    # 2,000 x 4 + 6,000 x 0.4 + 2,000 x 5 + 20,000 = 8,000 + 2,400 + 10,000 + 20,000 = 40,400
    (GPT, usage(10_000, 1_000, cached=6_000, minutes=2_000), STANDARD, "0.0404"),
    # Thoughts are output and no more than that: as the first case.
    (GPT, usage(10_000, 1_000, thought=900), STANDARD, "0.06"),
    # Exactly the threshold: 272,000 x 4 + 1,000 x 20 = 1,088,000 + 20,000
    (GPT, usage(272_000, 1_000), STANDARD, "1.108"),
    # One more, and all of it is dearer: 272,001 x 8 + 1,000 x 30 = 2,176,008 + 30,000
    (GPT, usage(272_001, 1_000), STANDARD, "2.206008"),
    # 300,000 x 8 + 1,000 x 30 = 2,400,000 + 30,000
    (GPT, usage(300_000, 1_000), STANDARD, "2.43"),
    # 50,000 x 8 + 200,000 x 0.8 + 50,000 x 10 + 1,000 x 30 = 400,000 + 160,000 + 500,000 + 30,000
    (GPT, usage(300_000, 1_000, cached=200_000, minutes=50_000), STANDARD, "1.09"),
    # 10,000 x 2 + 1,000 x 10 = 30,000
    (GPT, usage(10_000, 1_000), BATCH, "0.03"),
    # 4,000 x 2 + 6,000 x 0.2 + 1,000 x 10 = 8,000 + 1,200 + 10,000 = 19,200
    (GPT, usage(10_000, 1_000, cached=6_000), BATCH, "0.0192"),
    # Writing is not stated: 5 x 2/4 = 2.5. 8,000 x 2 + 2,000 x 2.5 + 1,000 x 10 = 31,000
    (GPT, usage(10_000, 1_000, minutes=2_000), BATCH, "0.031"),
    # 8 x 2/4 = 4, 30 x 10/20 = 15: 300,000 x 4 + 1,000 x 15 = 1,215,000
    (GPT, usage(300_000, 1_000), BATCH, "1.215"),
    # 8, 0.8 and 10 are halved, 30 too: 50,000 x 4 + 200,000 x 0.4 + 50,000 x 5 + 1,000 x 15
    # = 200,000 + 80,000 + 250,000 + 15,000 = 545,000
    (GPT, usage(300_000, 1_000, cached=200_000, minutes=50_000), BATCH, "0.545"),
    # 10,000 x 2 + 1,000 x 10 = 30,000
    (GPT, usage(10_000, 1_000), FLEX, "0.03"),
    # 10,000 x 8 + 1,000 x 40 = 120,000
    (GPT, usage(10_000, 1_000), PRIORITY, "0.12"),
    # 8 x 8/4 = 16, 30 x 40/20 = 60: 300,000 x 16 + 1,000 x 60 = 4,860,000
    (GPT, usage(300_000, 1_000), PRIORITY, "4.86"),
    # 0.06 x (1 - 0.2) = 0.048
    (GPT, usage(10_000, 1_000), Terms(discount=Decimal("0.2")), "0.048"),
    # 0.06 x 1.1 = 0.066
    (GPT, usage(10_000, 1_000), Terms(regional_uplift=Decimal("1.1")), "0.066"),
    # 0.03 x 0.75 x 1.1 = 0.02475
    (
        GPT,
        usage(10_000, 1_000),
        Terms(service_tier="batch", discount=Decimal("0.25"), regional_uplift=Decimal("1.1")),
        "0.02475",
    ),
    # Anthropic. 10,000 x 1 + 1,000 x 5 = 15,000
    (HAIKU, usage(10_000, 1_000), STANDARD, "0.015"),
    # 1,000 x 1 + 4,000 x 0.1 + 2,000 x 1.25 + 3,000 x 2 + 1,000 x 5
    # = 1,000 + 400 + 2,500 + 6,000 + 5,000 = 14,900
    (HAIKU, usage(10_000, 1_000, cached=4_000, minutes=2_000, hour=3_000), STANDARD, "0.0149"),
    # Writing is not stated, so halved like the input: 1,000 x 0.5 + 4,000 x 0.05 + 2,000 x 0.625
    # + 3,000 x 1 + 1,000 x 2.5 = 500 + 200 + 1,250 + 3,000 + 2,500 = 7,450
    (HAIKU, usage(10_000, 1_000, cached=4_000, minutes=2_000, hour=3_000), BATCH, "0.00745"),
    # 200,000 x 3 + 1,000 x 15 = 615,000
    (SONNET, usage(200_000, 1_000), STANDARD, "0.615"),
    # 200,001 x 6 + 1,000 x 22.5 = 1,200,006 + 22,500
    (SONNET, usage(200_001, 1_000), STANDARD, "1.222506"),
    # Cached tokens count for the threshold: 1,000 x 6 + 249,000 x 0.6 + 22,500 = 177,900
    (SONNET, usage(250_000, 1_000, cached=249_000), STANDARD, "0.1779"),
    # An hour beyond the threshold is not stated: 6 x 6/3 = 12.
    # 150,000 x 6 + 100,000 x 12 + 1,000 x 22.5 = 900,000 + 1,200,000 + 22,500
    (SONNET, usage(250_000, 1_000, hour=100_000), STANDARD, "2.1225"),
    # 6 x 1.5/3 = 3, 22.5 x 7.5/15 = 11.25: 750,000 + 11,250
    (SONNET, usage(250_000, 1_000), BATCH, "0.76125"),
    # Google. 10,000 x 1.25 + 1,000 x 10 = 22,500
    (GEMINI, usage(10_000, 1_000), STANDARD, "0.0225"),
    # 4,000 x 1.25 + 6,000 x 0.125 + 1,000 x 10 = 5,000 + 750 + 10,000 = 15,750
    (GEMINI, usage(10_000, 1_000, cached=6_000), STANDARD, "0.01575"),
    # 10,000 x 1.25 + 5,000 x 10 = 62,500
    (GEMINI, usage(10_000, 5_000, thought=4_000), STANDARD, "0.0625"),
    # A batch's cached tokens are stated, and not halved: 4,000 x 0.625 + 6,000 x 0.125 + 1,000 x 5
    # = 2,500 + 750 + 5,000 = 8,250
    (GEMINI, usage(10_000, 1_000, cached=6_000), BATCH, "0.00825"),
    # 2.5 x 0.625/1.25 = 1.25; 0.25 x 0.125/0.125 = 0.25; 15 x 5/10 = 7.5:
    # 150,000 x 1.25 + 100,000 x 0.25 + 1,000 x 7.5 = 187,500 + 25,000 + 7,500
    (GEMINI, usage(250_000, 1_000, cached=100_000), BATCH, "0.22"),
    # 10,000 x 2.25 + 1,000 x 18 = 40,500
    (GEMINI, usage(10_000, 1_000), PRIORITY, "0.0405"),
    # 2.5 x 2.25/1.25 = 4.5, 15 x 18/10 = 27: 1,125,000 + 27,000
    (GEMINI, usage(250_000, 1_000), PRIORITY, "1.152"),
]


@pytest.mark.parametrize(("name", "billed", "terms", "usd"), CASES)
def test_a_call_costs(name: str, billed: Usage, terms: Terms, usd: str) -> None:
    assert usd_of_call(price(name), billed, terms) == Decimal(usd)


@pytest.mark.parametrize(
    ("answered", "wasted", "n_broken_off", "terms", "usd"),
    [
        # 0.06 for the answer; 20,000 x 4 + 300 x 20 = 86,000 for what broke off
        (usage(10_000, 1_000), usage(20_000, 300), 2, STANDARD, "0.146"),
        # 0.03 + 20,000 x 2 + 300 x 10 = 43,000
        (usage(10_000, 1_000), usage(20_000, 300), 2, BATCH, "0.073"),
        # Two attempts of 200,000 tokens pass no threshold: 600,000 x 4 + 1,000 x 20 = 2,420,000
        (usage(200_000, 1_000), usage(400_000, 0), 2, STANDARD, "2.42"),
        # No answer at all. 400,000 x 4 = 1,600,000
        (None, usage(400_000, 0), 2, STANDARD, "1.6"),
        # Each of the two was beyond the threshold: 600,000 x 8 = 4,800,000
        (None, usage(600_000, 0), 2, STANDARD, "4.8"),
        # 400,000 x 4 x 0.5 = 800,000
        (None, usage(400_000, 0), 2, Terms(discount=Decimal("0.5")), "0.8"),
        (None, None, 1, STANDARD, "0"),
    ],
)
def test_broken_off_attempts_are_billed_each_for_itself(
    answered: Usage | None, wasted: Usage | None, n_broken_off: int, terms: Terms, usd: str
) -> None:
    response = Response(
        example_id="e",
        request_sha256="0",
        text="a" if answered else None,
        error=None if answered else "HTTP 500",
        outcome="answered" if answered else "failed",
        usage=answered,
        wasted_usage=wasted,
        n_broken_off=n_broken_off,
        model="m",
        started_at_s=0,
        latency_s=1,
    )
    assert usd_of_response(price(GPT), response, terms) == Decimal(usd)


def test_a_tier_without_a_price_is_an_error_that_names_those_with_one() -> None:
    with pytest.raises(ConfigError, match=r"'flex' in MLflow.*known: standard, batch\..*prices/"):
        rates_of(price(HAIKU), "flex", 1)


def test_an_hour_in_a_cache_whose_price_is_unknown_is_an_error_and_not_free() -> None:
    assert usd_of_call(price(GPT), usage(10, 1, minutes=10)) > 0
    with pytest.raises(ConfigError, match=r"7 tokens.*one-hour cache.*cache_write_1h_tokens"):
        usd_of_call(price(GPT), usage(10, 1, hour=7))


def test_a_tier_of_a_free_model_stays_as_it_is_stated() -> None:
    free = TokenPrice(
        usd_per_million_input_tokens=Decimal(0),
        usd_per_million_output_tokens=Decimal(2),
        service_tiers={"batch": PartialRates(input=Decimal(0))},
        source="test",
        checked_on=date(2026, 11, 21),
    )
    # 1,000 x 0 + 1,000 x 2: what is not stated follows an input price that does not change.
    assert usd_of_call(free, usage(1_000, 1_000), BATCH) == Decimal("0.002")


def test_terms_say_what_differs_from_the_list() -> None:
    assert STANDARD.words == ""
    terms = Terms.model_validate({"service_tier": "batch", "discount": 0.2, "regional_uplift": 1.1})
    assert terms.words == "batch, 20 % off, x 1.1 for the region"
    assert terms.factor == Decimal("0.88")
    assert (terms.as_sent.service_tier, terms.as_sent.factor) == ("standard", Decimal("0.88"))
    assert PRIORITY.as_sent is PRIORITY


COUNTS = st.integers(0, 400_000)


@st.composite
def calls(draw: st.DrawFn) -> Usage:
    cached, minutes, hour, fresh = (draw(COUNTS) for _ in range(4))
    return usage(cached + minutes + hour + fresh, draw(COUNTS), cached=cached, minutes=minutes,
                 hour=hour)  # fmt: skip


def priceable(name: str, billed: Usage) -> Usage:
    """`billed` without an hour in the cache where the price does not know it."""
    if price(name).usd_per_million_cache_write_1h_tokens is not None:
        return billed
    return billed.model_copy(
        update={
            "cache_write_1h_tokens": 0,
            "input_tokens": billed.input_tokens - billed.cache_write_1h_tokens,
        }
    )


def plus(billed: Usage, kind: str, n: int) -> Usage:
    more = {kind: getattr(billed, kind) + n}
    if kind not in ("input_tokens", "output_tokens"):
        more["input_tokens"] = billed.input_tokens + n
    return billed.model_copy(update=more)


@PROPERTY
@given(
    st.sampled_from(PRICED),
    calls(),
    st.sampled_from(
        ["input_tokens", "cached_input_tokens", "cache_write_5m_tokens", "output_tokens"]
    ),
    COUNTS,
)
def test_more_tokens_of_any_kind_never_cost_less_and_nothing_is_negative(
    name: str, billed: Usage, kind: str, n: int
) -> None:
    billed = priceable(name, billed)
    one, more = usd_of_call(price(name), billed), usd_of_call(price(name), plus(billed, kind, n))
    assert 0 <= one <= more


@PROPERTY
@given(st.sampled_from(PRICED), calls(), calls(), st.data())
def test_calls_that_share_rates_cost_the_sum_of_their_tokens(
    name: str, one: Usage, other: Usage, data: st.DataObject
) -> None:
    one, other = priceable(name, one), priceable(name, other)
    tiers: list[ServiceTier] = ["standard", *price(name).service_tiers]
    tier = data.draw(st.sampled_from(tiers))
    shared = rates_of(price(name), tier, one.input_tokens)
    together = usd_of_tokens(shared, one + other)
    assert together == usd_of_tokens(shared, one) + usd_of_tokens(shared, other)


@PROPERTY
@given(st.sampled_from(PRICED), COUNTS, COUNTS, COUNTS)
def test_a_cached_prompt_never_costs_more_than_a_fresh_one(
    name: str, cached: int, fresh: int, n_output: int
) -> None:
    cheap = usd_of_call(price(name), usage(cached + fresh, n_output, cached=cached))
    assert cheap <= usd_of_call(price(name), usage(cached + fresh, n_output))


@PROPERTY
@given(calls(), st.decimals(0, 1, places=3), st.decimals(1, 2, places=2))
def test_terms_multiply_the_list_price(billed: Usage, discount: Decimal, uplift: Decimal) -> None:
    terms = Terms(discount=discount, regional_uplift=uplift)
    listed = usd_of_call(price(HAIKU), billed)
    assert usd_of_call(price(HAIKU), billed, terms) == listed * ((1 - discount) * uplift)


@pytest.mark.parametrize("n_input", [1, 150_000, 250_000, 600_000])
def test_a_batch_costs_no_more_than_the_standard_tier_for_every_model_that_has_both(
    n_input: int,
) -> None:
    n_models = 0
    for name in PRICED:
        listed = price(name)
        if "batch" in listed.service_tiers:
            n_models += 1
            batch = rates_of(listed, "batch", n_input)
            standard = rates_of(listed, "standard", n_input)
            for kind in ("cached_input_tokens", "cache_write_5m_tokens", "output_tokens"):
                billed = plus(usage(0, 0), kind, 1_000_000)
                assert usd_of_tokens(batch, billed) <= usd_of_tokens(standard, billed), name
            assert batch.input <= standard.input, name
    assert n_models > 200
