"""Dollars of logged calls, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from pipelines.core.audit import Machine
from pipelines.core.prices import LongContext, PartialRates, TokenPrice
from pipelines.core.usage_log import BilledLine, UsageGroup
from pipelines.economics import catalog, reconcile, spend
from pipelines.economics.spend import Charge

DAY = date(2026, 11, 2)
SOL = TokenPrice(
    usd_per_million_input_tokens=Decimal(2),
    usd_per_million_cached_input_tokens=Decimal("0.2"),
    usd_per_million_output_tokens=Decimal(10),
    long_context=(LongContext(threshold_tokens=200_000, input=Decimal(4), output=Decimal(15)),),
    service_tiers={"batch": PartialRates(input=Decimal(1), output=Decimal(4))},
    deprecation_date=date(2027, 3, 1),
    source="test",
    checked_on=DAY,
)
HAIKU = TokenPrice(
    usd_per_million_input_tokens=Decimal(1),
    usd_per_million_cached_input_tokens=Decimal("0.1"),
    usd_per_million_cache_write_5m_tokens=Decimal("1.25"),
    usd_per_million_cache_write_1h_tokens=Decimal(2),
    usd_per_million_output_tokens=Decimal(5),
    source="test",
    checked_on=DAY,
)
CALLS = UsageGroup(
    day=DAY,
    workload="claims",
    grouped_by="tag",
    provider="openai",
    model="sol",
    service_tier="standard",
    region="",
    context_over=0,
    n_calls=100,
    n_failed=1,
    input_tokens=1_000_000,
    cached_input_tokens=400_000,
    cache_write_5m_tokens=0,
    cache_write_1h_tokens=0,
    output_tokens=20_000,
    reasoning_tokens=5_000,
    n_without_usage=0,
    usd_reported=None,
    is_sum=False,
)


def sol(**changes: object) -> Charge:
    return spend.charge(replace(CALLS, **changes), "openai/sol", SOL)  # pyright: ignore[reportArgumentType]


def haiku(**changes: object) -> Charge:
    group = replace(CALLS, provider="anthropic", model="haiku", **changes)  # pyright: ignore[reportArgumentType]
    return spend.charge(group, "anthropic/haiku", HAIKU)


def unknown(**changes: object) -> Charge:
    return spend.charge(replace(CALLS, provider="", model="mystery", **changes), None, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("charge", "usd"),
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
def test_a_group_is_priced_by_its_tier_and_its_prompt_length(charge: Charge, usd: str) -> None:
    assert charge.why_not == ""
    assert charge.usd == Decimal(usd)


def test_what_has_no_price_has_no_dollars_and_a_reason() -> None:
    assert unknown().usd is None
    assert unknown().why_not == "no price is known for mystery"
    tier = sol(service_tier="flex")
    assert tier.usd is None
    assert tier.why_not == "openai/sol has no price for the service tier flex"
    written = sol(cache_write_1h_tokens=1)
    assert written.usd is None
    assert "one-hour cache write" in written.why_not
    no_day = spend.charge(CALLS, "openai/sol", None)
    assert no_day.why_not == "openai/sol has no price on 2026-11-02"
    silent = sol(input_tokens=0, cached_input_tokens=0, output_tokens=0, n_without_usage=100)
    assert silent.usd is None
    assert silent.why_not == "the log does not state the tokens"


def test_a_sum_states_what_is_not_in_it() -> None:
    total = spend.summed([sol(), haiku(n_without_usage=10), unknown(n_calls=50)])
    # 1.48 and 0.6 x 1 + 0.4 x 0.1 + 0.02 x 5 = 0.74
    assert total.usd == Decimal("2.22")
    assert total.usd_by_class == {
        "fresh_input": Decimal("1.8"),  # 1.20 + 0.60
        "cached_input": Decimal("0.12"),  # 0.08 + 0.04
        "cache_write_5m": 0,
        "cache_write_1h": 0,
        "output": Decimal("0.3"),  # 0.20 + 0.10
    }
    assert (total.n_calls, total.n_calls_priced, total.n_failed) == (250, 190, 3)
    assert (total.n_tokens, total.n_tokens_priced) == (3_060_000, 2_040_000)
    assert total.why_not == (
        "no price is known for mystery (50 calls)",
        "the log does not state the tokens (10 calls)",
    )
    nothing = spend.summed([unknown()])
    assert nothing.usd is None
    assert nothing.usd_by_class == {}


def test_a_month_is_730_and_a_half_hours_at_the_same_pace() -> None:
    # $24 in 10 days of 24 hours: 10 cents an hour
    assert spend.per_month(Decimal(24), 10) == Decimal("73.05")
    assert spend.per_month(None, 10) is None


def test_workloads_are_ranked_by_dollars_and_the_unpriced_follow() -> None:
    charges = [
        unknown(workload="dark", input_tokens=9_000_000),
        haiku(workload="small"),
        sol(workload="big"),
        haiku(workload="big", output_tokens=100_000),
    ]
    machine = Machine(name="h100", description="", usd_per_hour=Decimal("0.05"))
    big, small, dark = spend.workloads(charges, {}, 1, machine)
    assert [each.workload for each in (big, small, dark)] == ["big", "small", "dark"]
    # 1.48 + 0.6 + 0.04 + 0.5 = 2.62 in 24 hours; x 730.5 / 24 = 79.74625
    assert big.usd_per_month == Decimal("79.74625")
    assert {label: part.usd for label, part in big.by_model.items()} == {
        "openai/sol": Decimal("1.48"),
        "anthropic/haiku": Decimal("1.14"),
    }
    # 2.62 / 24 = 0.109 dollars an hour: two machines at 0.05
    assert big.n_machines_paid == 2
    assert small.n_machines_paid == 0
    assert (dark.usd_per_month, dark.n_machines_paid) == (None, None)
    assert dark.by_model["mystery"].usd is None
    assert big.by_model["openai/sol"].usd_by_class["output"] == Decimal("0.2")
    # 200 calls a day x 30.4375 days
    assert big.calls_per_month == 6088


def test_signs_say_what_was_found() -> None:
    hours = dict.fromkeys(range(24), 10) | {5: 40}
    [one] = spend.workloads([sol(n_calls=270)], {"claims": hours}, 1, None)
    assert [(sign.name, sign.holds) for sign in one.signs] == [
        ("one model", True),
        ("short outputs", True),
        ("steady traffic", True),  # 40 calls in the busiest hour, 270 / 24 = 11.25 in the mean
        ("batchable", None),
    ]
    assert one.signs[2].figure == "busiest hour 3.6 times the mean; limit 4"
    [two] = spend.workloads([sol(n_calls=10), haiku(service_tier="batch")], {}, 1, None)
    # 1.48 of the tokens' dollars; haiku has no batch price, so tokens count: half and half
    assert [sign.holds for sign in two.signs] == [False, False, None, True]
    assert two.signs[1].figure == "364 output tokens a call; limit 300"  # 40,000 / 110
    assert two.signs[3].figure == "91 % of the calls came as batches"  # 100 / 110


def test_the_hours_of_the_week_begin_on_monday() -> None:
    monday = int(datetime(2026, 11, 2, 0, tzinfo=UTC).timestamp()) // 3600
    shape = spend.traffic({monday: 1, monday + 24 * 7: 2, monday + 24 * 6 + 23: 3}, 14)
    assert shape is not None
    assert (shape.hour_of_week[0], shape.hour_of_week[167], sum(shape.hour_of_week)) == (3, 3, 6)
    assert shape.busiest_hour == datetime(2026, 11, 8, 23, tzinfo=UTC)
    assert shape.peak_to_mean == 3 * 14 * 24 / 6
    assert spend.traffic({}, 14) is None


def test_sums_without_a_number_of_calls_are_not_no_calls() -> None:
    [one] = spend.workloads([sol(), sol(n_calls=0, is_sum=True)], {}, 1, None)
    assert one.spend.usd == Decimal("2.96")
    assert one.spend.n_tokens_without_calls == 1_020_000
    assert one.calls_per_month is None
    assert one.signs[1].holds is None
    assert one.signs[1].figure == "the log does not say how many calls it sums"


def test_what_the_cache_saved_and_what_filling_it_cost() -> None:
    found = spend.caching([sol(), haiku(cache_write_5m_tokens=100_000), unknown()])
    assert found.hit_share == 0.4
    # 0.4 x (2 - 0.2) + 0.4 x (1 - 0.1) = 0.72 + 0.36
    assert found.usd_saved_reading == Decimal("1.08")
    assert found.usd_extra_writing == Decimal("0.025")  # 0.1 x (1.25 - 1)
    assert spend.caching([unknown()]).usd_saved_reading is None


def test_what_batches_would_save_counts_only_calls_that_have_a_batch_price() -> None:
    found = spend.batching([sol(), sol(service_tier="batch"), haiku()])
    assert (found.n_calls, found.n_calls_batched) == (100, 100)
    assert (found.usd, found.usd_saved) == (Decimal("1.48"), Decimal("0.76"))  # 1.48 - 0.72
    nothing = spend.batching([haiku()])
    assert (nothing.usd, nothing.usd_saved) == (None, None)


def test_models_and_days() -> None:
    charges = [sol(), sol(day=date(2026, 11, 4)), haiku(), unknown()]
    models = spend.models(charges, 3)
    assert [(m.provider, m.model, m.price) for m in models] == [
        ("openai", "sol", "openai/sol"),
        ("anthropic", "haiku", "anthropic/haiku"),
        ("", "mystery", None),
    ]
    assert models[0].spend.usd == Decimal("2.96")
    days = spend.days(charges)
    assert [(each.day.day, each.n_calls, each.usd) for each in days] == [
        (2, 300, Decimal("2.22")),
        (4, 100, Decimal("1.48")),
    ]


def test_models_that_go_away_within_180_days_are_named() -> None:
    [found] = spend.retirements([sol(), haiku()], date(2026, 11, 21), 1)
    assert (found.model, found.on, found.days_left) == ("sol", date(2027, 3, 1), 100)
    [past] = spend.retirements([sol()], date(2027, 3, 3), 1)
    assert past.days_left == -2
    # 180 days before the first of March is the second of September
    assert spend.retirements([sol()], date(2026, 9, 2), 1) != ()
    assert spend.retirements([sol()], date(2026, 9, 1), 1) == ()


def test_sums_beside_single_calls_of_the_same_day_are_named() -> None:
    assert spend.counted_twice([sol(), sol(is_sum=True, day=date(2026, 11, 3))]) == ()
    [note] = spend.counted_twice([sol(), sol(is_sum=True), haiku()])
    assert note.startswith("openai/sol: on 1 day the logs")


def billed(day: int, usd: str, provider: str = "openai") -> BilledLine:
    return BilledLine(
        day=date(2026, 11, day), provider=provider, project="", description="", usd=Decimal(usd)
    )


def test_a_cost_report_is_held_against_the_same_days() -> None:
    charges = [sol(), sol(day=date(2026, 11, 3)), sol(day=date(2026, 11, 4)), haiku()]
    total, *days = reconcile.compare(
        charges, [billed(2, "1"), billed(2, "0.48"), billed(3, "1.40"), billed(7, "5")], {}
    )
    # Both cover the 2nd and the 3rd: 2.96 of ours, 2.88 of theirs.
    assert (total.day, total.usd_list, total.usd_stated) == (None, Decimal("2.96"), Decimal("2.88"))
    assert total.usd_difference == Decimal("0.08")
    assert total.share == pytest.approx(0.08 / 2.88)
    assert total.agrees is False
    assert "$5.00 billed on 1 day without a logged call" in total.note
    assert "1 day of the logs not in the cost report" in total.note
    assert [(d.day and d.day.day, d.usd_list, d.usd_stated, d.agrees) for d in days] == [
        (2, Decimal("1.48"), Decimal("1.48"), True),
        (3, Decimal("1.48"), Decimal("1.40"), False),
        (4, Decimal("1.48"), None, None),
        (7, None, Decimal(5), None),
    ]


def test_half_a_per_cent_is_tolerated_and_no_more() -> None:
    def agrees(usd: str) -> bool | None:
        return reconcile.compare([sol()], [], {"openai": Decimal(usd)})[0].agrees

    # 1.48 / 1.005 = 1.47263...; 1.48 / 0.995 = 1.48743...
    assert agrees("1.4727")
    assert not agrees("1.4726")
    assert agrees("1.4874")
    assert not agrees("1.4875")


def test_an_invoice_is_of_one_provider_or_of_all() -> None:
    charges = [sol(), haiku(), unknown(n_calls=7)]
    all_of_them, one = reconcile.compare(
        charges, [], {"": Decimal("2.22"), "openai": Decimal("1.85")}
    )
    assert (all_of_them.usd_difference, all_of_them.agrees) == (0, True)
    assert all_of_them.note == "7 logged calls without a price"
    assert (one.usd_difference, one.share) == (Decimal("-0.37"), -0.2)


def test_the_logs_own_dollars_are_compared_for_the_calls_that_carry_some() -> None:
    charges = [
        sol(usd_reported=Decimal("1.60")),
        sol(day=date(2026, 11, 3)),
        unknown(usd_reported=Decimal(3)),
    ]
    unpriced, ours = reconcile.compare(charges, [], {})
    assert (ours.subject, ours.against) == ("openai/sol", "log")
    assert (ours.usd_list, ours.usd_stated) == (Decimal("1.48"), Decimal("1.60"))
    assert unpriced.subject == "mystery"
    assert (unpriced.usd_list, unpriced.usd_stated, unpriced.agrees) == (None, Decimal(3), None)


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
    assert found <= set(spend.thresholds())
