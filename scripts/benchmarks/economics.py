"""Dollars: hand-computed calls, usage logs by the million, load on a clock, the demo's capacity."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import audit_rows
import load
from evaluate import figure

N_CASES = 25


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    return [*_hand_computed(), *audit_rows.run(), *load.run()]


def _hand_computed() -> list[dict[str, Any]]:
    """The calls whose price the tests compute by hand, priced again."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from pipelines.economics.price_book import load_prices
    from pipelines.economics.token_cost import usd_of_call
    from tests.economics.test_token_cost import CASES

    prices = load_prices({case[0] for case in CASES})
    wrong = [
        case
        for case in CASES
        if usd_of_call(prices.token_price(case[0]), case[1], case[2]) != Decimal(case[3])
    ]
    return [
        figure("calls priced by hand", len(CASES), at_least=N_CASES),
        figure("of these priced otherwise", len(wrong), limit=0),
    ]
