"""What an audit found: one HTML page, a text for a terminal, a note for MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.core.audit import (
    TOKEN_CLASSES,
    AuditResult,
    Batching,
    Caching,
    Comparison,
    Spend,
    WorkloadSpend,
)
from pipelines.core.usage_log import BadRow
from pipelines.economics.spend import counted
from pipelines.reports import audit_charts, names
from pipelines.reports.audit_charts import WEEKDAYS, readable
from pipelines.reports.figures import NONE, Cell, Table
from pipelines.reports.names import plain, short

MAX_ROWS = 25
"""Rows of one table of the page; the JSON and the FOCUS file have all."""
IN_TABLE = 200
"""Characters of a name in a table of the page."""
IN_TERMINAL = 15
GROUPED_BY = {
    "tag": "by tag",
    "project": "by project",
    "key": "by API key",
    "prompt": "by prompt",
    "model": "by model",
}
HOLDS = {True: "yes", False: "no", None: "not known"}


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
        total=usd(result.total.usd),
        stamps=stamps(result),
        differences=differences([each for each in result.comparisons if each.day is None]),
        workloads=workloads(result),
        n_more=max(0, len(result.workloads) - MAX_ROWS),
        models=models(result),
        classes=token_classes(result.total),
        caching=caching(result),
        batching=batching(result),
        traffic=traffic(result),
        retirements=retirements(result),
        by_day=differences([each for each in result.comparisons if each.day is not None]),
        reasons=Table(
            head=_cells("why", "rows"),
            rows=tuple(_cells(why, f"{n:,}") for why, n in result.n_bad.items()),
        ),
        bad_rows=places(result.bad_rows),
        repeated=places(result.repeated),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        day_chart=audit_charts.by_day(result.days),
        workload_chart=audit_charts.by_workload(result.workloads),
        hour_chart=audit_charts.by_hour_of_week(result.workloads),
    )


def table(result: AuditResult) -> str:
    """Total, differences and the ranked workloads for a terminal."""
    lines = [f"{usd(result.total.usd)} at list prices", headline(result)]
    lines += [f"  ! {plain(stamp)}" for stamp in stamps(result)]
    compared = [each for each in result.comparisons if each.day is None]
    if compared:
        lines += ["", *_aligned(differences(compared))]
    lines += ["", *_aligned(workloads(result), IN_TERMINAL)]
    if len(result.workloads) > IN_TERMINAL:
        lines.append(f"... and {len(result.workloads) - IN_TERMINAL} more workloads")
    lines += ["", *_aligned(models(result), IN_TERMINAL)]
    if result.retirements:
        lines += ["", *_aligned(retirements(result), IN_TERMINAL)]
    if result.notes:
        lines += ["", *(f"  - {plain(note)}" for note in result.notes)]
    return "\n".join(lines)


def markdown(result: AuditResult) -> str:
    """Total and ranked workloads as a note for MLflow."""
    rows = [
        f"| {k} | {names.markdown(short(each.workload))} | {usd(each.usd_per_month)} "
        f"| {_count(each.calls_per_month)} |"
        for k, each in enumerate(result.workloads[:IN_TERMINAL], start=1)
    ]
    return "\n".join(
        [
            f"## {usd(result.total.usd)} at list prices",
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
    return (
        f"{period}: {calls}, {usd(result.usd_per_month)} a month at this pace. Priced are "
        f"{_share(result.call_coverage)} of the calls and {_share(result.token_coverage)} of the "
        f"tokens; {_share(result.row_coverage)} of the log's rows could be counted."
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


def difference(each: Comparison) -> str:
    """`$12.30 (1.2 %) above`, as text."""
    if each.usd_difference is None:
        return "not comparable"
    if not each.usd_difference:
        return "equal to"
    share = "" if each.share is None else f" ({abs(100 * each.share):.2f} %)"
    side = "above" if each.usd_difference > 0 else "below"
    return f"{usd(abs(each.usd_difference))}{share} {side}"


def differences(compared: Sequence[Comparison]) -> Table:
    """Our dollars beside those that others state."""
    rows: list[tuple[Cell, ...]] = []
    for each in compared[: 2 * MAX_ROWS]:
        against = {"log": "what the log itself says"}.get(each.against, each.against)
        tags = ("differs",) if each.agrees is False else ()
        rows.append(
            (
                Cell(text=short(each.subject, IN_TABLE) or "all providers"),
                Cell(text=against if each.day is None else f"{against}, {each.day}"),
                Cell(text=usd(each.usd_list) if each.usd_list is not None else NONE),
                Cell(text=usd(each.usd_stated) if each.usd_stated is not None else NONE),
                Cell(text=difference(each), tags=tags, reason=each.note),
            )
        )
    head = _cells("whose", "against", "list price", "stated", "ours is")
    return Table(head=head, rows=tuple(rows))


def workloads(result: AuditResult) -> Table:
    """Ranked by dollars per month, with what speaks for a study."""
    machine = result.machine
    rows: list[tuple[Cell, ...]] = []
    for k, each in enumerate(result.workloads[:MAX_ROWS], start=1):
        total = result.total.usd
        share = None
        if each.spend.usd is not None and total:
            share = f"{_share(float(each.spend.usd / total))} of the total"
        rows.append(
            (
                Cell(
                    text=f"{k}. {short(each.workload, IN_TABLE)}",
                    notes=(GROUPED_BY[each.grouped_by],),
                ),
                Cell(
                    text=usd(each.usd_per_month),
                    notes=() if share is None else (share,),
                    reason="; ".join(each.spend.why_not),
                ),
                Cell(text=_count(each.calls_per_month)),
                *(Cell(text=HOLDS[sign.holds], reason=sign.figure) for sign in each.signs),
                _machines(each, machine is not None),
            )
        )
    signs = result.workloads[0].signs if result.workloads else ()
    pays = f"pays for {machine.name} at {usd(machine.usd_per_hour)}/h" if machine else "pays for"
    head = _cells(
        "workload", "$ per month", "calls per month", *(sign.name for sign in signs), pays
    )
    return Table(head=head, rows=tuple(rows))


def models(result: AuditResult) -> Table:
    """What each model cost, with its tokens and the price's source."""
    rows: list[tuple[Cell, ...]] = []
    for each in result.models[:MAX_ROWS]:
        spend = each.spend
        name = _model(each.provider, each.model)
        price = f"priced as {each.price}" if each.price else "no price"
        rows.append(
            (
                Cell(text=name, notes=(price, each.source) if each.source else (price,)),
                Cell(text=usd(spend.usd), reason="; ".join(spend.why_not)),
                Cell(text=usd(each.usd_per_month)),
                Cell(text=_count(None if spend.n_tokens_without_calls else spend.n_calls)),
                Cell(text=f"{spend.n_input_tokens:,}"),
                Cell(text=_share(_ratio(spend.tokens["cached_input"], spend.n_input_tokens))),
                Cell(text=f"{spend.tokens['output']:,}"),
            )
        )
    head = _cells("model", "$", "$ per month", "calls", "input tokens", "cached", "output tokens")
    return Table(head=head, rows=tuple(rows))


