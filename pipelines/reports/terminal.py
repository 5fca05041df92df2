"""The decision table for a terminal, and as Markdown for MLflow and the README."""

from __future__ import annotations

from pipelines.core.decision import CandidateDecision, Decision, Sensitivity
from pipelines.core.ruling import Interval
from pipelines.economics.rule_words import verdict_words
from pipelines.economics.symbols import in_words
from pipelines.economics.verdict import usd

HEADERS = ("candidate", "quality (95 %)", "difference", "p95", "$/1k tasks", "$/month", "finding")


def table(decision: Decision) -> str:
    """Aligned columns, verdict first."""
    rows = [HEADERS, *_rows(decision)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADERS))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    reasons = [f"  - {reason}" for reason in decision.reasons]
    flips = [f"  - {flip}" for flip in decision.flips_when]
    parts = [verdict_line(decision), decision.headline, "", *lines, "", "Why:", *reasons]
    if bills := [
        f"  - {name}: {_bill(row)}" for name, row in decision.candidates.items() if row.cost_lines
    ]:
        parts += ["", "What owning costs a month:", *bills]
    if flips:
        parts += ["", "The answer changes when:", *flips]
    if decision.sensitivity:
        parts += ["", "One input changed:", *(f"  - {what_if(s)}" for s in decision.sensitivity)]
    return "\n".join(parts)


def what_if(found: Sensitivity) -> str:
    """One input, the answers at the values that were tried, and where the answer flips."""
    times = "x" if found.today == 1 else ""
    tried = ", ".join(
        f"{times}{s.value:g} {verdict_words(s.verdict, s.chosen)}" for s in found.scenarios
    )
    if found.flips_at is not None:
        end = f"the answer flips at {times}{found.flips_at:.3g}"
    elif any(s.changes for s in found.scenarios):
        end = "the answer hangs on it"
    else:
        end = "the answer stays"
    return f"{in_words(found.input)}: {tried}; {end}"


def markdown(decision: Decision) -> str:
    """Verdict, table and reasons in Markdown."""
    parts = [
        f"## {verdict_line(decision)}",
        "",
        decision.headline,
        "",
        *markdown_table(decision),
        "",
        *[f"- {reason}" for reason in decision.reasons],
    ]
    if decision.flips_when:
        parts += ["", "The answer changes when:", "", *[f"- {f}" for f in decision.flips_when]]
    return "\n".join(parts)


def markdown_table(decision: Decision) -> list[str]:
    """The table's lines in Markdown."""
    rows = [HEADERS, tuple("---" for _ in HEADERS), *_rows(decision)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def verdict_line(decision: Decision) -> str:
    """`Verdict: OWN tiny-lora`, with SIMULATED in front where it applies."""
    mark = "SIMULATED - " if decision.simulated else ""
    chosen = f" ({decision.chosen})" if decision.chosen else ""
    return f"{mark}Verdict: {verdict_words(decision.verdict).upper()}{chosen}"


def _bill(row: CandidateDecision) -> str:
    """The lines of the bill that are not zero, and its range."""
    lines = [
        f"{line.name} {usd(line.usd_per_month.likely)}"
        for line in row.cost_lines
        if line.usd_per_month is not None and line.usd_per_month.likely
    ]
    used = "" if row.utilisation is None else f"; {row.utilisation:.1%} of the machines' capacity"
    span = f"{usd(row.usd_per_month_low)} to {usd(row.usd_per_month_high)}"
    return f"{usd(row.usd_per_month)} ({span}): {', '.join(lines)}{used}"


def _rows(decision: Decision) -> list[tuple[str, ...]]:
    return [_row(name, row, decision) for name, row in decision.candidates.items()]


def _ends(found: Interval, sign: str, to: str) -> str:
    if found.low is None or found.high is None:
        return " (too few to tell)"
    return f" ({found.low:{sign}.3f}{to}{found.high:{sign}.3f})"


def _row(name: str, row: CandidateDecision, decision: Decision) -> tuple[str, ...]:
    marks = [mark for mark, on in (("simulated", row.simulated), ("toy", row.toy)) if on]
    if name == decision.chosen:
        marks.append("chosen")
    quality, difference = "not scored", "-"
    if (q := row.quality) is not None:
        quality = f"{q.mean:.3f}" + _ends(q, "", "-")
    if (d := row.difference) is not None:
        difference = f"{d.mean:+.3f}" + _ends(d, "+", " to ")
    mark = f" [{', '.join(marks)}]" if marks else ""
    return (
        name + mark,
        quality,
        difference,
        "-" if row.latency_p95_s is None else f"{row.latency_p95_s:.3f} s",
        "unknown" if row.usd_per_task is None else f"${row.usd_per_task * 1000:,.3f}",
        usd(row.usd_per_month),
        f"out: {row.excluded_because}" if row.excluded_because else row.comparison,
    )
