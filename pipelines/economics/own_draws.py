"""Dollars per task of owning in equally likely states of the world: every symbol drawn."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np

from pipelines.core.hardware import Figure
from pipelines.economics import own_cost
from pipelines.economics.draws import N_DRAWS, Array, pert
from pipelines.economics.own_cost import Owning

OF_CANDIDATE = ("capacity_per_s", "tuning.machine_hours_per_trial")
"""Symbols that were measured of one candidate; all others are drawn alike for all candidates."""
OF_MACHINE = ("usd_per_machine_hour", "cold_start_s")
"""Symbols of the machine: candidates on the same kind of machine pay the same price."""


def drawn_volume(volume: Figure, n_draws: int = N_DRAWS, seed: int = 0) -> Array:
    """Tasks a month, shape (n_draws,); whole tasks."""
    return np.maximum(1.0, np.round(pert(volume, n_draws, _seed(seed, "volume"))))


def usd_per_task(
    own: Owning, volume: Array, *, candidate: str, machine: str, seed: int = 0
) -> Array:
    """The month's bill over its tasks, shape (n_draws,).

    Args:
        own: all that the bill depends on.
        volume: tasks a month in each draw.
        candidate: its name: what was measured of it alone is drawn for it alone.
        machine: name of the hardware: where one candidate's machine is dear, so is another's.
        seed: the same seed gives the same draws.
    """
    drawn = {
        name: pert(figure, len(volume), _seed(seed, *_owner(name, candidate, machine)))
        for name, figure in own.symbols.items()
    }
    return np.array(
        [_one(own, tasks, {name: values[k] for name, values in drawn.items()})
         for k, tasks in enumerate(volume.tolist())]
    )  # fmt: skip


def _one(own: Owning, tasks: float, at: Mapping[str, float]) -> float:
    exact = {name: Decimal(float(value)) for name, value in at.items()}
    return float(own_cost.usd_per_month(own, tasks, exact)) / tasks


def _owner(symbol: str, candidate: str, machine: str) -> tuple[str, ...]:
    if symbol in OF_CANDIDATE:
        return (symbol, "candidate", candidate)
    return (symbol, "machine", machine) if symbol in OF_MACHINE else (symbol,)


def _seed(seed: int, *words: str) -> list[int]:
    return [seed, *"\0".join(words).encode()]