def token_classes(spend: Spend) -> Table:
    """Tokens and dollars of each class."""
    rows: list[tuple[Cell, ...]] = []
    for name in TOKEN_CLASSES:
        n = spend.tokens[name]
        if not n:
            continue
        cost = spend.usd_by_class.get(name)
        notes = ()
        if name == "output" and spend.reasoning_tokens:
            notes = (f"{spend.reasoning_tokens:,} of them reasoning",)
        share = None if cost is None or not spend.usd else float(cost / spend.usd)
        rows.append(
            (
                Cell(text=readable(name), notes=notes),
                Cell(text=f"{n:,}"),
                Cell(text=_share(n / spend.n_tokens)),
                Cell(text=usd(cost)),
                Cell(text=_share(share)),
            )
        )
    head = _cells("tokens", "number", "of all tokens", "$", "of all $")
    return Table(head=head, rows=tuple(rows))


def caching(result: AuditResult) -> Table:
    """What prompt caches saved, in total and for each workload that has cached tokens."""
    rows = [_caching("all workloads", result.caching)]
    rows += [
        _caching(short(each.workload, IN_TABLE), each.caching)
        for each in result.workloads[:MAX_ROWS]
        if each.spend.tokens["cached_input"] or each.caching.usd_extra_writing
    ]
    head = _cells("workload", "of the input cached", "saved by reading", "extra for writing")
    return Table(head=head, rows=tuple(rows))


