"""What the verdict pays for a training: the hours of every machine that trained."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.core.candidate import Own
from pipelines.core.hardware import Hardware
from pipelines.core.results import FinetuneResult
from pipelines.economics.own_measured import spent

MACHINE = "16 cores of Intel Xeon, NVIDIA H100 80GB HBM3"


def own(n_gpus: int) -> Own:
    price: dict[str, Any] = {"low": 2, "likely": 2, "high": 2}
    price |= {"source": "test", "checked_on": "2026-11-22"}
    hardware = Hardware.model_validate(
        {
            "name": "box",
            "description": "",
            "gpu": "NVIDIA H100" if n_gpus else None,
            "n_gpus": n_gpus,
            "rental": {"on_demand": price},
            "cold_start_s": 60,
        }
    )
    return Own.model_construct(hardware=hardware, tuned=True)


@pytest.mark.parametrize(
    ("n_processes", "n_gpus", "hours"),
    # 5,400 s are 1.5 hours: of one machine, of two with a GPU each, of one with both, of two with
    # two for three processes.
    [(1, 1, 1.5), (2, 1, 3.0), (2, 2, 1.5), (3, 2, 3.0)],
)
def test_hours_count_for_each_machine(n_processes: int, n_gpus: int, hours: float) -> None:
    trained = FinetuneResult.model_construct(
        train_s=5400.0, machine=MACHINE, n_processes=n_processes
    )
    assert spent(own(n_gpus), trained, None).training_hours == hours


def test_processes_without_gpus_share_one_machine() -> None:
    trained = FinetuneResult.model_construct(train_s=5400.0, machine="2 cores", n_processes=2)
    assert spent(own(0), trained, None).training_hours == 1.5
