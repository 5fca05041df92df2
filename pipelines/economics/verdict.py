"""Put the ruling on a study into a Decision: its dollars by the month, and what else is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pipelines.core.decision import CandidateDecision, Decision
from pipelines.core.evidence import Evidence
from pipelines.core.hardware import Figure
from pipelines.core.records import Difference
from pipelines.core.results import EvaluateResult
from pipelines.core.ruling import CandidateRuling
from pipelines.core.study import Study
from pipelines.economics import break_even, own_cost, own_measured, spill_over
from pipelines.economics.rule import GOOD_ENOUGH
from pipelines.economics.sensitivity import sensitivity, words
from pipelines.economics.study_rule import ruled


def decide(
    study: Study,
    evidence: Evidence,
    results: Mapping[str, EvaluateResult],
    run_id: str,
    *,
    controls: Mapping[str, Difference | None],
    confidence_from: Mapping[str, str],
    judge_doubt: str | None = None,
    judge_kinship: Sequence[str] = (),
) -> Decision:
    """The verdict with its reasons.

    Args:
        study: the study.
        evidence: of all its candidates, item by item.
        results: give the dollars, and the prices and the hardware that were used.
        run_id: of the decision.
        controls: candidate that is only a control -> its difference to the one it controls.
        confidence_from: candidate -> what a cascade would read its confidence from.
        judge_doubt: why the judges of the quality may not decide; None = they may.
        judge_kinship: warnings about judges of a candidate's own family.
    """
    workload, incumbent = study.workload, results[study.incumbent]
    ruling = ruled(study, evidence)
    rows = {
        name: _row(
            study, results[name], incumbent, row, controls.get(name), confidence_from.get(name, "")
        )
        for name, row in ruling.candidates.items()
    }
    told, would_be = sensitivity(study, evidence, results), None
    if judge_doubt is not None:
        would_be = (ruling.verdict, ruling.chosen)
        what = ruling.chosen or study.incumbent
        ruling = ruling.model_copy(
            update={
                "verdict": "insufficient",
                "chosen": None,
                "headline": "Not enough evidence: the judge of the quality has not earned its say; "
                f"by its word alone it would be {ruling.verdict} ({what}).",
            }
        )
    return Decision.model_validate(
        {
            **dict(ruling),
            "reasons": (
                *_simulated(rows),
                *([f"UNVERIFIED: the judge may not decide: {judge_doubt}."] if judge_doubt else ()),
                *ruling.reasons,
                *_reasons(study, rows),
                *(f"Warning: {warning}." for warning in judge_kinship),
            ),
            "flips_when": (
                *ruling.flips_when,
                *(words(each) for each in told if each.flips_at is not None),
            ),
            "run_id": run_id,
            "workload": workload.name,
            "title": workload.title,
            "quality_metric": workload.quality,
            "tasks_per_month": workload.traffic.tasks_per_month,
            "unverified": judge_doubt,
            "would_be": would_be,
            "sensitivity": told,
            "simulated": tuple(name for name, row in rows.items() if row.simulated),
            "eval_sha256": incumbent.eval_sha256,
            "candidates": rows,
            "prices": {
                c.price: price
                for name, c in study.candidates.items()
                if c.kind == "rent" and (price := results[name].token_price) is not None
            },
            "hardware": {r.hardware.name: r.hardware for r in results.values() if r.hardware},
        }
    )


def usd(amount: Decimal | None) -> str:
    """Dollars for a person: `$1,234`, `$0.52`, `unknown`."""
    if amount is None:
        return "unknown"
    return f"${amount:,.0f}" if abs(amount) >= 100 else f"${amount:,.2f}"


def _row(
    study: Study,
    result: EvaluateResult,
    incumbent: EvaluateResult,
    ruling: CandidateRuling,
    control_difference: Difference | None,
    confidence_from: str,
) -> CandidateDecision:
    """One row of the decision table."""
    cost = result.cost
    return CandidateDecision.model_validate(
        {
            **dict(ruling),
            "title": result.title,
            "simulated": result.simulated,
            "toy": result.toy,
            "latency_p50_s": result.latency_p50_s,
            "usd_per_month": cost.usd_per_month,
            "usd_per_month_low": cost.usd_per_month_low,
            "usd_per_month_high": cost.usd_per_month_high,
            "cost_lines": cost.lines,
            "n_replicas": cost.n_replicas,
            "utilisation": cost.utilisation,
            "capacity_per_s": cost.capacity_per_s,
            "control_of": study.candidates[result.candidate].control_of,
            "control_difference": control_difference,
            "confidence_from": confidence_from,
            "evaluate_run_id": result.run_id,
            "model_id": result.model_id,
            **_against_rent(study, result, incumbent),
        }
    )


def _against_rent(
    study: Study, result: EvaluateResult, incumbent: EvaluateResult
) -> dict[str, Any]:
    """How an owned candidate compares in dollars with a rented incumbent."""
    own, api = own_measured.owning(study.workload, result), incumbent.cost.usd_per_task
    if own is None or incumbent.kind != "rent" or api is None:
        return {"break_even_tasks_per_month": None}
    tasks, outlook = study.workload.traffic.tasks_per_month, study.workload.own_costs.outlook
    return {
        "break_even_tasks_per_month": break_even.volume(own, api),
        "swings": break_even.swings(own, Figure.of(api), tasks),
        "spill_over": spill_over.best(own, api, tasks),
        "payback_months": None
        if outlook is None
        else break_even.payback_months(
            lambda volume: own_cost.usd_per_month(own, volume, own.at("likely")),
            api,
            tasks,
            outlook,
        ),
    }


def _dollars_in_doubt(
    study: Study, name: str, row: CandidateDecision, now: CandidateDecision
) -> list[str]:
    """What the range of the dollars, the time and the peaks say of an owned candidate."""
    found: list[str] = []
    low, likely, high = row.usd_per_month_low, row.usd_per_month, row.usd_per_month_high
    api = now.usd_per_month
    if now.kind != "rent" or low is None or likely is None or high is None or api is None:
        return found
    if break_even.is_unclear(Figure(low=low, likely=likely, high=high), Figure.of(api)):
        most = f", mostly because of {row.swings[0].symbol}" if row.swings else ""
        found.append(
            f"Whether {name} is cheaper than {study.incumbent} is unclear: owning costs "
            f"{usd(low)} to {usd(high)} a month{most}; {study.incumbent} costs {usd(api)}."
        )
    if (outlook := study.workload.own_costs.outlook) is not None:
        months = row.payback_months
        found.append(
            f"{name} does not pay back its start within {outlook.months} months."
            if months is None
            else f"{name} pays back its start after {months} months."
        )
    if (both := row.spill_over) is not None and both.is_cheapest:
        found.append(
            f"{both.n_replicas} machine{'s' if both.n_replicas > 1 else ''} of {name} for the base "
            f"of the load and {study.incumbent} for {both.spilled_share:.1%} of the calls cost "
            f"{usd(both.usd_per_month)} a month, less than either alone."
        )
    return found


def _simulated(rows: Mapping[str, CandidateDecision]) -> tuple[str, ...]:
    names = ", ".join(name for name, row in rows.items() if row.simulated)
    if not names:
        return ()
    return (
        f"SIMULATED: the answers of {names} were made up by a stand-in. This verdict shows how the "
        "workflow works and says nothing about the real model.",
    )


def _reasons(study: Study, rows: Mapping[str, CandidateDecision]) -> tuple[str, ...]:
    """What a study knows beside the ruling."""
    found: list[str] = []
    for name, row in rows.items():
        if (lost := row.control_difference) is not None:
            found.append(
                f"{_what_was_changed(study, name)} changes {row.control_of} by "
                f"{100 * lost.mean:+.1f} points ({100 * lost.low:+.1f} to {100 * lost.high:+.1f})."
            )
        elif row.comparison in GOOD_ENOUGH and row.excluded_because is None:
            found += _dollars_in_doubt(study, name, row, rows[study.incumbent])
    if toys := ", ".join(name for name, row in rows.items() if row.toy):
        found.append(f"{toys}: a toy base of a few million parameters, not an 8B model.")
    return tuple(found)


def _what_was_changed(study: Study, name: str) -> str:
    """What tells a control from its candidate, as the subject of a sentence."""
    control = study.candidates[name]
    if control.closed_book:
        return "Closed book: asking without the passages"
    return f"Prompt debt: asking with the prompt of {study.incumbent} word for word"
