"""Break-even, payback and the tornado, computed by hand or by trying every volume."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from pipelines.core.hardware import Figure, Hardware
from pipelines.core.own_costs import Outlook, OwnCosts
from pipelines.core.workload import Traffic
from pipelines.economics import own_cost
from pipelines.economics.break_even import (
    API_PRICE,
    is_unclear,
    payback_months,
    swings,
    volume,
)
from pipelines.economics.own_cost import Owning

SIMPLE: dict[str, Any] = {
    "operations_usd_per_month": 1000, "headroom": 1, "spares": 0, "source": "test"
}  # fmt: skip


def owning(
    price: Any = 2, capacity: Any = 8, traffic: dict[str, Any] | None = None, **changes: Any
) -> Owning:
    """A machine of $2 an hour that carries 8 / 2 / 4 x 2,629,800 s = 2,629,800 tasks a month."""
    figure = Figure.model_validate(price)
    priced = figure.model_dump() | {"source": "test", "checked_on": "2026-11-21"}
    hardware = {"name": "m", "description": "", "rental": {"on_demand": priced}, "cold_start_s": 60}
    return own_cost.owning(
        Figure.model_validate(capacity),
        Hardware.model_validate(hardware),
        Traffic.model_validate({"tasks_per_month": 1, "peak_to_mean": 4} | (traffic or {})),
        OwnCosts.model_validate(SIMPLE | changes),
        tuned=False,
    )


def test_it_is_where_both_cost_the_same() -> None:
    # One machine costs 2 x 730.5 + 1,000 = $2,461 a month; at $0.002: 1,230,500 tasks.
    assert volume(owning(), Decimal("0.002")) == 1_230_500


def test_it_may_need_several_machines() -> None:
    # At $0.0008 a full machine takes in 2,629,800 x 0.0008 = $2,103.84 and costs $1,461: $642.84
    # towards $1,000. Two do: (1,000 + 2 x 1,461) / 0.0008 = 4,902,500, more than one carries.
    assert volume(owning(), Decimal("0.0008")) == 4_902_500
    assert volume(owning(), Decimal("0.0008"), max_replicas=2) == 4_902_500
    assert volume(owning(), Decimal("0.0008"), max_replicas=1) is None


def test_one_machine_more_may_lose_again_what_was_won() -> None:
    # At $0.001 one machine would meet it at 2,461,000 tasks, which it carries.
    found = volume(owning(), Decimal("0.001"))
    assert found == 2_461_000
    # Just above 2,629,800 tasks there are two: 3,922 > 2,629.80. The first volume is the answer.
    at = owning().at("likely")
    assert own_cost.usd_per_month(owning(), 2_629_801, at) > Decimal("0.001") * 2_629_801


def test_no_volume_helps_when_a_full_machine_costs_more_than_the_calls() -> None:
    # At $0.0005 a full machine takes in $1,314.90 and costs $1,461.
    assert volume(owning(), Decimal("0.0005")) is None
    assert volume(owning(), Decimal(0)) is None


def test_a_spare_moves_it() -> None:
    # Two machines for one: 2,922 + 1,000 = 3,922 / 0.002 = 1,961,000.
    assert volume(owning(spares=1), Decimal("0.002")) == 1_961_000


def test_the_ends_of_the_inputs_move_it() -> None:
    # At $1 an hour 1,730.50 / 0.002 = 865,250; at $4 3,922 / 0.002 = 1,961,000.
    own = owning(price={"low": 1, "likely": 2, "high": 4})
    ends = [volume(own, Decimal("0.002"), end=end) for end in ("low", "likely", "high")]
    assert ends == [865_250, 1_230_500, 1_961_000]


@pytest.mark.parametrize("scaling", ["always_on", "hourly"])
@pytest.mark.parametrize("spares", [0, 2])
@pytest.mark.parametrize("usd", ["0.08", "0.2", "0.25", "1.5"])
def test_no_smaller_volume_does(scaling: str, spares: int, usd: str) -> None:
    """Slow machines make small volumes, so that every one can be tried."""
    weights = [1 + hour % 24 for hour in range(168)]
    profile = {"name": "p", "description": "", "source": "test", "weights": weights}
    own = owning(
        price=0.01, capacity=0.0001, spares=spares, scaling=scaling,
        operations_usd_per_month=40, traffic={"profile": profile, "peak_to_mean": 1.5},
    )  # fmt: skip
    price, at = Decimal(usd), own.at("likely")
    found = volume(own, price)
    tried = (n for n in range(1, 4000) if own_cost.usd_per_month(own, n, at) <= price * n)
    assert found == next(tried, None)


def outlook(**changes: Any) -> Outlook:
    none = {"api_price_fall_per_month": 0, "growth_per_month": 0, "wacc": 0, "months": 60}
    return Outlook.model_validate({"upfront_usd": 100} | none | changes)


@pytest.mark.parametrize(
    ("changes", "months"),
    [
        # 100 tasks at $1 and a bill of $50: $50 a month, 2 x 50 = 100.
        ({}, 2),
        ({"upfront_usd": 101}, 3),
        ({"upfront_usd": 0}, 1),
        # 100 - 50, then 200 - 50.
        ({"growth_per_month": 1, "upfront_usd": 200}, 2),
        # 100 - 50 = 50, then 50 - 50 = 0, then less: never.
        ({"api_price_fall_per_month": 0.5}, None),
        # 5 % a month: 50 + 45 + 40.25 = 135.25.
        ({"api_price_fall_per_month": 0.05, "upfront_usd": 135}, 3),
        # Twice as much is asked of the money after a year: 50 / 1.0595 + 50 / 1.1225 = 91.74,
        # + 50 / 1.1892 = 133.78.
        ({"wacc": 1}, 3),
        ({"upfront_usd": 3000}, 60),
        ({"upfront_usd": 3001}, None),
    ],
)
def test_payback_by_hand(changes: dict[str, Any], months: int | None) -> None:
    found = payback_months(lambda _: Decimal(50), Decimal(1), 100, outlook(**changes))
    assert found == months


def test_payback_counts_the_machines_that_growth_needs() -> None:
    # The bill doubles with the tasks beyond 150: month 1: 100 - 50; month 2: 200 - 200.
    found = payback_months(
        lambda tasks: Decimal(50 if tasks <= 150 else 200),
        Decimal(1), 100, outlook(growth_per_month=1, months=2),
    )  # fmt: skip
    assert found is None


def test_the_tornado_by_hand() -> None:
    own = owning(
        price={"low": 1, "likely": 2, "high": 4},
        operations_usd_per_month={"low": 900, "likely": 1000, "high": 1100},
    )
    api = Figure.model_validate({"low": "0.001", "likely": "0.002", "high": "0.0021"})
    # 1,300,000 tasks: $2,600, $1,300 to $2,730; the bill $2,461, $1,730.50 to $3,922 by the price
    # of the machine and $2,361 to $2,561 by operations.
    found = {each.symbol: each for each in swings(own, api, 1_300_000)}
    assert list(found) == ["usd_per_machine_hour", API_PRICE, "operations_usd_per_month"]
    ends = [(each.saving_at_low, each.saving_at_high) for each in found.values()]
    assert ends == [(Decimal("869.5"), -1322), (-1161, 269), (239, 39)]
    assert [each.flips for each in found.values()] == [True, True, False]


def test_it_is_unclear_when_the_ends_contradict_each_other() -> None:
    own = Figure.model_validate({"low": 100, "likely": 200, "high": 300})
    answers = {99: False, 100: False, 101: True, 300: True, 301: False}
    assert {usd: is_unclear(own, Figure.of(usd)) for usd in answers} == answers
    # An API that may cost 290 to 310 or 90 to 110 is unclear, too; 301 to 400 is not.
    for ends, unclear in (((290, 310), True), ((90, 110), True), ((301, 400), False)):
        api = Figure.model_validate({"low": ends[0], "likely": ends[1], "high": ends[1]})
        assert is_unclear(own, api) == unclear


def test_a_known_input_has_no_swing() -> None:
    assert swings(owning(), Figure.of("0.002"), 1000) == ()
    # An hour's cold start means nothing to machines that are always on.
    slow = owning().model_copy(
        update={
            "symbols": owning().symbols
            | {"cold_start_s": Figure.model_validate({"low": 1, "likely": 60, "high": 3600})}
        }
    )
    assert swings(slow, Figure.of("0.002"), 1000) == ()


def test_more_capacity_never_costs_more() -> None:
    own = owning(capacity={"low": 4, "likely": 8, "high": 16})
    [swing] = swings(own, Figure.of("0.002"), 2_629_800)
    # 8 calls/s at the peak with headroom: 2 machines of 4 at the low end, 1 of 16 as of 8.
    assert swing.symbol == "capacity_per_s"
    assert swing.saving_at_high - swing.saving_at_low == 1461
