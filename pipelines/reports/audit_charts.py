"""The audit's charts as inline SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import altair as alt
from markupsafe import Markup

from pipelines.core.audit import TOKEN_CLASSES, DaySpend, WorkloadSpend
from pipelines.reports.charts import HEIGHT, WIDTH, _svg
from pipelines.reports.names import short

MAX_MODELS = 6
MAX_WORKLOADS = 15
OTHERS = "other models"
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def by_day(days: Sequence[DaySpend]) -> Markup | None:
    """Dollars of each day, by model; None when nothing is priced."""
    total: dict[str, float] = defaultdict(float)
    for day in days:
        for label, usd in day.usd_by_model.items():
            total[label] += float(usd)
    top = sorted(total, key=lambda label: -total[label])[:MAX_MODELS]
    # Two long names may be cut to the same text; their number keeps them apart.
    names = {label: f"{k}. {short(label)}" for k, label in enumerate(top, start=1)}
    rows: list[dict[str, Any]] = []
    for day in days:
        for label, usd in day.usd_by_model.items():
            name = names.get(label, OTHERS)
            rows.append({"day": day.day.isoformat(), "model": name, "usd": float(usd)})
    if not any(row["usd"] for row in rows):
        return None
    order = [*names.values(), OTHERS]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("day:O", title="day (UTC)", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("sum(usd):Q", title="dollars", axis=alt.Axis(format="$~s", tickCount=5)),
            color=alt.Color("model:N", title=None, sort=order,
                            legend=alt.Legend(orient="top", columns=3)),
        )
    )  # fmt: skip
    return _svg(chart.properties(width=WIDTH, height=HEIGHT))


def by_workload(workloads: Sequence[WorkloadSpend]) -> Markup | None:
    """Dollars of the most expensive workloads, by class of tokens; None when none is priced."""
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for k, each in enumerate(workloads[:MAX_WORKLOADS], start=1):
        names.append(f"{k}. {short(each.workload)}")
        for order, (name, usd) in enumerate(each.spend.usd_by_class.items()):
            row = {"workload": names[-1], "tokens": readable(name), "usd": float(usd)}
            rows.append(row | {"order": order})
    if not any(row["usd"] for row in rows):
        return None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            y=alt.Y("workload:N", title=None, sort=names, axis=alt.Axis(labelLimit=210)),
            x=alt.X("sum(usd):Q", title="dollars", axis=alt.Axis(format="$~s", tickCount=5)),
            color=alt.Color("tokens:N", title=None, sort=[readable(name) for name in TOKEN_CLASSES],
                            legend=alt.Legend(orient="top")),
            order="order:Q",
        )
    )  # fmt: skip
    return _svg(chart.properties(width=WIDTH - 180, height=26 * len(names)))


def by_hour_of_week(workloads: Sequence[WorkloadSpend]) -> Markup | None:
    """Calls of all workloads by hour and weekday; None when no call has a time of day."""
    shapes = [each.traffic.hour_of_week for each in workloads if each.traffic is not None]
    if not shapes:
        return None
    calls = [sum(counts) for counts in zip(*shapes, strict=True)]
    rows = [{"weekday": WEEKDAYS[k // 24], "hour": k % 24, "calls": n} for k, n in enumerate(calls)]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect()
        .encode(
            x=alt.X("hour:O", title="hour (UTC)", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("weekday:O", title=None, sort=list(WEEKDAYS)),
            color=alt.Color("calls:Q", title="calls", scale=alt.Scale(scheme="blues")),
        )
    )
    return _svg(chart.properties(width=WIDTH - 60, height=22 * len(WEEKDAYS)))


def readable(name: str) -> str:
    """A class of tokens in words."""
    return name.replace("_", " ")
