"""What it takes to settle a question, for a terminal."""

from __future__ import annotations

from pipelines.core.item_plan import CandidateItems, ItemPlan, Scenario
from pipelines.economics.rule_words import points, usd
from pipelines.reports.names import plain, short


def table(plan: ItemPlan) -> str:
    """The expected verdict first, then each candidate with its items, power and dollars."""
    groups = "" if plan.n_groups is None else f" in {plan.n_groups:,} groups"
    error = "" if plan.usd_per_error is None else f"; an error costs {usd(plan.usd_per_error)}"
    parts = [
        _expected(plan),
        f"{plain(plan.expected.reason)}.",
        "",
        f"{plain(plan.title)}: {plan.n_now:,} items at hand{groups}; margin {points(plan.margin)} "
        f"against {short(plan.incumbent)}; power {plan.power:.0%}{error}",
        f"{short(plan.incumbent)} costs {usd(plan.incumbent_usd_per_task)} a task: "
        f"{plain(plan.incumbent_price_from)}",
    ]
    for name, row in plan.candidates.items():
        parts += ["", *_candidate(name, row, plan)]
    if plan.notes:
        parts += ["", "To know:", *(f"  - {plain(each)}" for each in plan.notes)]
    return "\n".join(parts)


def _expected(plan: ItemPlan) -> str:
    found, words = plan.expected, {"insufficient": "not enough evidence", None: "not known yet"}
    word = words.get(found.verdict, found.verdict or "")
    chosen = "" if found.verdict in words else f" ({short(found.winner or '')})"
    mark = "SIMULATED - " if plan.simulated else ""
    return f"{mark}Expected verdict with the items at hand: {word.upper()}{chosen}"


def _candidate(name: str, row: CandidateItems, plan: ItemPlan) -> list[str]:
    simulated = "simulated" if name in plan.simulated else None
    marks = [mark for mark in (row.kind, simulated) if mark]
    out = f"{row.finding.upper()}: " if row.finding in ("unprovable", "out") else ""
    about = {
        "finding": f"{out}{plain(row.reason)}",
        "as hoped": _hoped(row),
        "margin": f"{points(row.margin)}, tested one-sided at {100 * row.alpha:.3g} %; the items "
        f"at hand can show {points(row.margin_now)}",
        "a task": f"{usd(row.usd_per_task)}: {plain(row.price_from)}",
        "an item": _dollars(row),
        "looks": f"with {plan.n_looks} looks {row.hoped.share_saved:.0%} fewer of its calls on "
        f"average, at most {plan.inflation:.2f} times the items",
    }
    if (saving := row.saving_usd_per_month) is not None:
        change = "less" if saving >= 0 else "more"
        about["a month"] = f"{usd(abs(saving))} {change} than now if it is as hoped"
    if (best := row.worth_buying) is not None:
        about["worth"] = (
            f"{best.k:,} more items are worth {usd(best.value_usd)} in a month, for {usd(best.usd)}"
            if best.k
            else "no further item is worth its price within a month"
        )
    wide = max(map(len, about))
    lines = [short(name) + (f" [{', '.join(marks)}]" if marks else "")]
    lines += [f"  {key:<{wide}}  {value}" for key, value in about.items()]
    return [*lines, *_scenarios(row)]


def _hoped(row: CandidateItems) -> str:
    hoped, pilot = row.hoped, row.pilot
    origin = "assumed" if pilot is None else f"{plain(pilot.source)}, {pilot.n:,} items"
    effect = (
        "" if f"{row.design_effect:.2f}" == "1.00" else f", design effect {row.design_effect:.2f}"
    )
    return (
        f"{100 * hoped.true_difference:+.1f} points, {hoped.discordant:.1%} of the items differ "
        f"({origin}{effect}): {_items(hoped)}; power of those at hand {hoped.power:.0%}"
    )


def _items(scenario: Scenario) -> str:
    return "no number" if scenario.n_needed is None else f"{scenario.n_needed:,} items"


def _dollars(row: CandidateItems) -> str:
    price, needed = row.usd_per_item, row.hoped.usd
    if price is None:
        return "unknown"
    if not price:
        return "no call is paid by the token"
    total = "" if needed is None else f"; {usd(float(needed))} for those that are not answered yet"
    return f"{usd(float(price))}{total}"


def _scenarios(row: CandidateItems) -> list[str]:
    """Items by true difference, downward, and share of the items that differ, across."""
    cells: dict[float, list[str]] = {}
    for each in row.scenarios:
        needed = "never" if each.n_needed is None else f"{each.n_needed:,}"
        cells.setdefault(each.true_difference, []).append(f"{needed} ({each.power:.0%})")
    shares = dict.fromkeys(each.discordant for each in row.scenarios)
    return [
        "  items needed (power of those at hand):",
        f"    {'':<12}" + "".join(f"{f'{share:.1%} differ':>18}" for share in shares),
        *(
            f"    {f'{100 * truth:+.1f} points':<12}" + "".join(f"{cell:>18}" for cell in found)
            for truth, found in cells.items()
        ),
    ]
