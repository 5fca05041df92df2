"""Dollars of a machine hour, computed by hand in the line above each expectation."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pipelines.core.hardware import Hardware
from pipelines.economics.gpu_hour import usd_per_machine_hour, usd_per_million_output_tokens

PRICE = {"low": 1, "likely": 2, "high": 4, "source": "test", "checked_on": "2026-11-21"}


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        ("on_demand", (1, 2, 4)),
        # Of the reserved hours some are not used: 1 x 1.1, 2 x 1.25, 4 x 1.5.
        ("reserved_1y", ("1.1", "2.5", "6.0")),
    ],
)
def test_idle_reserved_hours_are_paid_too(contract: str, expected: tuple[str, ...]) -> None:
    hardware = Hardware.model_validate(
        {
            "name": "m",
            "description": "",
            "rental": {"on_demand": PRICE, "reserved_1y": PRICE},
            "idle_reserved_share": {"low": 0.1, "likely": 0.25, "high": 0.5},
            "cold_start_s": 60,
            "contract": contract,
        }
    )
    figure = usd_per_machine_hour(hardware)
    assert (figure.low, figure.likely, figure.high) == tuple(map(Decimal, expected))
    assert figure.source == "test"


def test_tokens_cost_what_the_hour_costs() -> None:
    # $7.20 an hour at 1,000 tokens a second: 3.6 million an hour, $2 each.
    assert usd_per_million_output_tokens(Decimal("7.2"), 1000) == 2
    assert usd_per_million_output_tokens(Decimal("7.2"), 0) is None
