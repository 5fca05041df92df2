"""Machines over time, counted by hand in the lines above each expectation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.core.workload import Traffic
from pipelines.economics.fleet import Shape, calls_per_s, duration_curve, plan, shape_of

DAY = Shape(window_s=3600, windows=(0.5, 2.0, 1.0, 0.5), hours=(1.0, 4.0, 2.0, 1.0))
"""A day of four hours; the busiest minute of each has twice its mean."""


def planned(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "headroom": 0.5, "spares": 1, "min_replicas": 1, "scaling": "hourly"
    }  # fmt: skip
    return plan(DAY, 10, 12, **(options | changes))


def test_machines_follow_the_hours() -> None:
    # 10 calls/s on average; one machine takes 12 / 1.5 = 8. Busiest minutes 10, 40, 20, 10 calls/s
    # need 2, 5, 3, 2 machines, and 1 spare.
    found = planned()
    assert found.n_replicas == 6
    # 1 machine and the spare never stop: 2 x 730.5 h. Beyond: (1 + 4 + 2 + 1) / 4 x 730.5 h.
    assert found.n_base == 2
    assert found.base_hours == pytest.approx(1461)
    assert found.load_hours == pytest.approx(2 * 730.5)
    # 2 -> 5 starts 3 machines in each of 730.5 / 4 days; from the last hour to the first, none.
    assert found.n_cold_starts == pytest.approx(3 * 730.5 / 4)
    # On average 3 machines and the spare could answer 4 x 12 = 48 calls/s; 10 come.
    assert found.utilisation == pytest.approx(10 / 48)


def test_always_on_keeps_the_machines_of_the_busiest_hour() -> None:
    found = planned(scaling="always_on")
    assert found.n_replicas == 6
    assert found.load_hours == pytest.approx(4 * 730.5)
    assert found.n_cold_starts == 0
    # 6 x 12 = 72.
    assert found.utilisation == pytest.approx(10 / 72)


def test_there_is_a_least_fleet() -> None:
    found = planned(min_replicas=9, spares=0)
    assert (found.n_replicas, found.load_hours, found.n_cold_starts) == (9, 0, 0)


def test_a_full_machine_is_one_machine() -> None:
    # 1 call/s x 4 at the peak x 2 for headroom = 8 = what one machine answers; a hair more, two.
    flat = Shape(window_s=3600, windows=(1.0,), hours=(4.0,))
    options: Any = {"headroom": 1, "spares": 0, "min_replicas": 1, "scaling": "always_on"}
    assert plan(flat, calls_per_s(2_629_800, 1, 0), 8, **options).n_replicas == 1
    assert plan(flat, calls_per_s(2_629_801, 1, 0), 8, **options).n_replicas == 2
    # 0.1 calls/s x 3 at the peak over 0.1 is 3; in floats a hair more.
    triple = flat.model_copy(update={"hours": (3.0,)})
    assert plan(triple, 0.1, 0.1, **(options | {"headroom": 0})).n_replicas == 3


def test_a_task_may_take_several_calls() -> None:
    # 2,629,800 s a month: 1 task/s x 3 calls, each tenth of them twice.
    assert calls_per_s(2_629_800, 3, 0.1) == pytest.approx(3.3)


def test_a_profile_has_its_busiest_minutes() -> None:
    traffic = Traffic.model_validate(
        {"tasks_per_month": 1, "peak_to_mean": 2, "profile": {
            "name": "p", "description": "", "source": "test", "weights": [3, *[0] * 55] * 3}}
    )  # fmt: skip
    shape = shape_of(traffic)
    # 3 requests in each 56th hour are 56 times the mean; twice that in the busiest minute.
    assert shape.windows[0] == pytest.approx(56)
    assert shape.windows[1] == 0
    assert shape.peak_to_mean == pytest.approx(112)


def test_a_study_that_says_nothing_has_a_peak_of_four() -> None:
    assert shape_of(Traffic(tasks_per_month=1)).hours == (4.0,)


def test_timestamps_tell_minutes_and_hours(tmp_path: Path) -> None:
    # 61 minutes; 3 requests in the first, 1 in the second, 2 in the last: 6 / 61 a minute. The
    # busiest minute of the first hour has 3, the second hour is that last minute with 2.
    times = (0, 1, 2, 60, 3600, 3601)
    rows = "timestamp\n" + "".join(f"{time}\n" for time in times)
    (tmp_path / "log.csv").write_text(rows, encoding="utf-8")
    traffic = Traffic.model_validate({"tasks_per_month": 1, "timestamps": f"{tmp_path}/log.csv"})
    shape = shape_of(traffic)
    assert shape.window_s == 60
    assert len(shape.windows) == 61
    assert shape.hours == pytest.approx((3 * 61 / 6, 2 * 61 / 6))


def test_the_duration_curve_falls_and_holds_all_calls() -> None:
    # 4 hours of a day, each 730.5 / 4 h a month.
    curve = duration_curve(DAY, 10)
    assert [rate for rate, _ in curve] == [20, 10, 5, 5]
    assert sum(rate * hours for rate, hours in curve) == pytest.approx(10 * 730.5)
