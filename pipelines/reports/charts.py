"""The report's charts as inline SVG: Altair declares them, vl-convert draws them offline.

Each is drawn twice, for a wide and for a narrow screen, and the page shows the one that fits. Their
text and lines take the page's colours, so they are readable in the dark and on paper. Every name in
them is `plain`: at a control character vl-convert ends the whole process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import altair as alt
import vl_convert
from markupsafe import Markup

from pipelines.core.decision import CandidateDecision, Decision
from pipelines.core.ruling import CascadeRuling
from pipelines.reports.figures import readable
from pipelines.reports.names import plain, short

VEGA_LITE = "6.4"
WIDTH, HEIGHT = 640, 260
NARROW = 300
Width = int | Literal["container"]
IS_NARROW = "width < 480"
"""In a chart as wide as its place."""
GREY = "#64748b"
RED = "#dc2626"
PALETTE = (
    "#2563eb", "#ea580c", "#0d9488", "#a855f7", "#db2777", "#65a30d", "#0891b2", "#b45309",
)  # fmt: skip
"""Each stands out from white and from the dark page alike (at least 3 to 1)."""
LOOK: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "background": "transparent",
    "padding": 8,
    "view": {"stroke": None},
    "axis": {
        "gridOpacity": 0.4, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
    },
    "axisX": {"grid": False},
    "legend": {"labelFontSize": 12, "columnPadding": 24},
    "text": {"fontSize": 12},
}  # fmt: skip
"""Vega's configuration, the same for all."""
N_SWINGS = 8
"""Bars of a tornado."""


def quality_against_dollars(decision: Decision) -> Markup | None:
    """Each candidate's quality over its dollars a month (log scale), with both intervals.

    The line is the frontier: who is on it is beaten by nobody in both.
    """
    rows = [
        {
            "candidate": label(name, row),
            "usd": float(row.usd_per_month),
            "usd_low": float(spread[0]),
            "usd_high": float(spread[1]),
            "quality": row.quality.mean,
            "low": row.quality.mean if row.quality.low is None else row.quality.low,
            "high": row.quality.mean if row.quality.high is None else row.quality.high,
        }
        for name, row in decision.candidates.items()
        if row.usd_per_month and row.quality and (spread := usd_span(row, decision))
    ]
    if not rows:
        return None
    names = [row["candidate"] for row in rows]
    best = [
        row
        for row in sorted(rows, key=lambda row: (row["usd"], -row["quality"]))
        if not any(
            (other["usd"] <= row["usd"] and other["quality"] > row["quality"])
            or (other["usd"] < row["usd"] and other["quality"] >= row["quality"])
            for other in rows
        )
    ]  # fmt: skip
    ends = [{"usd": row[key]} for row in rows for key in ("usd", "usd_low", "usd_high")]
    y = alt.Scale(domain=[max(0.0, min(row["low"] for row in rows) - 0.05), 1.0])

    def draw(width: Width) -> dict[str, Any]:
        quality = alt.Y("quality:Q", title=f"quality ({short(readable(decision.quality_metric))})",
                        scale=y, axis=alt.Axis(format=".0%", tickCount=5))  # fmt: skip
        dollars = alt.X("usd:Q", title="dollars a month (log scale)", scale=_log(ends, "usd"),
                        axis=axis("$,.0f", width))  # fmt: skip
        base = alt.Chart(alt.NamedData(name="rows")).encode(color=colour(names, width))
        frontier = (
            alt.Chart(alt.NamedData(name="best"))
            .mark_line(color=GREY, strokeDash=[2, 3], interpolate="step-after")
            .encode(x=dollars, y=quality)
        )
        up = base.mark_rule(strokeWidth=2).encode(
            x=dollars, y=alt.Y("low:Q", scale=y, title=quality["title"]), y2="high:Q"
        )
        across = base.mark_rule(strokeWidth=2).encode(
            x=alt.X("usd_low:Q", scale=_log(ends, "usd"), title=dollars["title"]),
            x2="usd_high:Q",
            y=quality,
        )
        points = base.mark_point(size=110, filled=True, opacity=1).encode(
            x=dollars, y=quality, shape=alt.Shape("candidate:N", legend=None, sort=names)
        )
        floor = _line({"quality": _floor(decision)}, "incumbent less the margin", "y", y, width)
        layers = [frontier, up, across, points] + ([floor] if floor else [])
        return dressed(alt.layer(*layers), width, {"rows": rows, "best": best})

    return drawn(draw)


