"""The bill of owning, computed by hand in the lines above each expectation."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.core.hardware import Figure, Hardware
from pipelines.core.own_costs import OwnCosts, Spent
from pipelines.core.workload import Traffic
from pipelines.economics import candidate_cost, own_cost

MACHINE = Hardware.model_validate(
    {
        "name": "m",
        "description": "",
        "rental": {"on_demand": {"low": 1, "likely": 2, "high": 4, "source": "test",
                                 "checked_on": "2026-11-21"}},
        "cold_start_s": 1800,
    }
)  # fmt: skip
TUNING = {
    "labels": 100,
    "usd_per_label": 2,
    "trials": 3,
    "machine_hours_per_trial": 10,
    "eval_calls": 1000,
    "usd_per_eval_call": 0.01,
    "judge_calls": 500,
    "usd_per_judge_call": 0.02,
    "engineer_days": 2,
    "usd_per_engineer_day": 760,
    "life_months": {"low": 6, "likely": 12, "high": 24},
    "refreshes": 1,
}


def costs(**changes: Any) -> OwnCosts:
    simple = {"operations_usd_per_month": 1000, "headroom": 1, "spares": 0, "source": "test"}
    return OwnCosts.model_validate(simple | changes)


def bill(own_costs: OwnCosts, tasks: int, tuned: bool = False, **more: Any) -> dict[str, Decimal]:
    traffic = Traffic.model_validate({"tasks_per_month": tasks, "peak_to_mean": 4, **more})
    own = own_cost.owning(Figure.of(8), MACHINE, traffic, own_costs, tuned)
    return own_cost.amounts(own, tasks, own.at("likely"))


def test_an_idle_machine_costs_as_much_as_a_busy_one() -> None:
    # 1 task/s on average needs 1 x 4 x 2 / 8 = 1 machine; one task more needs 2.
    # 1 x $2 x 730.5 h = $1,461, and $1,000 for operations.
    lines = {"machines, base": 1461, "machines, load": 0, "cold starts": 0, "operations": 1000}
    assert bill(costs(), 1) == lines
    assert bill(costs(), 2_629_800) == lines
    assert bill(costs(), 2_629_801) == lines | {"machines, load": 1461}
    # A spare stands beside the one.
    assert bill(costs(spares=1), 1) == lines | {"machines, base": 2922}


def test_a_task_costs_its_share() -> None:
    traffic = Traffic(tasks_per_month=1000, peak_to_mean=4)
    cost = candidate_cost.owned(8, MACHINE, traffic, costs(), tuned=False)
    # $2,461 over 1,000 tasks; low and high with machines at $1 and $4: 730.5 and 2,922 + 1,000.
    assert cost.usd_per_month == 2461
    assert cost.usd_per_task == Decimal("2.461")
    assert (cost.usd_per_month_low, cost.usd_per_month_high) == (Decimal("1730.5"), 3922)
    assert cost.n_replicas == 1
    # 1,000 calls a month over 8 a second for 2,629,800 seconds.
    assert cost.utilisation == pytest.approx(1000 / (8 * 2_629_800))
    assert cost.capacity_per_s == Figure.of(8)


def test_cold_starts_are_paid_by_their_seconds() -> None:
    # Two hours in turn, weights 1 and 3, so 0.5 and 1.5 times 2 tasks/s; x 4 x 2 / 8: 1 and 3
    # machines. Beyond the one: 2 for half of 730.5 h = 730.5 h x $2 = $1,461. Every second hour 2
    # are started: 730.5 starts of half an hour, $730.50.
    profile = {"name": "p", "description": "", "source": "test", "weights": [1, 3] * 84}
    lines = bill(costs(scaling="hourly"), 2 * 2_629_800, profile=profile)
    assert lines["machines, base"] == 1461
    assert lines["machines, load"] == 1461
    assert lines["cold starts"] == Decimal("730.5")


def test_the_long_form_line_by_line() -> None:
    own_costs = costs(
        operations_usd_per_month=None,
        people={"fte": 0.1, "salary_usd_per_year": 180_000, "on_call_usd_per_month": 250},
        observability_usd_per_month=120,
        storage_usd_per_month=30,
        tuning=TUNING,
        risk={"outages_per_month": 0.5, "hours_per_outage": 2, "usd_per_hour": 400},
    )
    lines = bill(own_costs, 1, tuned=True)
    # Tuning: 100 x 2 + 3 x 10 h x $2 + 1,000 x 0.01 + 500 x 0.02 + 2 x 760 = 1,800; made twice in
    # 12 months: 3,600 / 12 = 300.
    assert lines == {
        "machines, base": 1461,
        "machines, load": 0,
        "cold starts": 0,
        "people": 1500,
        "on-call": 250,
        "observability": 120,
        "storage and egress": 30,
        "tuning": 300,
        "outages": 400,
    }
    assert "tuning" not in bill(own_costs, 1, tuned=False)


def test_what_this_study_spent_replaces_what_was_assumed() -> None:
    traffic = Traffic(tasks_per_month=1, peak_to_mean=4)
    spent = Spent(training_hours=40, evaluation_usd=Decimal(70), judge_usd=None)
    own = own_cost.owning(Figure.of(8), MACHINE, traffic, costs(tuning=TUNING), True, spent)
    # 200 + 3 x 40 h x $2 + 70 + 10 + 1,520 = 2,040; x 2 / 12 = 340.
    assert own_cost.amounts(own, 1, own.at("likely"))["tuning"] == 340


def test_the_low_end_of_every_line_lies_below_its_high_end() -> None:
    own_costs = costs(
        operations_usd_per_month={"low": 500, "likely": 1000, "high": 3000},
        headroom={"low": 0, "likely": 1, "high": 3},
        tuning=TUNING,
    )
    traffic = Traffic(tasks_per_month=2_629_800, peak_to_mean=4)
    capacity = Figure.model_validate({"low": 4, "likely": 8, "high": 16})
    cost = candidate_cost.owned(capacity, MACHINE, traffic, own_costs, tuned=True)
    lines = {line.name: line.usd_per_month for line in cost.lines}
    # Low: 4 calls/s on 16 need 1 machine at $1: 730.50. Likely: 8 on 8, 1 at $2: 1,461. High: 16
    # on 4 need 4 at $4, 1 of them the base: 2,922 and 8,766 beyond it.
    assert lines["machines, base"] == Figure.model_validate(
        {"low": "730.5", "likely": 1461, "high": 2922}
    )
    assert lines["machines, load"] == Figure.model_validate({"low": 0, "likely": 0, "high": 8766})
    # Tuning: (200 + 30 h x $1 + 10 + 10 + 1,520) x 2 / 24 = 147.50; at $4: 1,860 x 2 / 6 = 620.
    tuning = lines["tuning"]
    assert tuning is not None
    assert (tuning.low, tuning.likely, tuning.high) == (Decimal("147.5"), 300, 620)
    known = [figure for figure in lines.values() if figure is not None]
    assert cost.usd_per_month == sum(figure.likely for figure in known)
    assert cost.usd_per_month_low == sum(figure.low for figure in known)
    assert cost.usd_per_month_high == sum(figure.high for figure in known)


def test_a_larger_fleet_may_start_fewer_machines() -> None:
    # Hours of 1.6 and 2.4 calls/s at the peak, x 2 for headroom: 3.2 and 4.8 need 1 and 2 machines
    # of 4 calls/s, but 2 and 2 of 3, and of 2.4. So the cheap end alone starts one in every second
    # hour: 365.25 x 0.5 h x $1.
    profile = {"name": "p", "description": "", "source": "test", "weights": [2, 3] * 84}
    traffic = Traffic.model_validate(
        {"tasks_per_month": 2 * 2_629_800, "peak_to_mean": 1, "profile": profile}
    )
    capacity = Figure.model_validate({"low": 2.4, "likely": 3, "high": 4})
    cost = candidate_cost.owned(capacity, MACHINE, traffic, costs(scaling="hourly"), tuned=False)
    [starts] = [line.usd_per_month for line in cost.lines if line.name == "cold starts"]
    assert starts == Figure.model_validate({"low": 0, "likely": 0, "high": Decimal("182.625")})
    # 1.5 machines at $1 and their starts; 2 at $2; 2 at $4; and $1,000.
    assert cost.usd_per_month_low == Decimal("2278.375")
    assert cost.usd_per_month == 3922
    assert cost.usd_per_month_high == 6844


def test_what_the_study_does_not_say_is_no_zero() -> None:
    traffic = Traffic(tasks_per_month=1, peak_to_mean=4)
    cost = candidate_cost.owned(8, MACHINE, traffic, costs(), tuned=True)
    unknown = {line.name: line.basis for line in cost.lines if line.usd_per_month is None}
    assert list(unknown) == ["storage and egress", "outages", "tuning"]
    assert "says nothing" in unknown["tuning"]


def test_a_capacity_of_nothing() -> None:
    traffic = Traffic(tasks_per_month=1)
    with pytest.raises(ValueError, match="capacity_per_s"):
        candidate_cost.owned(0.0, MACHINE, traffic, costs(), False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"operations_usd_per_month": None}, "either operations_usd_per_month or people"),
        ({"observability_usd_per_month": 10}, "holds observability_usd_per_month already"),
        ({"tuning_usd_per_month": 1, "tuning": TUNING}, "either tuning_usd_per_month or tuning"),
        ({"operations_usd_per_month": -1}, "below 0"),
        ({"tuning": TUNING | {"life_months": 0}}, "not above 0"),
    ],
)
def test_costs_that_contradict_themselves_are_refused(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        costs(**changes)
