"""The report's charts as inline SVG: Altair declares them, vl-convert draws them offline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from pipelines.core.decision import CandidateDecision, Decision
from pipelines.reports.figures import readable

WIDTH, HEIGHT = 640, 260
COLOURS = {"rent": "#c2410c", "own": "#0f766e", "baseline": "#6d28d9"}
"""One colour per kind; the shape says it a second time for those who cannot tell them apart."""


def quality_against_dollars(decision: Decision) -> Markup | None:
    """Each candidate with its quality interval over its dollars per month (log scale)."""
    rows = [
        {
            "candidate": label(name, row),
            "kind": row.kind,
            "usd": float(row.usd_per_month),
            "quality": row.quality.mean,
            "low": row.quality.low,
            "high": row.quality.high,
        }
        for name, row in decision.candidates.items()
        if row.usd_per_month and row.quality
    ]
    if not rows:
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("usd:Q", title="dollars per month (log scale)", scale=_log(rows, "usd"),
                axis=alt.Axis(format="$,.0f", tickCount=6)),
        color=_kind_colour(),
    )  # fmt: skip
    y = alt.Scale(domain=[max(0.0, min(r["low"] for r in rows) - 0.05), 1.0])
    bars = base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", title=f"quality ({readable(decision.quality_metric)})", scale=y,
                axis=alt.Axis(format=".0%")),
        y2="high:Q",
    )  # fmt: skip
    points = base.mark_point(size=110, filled=True).encode(
        y=alt.Y("quality:Q", scale=y), shape=alt.Shape("kind:N", legend=None)
    )
    names = base.mark_text(align="left", dx=9, dy=-8, fontSize=12).encode(
        y=alt.Y("quality:Q", scale=y), text="candidate:N"
    )
    floor = _margin_line(decision, y)
    layers = [bars, points, names] + ([floor] if floor else [])
    return _svg(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT))


def break_even(
    decision: Decision, cost_at: Mapping[str, Sequence[tuple[int, float]]]
) -> Markup | None:
    """Dollars per month over monthly volume, for every candidate with a known cost.

    Args:
        decision: for the volume of the study.
        cost_at: candidate -> (tasks per month, dollars per month).
    """
    rows = [
        {
            "candidate": label(name, decision.candidates[name]),
            "tasks": tasks,
            "usd": usd,
            "kind": decision.candidates[name].kind,
        }
        for name, points in cost_at.items()
        for tasks, usd in points
    ]
    if not rows:
        return None
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2, interpolate="linear")
        .encode(
            x=alt.X("tasks:Q", title="tasks per month (log scale)", scale=_log(rows, "tasks"),
                    axis=alt.Axis(format="~s", tickCount=6)),
            y=alt.Y("usd:Q", title="dollars per month (log scale)", scale=_log(rows, "usd"),
                    axis=alt.Axis(format="$~s", tickCount=5)),
            color=alt.Color("candidate:N", title=None, legend=alt.Legend(orient="top")),
            strokeDash=alt.StrokeDash("kind:N", title=None, legend=None),
        )
    )  # fmt: skip
    now = alt.Data(values=[{"tasks": decision.tasks_per_month, "label": "this study"}])
    rule = alt.Chart(now).mark_rule(strokeDash=[4, 4], color="#64748b").encode(x="tasks:Q")
    text = (
        alt.Chart(now)
        .mark_text(align="left", dx=5, y=10, color="#64748b")
        .encode(x="tasks:Q", text="label:N")
    )
    return _svg(alt.layer(lines, rule, text).properties(width=WIDTH, height=HEIGHT))


def latency(
    decision: Decision, seconds: Mapping[str, Sequence[float]], limit_s: float
) -> Markup | None:
    """Latency percentiles of each candidate against the limit."""
    rows: list[dict[str, Any]] = []
    for name, values in seconds.items():
        ordered = sorted(values)
        for percent in range(1, 100):
            if ordered:
                at = ordered[min(len(ordered) - 1, percent * len(ordered) // 100)]
                rows.append(
                    {
                        "candidate": label(name, decision.candidates[name]),
                        "percent": percent,
                        "seconds": max(at, 1e-4),
                    }
                )
    if not rows:
        return None
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("seconds:Q", title="seconds (log scale)", scale=_log(rows, "seconds", limit_s),
                    axis=alt.Axis(tickCount=6)),
            y=alt.Y("percent:Q", title="% of answers within", scale=alt.Scale(domain=[0, 100])),
            order="percent:Q",
            color=alt.Color("candidate:N", title=None, legend=alt.Legend(orient="top")),
        )
    )  # fmt: skip
    marks = alt.Data(values=[{"seconds": limit_s, "label": f"p95 limit {limit_s:g} s"}])
    rule = alt.Chart(marks).mark_rule(strokeDash=[4, 4], color="#b91c1c").encode(x="seconds:Q")
    text = (
        alt.Chart(marks)
        .mark_text(align="left", dx=5, y=10, color="#b91c1c")
        .encode(x="seconds:Q", text="label:N")
    )
    return _svg(alt.layer(lines, rule, text).properties(width=WIDTH, height=HEIGHT))


def label(name: str, row: CandidateDecision) -> str:
    """Name with the word that must never be missing."""
    return f"{name} (simulated)" if row.simulated else name


def _margin_line(decision: Decision, y: alt.Scale) -> Any:
    incumbent = decision.candidates[decision.incumbent].quality
    if incumbent is None:
        return None
    at = alt.Data(
        values=[{"quality": incumbent.mean - decision.margin, "label": "incumbent less the margin"}]
    )
    rule = (
        alt.Chart(at)
        .mark_rule(strokeDash=[4, 4], color="#64748b")
        .encode(y=alt.Y("quality:Q", scale=y))
    )
    text = (
        alt.Chart(at)
        .mark_text(align="center", x=WIDTH / 2, dy=-7, color="#64748b")
        .encode(y=alt.Y("quality:Q", scale=y), text="label:N")
    )
    return alt.layer(rule, text)


def _kind_colour() -> alt.Color:
    scale = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    return alt.Color("kind:N", title=None, scale=scale, legend=alt.Legend(orient="top"))


def _log(rows: Sequence[Mapping[str, Any]], key: str, also: float | None = None) -> alt.Scale:
    """Log scale over the values with some room, so that a single value has an axis, too."""
    values = [float(row[key]) for row in rows if row[key] > 0] + ([also] if also else [])
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.15, 0.18 * (high - low))
    return alt.Scale(type="log", domain=[10 ** (low - room / 3), 10 ** (high + room)], nice=False)


def _svg(chart: Any) -> Markup:
    styled = (
        chart.configure(font="system-ui, sans-serif", background="white")
        .configure_view(stroke=None)
        .configure_axis(gridOpacity=0.35)
        .configure_legend(labelLimit=260, columnPadding=28)
    )
    svg = vl_convert.vegalite_to_svg(styled.to_dict(), vl_version="6.4")
    # vl-convert escapes text nodes itself; the fixed size would overflow a phone.
    return Markup(svg)  # noqa: S704
