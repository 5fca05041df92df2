"""What an audit found: one HTML page, a text for a terminal, a note for MLflow."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.core.audit import AuditResult
from pipelines.economics.spend import counted, per_month
from pipelines.reports import audit_charts, audit_tables, names
from pipelines.reports.amounts import count, percent, usd
from pipelines.reports.audit_tables import MAX_ROWS, difference
from pipelines.reports.figures import Cell, Table
from pipelines.reports.names import plain, short

IN_TERMINAL = 15


def render(result: AuditResult) -> str:
    """The page: self-contained, without script, every name of the log escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    return environment.get_template("audit.html.j2").render(
        result=result,
        headline=headline(result),
        total=_total(result),
        stamps=stamps(result),
        differences=audit_tables.differences(
            [each for each in result.comparisons if each.day is None]
        ),
        workloads=audit_tables.workloads(result),
        n_more=max(0, len(result.workloads) - MAX_ROWS),
        models=audit_tables.models(result),
        classes=audit_tables.token_classes(result.total),
        caching=audit_tables.caching(result),
        batching=audit_tables.batching(result),
        traffic=audit_tables.traffic(result),
        retirements=audit_tables.retirements(result),
        by_day=audit_tables.differences(
            [each for each in result.comparisons if each.day is not None]
        ),
        reasons=audit_tables.reasons(result.n_bad),
        bad_rows=audit_tables.places(result.bad_rows),
        repeated=audit_tables.places(result.repeated),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        day_chart=audit_charts.by_day(result.days),
        workload_chart=audit_charts.by_workload(result.workloads),
        hour_chart=audit_charts.by_hour_of_week(result.workloads),
    )


def table(result: AuditResult) -> str:
    """Total, differences and the ranked workloads for a terminal."""
    lines = [_total(result), headline(result)]
    lines += [f"  ! {plain(stamp)}" for stamp in stamps(result)]
    compared = [each for each in result.comparisons if each.day is None]
    if compared:
        lines += ["", *_aligned(audit_tables.differences(compared))]
    lines += ["", *_aligned(audit_tables.workloads(result), IN_TERMINAL)]
    if len(result.workloads) > IN_TERMINAL:
        lines.append(f"... and {len(result.workloads) - IN_TERMINAL} more workloads")
    lines += ["", *_aligned(audit_tables.models(result), IN_TERMINAL)]
    if result.retirements:
        lines += ["", *_aligned(audit_tables.retirements(result), IN_TERMINAL)]
    if result.notes:
        lines += ["", *(f"  - {plain(note)}" for note in result.notes)]
    return "\n".join(lines)


def markdown(result: AuditResult) -> str:
    """Total and ranked workloads as a note for MLflow."""
    rows = [
        f"| {k} | {names.markdown(short(each.workload))} | {usd(each.usd_per_month)} "
        f"| {count(each.calls_per_month)} |"
        for k, each in enumerate(result.workloads[:IN_TERMINAL], start=1)
    ]
    return "\n".join(
        [
            f"## {_total(result)}",
            "",
            headline(result),
            "",
            *(f"- {names.markdown(stamp)}" for stamp in stamps(result)),
            "",
            "| | workload | $ per month | calls per month |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )


def headline(result: AuditResult) -> str:
    """Period, pace and how much of the log is in the dollars, in one sentence."""
    period = f"{result.first_day} to {result.last_day} (UTC), {counted(result.n_days, 'day')}"
    if result.n_days_with_calls < result.n_days:
        period += f", {result.n_days_with_calls} of them with calls"
    calls = counted(result.total.n_calls, "call")
    paid = per_month(result.total.usd_at_terms, result.n_days)
    at_terms = "" if paid is None else f" at list prices, {usd(paid)} at your terms"
    return (
        f"{period}: {calls}, {usd(result.usd_per_month)} a month{at_terms} at this pace. "
        f"Priced are {percent(result.call_coverage)} of the calls and "
        f"{percent(result.token_coverage)} of the tokens; {percent(result.row_coverage)} of the "
        "log's rows could be counted."
    )


def stamps(result: AuditResult) -> tuple[str, ...]:
    """What makes the total wrong or doubtful, in red."""
    found: list[str] = []
    for each in result.comparisons:
        if each.day is None and each.agrees is False and each.against != "log":
            theirs = f"the {each.against}{f' of {each.subject}' if each.subject else ''}"
            found.append(f"{difference(each)} {theirs}")
    missing = result.total.n_calls - result.total.n_calls_priced
    if missing:
        why = "; ".join(result.total.why_not)
        found.append(f"{counted(missing, 'call')} not in the dollars: {why}")
    if result.n_bad:
        why = "; ".join(f"{reason} ({n:,})" for reason, n in result.n_bad.items())
        found.append(f"{counted(sum(result.n_bad.values()), 'row')} not counted: {why}")
    return tuple(found)


def _total(result: AuditResult) -> str:
    """`$1.48 at list prices, $1.30 at your terms`."""
    paid = result.total.usd_at_terms
    at_terms = "" if paid is None else f", {usd(paid)} at your terms"
    return f"{usd(result.total.usd)} at list prices{at_terms}"


def _aligned(it: Table, limit: int = MAX_ROWS) -> list[str]:
    """A table in columns; the small print is left to the page."""
    rows = [[_line(cell) for cell in row] for row in (it.head, *it.rows[:limit])]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _line(cell: Cell) -> str:
    return short(cell.text) + "".join(f" [{tag}]" for tag in cell.tags)
