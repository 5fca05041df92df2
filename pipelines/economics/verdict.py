"""Put the choice into a Decision: rows, reasons, what would change the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pipelines.core.hardware import Figure
from pipelines.core.records import Difference
from pipelines.core.results import CandidateDecision, Decision, EvaluateResult
from pipelines.core.study import Study
from pipelines.core.workload import Requirements
from pipelines.economics import break_even, own_cost, spill_over
from pipelines.economics.candidate_cost import usd_per_good_task
from pipelines.economics.choose import GOOD_ENOUGH, Choice, choose, compare, misses
from pipelines.economics.own_cost import Owning
from pipelines.statistics.planning import required_n


def candidate_row(
    study: Study,
    result: EvaluateResult,
    incumbent: EvaluateResult,
    difference: Difference | None,
    need: Requirements,
    control_difference: Difference | None = None,
) -> CandidateDecision:
    """One row of the decision table; differences are paired, to the incumbent and of a control."""
    control_of = study.candidates[result.candidate].control_of
    quality, cost = result.metrics[result.quality_metric], result.cost
    is_incumbent = result.candidate == incumbent.candidate
    margin = need.max_quality_loss
    return CandidateDecision(
        title=result.title,
        kind=result.kind,
        simulated=result.simulated,
        toy=result.toy,
        n=result.n_total,
        coverage=quality.coverage if quality else 0.0,
        quality=quality,
        difference=difference,
        comparison="incumbent" if is_incumbent else compare(difference, margin),
        latency_p50_s=result.latency_p50_s,
        latency_p95_s=result.latency_p95_s,
        usd_per_task=cost.usd_per_task,
        usd_per_month=cost.usd_per_month,
        usd_per_good_task=usd_per_good_task(cost.usd_per_task, quality.mean if quality else None),
        usd_per_month_low=cost.usd_per_month_low,
        usd_per_month_high=cost.usd_per_month_high,
        cost_lines=cost.lines,
        n_replicas=cost.n_replicas,
        utilisation=cost.utilisation,
        capacity_per_s=cost.capacity_per_s,
        excluded_because=f"it is only a control of {control_of}"
        if control_of
        else misses(
            need,
            quality=quality,
            latency_p95_s=result.latency_p95_s,
            usd_per_month=cost.usd_per_month,
            no_usd_because=cost.unknown_because,
        ),
        control_of=control_of,
        control_difference=control_difference,
        evaluate_run_id=result.run_id,
        model_id=result.model_id,
        **_against_rent(study, result, incumbent),
    )


def decide(
    study: Study,
    rows: Mapping[str, CandidateDecision],
    results: Mapping[str, EvaluateResult],
    run_id: str,
    *,
    judge_doubt: str | None = None,
    judge_kinship: Sequence[str] = (),
) -> Decision:
    """The verdict with its reasons.

    Args:
        study: the study.
        rows: of the decision table.
        results: give the prices and the hardware that were used.
        run_id: of the decision.
        judge_doubt: why the judges of the quality may not decide; None = they may.
        judge_kinship: warnings about judges of a candidate's own family.
    """
    workload = study.workload
    margin = workload.requirements.max_quality_loss
    choice = choose(rows, study.incumbent)
    if judge_doubt is not None:
        choice = Choice("insufficient", None, ())
    undecided = {
        name: n
        for name, row in rows.items()
        if row.comparison == "inconclusive"
        and row.difference is not None
        and (n := required_n(row.difference, margin)) is not None
    }
    simulated = tuple(name for name, row in rows.items() if row.simulated)
    return Decision(
        run_id=run_id,
        workload=workload.name,
        title=workload.title,
        verdict=choice.verdict,
        chosen=choice.chosen,
        incumbent=study.incumbent,
        margin=margin,
        quality_metric=workload.quality,
        tasks_per_month=workload.traffic.tasks_per_month,
        headline=_headline(study, rows, choice, judge_doubt),
        reasons=(
            *([f"The judge may not decide: {judge_doubt}."] if judge_doubt else ()),
            *_reasons(study, rows, choice, undecided),
            *(f"Warning: {warning}." for warning in judge_kinship),
        ),
        flips_when=_flips(study, rows, results, choice),
        required_n=undecided,
        simulated=simulated,
        eval_sha256=results[study.incumbent].eval_sha256,
        candidates=dict(rows),
        prices={
            c.price: price
            for name, c in study.candidates.items()
            if c.kind == "rent" and (price := results[name].token_price) is not None
        },
        hardware={r.hardware.name: r.hardware for r in results.values() if r.hardware},
    )


def usd(amount: Decimal | None) -> str:
    """Dollars for a person: `$1,234`, `$0.52`, `unknown`."""
    if amount is None:
        return "unknown"
    return f"${amount:,.0f}" if abs(amount) >= 100 else f"${amount:,.2f}"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _owning(study: Study, result: EvaluateResult) -> Owning | None:
    """What an owned candidate's bill depends on; None when rented or not measured."""
    if result.hardware is None or result.cost.capacity_per_s is None:
        return None
    workload = study.workload
    return own_cost.owning(
        result.cost.capacity_per_s,
        result.hardware,
        workload.traffic,
        workload.own_costs,
        result.tuned,
        result.spent,
    )


def _against_rent(
    study: Study, result: EvaluateResult, incumbent: EvaluateResult
) -> dict[str, Any]:
    """How an owned candidate compares in dollars with a rented incumbent."""
    own, api = _owning(study, result), incumbent.cost.usd_per_task
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


