"""The tables of an audit, for its page and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

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
from pipelines.reports.amounts import count, percent, usd
from pipelines.reports.audit_charts import WEEKDAYS, readable
from pipelines.reports.figures import NONE, Cell, Table
from pipelines.reports.names import short

MAX_ROWS = 25
"""Rows of one table of the page; the JSON and the FOCUS file have all."""
IN_TABLE = 200
"""Characters of a name in a table of the page."""
GROUPED_BY = {
    "tag": "by tag",
    "project": "by project",
    "key": "by API key",
    "prompt": "by prompt",
    "model": "by model",
}
_AT_TERMS = ("at your terms",)
HOLDS = {True: "yes", False: "no", None: "not known"}


def differences(compared: Sequence[Comparison]) -> Table:
    """Our dollars beside those that others state."""
    rows: list[tuple[Cell, ...]] = []
    has_terms = any(each.usd_at_terms is not None for each in compared)
    for each in compared[: 2 * MAX_ROWS]:
        against = f"what {each.format} say" if each.against == "log" else each.against
        tags = ("differs",) if each.agrees is False else ()
        rows.append(
            (
                Cell(text=short(each.subject, IN_TABLE) or "all providers"),
                Cell(text=against if each.day is None else f"{against}, {each.day}"),
                Cell(text=usd(each.usd_list) if each.usd_list is not None else NONE),
                *_at_terms(each.usd_at_terms, has_terms),
                Cell(text=usd(each.usd_stated) if each.usd_stated is not None else NONE),
                Cell(text=difference(each), tags=tags, reason=each.note),
            )
        )
    head = _cells("whose", "against", "list price", *_AT_TERMS[:has_terms], "stated", "ours is")
    return Table(head=head, rows=tuple(rows))


def difference(each: Comparison) -> str:
    """`$12.30 (1.2 %) above`, as text."""
    if each.usd_difference is None:
        return "not comparable"
    if not each.usd_difference:
        return "equal to"
    share = "" if each.share is None else f" ({abs(100 * each.share):.2f} %)"
    side = "above" if each.usd_difference > 0 else "below"
    return f"{usd(abs(each.usd_difference))}{share} {side}"


def workloads(result: AuditResult) -> Table:
    """Ranked by dollars per month, with what speaks for a study."""
    machine = result.machine
    rows: list[tuple[Cell, ...]] = []
    for k, each in enumerate(result.workloads[:MAX_ROWS], start=1):
        total = result.total.usd
        share = None
        if each.spend.usd is not None and total:
            share = f"{percent(float(each.spend.usd / total))} of the total"
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
                *_at_terms(each.usd_per_month_at_terms, bool(result.terms)),
                Cell(text=count(each.calls_per_month)),
                *(Cell(text=HOLDS[sign.holds], reason=sign.figure) for sign in each.signs),
                _machines(each, machine is not None),
            )
        )
    signs = result.workloads[0].signs if result.workloads else ()
    pays = f"pays for {machine.name} at {usd(machine.usd_per_hour)}/h" if machine else "pays for"
    head = _cells(
        "workload",
        "$ per month",
        *_AT_TERMS[: bool(result.terms)],
        "calls per month",
        *(sign.name for sign in signs),
        pays,
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
                *_at_terms(spend.usd_at_terms, bool(result.terms)),
                Cell(text=usd(each.usd_per_month)),
                Cell(text=count(None if spend.n_tokens_without_calls else spend.n_calls)),
                Cell(text=f"{spend.n_input_tokens:,}"),
                Cell(text=percent(_ratio(spend.tokens["cached_input"], spend.n_input_tokens))),
                Cell(text=f"{spend.tokens['output']:,}"),
            )
        )
    head = _cells(
        "model",
        "$",
        *_AT_TERMS[: bool(result.terms)],
        "$ per month",
        "calls",
        "input tokens",
        "cached",
        "output tokens",
    )
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
                Cell(text=percent(n / spend.n_tokens)),
                Cell(text=usd(cost)),
                Cell(text=percent(share)),
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
                Cell(text=count(each.calls_per_month)),
                Cell(
                    text=f"{shape.busiest_hour:%Y-%m-%d %H:00}",
                    notes=(counted(shape.busiest_hour_calls, "call"),),
                ),
                Cell(text=f"{shape.peak_to_mean:.1f}"),
                Cell(
                    text=f"{WEEKDAYS[top // 24]} {top % 24:02}:00",
                    notes=(f"{percent(week[top] / shape.n_calls)} of the calls",),
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


def reasons(n_bad: Mapping[str, int]) -> Table:
    """Why rows could not be counted."""
    rows = tuple(_cells(why, f"{n:,}") for why, n in n_bad.items())
    return Table(head=_cells("why", "rows"), rows=rows)


def places(rows: Sequence[BadRow]) -> Table:
    """Rows of the log by file and line."""
    found = tuple(
        (Cell(text=f"{row.file}:{row.line}"), Cell(text=row.reason)) for row in rows[: 2 * MAX_ROWS]
    )
    return Table(head=_cells("row", "why"), rows=found)


def _at_terms(amount: Decimal | None, has_terms: bool) -> tuple[Cell, ...]:
    """A cell of the column that is there where terms were given."""
    return (Cell(text=NONE if amount is None else usd(amount)),) if has_terms else ()


def _machines(each: WorkloadSpend, known: bool) -> Cell:
    if each.usd_per_hour is None or not known:
        return Cell(text=NONE)
    n = each.n_machines_paid or 0
    reason = f"one around the clock at {usd(each.usd_per_hour)}/h"
    return Cell(text=f"{n:,}" if n else "less than one", reason=reason)


def _caching(name: str, it: Caching) -> tuple[Cell, ...]:
    return _cells(name, percent(it.hit_share), usd(it.usd_saved_reading), usd(it.usd_extra_writing))


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


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
