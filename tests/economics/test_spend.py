"""Dollars of logged calls summed, by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from pipelines.economics import spend
from tests.economics.conftest import haiku, sol, unknown


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
