"""Dollars, computed by hand in the line above each expectation."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from pipelines.core.prices import TokenPrice
from pipelines.core.records import Response, Usage
from pipelines.core.workload import Traffic
from pipelines.economics import candidate_cost
from pipelines.economics.price_book import load_prices
from pipelines.economics.token_cost import mean_usd, usd_of_call

PRICE = TokenPrice(
    usd_per_million_input_tokens=Decimal("3.00"),
    usd_per_million_cached_input_tokens=Decimal("0.30"),
    usd_per_million_output_tokens=Decimal("15.00"),
    source="test",
    checked_on=date(2026, 11, 21),
)


def response(usage: Usage | None, error: str | None = None) -> Response:
    return Response(
        example_id="e",
        request_sha256="0",
        text=None if error else "a",
        error=error,
        usage=usage,
        model="m",
        started_at_s=0,
        latency_s=1,
    )


def test_cached_tokens_are_billed_at_the_cached_rate() -> None:
    # 0.4 M fresh x $3 + 0.6 M cached x $0.30 + 0.1 M out x $15 = 1.20 + 0.18 + 1.50 = $2.88
    usage = Usage(input_tokens=1_000_000, cached_input_tokens=600_000, output_tokens=100_000)
    assert usd_of_call(PRICE, usage) == Decimal("2.88")


def test_without_a_cached_price_cached_tokens_cost_the_full_one() -> None:
    # 1 M x $3 + 0.1 M x $15 = $4.50
    price = PRICE.model_copy(update={"usd_per_million_cached_input_tokens": None})
    usage = Usage(input_tokens=1_000_000, cached_input_tokens=600_000, output_tokens=100_000)
    assert usd_of_call(price, usage) == Decimal("4.50")


def test_a_cached_price_of_zero_is_a_price() -> None:
    # 0.4 M x $3 + 0.6 M x $0 + 0 = $1.20
    price = PRICE.model_copy(update={"usd_per_million_cached_input_tokens": Decimal(0)})
    usage = Usage(input_tokens=1_000_000, cached_input_tokens=600_000, output_tokens=0)
    assert usd_of_call(price, usage) == Decimal("1.20")


def test_the_mean_is_over_answered_calls_and_unknown_without_usage() -> None:
    # (100 x 3 + 10 x 15) / 1e6 = $0.00045 and (300 x 3 + 30 x 15) / 1e6 = $0.00135: mean 0.0009
    two = [
        response(Usage(input_tokens=100, output_tokens=10)),
        response(Usage(input_tokens=300, output_tokens=30)),
        response(None, error="HTTP 500"),
    ]
    assert mean_usd(PRICE, two) == Decimal("0.0009")
    assert mean_usd(PRICE, [*two, response(None)]) is None
    assert mean_usd(PRICE, []) is None


def test_the_catalog_of_mlflow_gives_source_and_date() -> None:
    # gpt-5.2 in the catalog of MLflow 3.17.2: $1.75 in, $0.175 cached, $14 out.
    price = load_prices({"openai/gpt-5.2"}).token_price("openai/gpt-5.2")
    assert price.usd_per_million_input_tokens == Decimal("1.75")
    assert price.usd_per_million_cached_input_tokens == Decimal("0.175")
    assert price.usd_per_million_output_tokens == Decimal("14.0")
    assert "MLflow" in price.source
    assert price.checked_on.year == 2026


def traffic(tasks: int) -> Traffic:
    return Traffic(tasks_per_month=tasks, peak_to_mean=4)


def test_rented_costs_grow_with_every_task() -> None:
    cost = candidate_cost.rented(Decimal("0.0009"), traffic(1_000_000))
    assert cost.usd_per_month == Decimal("900.0000")
    assert candidate_cost.rented(None, traffic(1)).usd_per_month is None


def test_a_good_task_costs_more_than_a_task() -> None:
    # $0.002 a task, 80 % right: $0.0025 per good one.
    assert candidate_cost.usd_per_good_task(Decimal("0.002"), 0.8) == Decimal("0.0025")
    assert candidate_cost.usd_per_good_task(Decimal("0.002"), 0.0) is None
    assert candidate_cost.usd_per_good_task(None, 0.8) is None
