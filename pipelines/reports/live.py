"""The break-even chart with sliders: Vega-Lite does the economics' own arithmetic in the page."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from pipelines.core.decision import CandidateDecision, Decision
from pipelines.core.hardware import END_NAMES, End
from pipelines.core.records import Record
from pipelines.core.results import EvaluateResult
from pipelines.core.study import Study
from pipelines.economics import fleet, own_cost, own_measured
from pipelines.economics.own_cost import Owning
from pipelines.economics.verdict import usd
from pipelines.reports import charts
from pipelines.reports.figures import NONE

Draw = Callable[[charts.Width], dict[str, Any]]
N_VOLUMES = 49
"""Points of the curve, where the traffic has few different hours."""
MAX_ROWS = 20_000
"""That one move of a slider computes anew, before the curve gets fewer points."""
AROUND = 100
"""The volume goes from the study's over this to the study's times this."""
FREE = -4.0
"""Power of ten of a dollar at which the slider for the cost of an error says 0."""
DEAREST = 3.0
SCRIPT = Path(__file__).with_name("live.js")
TODAY = "100% of today's"

PARAMETERS = {
    "tasks_now": "round(pow(10, toNumber(volume_at)))",
    "machine_now": "toNumber(machine_at)",
    "load_now": "toNumber(load_at)",
    "api_now": "toNumber(api_at)",
    "error_now": "toNumber(error_at) <= free ? 0 : pow(10, toNumber(error_at))",
    "volume_text": "format(tasks_now, ',') + ' tasks a month'",
    "machine_text": "format(machine_now, '.0%') + \" of today's\"",
    "load_text": "format(load_now, '.0%') + ' of what the machines carry'",
    "api_text": "format(api_now, '.0%') + \" of today's\"",
    "error_text": "error_now == 0 ? 'not counted' : format(error_now, '$,.4f')",
}
"""What follows from the sliders' positions."""
MACHINES = (
    "datum.kind == 'own' ? max(least_machines, ceil(datum.rate * datum.tasks * datum.calls"
    " / month_s / datum.capacity * datum.head * load_first / load_now - rounding)) : 0"
)
USD = (
    "datum.kind == 'own' ? datum.hour * machine_now * (month_hours * (datum.on / n_hours + spares)"
    " + datum.started * month_hours / n_hours * datum.start_hours + datum.tuning_hours)"
    " + datum.fixed : datum.tasks * datum.price * api_now"
)
CELLS = {
    "price_text": "datum.kind == 'own' ? format(datum.hour * machine_now, '$,.3f') + ' an hour'"
    " : format(1000 * datum.price * api_now, '$,.3f') + ' per 1,000 tasks'",
    "machines_text": f"datum.kind == 'own' ? format(datum.most + spares, ',') : '{NONE}'",
    "usd_text": "format(datum.usd, datum.usd < 100 ? '$,.2f' : '$,.0f')",
    "wrong_text": "format(datum.wrong_usd, datum.wrong_usd < 100 ? '$,.2f' : '$,.0f')",
    "total_text": "format(datum.total, datum.total < 100 ? '$,.2f' : '$,.0f')",
    "counted": "datum.may && datum.end == 'likely' ? datum.total : null",
}
"""What the table shows of a row."""
TOO_DEAR = "no quality would pay"
"""So begins why a candidate is out for its price alone, which the sliders change."""
LEAST = "least"
LEAST_TEXT = f"datum.counted !== null && datum.counted == datum.least ? '{LEAST}' : ''"
NOW = "now"
"""The view whose data the table shows."""


class Slider(Record):
    """One input of the page; the chart's parameter of the same name follows it."""

    name: str
    label: str
    low: float
    high: float
    at: float
    """Where it stands first: as the study says."""
    text: str
    """What that means, in words."""


class Row(Record):
    """One candidate's dollars before a slider moves, as text."""

    id: str
    """With an end behind it: of the row in the chart's data that replaces the text."""
    name: str
    tags: tuple[str, ...]
    price: str
    machines: str
    usd: str
    low: str | None
    """None = there is no interval."""
    high: str | None
    wrong: str
    total: str
    least: str


@dataclass(frozen=True)
class Live:
    """All that the section shows."""

    spec: Markup
    """JSON that can stand in a script element."""
    drawn: Markup
    """The chart before a slider moves."""
    sliders: tuple[Slider, ...]
    rows: tuple[Row, ...]
    least: str
    """Who asks least of those that keep the quality; empty = there is nobody."""


