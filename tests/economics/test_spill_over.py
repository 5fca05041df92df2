"""Own machines for the base of the load, by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pipelines.core.hardware import Figure
from pipelines.economics.fleet import Shape
from pipelines.economics.own_cost import Owning
from pipelines.economics.spill_over import best, taken_share

MONTH = 2_629_800
"""Seconds, so that this many tasks are one a second."""


def owning(operations: str = "0", headroom: str = "0") -> Owning:
    """$1 an hour for 1 call/s; the rate is 2, 1, 1 and 0 calls/s in turn."""
    symbols = {
        "usd_per_machine_hour": "1",
        "capacity_per_s": "1",
        "cold_start_s": "0",
        "headroom": headroom,
        "calls_per_task": "1",
        "retries_per_call": "0",
        "operations_usd_per_month": operations,
    }
    return Owning(
        shape=Shape(window_s=3600, windows=(2, 1, 1, 0), hours=(2, 1, 1, 0)),
        symbols={name: Figure.of(value) for name, value in symbols.items()},
        spares=0,
        min_replicas=1,
        scaling="always_on",
    )


def api(usd_per_month: int) -> Decimal:
    return Decimal(usd_per_month) / MONTH


def test_each_machine_takes_its_slice_of_the_curve() -> None:
    # Of 2 + 1 + 1 + 0 the first takes 1 + 1 + 1, the second the rest of the first hour.
    curve = ((2.0, 10.0), (1.0, 10.0), (1.0, 10.0), (0.0, 10.0))
    assert [taken_share(curve, n, 1.0) for n in range(3)] == [0.75, 0.25, 0]


def test_machines_are_added_while_their_calls_are_worth_them() -> None:
    # The API asks $1,000: the first machine's share of 750 is worth $730.50, the second's 250 is
    # not. Together 730.50 + 250 = $980.50; two machines alone cost $1,461.
    found = best(owning(), api(1000), MONTH)
    assert found.n_replicas == 1
    assert found.spilled_share == pytest.approx(0.25)
    assert found.usd_per_month == pytest.approx(Decimal("980.5"))
    assert found.own_usd_per_month == 1461
    assert found.api_usd_per_month == pytest.approx(Decimal(1000))
    assert found.is_cheapest


def test_a_dear_api_takes_nothing() -> None:
    # A quarter of $3,000 is worth the second machine, too: $1,461, as much as owning alone.
    found = best(owning(), api(3000), MONTH)
    assert (found.n_replicas, found.spilled_share) == (2, 0)
    assert found.usd_per_month == found.own_usd_per_month == 1461
    assert not found.is_cheapest


def test_a_cheap_api_takes_all() -> None:
    # Three quarters of $900 are not worth one machine.
    found = best(owning(), api(900), MONTH)
    assert (found.n_replicas, found.spilled_share) == (0, 1)
    assert found.usd_per_month == found.api_usd_per_month
    assert not found.is_cheapest


def test_people_are_paid_once_there_is_a_machine() -> None:
    # $980.50 and $30 for operations are more than the API's $1,000.
    assert best(owning(operations="19"), api(1000), MONTH).n_replicas == 1
    assert best(owning(operations="30"), api(1000), MONTH).n_replicas == 0


def test_headroom_spills_earlier() -> None:
    # With 1 / 1.25 = 0.8 calls/s the first machine takes 3 x 0.8 / 4 = 0.6, the second 0.8 + 0.2
    # + 0.2 = 0.3, the third 0.1: worth 1,500, 750 and 250 of $2,500 against $730.50.
    found = best(owning(headroom="0.25"), api(2500), MONTH)
    assert found.n_replicas == 2
    assert found.spilled_share == pytest.approx(0.1)
    # 2 x 730.50 + 250 = 1,711; alone ceil(2.5) = 3 machines: 2,191.50.
    assert found.usd_per_month == pytest.approx(Decimal(1711))
    assert found.own_usd_per_month == Decimal("2191.5")
