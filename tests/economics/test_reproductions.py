"""Published figures of what owning costs, found again by the same code that decides."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

import pytest

from pipelines.core.hardware import Figure, Hardware
from pipelines.core.own_costs import OwnCosts
from pipelines.core.workload import Traffic
from pipelines.economics import own_cost, published
from pipelines.economics.break_even import volume
from pipelines.economics.fleet import Shape, shape_of
from pipelines.economics.gpu_hour import usd_per_million_output_tokens
from pipelines.economics.own_cost import Owning

TRACE = "$FREEHOLD_DATA/azure_llm_2023/AzureLLMInferenceTrace_%s.csv"
needs_data = pytest.mark.skipif("FREEHOLD_DATA" not in os.environ, reason="needs FREEHOLD_DATA")


def near(value: float, written: str) -> bool:
    """Within 1 %, or equal in the digits that are written."""
    digits = len(written.partition(".")[2])
    return value == pytest.approx(float(written), rel=0.01, abs=0.5 * 10**-digits)


# --- Break-even of an 8B model in FP8 on one H100, 512 tokens in, 256 out, at 22.5 calls/s ---

USD_PER_CALL = {
    # (512 x input + 256 x output) / 1e6
    "gpt-6.1-sol": (2, 10),
    "haiku-4-5": (1, 5),
    "gemini-3.1-flash-lite": ("0.25", "1.5"),
    "gpt-6-luna": ("0.1", "0.5"),
    "hosted 8B": ("0.18", "0.18"),
}


def usd_per_call(api: str) -> Decimal:
    tokens_in, tokens_out = map(Decimal, USD_PER_CALL[api])
    return (512 * tokens_in + 256 * tokens_out) / 1_000_000


def h100(spares: int, beside: int) -> Owning:
    """$2.95 an hour, 730.5 h, flat but for a busiest minute of four times the mean, no headroom."""
    price = {"low": 2.95, "likely": 2.95, "high": 2.95, "source": "t", "checked_on": "2026-11-20"}
    hardware = {"name": "m", "description": "", "rental": {"on_demand": price}, "cold_start_s": 0}
    costs: dict[str, Any] = {"operations_usd_per_month": beside, "headroom": 0, "spares": spares}
    return own_cost.owning(
        Figure.of("22.5"),
        Hardware.model_validate(hardware),
        Traffic(tasks_per_month=1, peak_to_mean=4),
        OwnCosts.model_validate(costs | {"source": "test"}),
        tuned=False,
    )


FLEETS = {
    # One machine, nobody; a spare and a tenth of $200,000; a quarter of it and $2,000 for tuning.
    "1 replica": (h100(0, 0), "2155"),
    "2 replicas + 0.1 FTE": (h100(1, 1667), "5977"),
    "2 replicas + 0.25 FTE + tuning": (h100(1, 4167 + 2000), "10477"),
}


@pytest.mark.parametrize(
    ("fleet", "api", "millions", "reached"),
    [
        ("1 replica", "gpt-6.1-sol", "0.60", True),
        ("1 replica", "haiku-4-5", "1.2", True),
        ("1 replica", "gemini-3.1-flash-lite", "4.2", True),
        ("1 replica", "gpt-6-luna", "12.0", True),
        ("1 replica", "hosted 8B", "15.6", False),
        ("2 replicas + 0.1 FTE", "gpt-6.1-sol", "1.7", True),
        ("2 replicas + 0.1 FTE", "haiku-4-5", "3.3", True),
        ("2 replicas + 0.1 FTE", "gemini-3.1-flash-lite", "11.7", True),
        ("2 replicas + 0.1 FTE", "gpt-6-luna", "33", False),
        ("2 replicas + 0.1 FTE", "hosted 8B", "43", False),
        ("2 replicas + 0.25 FTE + tuning", "gpt-6.1-sol", "2.9", True),
        ("2 replicas + 0.25 FTE + tuning", "haiku-4-5", "5.9", True),
        ("2 replicas + 0.25 FTE + tuning", "gemini-3.1-flash-lite", "20", False),
        ("2 replicas + 0.25 FTE + tuning", "gpt-6-luna", "58", False),
        ("2 replicas + 0.25 FTE + tuning", "hosted 8B", "76", False),
    ],
)
def test_break_even_of_a_fleet_that_stays_as_it_is(
    fleet: str, api: str, millions: str, reached: bool
) -> None:
    """All 15 cells; where a fleet cannot carry the volume that would pay for it, there is none."""
    own, usd = FLEETS[fleet]
    price = usd_per_call(api)
    at = own.at("likely")
    bill = own_cost.usd_per_month(own, 1, at)
    assert near(float(bill), usd)
    assert near(float(bill / price) / 1e6, millions)
    size = own_cost.machines(own, 1, at).n_replicas
    found = volume(own, price, max_replicas=size)
    assert (found is not None) == reached
    if found is not None:
        assert near(found / 1e6, millions)


def test_a_fleet_that_grows_reaches_some_and_never_others() -> None:
    # A machine carries 22.5 / 4 x 2,629,800 = 14.79 M calls for $2,155: $0.1457 per 1,000. At
    # luna's $0.1792 there is a volume, at the hosted model's $0.1382 there is none.
    own, _ = FLEETS["2 replicas + 0.1 FTE"]
    found = volume(own, usd_per_call("gpt-6-luna"))
    assert found is not None
    # 8 machines carry 118.3 M: (8 + 1) x 2,155 + 1,667 = 21,062 / 0.0001792 = 117.5 M.
    assert near(found / 1e6, "117.5")
    assert own_cost.machines(own, found, own.at("likely")).n_replicas == 9
    assert volume(own, usd_per_call("hosted 8B")) is None


# --- Cost of output tokens as the load of one GPU grows: arXiv 2606.11690 and its raw data ---

H100_FP16 = {"1": 255, "10": 2464, "25": 5265, "200": 6238}
H100_FP8 = {"10": 2493, "25": 5753, "200": 8155}
"""Offered requests per second -> output tokens per second, Llama-3.1-8B, 512 in, 256 out."""
H100_USD = Decimal("6.98")


def per_million(tokens_per_s: float) -> float:
    usd = usd_per_million_output_tokens(H100_USD, tokens_per_s)
    assert usd is not None
    return float(usd)


def test_a_token_costs_less_the_more_there_are() -> None:
    # 6.98 / (255 x 0.0036) = 7.60; / (2,464 x 0.0036) = 0.787; 0.368; 0.311.
    curve = [per_million(rate) for rate in H100_FP16.values()]
    assert curve == pytest.approx([7.603, 0.787, 0.368, 0.311], rel=0.002)
    # Their penalty of low load, 2.5 to 24 times from 10 down to 1 request a second.
    assert curve[1] / curve[-1] == pytest.approx(2.5, rel=0.02)
    assert curve[0] / curve[-1] == pytest.approx(24, rel=0.02)
    assert per_million(H100_FP8["200"]) == pytest.approx(0.238, rel=0.002)


def test_the_ends_of_the_published_range() -> None:
    """$0.21 to $15.25 per million. Neither end is one of the rows that we have: the dear one is
    half a request per second of 256 tokens, the cheap one lies between the saturation of these
    requests and the 9,631 tokens/s of their chat requests."""
    assert per_million(0.5 * 256) == pytest.approx(15.25, rel=0.01)
    assert per_million(9631) < 0.21 < per_million(H100_FP8["200"])


# --- Months until bought hardware is paid for: arXiv 2509.18101 ---


@pytest.mark.parametrize("box", published.BOXES, ids=lambda box: box.model)
def test_their_months_under_their_assumptions(box: published.Box) -> None:
    """36 of 45 cells; Gemini 2.5 Pro's nine do not follow from the price that they list for it."""
    for name, api in published.APIS.items():
        months = published.months_to_break_even(box, api)
        assert months is not None
        known = float(box.published_months[name])
        # As rounded as theirs; 1.45 months are 1.4 to them.
        assert float(months) == pytest.approx(known, rel=0.015, abs=0.06), name


