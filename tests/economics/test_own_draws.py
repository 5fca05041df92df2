"""Owning in many states of the world: its bill is drawn, not only its ends."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from pipelines.core.hardware import Figure
from pipelines.economics import fleet, own_draws
from pipelines.economics.own_cost import Owning

FLAT = fleet.Shape(window_s=3600, windows=(1.0,), hours=(1.0,))


def figure(low: str, likely: str, high: str) -> Figure:
    return Figure(low=Decimal(low), likely=Decimal(likely), high=Decimal(high))


def owning(**symbols: Figure) -> Owning:
    fixed = {
        "usd_per_machine_hour": Figure.of(2),
        "capacity_per_s": Figure.of(10),
        "cold_start_s": Figure.of(0),
        "headroom": Figure.of(0),
        "calls_per_task": Figure.of(1),
        "retries_per_call": Figure.of(0),
    }
    return Owning(
        shape=FLAT, symbols=fixed | symbols, spares=0, min_replicas=1, scaling="always_on"
    )


def drawn(own: Owning, n: int = 4000, candidate: str = "a", volume: int = 1000) -> np.ndarray:
    tasks = np.full(n, float(volume))
    return own_draws.usd_per_task(own, tasks, candidate=candidate, machine="box")


def test_what_is_certain_is_the_bill_over_its_tasks() -> None:
    # One machine all month: 730.5 h x $2 = $1,461; over 1,000 tasks $1.461.
    assert drawn(owning(), n=3).tolist() == pytest.approx([1.461] * 3)


def test_a_price_with_a_range_gives_a_range_of_dollars() -> None:
    found = drawn(owning(usd_per_machine_hour=figure("1", "2", "3")))
    # PERT from 1 to 3 about 2: mean 2, standard deviation (3 - 1) / sqrt(28) = 0.378.
    assert found.mean() == pytest.approx(1.461, rel=0.01)
    assert found.std() == pytest.approx(0.378 * 0.7305, rel=0.05)
    assert 0.7305 < found.min() < found.max() < 3 * 0.7305


def test_the_volume_spreads_what_does_not_grow() -> None:
    volume = own_draws.drawn_volume(figure("500", "1000", "2000"), 2000)
    found = own_draws.usd_per_task(owning(), volume, candidate="a", machine="box")
    assert found == pytest.approx(1461 / volume)


def test_one_price_of_a_machine_for_all_candidates_on_it_and_a_capacity_for_each() -> None:
    price = owning(usd_per_machine_hour=figure("1", "2", "3"))
    assert (drawn(price, candidate="a") == drawn(price, candidate="b")).all()
    # 20 tasks a second need 1 to 4 machines of 5 to 20 a second.
    capacity = owning(capacity_per_s=figure("5", "10", "20"))
    volume = round(20 * fleet.SECONDS_PER_MONTH)
    one, other = (drawn(capacity, candidate=name, volume=volume) for name in "ab")
    assert one.tolist() != other.tolist()
    assert one.mean() == pytest.approx(other.mean(), rel=0.05)