def latency(
    decision: Decision, seconds: Mapping[str, Sequence[float]], limit_s: float
) -> Markup | None:
    """Share of the answers that came within a time, against the limit.

    Args:
        decision: says who is simulated.
        seconds: candidate -> of every answered item.
        limit_s: for the 95th percentile.
    """
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
    names = _names(rows)
    x_scale = _log(rows, "seconds", limit_s)

    def draw(width: Width) -> dict[str, Any]:
        x = alt.X("seconds:Q", title="seconds (log scale)", scale=x_scale, axis=axis("~g", width))
        lines = (
            alt.Chart(alt.NamedData(name="rows"))
            .mark_line(strokeWidth=2)
            .encode(
                x=x,
                y=alt.Y("percent:Q", title="% of answers within",
                        scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(tickCount=5)),
                order="percent:Q",
                color=colour(names, width),
            )
        )  # fmt: skip
        limit = _line({"seconds": limit_s}, f"p95 limit {limit_s:g} s", "x", x_scale, width, RED)
        return dressed(alt.layer(lines, limit), width, {"rows": rows})

    return drawn(draw)


def acceptability(decision: Decision) -> Markup | None:
    """How surely each candidate loses least, as an error costs more."""
    rows = [
        {
            "candidate": label(name, decision.candidates[name]),
            "usd": point.usd_per_error,
            "share": share,
        }
        for point in decision.acceptability
        for name, share in point.probability_best.items()
        if point.usd_per_error > 0
    ]
    if not rows:
        return None
    names = _names(rows)
    given = decision.usd_per_error
    x_scale = _log(rows, "usd", given or None)

    def draw(width: Width) -> dict[str, Any]:
        lines = (
            alt.Chart(alt.NamedData(name="rows"))
            .mark_line(strokeWidth=2.5)
            .encode(
                x=alt.X("usd:Q", title="dollars that an error costs (log scale)", scale=x_scale,
                        axis=axis("$~g", width)),
                y=alt.Y("share:Q", title="chance to be best", scale=alt.Scale(domain=[0, 1]),
                        axis=alt.Axis(format=".0%", tickCount=5)),
                color=colour(names, width),
            )
        )  # fmt: skip
        layers: list[Any] = [lines]
        if given:
            layers.append(_line({"usd": given}, "this study", "x", x_scale, width))
        return dressed(alt.layer(*layers), width, {"rows": rows})

    return drawn(draw)


def cascade(both: CascadeRuling) -> Markup | None:
    """Quality, and dollars with those of wrong answers, over the share of requests that go on."""
    if not both.curve:
        return None
    rows = [
        {
            "share": point.escalated_share,
            "quality": point.quality,
            "loss": point.expected_loss_usd_per_1000,
        }
        for point in both.curve
    ]

    def draw(width: Width) -> dict[str, Any]:
        share = alt.X("share:Q", title=f"share that goes on to {plain(both.second)}",
                      scale=alt.Scale(domain=[0, 1]), axis=axis(".0%", width))  # fmt: skip
        at = alt.Chart(alt.Data(values=[{"share": both.escalated_share}])).mark_rule(
            color=GREY, strokeDash=[4, 4]
        )
        parts = (
            ("quality", "quality", ".0%", PALETTE[0]),
            ("loss", "$ per 1,000, wrong answers included", "$~g", PALETTE[1]),
        )
        panels = [
            alt.layer(
                alt.Chart(alt.NamedData(name="rows"))
                .mark_line(strokeWidth=2.5, color=shade)
                .encode(
                    x=share,
                    y=alt.Y(f"{key}:Q", title=title, scale=alt.Scale(zero=False),
                            axis=alt.Axis(format=form, tickCount=4)),
                ),
                at.encode(x="share:Q"),
            ).properties(width=width, height=150)
            for key, title, form, shade in parts
        ]  # fmt: skip
        return alt.vconcat(*panels).to_dict() | {"datasets": {"rows": rows}, "config": LOOK}

    return drawn(draw)


def tornado(row: CandidateDecision) -> Markup | None:
    """What each input alone, from its low to its high end, makes of the saving.

    Args:
        row: of an owned candidate.
    """
    rows = [
        {
            "input": plain(readable(each.symbol)),
            "low": float(min(each.saving_at_low, each.saving_at_high)),
            "high": float(max(each.saving_at_low, each.saving_at_high)),
            "answer": "changes the answer" if each.flips else "leaves it",
        }
        for each in row.swings[:N_SWINGS]
    ]
    if not rows:
        return None

    def draw(width: Width) -> dict[str, Any]:
        bars = (
            alt.Chart(alt.NamedData(name="rows"))
            .mark_bar(height=14)
            .encode(
                x=alt.X("low:Q", title="dollars a month that owning saves",
                        axis=axis("$~s", width)),
                x2="high:Q",
                y=alt.Y("input:N", title=None, sort=[row["input"] for row in rows],
                        axis=alt.Axis(labelLimit=240 if width == WIDTH else 130)),
                color=alt.Color("answer:N", title=None, legend=_legend(width),
                                scale=alt.Scale(domain=["changes the answer", "leaves it"],
                                                range=["#ea580c", "#2563eb"])),
            )
        )  # fmt: skip
        zero = alt.Chart(alt.Data(values=[{"low": 0}])).mark_rule(color=GREY).encode(x="low:Q")
        wide = width if width == WIDTH else 200
        return dressed(alt.layer(bars, zero), wide, {"rows": rows}, 26 * len(rows) + 10)

    return drawn(draw)


