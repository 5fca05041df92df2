"""A price for one machine is no price for another."""

from __future__ import annotations

import pytest

from pipelines.core import machine

CPU = "2 cores of AMD EPYC 7B13"


@pytest.mark.parametrize(
    ("gpu", "on", "same"),
    [
        ("NVIDIA H100", f"{CPU}, NVIDIA H100 80GB HBM3", True),
        ("NVIDIA A100 80 GB", f"{CPU}, NVIDIA A100-SXM4-80GB", True),
        ("NVIDIA H100", CPU, False),
        ("NVIDIA H100", f"{CPU}, NVIDIA H200", False),
        ("NVIDIA L4", f"{CPU}, NVIDIA L40S", False),
        (None, CPU, True),
        (None, f"{CPU}, NVIDIA L4", False),
    ],
)
def test_a_machine_is_told_by_its_gpu(gpu: str | None, on: str, same: bool) -> None:
    assert machine.has(gpu, on) == same


def test_this_machine_has_a_name_and_cores() -> None:
    assert " cores of " in machine.here()
