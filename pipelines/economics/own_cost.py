"""The monthly bill of owning, line by line, at the low, the likely and the high end."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

from pipelines.core.hardware import END_NAMES, OTHER, End, Figure, Hardware
from pipelines.core.own_costs import OwnCosts, Spent
from pipelines.core.records import Record
from pipelines.core.results import CostLine
from pipelines.core.workload import Traffic
from pipelines.economics import fleet
from pipelines.economics.fleet import Fleet, Shape
from pipelines.economics.gpu_hour import usd_per_machine_hour

CHEAPENS = ("capacity_per_s", "tuning.life_months")
"""Symbols that lower the bill as they grow; all others raise it."""
OPTIONAL: dict[str, tuple[str, ...]] = {
    "people": ("operations_usd_per_month", "people.fte"),
    "observability": ("operations_usd_per_month", "observability_usd_per_month"),
    "storage and egress": ("storage_usd_per_month",),
    "outages": ("risk.usd_per_hour",),
}
"""What a study may leave out -> the symbols of which one would tell it."""
NOT_SAID = "not in the total: the study says nothing of it"


class Owning(Record):
    """All that the bill depends on beside the volume."""

    shape: Shape
    symbols: dict[str, Figure]
    """By their names in `own_costs`; and the machine's price, capacity and start."""
    spares: int
    min_replicas: int
    scaling: Literal["always_on", "hourly"]

    def at(self, end: End) -> dict[str, Decimal]:
        """Every symbol where it makes the bill low, likely or high."""
        return {
            name: figure.at(OTHER[end] if name in CHEAPENS else end)
            for name, figure in self.symbols.items()
        }


def owning(
    capacity_per_s: Figure,
    hardware: Hardware,
    traffic: Traffic,
    costs: OwnCosts,
    tuned: bool,
    spent: Spent | None = None,
) -> Owning:
    """Gather what the bill depends on.

    Args:
        capacity_per_s: calls per second of one machine within the latency limits.
        hardware: the machine and its contract.
        traffic: gives the shape.
        costs: the rest.
        tuned: whether there is tuning to pay for.
        spent: replaces what `costs.tuning` assumes of training, evaluation and judging.
    """
    symbols = {
        "usd_per_machine_hour": usd_per_machine_hour(hardware),
        "capacity_per_s": capacity_per_s,
        "cold_start_s": hardware.cold_start_s,
    }
    for name, value in costs:
        if isinstance(value, Figure):
            symbols[name] = value
        elif isinstance(value, Record) and name != "outlook":
            symbols |= {f"{name}.{key}": each for key, each in value if isinstance(each, Figure)}
    if not tuned:
        symbols = {name: each for name, each in symbols.items() if not name.startswith("tuning")}
    elif spent and "tuning.trials" in symbols:
        symbols |= _as_spent(spent)
    return Owning(
        shape=fleet.shape_of(traffic),
        symbols=symbols,
        spares=costs.spares,
        min_replicas=costs.min_replicas,
        scaling=costs.scaling,
    )


def machines(own: Owning, tasks_per_month: float, at: Mapping[str, Decimal]) -> Fleet:
    """The fleet for this volume.

    Args:
        own: gives the shape of the traffic.
        tasks_per_month: the volume.
        at: value of every symbol.
    """
    return fleet.plan(
        own.shape,
        fleet.calls_per_s(
            tasks_per_month, float(at["calls_per_task"]), float(at["retries_per_call"])
        ),
        float(at["capacity_per_s"]),
        headroom=float(at["headroom"]),
        spares=own.spares,
        min_replicas=own.min_replicas,
        scaling=own.scaling,
    )