def label(name: str, row: CandidateDecision) -> str:
    """Name with the words that must never be missing."""
    return f"{plain(name)} ({', '.join(found)})" if (found := tags(row)) else plain(name)


def tags(row: CandidateDecision) -> tuple[str, ...]:
    """`simulated`, `toy`."""
    return tuple(tag for tag, on in (("simulated", row.simulated), ("toy", row.toy)) if on)


def usd_span(row: CandidateDecision, decision: Decision) -> tuple[float, float] | None:
    """Dollars a month, 95 %; else from all inputs cheap to all dear; None = not known."""
    if row.usd_per_month is None:
        return None
    span = row.usd_per_1000
    if span is not None and span.low is not None and span.high is not None:
        thousands = decision.tasks_per_month / 1000
        return span.low * thousands, span.high * thousands
    if row.usd_per_month_low is not None and row.usd_per_month_high is not None:
        return float(row.usd_per_month_low), float(row.usd_per_month_high)
    return float(row.usd_per_month), float(row.usd_per_month)


def dressed(
    chart: Any, width: Width, rows: Mapping[str, Sequence[Any]], height: int = HEIGHT
) -> dict[str, Any]:
    """The specification, in the page's type.

    Args:
        chart: its data have names; Altair would copy rows at every step.
        width: in pixels, or that of the place where it is shown.
        rows: name -> data.
        height: in pixels.
    """
    sized = {"width": width, "height": height, "datasets": dict(rows)}
    return chart.to_dict() | sized | {"config": LOOK}


def drawn(draw: Callable[[Width], dict[str, Any]]) -> Markup:
    """A chart for wide and for narrow screens.

    Args:
        draw: width -> specification.
    """
    wide, narrow = (vl_convert.vegalite_to_svg(draw(w), vl_version=VEGA_LITE)
                    for w in (WIDTH, NARROW))  # fmt: skip
    # vl-convert escapes text nodes itself.
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>')  # noqa: S704


def colour(names: Sequence[str], width: Width) -> alt.Color:
    """One colour for each candidate, in this order.

    Args:
        names: as they stand in the field `candidate`.
        width: of the chart.
    """
    colours = [PALETTE[k % len(PALETTE)] for k in range(len(names))]
    return alt.Color("candidate:N", title=None, legend=_legend(width),
                     scale=alt.Scale(domain=list(names), range=colours))  # fmt: skip


def axis(form: str, width: Width = WIDTH) -> alt.Axis:
    """Few ticks, fewer on a narrow screen."""
    count = 3 if width == NARROW else 6 if width == WIDTH else {"expr": IS_NARROW + " ? 3 : 6"}
    return alt.Axis(format=form, tickCount=count, labelOverlap=True)


def _legend(width: Width) -> alt.Legend:
    columns = 1 if width == NARROW else 2 if width == WIDTH else {"expr": IS_NARROW + " ? 1 : 2"}
    return alt.Legend(orient="top", columns=columns, labelLimit=260, symbolOpacity=1)


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["candidate"] for row in rows))


def _floor(decision: Decision) -> float | None:
    incumbent = decision.candidates[decision.incumbent].quality
    return None if incumbent is None else incumbent.mean - decision.margin


def _line(
    at: Mapping[str, float | None],
    text: str,
    side: Literal["x", "y"],
    scale: alt.Scale,
    width: Width,
    colour: str = GREY,
) -> Any:
    """A dashed line with its meaning; None where there is no value."""
    [(field, value)] = at.items()
    if value is None:
        return None
    data = alt.Data(values=[{field: value, "label": text}])
    place = alt.X(f"{field}:Q", scale=scale) if side == "x" else alt.Y(f"{field}:Q", scale=scale)
    rule = alt.Chart(data).mark_rule(strokeDash=[4, 4], color=colour).encode(place)
    low, high = scale.to_dict()["domain"]
    if side == "y":
        mark: dict[str, Any] = {"align": "right", "x": width, "dy": 11}
    elif math.log(value / low) < 0.6 * math.log(high / low):
        mark = {"align": "left", "dx": 5, "y": 10}
    else:
        mark = {"align": "right", "dx": -5, "y": 10}
    words = alt.Chart(data).mark_text(**mark).encode(place, text="label:N")
    return alt.layer(rule, words)


def _log(rows: Sequence[Mapping[str, Any]], key: str, also: float | None = None) -> alt.Scale:
    """Log scale over the values with some room, so that a single value has an axis, too."""
    values = [float(row[key]) for row in rows if row[key] > 0] + ([also] if also else [])
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.08, 0.06 * (high - low))
    return alt.Scale(type="log", domain=[10 ** (low - room), 10 ** (high + room)], nice=False)


def _svg(chart: Any) -> Markup:
    """One drawing of a chart that has its size."""
    svg = vl_convert.vegalite_to_svg(chart.to_dict() | {"config": LOOK}, vl_version=VEGA_LITE)
    # vl-convert escapes text nodes itself; the fixed size would overflow a phone.
    return Markup(svg)  # noqa: S704
