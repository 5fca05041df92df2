"""The report's tables as plain text cells: metrics, outcomes, inputs, retrievers, judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from pipelines.core import hardware
from pipelines.core.decision import CandidateDecision, Decision, Sensitivity
from pipelines.core.hardware import Hardware
from pipelines.core.own_costs import OwnCosts
from pipelines.core.records import Estimate, Outcome, Record
from pipelines.core.results import EvaluateResult, PrepareResult
from pipelines.core.study import Study
from pipelines.economics import own_measured
from pipelines.economics.rule_words import verdict_words
from pipelines.economics.symbols import in_words
from pipelines.statistics.agreement import Figure

if TYPE_CHECKING:
    from pipelines.evaluation.judge_figures import JudgeFigures
    from pipelines.reports.answers import Slice

ENDINGS: dict[Outcome, str] = {
    "answered": "answered",
    "truncated": "cut at the token limit",
    "refused": "refused",
    "filtered": "stopped by a content filter",
    "context_length": "prompt too long for the model",
    "failed": "failed",
    "not_asked": "not asked",
}
NONE = "\N{EN DASH}"
"""Where a figure does not apply."""


class Cell(Record):
    """What stands in one place of a table; the template escapes it."""

    text: str
    tags: tuple[str, ...] = ()
    """Words that must never be missing, such as SIMULATED."""
    notes: tuple[str, ...] = ()
    """Small lines below."""
    reason: str = ""
    """Why there is no figure; may be long."""


class Table(Record):
    """Rows of cells; the first of each row says what the row is."""

    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


def key_figures(study: Study, results: Mapping[str, EvaluateResult]) -> Table:
    """Every metric of the workload for every candidate.

    Args:
        study: gives the metrics, in its order.
        results: candidate -> its estimates.
    """
    rows: list[tuple[Cell, ...]] = []
    for name, spec in study.workload.metrics.items():
        simulated = any(name in result.simulated_metrics for result in results.values())
        notes = ["the verdict rests on it"] if name == study.workload.quality else []
        if spec.judges:
            notes.append(f"judged by {' + '.join(spec.judges)}")
        head = Cell(
            text=readable(name), tags=("SIMULATED judge",) if simulated else (), notes=tuple(notes)
        )
        rows.append((head, *(_scored(result, name) for result in results.values())))
    return Table(head=_heads("metric", results), rows=tuple(rows))


def endings(results: Mapping[str, EvaluateResult]) -> Table:
    """How often each outcome came, and what the calls cost; rows in which nothing is are left out.

    Args:
        results: candidate -> its counts.
    """
    each = list(results.values())
    counts = [
        (Cell(text=words), [result.outcomes.get(outcome, 0) for result in each])
        for outcome, words in ENDINGS.items()
    ]
    unread = Cell(text="unparseable", notes=("answers that count as wrong",))
    broken = Cell(text="attempts broken off", notes=("after the answer began; may be billed",))
    counts.append((unread, [result.n_unparseable for result in each]))
    counts.append((broken, [result.n_broken_off for result in each]))
    rows = [(head, *(Cell(text=f"{count:,}") for count in row)) for head, row in counts if any(row)]
    if any(result.spent_usd is not None for result in each):
        head = Cell(text="paid for answers", notes=("list price, failed calls included",))
        rows.append((head, *(_spent(result) for result in each)))
    if any(result.judge_usd is not None for result in each):
        head = Cell(text="paid for judges", notes=("list price",))
        rows.append((head, *(_dollars(r.judge_usd, "no judge is paid by the token") for r in each)))
    return Table(head=_heads("", results), rows=tuple(rows))


def owning(decision: Decision) -> Table | None:
    """What owning costs a month, line by line; None when nothing is owned.

    Args:
        decision: gives the lines of each candidate.
    """
    owned = {name: row for name, row in decision.candidates.items() if row.cost_lines}
    if not owned:
        return None
    names = dict.fromkeys(line.name for row in owned.values() for line in row.cost_lines)
    rows = [(Cell(text=name), *(_cost_line(row, name) for row in owned.values())) for name in names]
    rows.append((Cell(text="in all"), *(_total(row) for row in owned.values())))
    used = (
        Cell(text=NONE if row.utilisation is None else f"{row.utilisation:.1%}")
        for row in owned.values()
    )
    rows.append(
        (Cell(text="utilisation", notes=("calls over what the machines could answer",)), *used)
    )
    carried = (_capacity(row.capacity_per_s) for row in owned.values())
    rows.append((Cell(text="capacity", notes=("calls per second of one machine",)), *carried))
    return Table(head=tuple(Cell(text=text) for text in ("line", *owned)), rows=tuple(rows))


def _capacity(figure: hardware.Figure | None) -> Cell:
    if figure is None:
        return Cell(text=NONE)
    span = () if figure.low == figure.high else (f"{figure.low:.1f} to {figure.high:.1f}",)
    source = (figure.source,) if figure.source else ()
    return Cell(text=f"{figure.likely:.1f}", notes=(*span, *source))


def machines(costs: OwnCosts) -> str:
    """How the machines are counted, in one sentence.

    Args:
        costs: as the study gives them.
    """
    period = "each hour" if costs.scaling == "hourly" else "the month"
    spares = f"{costs.spares} spare{'' if costs.spares == 1 else 's'}"
    return (
        f"machines for the busiest minute of {period} with {costs.headroom.likely:.0%} headroom, "
        f"{spares}; {costs.calls_per_task.likely:f} calls a task, of which "
        f"{costs.retries_per_call.likely:.0%} are made again"
    )


def inputs(study: Study, results: Mapping[str, EvaluateResult]) -> Table | None:
    """Every figure that the dollars of owning rest on, with where it comes from.

    Args:
        study: gives what owning costs.
        results: candidate -> its machine and capacity.
    """
    known: dict[tuple[str, hardware.Figure], list[str]] = {}
    sources: dict[str, Hardware] = {}
    for name, result in results.items():
        own = own_measured.owning(study.workload, result)
        if own is None or result.hardware is None:
            continue
        sources[name] = result.hardware
        for symbol, figure in own.symbols.items():
            known.setdefault((symbol, figure), []).append(name)
    if not known:
        return None
    rows: list[tuple[Cell, ...]] = []
    for (symbol, figure), names in known.items():
        source, checked_on = figure.source, figure.checked_on
        if symbol in ("usd_per_machine_hour", "cold_start_s"):
            checked_on = checked_on or sources[names[0]].checked_on
            source = source or sources[names[0]].source
        elif symbol == "capacity_per_s":
            source = source or "measured by this study"
        of = () if len(names) == len(sources) else (", ".join(names),)
        rows.append(
            (
                Cell(text=readable(symbol), notes=of),
                *(Cell(text=_number(figure.at(end))) for end in hardware.END_NAMES),
                Cell(
                    text="",
                    reason=source or study.workload.own_costs.source,
                    notes=(f"{checked_on}",) if checked_on else (),
                ),
            )
        )
    head = ("input", "low", "likely", "high", "source")
    return Table(head=tuple(Cell(text=text) for text in head), rows=tuple(rows))


def slices(parts: Sequence[Slice]) -> Table | None:
    """Quality by slice; None without any.

    Args:
        parts: of the items.
    """
    if not parts:
        return None
    names = tuple(parts[0].quality)
    rows = tuple(
        (
            Cell(text=part.name, notes=(f"{part.n:,} items",)),
            *(
                _estimate(part.quality[name]).model_copy(
                    update={"tags": ("worse",) if name in part.worse else ()}
                )
                for name in names
            ),
        )
        for part in parts
    )
    return Table(head=tuple(Cell(text=text) for text in ("slice", *names)), rows=rows)


def acceptability(decision: Decision) -> Table | None:
    """Chance of each candidate to lose least, for those who cannot see the chart.

    Args:
        decision: with the points of the curve.
    """
    if not decision.acceptability:
        return None
    names = tuple(decision.acceptability[0].probability_best)
    rows = tuple(
        (
            Cell(text=f"${point.usd_per_error:,.4g}"),
            *(Cell(text=f"{point.probability_best[name]:.0%}") for name in names),
        )
        for point in decision.acceptability
    )
    return Table(head=tuple(Cell(text=text) for text in ("an error costs", *names)), rows=rows)


def sensitivity(decision: Decision) -> Table | None:
    """What becomes of the answer as each input changes alone; None when none was tried.

    Args:
        decision: with its scenarios.
    """
    if not decision.sensitivity:
        return None
    rows = tuple(
        (
            Cell(text=in_words(each.input)),
            Cell(text=NONE if each.today is None else f"{each.today:,.4g}"),
            Cell(text=_turn(each)),
            Cell(
                text="",
                notes=tuple(
                    f"{one.value:,.4g}: {verdict_words(one.verdict, one.chosen)}"
                    for one in each.scenarios
                ),
            ),
        )
        for each in decision.sensitivity
    )
    head = ("input", "today", "another answer at", "answers that were tried")
    return Table(head=tuple(Cell(text=text) for text in head), rows=rows)


def _turn(each: Sensitivity) -> str:
    """Where the answer becomes another one."""
    if each.flips_at is not None:
        return f"{each.flips_at:,.4g}"
    return "see right" if any(one.changes for one in each.scenarios) else "none found"


def _number(value: Decimal) -> str:
    """Without trailing zeros, never in powers of ten."""
    text = f"{round(value, 6):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def errors(results: Mapping[str, EvaluateResult]) -> Table | None:
    """Why calls gave no text; None when all did.

    Args:
        results: candidate -> its most frequent errors.
    """
    rows = tuple(
        (Cell(text=name), Cell(text="", reason=reason), Cell(text=f"{count:,}"))
        for name, result in results.items()
        for reason, count in result.errors.items()
    )
    head = (Cell(text="candidate"), Cell(text="why there is no text"), Cell(text="calls"))
    return Table(head=head, rows=rows) if rows else None


def retrievers(prepared: PrepareResult) -> Table | None:
    """How well each way of retrieving finds the passages; None without retrieval.

    Args:
        prepared: holds the measured retrievers.
    """
    found = prepared.retrievers
    if not found:
        return None
    head = ("method", f"recall@{found[0].k}", "nDCG@10", "reciprocal rank", "p50 of a query")
    rows = tuple(
        (
            Cell(
                text=each.method, notes=("in use: the candidates saw these",) if each.in_use else ()
            ),
            *map(_estimate, (each.recall_at_k, each.ndcg_at_10, each.reciprocal_rank)),
            Cell(text=f"{1000 * each.latency_p50_s:.1f} ms"),
        )
        for each in found
    )
    return Table(head=tuple(Cell(text=text) for text in head), rows=rows)


def judges(measured: Sequence[JudgeFigures]) -> Table | None:
    """How far each judge agrees with labels; None when none was measured.

    Args:
        measured: judges and juries, one row each.
    """
    if not measured:
        return None
    columns = {
        "agreement": [each.agreement for each in measured],
        "kappa": [each.kappa for each in measured],
        "true positive rate": [each.true_positive_rate for each in measured],
        "false positive rate": [each.false_positive_rate for each in measured],
        "flips": [each.flips for each in measured],
    }
    columns = {name: column for name, column in columns.items() if any(column)}
    head = ("judge", "metric", "labels", "n", *columns)
    rows: list[tuple[Cell, ...]] = []
    for k, each in enumerate(measured):
        missing = each.n_labels - each.n_verdicts
        rows.append(
            (
                Cell(text=each.judge, tags=("SIMULATED",) if each.simulated else ()),
                Cell(text=readable(each.metric)),
                Cell(text=each.labels),
                Cell(
                    text=f"{each.n_verdicts:,}",
                    notes=(f"{missing:,} without a verdict",) if missing else (),
                ),
                *(_figure(column[k]) for column in columns.values()),
            )
        )
    return Table(head=tuple(Cell(text=text) for text in head), rows=tuple(rows))


def readable(name: str) -> str:
    """A metric's name in words."""
    return name.replace("_", " ")