def live(study: Study, decision: Decision, results: Mapping[str, EvaluateResult]) -> Live | None:
    """The section; None when nobody's dollars are known.

    Args:
        study: gives the traffic and what owning costs.
        decision: gives the candidates; controls, and those without a score, are left out.
        results: candidate -> its dollars and its machine.
    """
    options: list[dict[str, Any]] = []
    found: list[tuple[Row, float]] = []
    for name, row in decision.candidates.items():
        price = results[name].cost.usd_per_task
        if row.control_of or row.quality is None or row.usd_per_month is None or price is None:
            continue
        own = own_measured.owning(study.workload, results[name])
        may = _kept(row, decision.margin)
        key = str(len(found))
        ends = _rented(row, price) if own is None else _owned(own)
        options += [
            {
                "id": f"{key} {end}",
                "candidate": charts.label(name, row),
                "end": end,
                "kind": "rent" if own is None else "own",
                "may": may,
                "wrong": 1 - row.quality.mean,
                **constants,
            }
            for end, constants in ends.items()
        ]
        wrong = _usd_per_error(study) * (1 - row.quality.mean) * decision.tasks_per_month
        total = float(row.usd_per_month) + wrong
        low, high = (_end(row, end, decision.tasks_per_month) for end in ("low", "high"))
        shown = Row(
            id=key,
            name=name,
            tags=charts.tags(row),
            price=f"${1000 * price:,.3f} per 1,000 tasks"
            if own is None
            else f"${own.at('likely')['usd_per_machine_hour']:,.3f} an hour",
            machines=NONE if row.n_replicas is None else f"{row.n_replicas:,}",
            usd=usd(row.usd_per_month),
            low=None if low is None else usd(low),
            high=None if high is None else usd(high),
            wrong=usd(Decimal(repr(wrong))),
            total=usd(Decimal(repr(total))),
            least="",
        )
        found.append((shown, total if may else math.inf))
    if not options:
        return None
    least = min(found, key=lambda each: each[1])
    rows = (
        row.model_copy(update={"least": LEAST if counted == least[1] < math.inf else ""})
        for row, counted in found
    )
    sliders = _sliders(study, options)
    draw = _draw(study, options, sliders)
    return Live(
        spec=script_json(draw("container")),
        drawn=charts.drawn(draw),
        sliders=sliders,
        rows=tuple(rows),
        least=f"{charts.label(least[0].name, decision.candidates[least[0].name])}, {least[0].total}"
        if least[1] < math.inf
        else "",
    )


def script_json(value: Any) -> Markup:
    """JSON in which no HTML parser finds a tag."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704


@lru_cache(maxsize=1)
def script() -> Markup:
    """Vega, Vega-Lite and the few lines that put the chart's numbers into the page."""
    bundle = vl_convert.javascript_bundle(
        SCRIPT.read_text(encoding="utf-8"), vl_version=charts.VEGA_LITE
    )
    assert "</script" not in bundle.lower(), "it would end its own element"
    return Markup(bundle)  # noqa: S704