def batching(result: AuditResult) -> Table:
    """What batch rates would save, in total and for each workload."""
    rows = [_batching("all workloads", result.batching)]
    rows += [
        _batching(short(each.workload, IN_TABLE), each.batching)
        for each in result.workloads[:MAX_ROWS]
    ]
    head = _cells("workload", "calls batched now", "could be", "these cost", "saved if batched")
    return Table(head=head, rows=tuple(rows))


def traffic(result: AuditResult) -> Table:
    """How steady each workload is."""
    rows: list[tuple[Cell, ...]] = []
    for each in result.workloads[:MAX_ROWS]:
        if (shape := each.traffic) is None:
            continue
        week = shape.hour_of_week
        top = max(range(len(week)), key=lambda k: week[k])
        rows.append(
            (
                Cell(text=short(each.workload, IN_TABLE)),
                Cell(text=_count(each.calls_per_month)),
                Cell(
                    text=f"{shape.busiest_hour:%Y-%m-%d %H:00}",
                    notes=(counted(shape.busiest_hour_calls, "call"),),
                ),
                Cell(text=f"{shape.peak_to_mean:.1f}"),
                Cell(
                    text=f"{WEEKDAYS[top // 24]} {top % 24:02}:00",
                    notes=(f"{_share(week[top] / shape.n_calls)} of the calls",),
                ),
            )
        )
    head = _cells("workload", "calls per month", "busiest hour", "over the mean hour", "of a week")
    return Table(head=head, rows=tuple(rows))


def retirements(result: AuditResult) -> Table:
    """Models that are or will soon be gone."""
    rows = tuple(
        _cells(
            _model(each.provider, each.model),
            str(each.on),
            f"in {counted(each.days_left, 'day')}"
            if each.days_left >= 0
            else f"{counted(-each.days_left, 'day')} ago",
            f"{each.n_calls:,}",
            usd(each.usd_per_month),
        )
        for each in result.retirements[:MAX_ROWS]
    )
    return Table(head=_cells("model", "retired on", "", "calls", "$ per month"), rows=rows)


def places(rows: Sequence[BadRow]) -> Table:
    """Rows of the log by file and line."""
    found = tuple(
        (Cell(text=f"{row.file}:{row.line}"), Cell(text=row.reason)) for row in rows[: 2 * MAX_ROWS]
    )
    return Table(head=_cells("row", "why"), rows=found)


def usd(amount: Decimal | None) -> str:
    """`$1,235`, `$12.34`, `$0.0012`, `-$3.00`, `unknown`."""
    if amount is None:
        return "unknown"
    size = abs(amount)
    if 0 < size < Decimal("0.0001"):
        return "under $0.0001"
    digits = 0 if size >= 1000 else 2 if size >= 1 or not size else 4
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


def _machines(each: WorkloadSpend, known: bool) -> Cell:
    if each.usd_per_hour is None or not known:
        return Cell(text=NONE)
    n = each.n_machines_paid or 0
    reason = f"one around the clock at {usd(each.usd_per_hour)}/h"
    return Cell(text=f"{n:,}" if n else "less than one", reason=reason)


def _caching(name: str, it: Caching) -> tuple[Cell, ...]:
    return _cells(name, _share(it.hit_share), usd(it.usd_saved_reading), usd(it.usd_extra_writing))


def _batching(name: str, it: Batching) -> tuple[Cell, ...]:
    return _cells(
        name,
        f"{it.n_calls_batched:,}",
        f"{it.n_calls:,}",
        NONE if it.usd is None else usd(it.usd),
        NONE if it.usd_saved is None else usd(it.usd_saved),
    )


def _cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(text=text) for text in texts)


def _model(provider: str, model: str) -> str:
    return short(f"{provider}: {model}" if provider else model, IN_TABLE)


def _count(n: int | None) -> str:
    return "unknown" if n is None else f"{n:,}"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _share(share: float | None) -> str:
    """`98.2 %`; what is not all of it is never rounded up to 100 %."""
    if share is None:
        return "unknown"
    text = f"{100 * share:.1f} %"
    return "over 99.9 %" if text == "100.0 %" and share < 1 else text


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
