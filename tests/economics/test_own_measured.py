"""A machine's dollars are multiplied and divided by what was measured on that machine alone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from pipelines.core import machine
from pipelines.core.candidate import Own
from pipelines.core.hardware import Figure, Hardware
from pipelines.core.own_costs import OwnCosts, Spent
from pipelines.core.results import BenchmarkResult, Cost, EvaluateResult, FinetuneResult
from pipelines.core.workload import Traffic, Workload
from pipelines.economics import own_cost
from pipelines.economics.own_measured import calls_per_s, owning, spent

H100 = "16 cores of Intel Xeon, NVIDIA H100 80GB HBM3"


def own(gpu: str | None) -> Own:
    price = {"low": 2, "likely": 2, "high": 2, "source": "test", "checked_on": "2026-11-21"}
    hardware = Hardware.model_validate(
        {
            "name": "box",
            "description": "",
            "gpu": gpu,
            "rental": {"on_demand": price},
            "cold_start_s": 60,
        }
    )
    return Own.model_construct(hardware=hardware, tuned=False)


def load(**changes: Any) -> BenchmarkResult:
    found: dict[str, Any] = {
        "run_id": "r1",
        "machine": H100,
        "capacity_per_s": 8.0,
        "capacity_low": 6.5,
        "capacity_high": 9.0,
        "limited_by": "latency_p95_s",
    }
    return BenchmarkResult.model_construct(**found | changes)


def test_a_load_test_on_the_machine_that_is_priced() -> None:
    found = calls_per_s(own("NVIDIA H100"), load(), None, 4)
    assert isinstance(found, Figure)
    assert (found.low, found.likely, found.high) == (Decimal("6.5"), 8, 9)
    assert found.source is not None
    assert "run r1" in found.source


@pytest.mark.parametrize("gpu", ["NVIDIA A100 80 GB", None])
def test_a_load_test_on_another_machine_prices_nothing(gpu: str | None) -> None:
    found = calls_per_s(own(gpu), load(), 3.0, 4)
    assert isinstance(found, str)
    assert "box" in found
    assert H100 in found


def test_an_evaluation_counts_only_for_the_machine_it_ran_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "here", lambda: "2 cores of AMD EPYC")
    found = calls_per_s(own(None), None, 3.0, 4)
    assert isinstance(found, Figure)
    assert found.likely == 3
    assert isinstance(calls_per_s(own("NVIDIA H100"), None, 3.0, 4), str)
    assert calls_per_s(own(None), None, None, 4) == "nothing was answered"


@pytest.mark.parametrize("changes", [{"capacity_per_s": None}, {"capacity_low": 0.0}])
def test_a_rate_that_does_not_surely_hold_is_no_capacity(changes: dict[str, Any]) -> None:
    found = calls_per_s(own("NVIDIA H100"), load(**changes), None, 4)
    assert isinstance(found, str)
    assert "latency_p95_s" in found


def test_training_hours_count_where_they_were_spent() -> None:
    trained = FinetuneResult.model_construct(train_s=5400.0, machine=H100)
    here = spent(own("NVIDIA H100"), trained, Decimal("1.25"))
    assert (here.training_hours, here.judge_usd) == (1.5, Decimal("1.25"))
    assert spent(own("NVIDIA L4"), trained, None).training_hours is None
    unknown = FinetuneResult.model_construct(train_s=5400.0, machine="")
    assert spent(own(None), unknown, None).training_hours is None


def test_the_bill_of_a_result_is_charged_with_what_its_tuning_took() -> None:
    tuning = {
        "labels": 0, "usd_per_label": 0, "trials": 1, "machine_hours_per_trial": 100,
        "eval_calls": 0, "usd_per_eval_call": 0, "judge_calls": 0, "usd_per_judge_call": 0,
        "engineer_days": 0, "usd_per_engineer_day": 0, "refreshes": 0, "life_months": 1,
    }  # fmt: skip
    workload = Workload.model_construct(
        traffic=Traffic(tasks_per_month=1000),
        own_costs=OwnCosts.model_validate(
            {"tuning": tuning, "operations_usd_per_month": 0, "source": "test"}
        ),
    )
    result = EvaluateResult.model_construct(
        hardware=own(None).hardware,
        cost=Cost(usd_per_month=None, usd_per_task=None, capacity_per_s=Figure.of(10)),
        tuned=True,
        spent=Spent(training_hours=3),
    )
    bill = owning(workload, result)
    assert bill is not None
    # 3 measured hours at $2, in place of the 100 that were assumed.
    assert own_cost.beside_machines(bill.at("likely"))["tuning"] == 6
    rented = result.model_copy(update={"hardware": None})
    assert owning(workload, rented) is None
