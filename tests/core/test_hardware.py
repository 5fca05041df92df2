"""Machines: what their files say, which contracts they have, and what is refused."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.core.candidate import Own
from pipelines.core.config import CONFIGS, load_study, read_yaml
from pipelines.core.errors import ConfigError
from pipelines.core.hardware import Figure, Hardware, Purchase, annuity
from pipelines.core.paths import ROOT

FILES = sorted((CONFIGS / "hardware").glob("*.yaml"))


def machine(**changes: Any) -> dict[str, Any]:
    price = {"low": 1, "likely": 2, "high": 4, "source": "test", "checked_on": "2026-11-21"}
    fields: dict[str, Any] = {
        "name": "m",
        "description": "",
        "rental": {"on_demand": price, "spot": {**price, "low": 1, "likely": 1, "high": 1}},
        "cold_start_s": 60,
    }
    return fields | changes


def test_a_number_is_a_figure_whose_ends_are_equal() -> None:
    figure = Figure.model_validate(2.5)
    assert (figure.low, figure.likely, figure.high) == (Decimal("2.5"),) * 3
    assert Figure.model_validate(figure.model_dump(mode="json")) == figure


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"low": 2, "likely": 1, "high": 3}, "must not fall"),
        ({"low": 1, "likely": 2}, "high"),
        (float("nan"), "finite"),
        ("cheap", "dictionary"),
        (True, "dictionary"),
    ],
)
def test_a_figure_that_is_none_is_refused(bad: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Figure.model_validate(bad)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_machine_says_where_each_price_is_from(path: Path) -> None:
    tree = read_yaml(path)
    hardware = Hardware.model_validate(tree)
    assert hardware.name == path.stem
    assert hardware.cold_start_s.source
    for contract in (*hardware.rental, *(["own"] if hardware.purchase else [])):
        priced = Hardware.model_validate({**tree, "contract": contract})
        assert priced.usd_per_hour > 0
        assert priced.source
        assert isinstance(priced.checked_on, date)


def test_a_candidate_chooses_the_contract() -> None:
    study = load_study(
        ROOT / "configs" / "quickstart.yaml",
        ["candidates=[frontier-standin, own-base]", "candidates.own-base.contract=spot"],
    )
    candidate = study.candidates["own-base"]
    assert isinstance(candidate, Own)
    assert candidate.hardware.contract == "spot"
    assert candidate.hardware.usd_per_hour == Decimal("1.25")
    # The record as it is saved reads back to the same.
    assert Own.model_validate(candidate.model_dump(mode="json")) == candidate


def test_a_contract_without_a_price_names_those_with_one() -> None:
    with pytest.raises(ConfigError, match=r"own-base\.hardware: contract reserved_3y.*on_demand"):
        load_study(
            ROOT / "configs" / "quickstart.yaml",
            ["candidates=[frontier-standin, own-base]", "candidates.own-base.contract=reserved_3y"],
        )


def test_a_rental_price_needs_source_and_date() -> None:
    with pytest.raises(ValidationError, match=r"rental\.on_demand: say source"):
        Hardware.model_validate(machine(rental={"on_demand": 2}))


def test_an_annuity_by_hand() -> None:
    # 2 payments x at 10 %: x / 1.1 + x / 1.21 = 210, so x (1.1 + 1) / 1.21 = 210 and x = 121.
    assert annuity(Decimal(210), Decimal("0.1"), Decimal(2)) == pytest.approx(Decimal(121))
    # Without interest, 210 / 2.
    assert annuity(Decimal(210), Decimal(0), Decimal(2)) == 105


PURCHASE: dict[str, Any] = {
    "server_usd": 200,
    "n_gpus": 2,
    "tax_share": 0.05,
    "network_share": 0.1,
    "spares_share": 0,
    "residual_usd": 20,
    "wacc": 0.1,
    "life_years": 2,
    "power_kw": 1,
    "pue": 1.5,
    "usd_per_kwh": 0.1,
    "colocation_usd_per_year": 30,
    "licence_usd_per_year": 11,
    "availability": 0.5,
    "source": "test",
    "checked_on": "2026-11-21",
}


def test_a_bought_gpu_hour_by_hand() -> None:
    # 200 x 1.15 - 20 = 210, an annuity of 121; 1 kW x 1.5 x $0.1 x 8,760 h = 1,314; + 30 + 11:
    # 1,476 a year over 2 GPUs x 8,760 h x 0.5 = 8,760 hours.
    bought = Purchase.model_validate(PURCHASE)
    assert bought.usd_per_gpu_hour().likely == pytest.approx(Decimal(1476) / 8760)
    # A machine with one of the two GPUs costs that, one with both twice as much.
    hardware = Hardware.model_validate(machine(contract="own", purchase=PURCHASE, n_gpus=2))
    assert hardware.usd_per_hour == pytest.approx(2 * Decimal(1476) / 8760)
    assert hardware.list_price.low == hardware.list_price.high == hardware.usd_per_hour


def test_the_low_end_of_a_purchase_is_a_long_life() -> None:
    # Without interest: 210 / 2, / 3 and / 1 a year instead of 121: 105, 70 and 210.
    spread = PURCHASE | {"wacc": 0, "life_years": {"low": 1, "likely": 2, "high": 3}}
    figure = Purchase.model_validate(spread).usd_per_gpu_hour()
    rest = Decimal(1314 + 30 + 11)
    expected = [(rest + 70) / 8760, (rest + 105) / 8760, (rest + 210) / 8760]
    assert [figure.low, figure.likely, figure.high] == pytest.approx(expected)


def test_a_purchase_is_worth_no_more_at_its_end() -> None:
    with pytest.raises(ValidationError, match="residual_usd may not exceed"):
        Purchase.model_validate(PURCHASE | {"residual_usd": 201})