def _heads(first: str, results: Mapping[str, EvaluateResult]) -> tuple[Cell, ...]:
    """One column for each candidate, with the marks it has everywhere."""
    heads = [Cell(text=first)]
    for name, result in results.items():
        marks = (("simulated", result.simulated), ("toy", result.toy))
        heads.append(Cell(text=name, tags=tuple(mark for mark, on in marks if on)))
    return tuple(heads)


def _scored(result: EvaluateResult, name: str) -> Cell:
    value = result.metrics[name]
    cell = _estimate(value)
    notes = list(cell.notes)
    if name in result.judged and (alone := result.judged[name]) != value:
        notes.append(f"judge alone {alone.mean:.3f}" if alone else "judge alone: not scored")
    if value is not None and value.coverage < 1:
        notes.append(f"coverage {value.coverage:.1%}")
    return cell.model_copy(update={"notes": tuple(notes)})


def _estimate(value: Estimate | None) -> Cell:
    if value is None:
        return Cell(text="not scored")
    return Cell(text=f"{value.mean:.3f}", notes=(f"{value.low:.3f} to {value.high:.3f}",))


def _figure(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell(text=NONE)
    if figure.value is None:
        return Cell(text="not known", reason=figure.reason)
    return Cell(text=f"{figure.value:.3f}", notes=(f"{figure.low:.3f} to {figure.high:.3f}",))


def _spent(result: EvaluateResult) -> Cell:
    if result.kind != "rent":
        return _dollars(result.spent_usd, "not paid by the call")
    return _dollars(result.spent_usd, "simulated" if result.simulated else "no price")


def _cost_line(row: CandidateDecision, name: str) -> Cell:
    line = next((line for line in row.cost_lines if line.name == name), None)
    if line is None:
        return Cell(text=NONE)
    if line.usd_per_month is None:
        return Cell(text=NONE, notes=(line.basis,))
    figure = line.usd_per_month
    notes = () if figure.low == figure.high else (f"${figure.low:,.0f} to ${figure.high:,.0f}",)
    return Cell(
        text=f"${figure.likely:,.0f}", notes=(*notes, *([line.basis] if line.basis else []))
    )


def _total(row: CandidateDecision) -> Cell:
    assert row.usd_per_month is not None, "a bill with lines has a sum"
    return Cell(
        text=f"${row.usd_per_month:,.0f}",
        notes=(f"${row.usd_per_month_low:,.0f} to ${row.usd_per_month_high:,.0f}",),
    )


def _dollars(amount: Decimal | None, why_not: str) -> Cell:
    if amount is None:
        return Cell(text=NONE, notes=(why_not,))
    return Cell(text=f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}")
