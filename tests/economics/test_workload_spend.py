"""Workloads, their traffic and their signs, by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from pipelines.core.audit import Machine
from pipelines.economics.workload_spend import traffic, workloads
from tests.economics.conftest import haiku, sol, unknown


def test_workloads_are_ranked_by_dollars_and_the_unpriced_follow() -> None:
    charges = [
        unknown(workload="dark", input_tokens=9_000_000),
        haiku(workload="small"),
        sol(workload="big"),
        haiku(workload="big", output_tokens=100_000),
    ]
    machine = Machine(name="h100", description="", usd_per_hour=Decimal("0.05"))
    big, small, dark = workloads(charges, {}, 1, machine)
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
    [one] = workloads([sol(n_calls=270)], {"claims": hours}, 1, None)
    assert [(sign.name, sign.holds) for sign in one.signs] == [
        ("one model", True),
        ("short outputs", True),
        ("steady traffic", True),  # 40 calls in the busiest hour, 270 / 24 = 11.25 in the mean
        ("batchable", None),
    ]
    assert one.signs[2].figure == "busiest hour 3.6 times the mean; limit 4"
    [two] = workloads([sol(n_calls=10), haiku(service_tier="batch")], {}, 1, None)
    # 1.48 of the tokens' dollars; haiku has no batch price, so tokens count: half and half
    assert [sign.holds for sign in two.signs] == [False, False, None, True]
    assert two.signs[1].figure == "364 output tokens a call; limit 300"  # 40,000 / 110
    assert two.signs[3].figure == "91 % of the calls came as batches"  # 100 / 110


def test_the_hours_of_the_week_begin_on_monday() -> None:
    monday = int(datetime(2026, 11, 2, 0, tzinfo=UTC).timestamp()) // 3600
    shape = traffic({monday: 1, monday + 24 * 7: 2, monday + 24 * 6 + 23: 3}, 14)
    assert shape is not None
    assert (shape.hour_of_week[0], shape.hour_of_week[167], sum(shape.hour_of_week)) == (3, 3, 6)
    assert shape.busiest_hour == datetime(2026, 11, 8, 23, tzinfo=UTC)
    assert shape.peak_to_mean == 3 * 14 * 24 / 6
    assert traffic({}, 14) is None


def test_sums_without_a_number_of_calls_are_not_no_calls() -> None:
    [one] = workloads([sol(), sol(n_calls=0, is_sum=True)], {}, 1, None)
    assert one.spend.usd == Decimal("2.96")
    assert one.spend.n_tokens_without_calls == 1_020_000
    assert one.calls_per_month is None
    assert one.signs[1].holds is None
    assert one.signs[1].figure == "the log does not say how many calls it sums"
