"""A ruling on a table of scores, for a terminal."""

from __future__ import annotations

from pipelines.core.ruling import CandidateRuling, Interval, Ruling
from pipelines.economics.rule_words import verdict_words
from pipelines.reports.names import plain, short

HEADERS = (
    "candidate", "n", "quality (95 %)", "difference", "margin", "p95", "$/1k tasks",
    "$/1k with errors", "best", "finding",
)  # fmt: skip


def table(ruling: Ruling) -> str:
    """Verdict first, then aligned columns, reasons, and what would change the answer."""
    rows = [HEADERS, *(_row(name, row, ruling) for name, row in ruling.candidates.items())]
    used = [k for k in range(len(HEADERS)) if any(row[k] != "-" for row in rows[1:])]
    widths = {k: max(len(row[k]) for row in rows) for k in used}
    lines = ["  ".join(row[k].ljust(widths[k]) for k in used).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * widths[k] for k in used))
    parts = [verdict_line(ruling), plain(ruling.headline), "", *lines, "", "Why:"]
    parts += [f"  - {plain(each)}" for each in ruling.reasons]
    if ruling.flips_when:
        parts += ["", "The answer changes when:"]
        parts += [f"  - {plain(each)}" for each in ruling.flips_when]
    return "\n".join(parts)


def verdict_line(ruling: Ruling) -> str:
    """`Verdict: SWITCH (small)`."""
    chosen = f" ({short(ruling.chosen)})" if ruling.chosen else ""
    return f"Verdict: {verdict_words(ruling.verdict).upper()}{chosen}"


def _row(name: str, row: CandidateRuling, ruling: Ruling) -> tuple[str, ...]:
    marks = [mark for mark in (row.kind, "chosen" if name == ruling.chosen else None) if mark]
    return (
        short(name) + (f" [{', '.join(marks)}]" if marks else ""),
        f"{row.n:,}",
        _span(row.quality, "{:.3f}"),
        _span(row.difference, "{:+.3f}"),
        "-" if row.margin is None else f"{row.margin:+.3f}",
        "-" if row.latency_p95_s is None else f"{row.latency_p95_s:.3f} s",
        _span(row.usd_per_1000, "${:,.2f}"),
        _span(row.expected_loss, "${:,.2f}"),
        "-" if row.probability_best is None else f"{row.probability_best:.0%}",
        f"out: {plain(row.excluded_because)}" if row.excluded_because else row.comparison,
    )


def _span(value: Interval | None, form: str) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return form.format(value.mean)
    return f"{form.format(value.mean)} ({form.format(value.low)} to {form.format(value.high)})"