@lru_cache(maxsize=1)
def script_hash() -> str:
    """For the content security policy, so that no other script may run."""
    digest = hashlib.sha256(str(script()).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def levels(peaks: Sequence[float]) -> tuple[list[float], list[int], list[int]]:
    """A period's hours, reduced to what the number of machines depends on.

    Machines rise and fall with the load, so the starts of a period are the machines at its local
    peaks less those at its local valleys; and hours that are alike count together.

    Args:
        peaks: rate in the busiest minute of each hour, in order; the period repeats.

    Returns:
        The different rates, how many hours have each, and how many more of these are local peaks
        than local valleys.
    """
    hours, turns = Counter(peaks), Counter[float]()
    runs = [rate for rate, _ in groupby(peaks)]
    if len(runs) > 1 and runs[0] == runs[-1]:
        runs.pop()
    for k, rate in enumerate(runs):
        before, after = runs[k - 1], runs[(k + 1) % len(runs)]
        turns[rate] += (before < rate > after) - (before > rate < after)
    known = sorted(hours)
    return known, [hours[rate] for rate in known], [turns[rate] for rate in known]


def _kept(row: CandidateDecision, margin: float) -> bool:
    """Whether it meets the requirements and is shown to keep the quality, whatever it costs."""
    if row.excluded_because and not row.excluded_because.startswith(TOO_DEAR):
        return False
    low = None if row.difference is None else row.difference.low
    return row.comparison == "incumbent" or (low is not None and low > -margin)


def _owned(own: Owning) -> dict[End, dict[str, float]]:
    """What the bill depends on beside volume and load, at each end."""
    found: dict[End, dict[str, float]] = {}
    for end in END_NAMES:
        at = own.at(end)
        hour = at["usd_per_machine_hour"]
        besides = own_cost.beside_machines(at)
        fixed = own_cost.beside_machines(at | {"usd_per_machine_hour": Decimal(0)})
        found[end] = {
            "hour": float(hour),
            "fixed": float(sum(fixed.values())),
            # A month's share of tuning is paid by the same hour.
            "tuning_hours": float((sum(besides.values()) - sum(fixed.values())) / hour),
            "calls": float(at["calls_per_task"] * (1 + at["retries_per_call"])),
            "head": float(1 + at["headroom"]),
            "capacity": float(at["capacity_per_s"]),
            "start_hours": float(at["cold_start_s"] / 3600),
        }
    return found


def _rented(row: CandidateDecision, usd_per_task: Decimal) -> dict[End, dict[str, float]]:
    """Dollars per task, and their 95 % interval where there is one."""
    found: dict[End, dict[str, float]] = {"likely": {"price": float(usd_per_task)}}
    span = row.usd_per_1000
    if span is not None and span.low is not None and span.high is not None:
        found["low"], found["high"] = {"price": span.low / 1000}, {"price": span.high / 1000}
    return found


def _end(row: CandidateDecision, end: End, tasks: int) -> Decimal | None:
    """Dollars a month at the low or the high end, as `_owned` and `_rented` have them."""
    known = row.usd_per_month_low if end == "low" else row.usd_per_month_high
    if known is not None or row.usd_per_1000 is None:
        return known
    value = row.usd_per_1000.low if end == "low" else row.usd_per_1000.high
    return None if value is None else Decimal(repr(value * tasks / 1000))


def _load(study: Study) -> float:
    """Share of the machines' capacity that the busiest minute may use."""
    return float(1 / (1 + study.workload.own_costs.headroom.likely))


def _usd_per_error(study: Study) -> float:
    """0 = not given."""
    return float(study.workload.requirements.usd_per_error or 0)


def _sliders(study: Study, options: Sequence[Mapping[str, Any]]) -> tuple[Slider, ...]:
    """Those that can change something, as far as they go."""
    kinds = {each["kind"] for each in options}
    tasks, load, error = (
        study.workload.traffic.tasks_per_month, _load(study), _usd_per_error(study),
    )  # fmt: skip
    volume, room = math.log10(tasks), math.log10(AROUND)
    power = math.log10(error) if error else FREE
    found = [
        Slider(name="volume", label="Volume", low=volume - room, high=volume + room, at=volume,
               text=f"{tasks:,} tasks a month"),
        Slider(name="machine", label="Price of a machine hour", low=0.1, high=4, at=1, text=TODAY),
        Slider(name="load", label="Utilisation in the busiest minute", low=min(0.2, load),
               high=max(0.95, load), at=load, text=f"{load:.0%} of what the machines carry"),
        Slider(name="api", label="Price of the API", low=0.05, high=3, at=1, text=TODAY),
        Slider(name="error", label="Cost of an error", low=min(FREE, power),
               high=max(DEAREST, power), at=power,
               text=f"${error:,.4f}" if error else "not counted"),
    ]  # fmt: skip
    moot = {"machine", "load"} - ({"machine", "load"} if "own" in kinds else set())
    moot |= set() if "rent" in kinds else {"api"}
    return tuple(slider for slider in found if slider.name not in moot)


def _draw(study: Study, options: Sequence[Mapping[str, Any]], sliders: Sequence[Slider]) -> Draw:
    """The chart for a width: parameters, arithmetic, layers."""
    costs, shape = study.workload.own_costs, fleet.shape_of(study.workload.traffic)
    rates, hours, turns = levels(
        shape.hours if costs.scaling == "hourly" else (shape.peak_to_mean,)
    )
    tasks = study.workload.traffic.tasks_per_month
    n_volumes = max(9, min(N_VOLUMES, MAX_ROWS // (len(rates) * len(options))))
    volumes = [tasks * AROUND ** (2 * k / (n_volumes - 1) - 1) for k in range(n_volumes)]
    bound = {slider.name: slider.at for slider in sliders}
    first = {"volume": 0.0, "machine": 1.0, "load": _load(study), "api": 1.0, "error": FREE}
    params: list[dict[str, Any]] = [
        {"name": f"{name}_at", "value": bound.get(name, value)}
        | ({"bind": {"element": f"#{name}"}} if name in bound else {})
        for name, value in first.items()
    ]
    values: dict[str, Any] = {
        "volumes": volumes, "rates": rates, "hours": hours, "turns": turns, "n_hours": sum(hours),
        "spares": costs.spares, "least_machines": costs.min_replicas, "load_first": first["load"],
        "month_hours": fleet.HOURS_PER_MONTH, "month_s": fleet.SECONDS_PER_MONTH,
        "rounding": fleet.ROUNDING, "free": FREE,
    }  # fmt: skip
    params += [{"name": name, "value": value} for name, value in values.items()]
    params += [{"name": name, "expr": text} for name, text in PARAMETERS.items()]
    names = list(dict.fromkeys(each["candidate"] for each in options))
    fields = list(dict.fromkeys(key for each in options for key in each if key != "id"))
    scale = alt.Scale(type="log", nice=False, padding=8)
    across = alt.Scale(type="log", nice=False, domain=[volumes[0], volumes[-1]])
    dash = alt.Scale(domain=["own", "rent"], range=[[1, 0], [7, 4]])

    def draw(width: charts.Width) -> dict[str, Any]:
        x = alt.X("tasks:Q", title="tasks a month (log scale)", axis=charts.axis("~s", width),
                  scale=across)  # fmt: skip
        axis, title = charts.axis("$~s"), "dollars a month (log scale)"
        y = alt.Y("total:Q", title=title, axis=axis, scale=scale)
        base = alt.Chart().encode(x=x, color=charts.colour(names, width))
        band = base.transform_filter("datum.kind == 'own'").mark_area(opacity=0.16).encode(
            y=alt.Y("min(total):Q", title=title, axis=axis, scale=scale), y2="max(total):Q"
        )  # fmt: skip
        lines = base.transform_filter("datum.end == 'likely'").mark_line(strokeWidth=2.5).encode(
            y=y, strokeDash=alt.StrokeDash("kind:N", legend=None, scale=dash)
        )  # fmt: skip
        rule = alt.Chart().mark_rule(strokeDash=[4, 4], color=charts.GREY).encode(x=x)
        sizes = alt.condition("datum.end == 'likely'", alt.value(90), alt.value(20))
        points = base.mark_point(filled=True, opacity=1).encode(y=y, size=sizes)
        curves = alt.LayerChart(layer=[band, lines], transform=_billed("volumes", fields))
        now = alt.LayerChart(
            layer=[rule, points.properties(name=NOW)],
            transform=[
                *_billed("[tasks_now]", fields),
                *(_set(name, text) for name, text in CELLS.items()),
                alt.JoinAggregateTransform(
                    joinaggregate=[{"op": "min", "field": "counted", "as": "least"}]
                ),
                _set("least_text", LEAST_TEXT),
            ],
        )
        layered = alt.layer(curves, now, data=alt.NamedData(name="options"))
        return charts.dressed(layered, width, {"options": list(options)}) | {"params": params}

    return draw


def _billed(tasks: str, fields: list[str]) -> list[Any]:
    """Transforms that give the dollars of every option at every volume.

    As `fleet.plan` and `own_cost.amounts`: machines for the busiest minute of each hour, each paid
    by the hour, and started when the hour before had fewer; beside them what does not depend on
    the volume. An API is paid by the task.

    Args:
        tasks: expression of the list of volumes.
        fields: of the options.
    """
    options = alt.LookupData(data=alt.NamedData(name="options"), key="id", fields=fields)
    sums = (("on", "sum", "on"), ("started", "sum", "starts"), ("most", "max", "machines"))
    return [
        _set("tasks", tasks),
        _set("rate", "datum.kind == 'own' ? rates : [0]"),
        _set("n", "datum.kind == 'own' ? hours : [1]"),
        _set("turn", "datum.kind == 'own' ? turns : [0]"),
        alt.FlattenTransform(flatten=["tasks"]),
        alt.FlattenTransform(flatten=["rate", "n", "turn"]),
        _set("machines", MACHINES),
        _set("on", "datum.machines * datum.n"),
        _set("starts", "datum.machines * datum.turn"),
        alt.AggregateTransform(
            aggregate=[{"as": name, "op": op, "field": field} for name, op, field in sums],
            groupby=["id", "tasks"],
        ),
        alt.LookupTransform(lookup="id", **{"from": options}),
        _set("usd", USD),
        _set("wrong_usd", "datum.tasks * datum.wrong * error_now"),
        _set("total", "datum.usd + datum.wrong_usd"),
        alt.FilterTransform(filter="datum.total > 0"),
    ]


def _set(name: str, expression: str) -> alt.CalculateTransform:
    return alt.CalculateTransform(calculate=expression, **{"as": name})