def amounts(own: Owning, tasks_per_month: float, at: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Dollars per month of each line.

    Args:
        own: gives the shape of the traffic.
        tasks_per_month: the volume.
        at: value of every symbol.
    """
    used = machines(own, tasks_per_month, at)
    hour = at["usd_per_machine_hour"]
    started_hours = Decimal(repr(used.n_cold_starts)) * at["cold_start_s"] / 3600
    return {
        "machines, base": Decimal(repr(used.base_hours)) * hour,
        "machines, load": Decimal(repr(used.load_hours)) * hour,
        "cold starts": started_hours * hour,
        **beside_machines(at),
    }


def beside_machines(at: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Dollars per month of the lines that do not depend on the volume.

    Args:
        at: value of every symbol.
    """
    found = {
        "operations": at.get("operations_usd_per_month"),
        "people": at["people.fte"] * at["people.salary_usd_per_year"] / 12
        if "people.fte" in at
        else None,
        "on-call": at.get("people.on_call_usd_per_month"),
        "observability": at.get("observability_usd_per_month"),
        "storage and egress": at.get("storage_usd_per_month"),
        "tuning": _tuning(at) if "tuning.trials" in at else at.get("tuning_usd_per_month"),
        "outages": at["risk.outages_per_month"]
        * at["risk.hours_per_outage"]
        * at["risk.usd_per_hour"]
        if "risk.usd_per_hour" in at
        else None,
    }
    return {line: usd for line, usd in found.items() if usd is not None}


def usd_per_month(own: Owning, tasks_per_month: float, at: Mapping[str, Decimal]) -> Decimal:
    """The whole bill.

    Args:
        own: gives the shape of the traffic.
        tasks_per_month: the volume.
        at: value of every symbol.
    """
    return sum(amounts(own, tasks_per_month, at).values(), Decimal(0))


def usd_per_task_at(utilisation: float, at: Mapping[str, Decimal]) -> float:
    """Dollars of machines for one task, were they busy to this share of what they could answer.

    Args:
        utilisation: in (0, 1].
        at: value of every symbol.
    """
    calls = float(at["calls_per_task"] * (1 + at["retries_per_call"]))
    per_hour = 3600 * float(at["capacity_per_s"]) * utilisation
    return calls * float(at["usd_per_machine_hour"]) / per_hour


def lines(own: Owning, tasks_per_month: int, tuned: bool) -> tuple[CostLine, ...]:
    """The bill; a line without dollars is one that the study says nothing of.

    A larger fleet may start machines less often, so a line of its own may be lowest where the whole
    bill is not.

    Args:
        own: all that it depends on.
        tasks_per_month: the volume.
        tuned: whether there is tuning to pay for.
    """
    bills = [amounts(own, tasks_per_month, own.at(end)) for end in END_NAMES]
    used = machines(own, tasks_per_month, own.at("likely"))
    basis = {
        "machines, base": f"{used.n_base} on without any load",
        "machines, load": f"{used.load_hours:,.0f} machine hours beyond the base",
        "cold starts": f"{used.n_cold_starts:,.0f} a month",
    }
    found = [
        CostLine(
            name=name,
            usd_per_month=Figure(
                low=min(bill[name] for bill in bills),
                likely=bills[1][name],
                high=max(bill[name] for bill in bills),
            ),
            basis=basis.get(name, ""),
        )
        for name in bills[1]
    ]
    asked = OPTIONAL | ({"tuning": ("tuning_usd_per_month", "tuning.trials")} if tuned else {})
    for name, symbols in asked.items():
        if not any(symbol in own.symbols for symbol in symbols):
            found.append(CostLine(name=name, usd_per_month=None, basis=NOT_SAID))
    return tuple(found)


def _tuning(at: Mapping[str, Decimal]) -> Decimal:
    """Labels, training, evaluation, judging and engineers, spread over the model's life."""
    once = (
        at["tuning.labels"] * at["tuning.usd_per_label"]
        + at["tuning.trials"] * at["tuning.machine_hours_per_trial"] * at["usd_per_machine_hour"]
        + at["tuning.eval_calls"] * at["tuning.usd_per_eval_call"]
        + at["tuning.judge_calls"] * at["tuning.usd_per_judge_call"]
        + at["tuning.engineer_days"] * at["tuning.usd_per_engineer_day"]
    )
    return once * (1 + at["tuning.refreshes"]) / at["tuning.life_months"]


def _as_spent(spent: Spent) -> dict[str, Figure]:
    values: dict[str, float | Decimal] = {}
    if spent.training_hours is not None:
        values["tuning.machine_hours_per_trial"] = spent.training_hours
    for name, usd in (("eval", spent.evaluation_usd), ("judge", spent.judge_usd)):
        if usd is not None:
            values |= {f"tuning.{name}_calls": 1, f"tuning.usd_per_{name}_call": usd}
    return {
        name: Figure.of(value).model_copy(update={"source": "measured by this study"})
        for name, value in values.items()
    }