def _headline(
    study: Study, rows: Mapping[str, CandidateDecision], choice: Choice, judge_doubt: str | None
) -> str:
    tasks = f"{study.workload.traffic.tasks_per_month:,} tasks a month"
    now = rows[study.incumbent]
    if judge_doubt is not None:
        return "Not enough evidence: the judge of the quality has not earned its say."
    if choice.chosen is None:
        if choice.open_questions:
            names = " and ".join(choice.open_questions)
            return (
                f"Not enough evidence: {names} would be cheaper, but the eval set is too small "
                "to show that the quality is kept."
            )
        return "Not enough evidence: no candidate meets the requirements."
    row = rows[choice.chosen]
    if choice.chosen == study.incumbent:
        verb = "Rent" if row.kind == "rent" else "Own"
        return (
            f"{verb}: keep {choice.chosen} at {usd(row.usd_per_month)} a month for {tasks}; no "
            "cheaper candidate is shown to be as good."
        )
    no_llm = ", a classical model without any LLM" if row.kind == "baseline" else ""
    verb = "Rent" if row.kind == "rent" else "Own"
    saving = ""
    if now.usd_per_month is not None and row.usd_per_month is not None:
        saved = now.usd_per_month - row.usd_per_month
        change = "saves" if saved >= 0 else "costs another"
        saving = f", which {change} {usd(abs(saved))} a month against {study.incumbent}"
    return (
        f"{verb}: {choice.chosen}{no_llm} costs {usd(row.usd_per_month)} a month for "
        f"{tasks}{saving}."
    )


def _reasons(
    study: Study,
    rows: Mapping[str, CandidateDecision],
    choice: Choice,
    undecided: Mapping[str, int],
) -> tuple[str, ...]:
    margin = _points(study.workload.requirements.max_quality_loss)
    found: list[str] = []
    for name, row in rows.items():
        if (lost := row.control_difference) is not None:
            found.append(
                f"{_what_was_changed(study, name)} changes {row.control_of} by "
                f"{100 * lost.mean:+.1f} points ({100 * lost.low:+.1f} to {100 * lost.high:+.1f})."
            )
        if row.excluded_because:
            if not row.control_of:
                found.append(f"{name} is out: {row.excluded_because}.")
            continue
        if row.difference is None:
            if row.quality is not None:
                found.append(
                    f"{name} is what is used today: {row.quality.mean:.1%} right, "
                    f"{usd(row.usd_per_month)} a month."
                )
            continue
        d = row.difference
        span = f"{100 * d.mean:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f})"
        meaning = {
            "superior": f"better than {study.incumbent}",
            "non-inferior": f"as good as {study.incumbent} within {margin}",
            "non-inferior-but-worse": f"worse, but by less than {margin}",
            "inferior": f"worse than {study.incumbent} by more than {margin}",
            "inconclusive": f"not settled: more or less than {margin} worse, both are possible",
        }[row.comparison]
        more = f"; about {undecided[name]:,} items would settle it" if name in undecided else ""
        found.append(
            f"{name}: {span} on the same items, {meaning}{more}; {usd(row.usd_per_month)} a month."
        )
        if row.comparison in GOOD_ENOUGH:
            found += _dollars_in_doubt(study, name, row, rows[study.incumbent])
    simulated = [name for name, row in rows.items() if row.simulated]
    if simulated:
        found.insert(
            0,
            f"SIMULATED: the answers of {', '.join(simulated)} were made up by a stand-in. This "
            "verdict shows how the workflow works and says nothing about the real model.",
        )
    if any(row.toy for row in rows.values()):
        toys = ", ".join(name for name, row in rows.items() if row.toy)
        found.append(f"{toys}: a toy base of a few million parameters, not an 8B model.")
    return tuple(found)


def _what_was_changed(study: Study, name: str) -> str:
    """What tells a control from its candidate, as the subject of a sentence."""
    control = study.candidates[name]
    if control.closed_book:
        return "Closed book: asking without the passages"
    return f"Prompt debt: asking with the prompt of {study.incumbent} word for word"


def _flips(
    study: Study,
    rows: Mapping[str, CandidateDecision],
    results: Mapping[str, EvaluateResult],
    choice: Choice,
) -> tuple[str, ...]:
    """What would have to change for another verdict, one input at a time."""
    workload, incumbent = study.workload, rows[study.incumbent]
    tasks = workload.traffic.tasks_per_month
    found: list[str] = []
    for name, row in rows.items():
        if name == study.incumbent or row.excluded_because:
            continue
        meets = row.break_even_tasks_per_month
        if row.comparison in GOOD_ENOUGH and results[name].kind != "rent":
            if meets is None and incumbent.kind == "rent":
                found.append(f"no volume makes {name} cheaper than {study.incumbent}")
            elif meets is not None and meets > tasks:
                found.append(f"the volume reaches {meets:,} tasks a month: {name} becomes cheaper")
            elif meets is not None and name == choice.chosen:
                found.append(
                    f"the volume falls below {meets:,} tasks a month: {study.incumbent} "
                    "becomes cheaper"
                )
        if (
            row.comparison in ("inferior", "inconclusive")
            and row.difference is not None
            and row.usd_per_month is not None
            and incumbent.usd_per_month is not None
            and row.usd_per_month < incumbent.usd_per_month
        ):
            found.append(
                f"a quality loss of {_points(-row.difference.low)} is acceptable: {name} saves "
                f"{usd(incumbent.usd_per_month - row.usd_per_month)} a month"
            )
    chosen = rows.get(choice.chosen or "")
    if chosen and chosen is not incumbent and incumbent.kind == "rent":
        ours, theirs = chosen.usd_per_month, incumbent.usd_per_month
        if ours is not None and theirs:
            drop = 1 - ours / theirs
            found.append(f"{study.incumbent} becomes {drop:.0%} cheaper: it then costs the same")
    return tuple(found)