def regime(low: int, high: int) -> tuple[float, float]:
    """Fewest and most months of the models from `low` to `high` billions of parameters."""
    found = [
        float(months)
        for box in published.BOXES
        for api in published.APIS.values()
        if low <= box.billions <= high and (months := published.months_to_break_even(box, api))
    ]
    return min(found), max(found)


def test_their_regimes() -> None:
    # Up to 32B 0.3 to 3.0 months, 70B to 120B 2.3 to 34.0, beyond 4.3 to 69.3.
    assert regime(0, 32) == pytest.approx((0.3, 3.0), rel=0.05)
    assert regime(70, 120) == pytest.approx((2.3, 34.0), rel=0.02)
    assert regime(200, 1000) == pytest.approx((4.3, 69.3), rel=0.02)


def test_traffic_that_is_not_flat_takes_longer_by_hand() -> None:
    # A peak of 4 times the mean uses a quarter of a machine, an eighth of one and a spare.
    shape = Shape(window_s=3600, windows=(1.0,), hours=(4.0,))
    assert published.real_utilisation(shape, spares=0) == pytest.approx(0.25)
    assert published.real_utilisation(shape, spares=1) == pytest.approx(0.125)
    # 200 tokens/s x 3,600 x 176 = 126.72 M; x (1.25 + 2 x 10) / 3 = $897.60 full, $224.40 at a
    # quarter; electricity 0.575 x 176 x 0.15 = $15.18: 2,000 / 209.22 = 9.559 months.
    box, api = published.BOXES[0], published.APIS["GPT-5"]
    assert published.months_to_break_even(box, api, 0.25) == pytest.approx(
        Decimal("9.559"), abs=Decimal("0.001")
    )
    # At 1.5 % the API asks $13.46: less than the electricity.
    assert published.months_to_break_even(box, api, 0.015) is None


@needs_data
def test_their_months_with_the_traffic_of_two_real_services() -> None:
    shapes = {
        name: shape_of(Traffic.model_validate({"tasks_per_month": 1, "timestamps": TRACE % name}))
        for name in ("conv", "code")
    }
    lines = published.table(shapes).splitlines()
    # The busiest minute of the code service has 4.16 times its mean, so 24 % are used, 12 % with
    # a spare: a 32B model is paid for after 10 and 22 months instead of 2.3.
    assert "code (24%)" in lines[0]
    assert "code, spare (12%)" in lines[0]
    assert lines[1].split() == ["EXAONE", "4.0", "32B", "2.26", "2.3", "3.5", "7.3", "10.0", "21.6"]
    assert len(lines) == 10
