"""What it takes to settle a study's question, from prices, items and a pilot if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np

from pipelines.core.evidence import Evidence
from pipelines.core.item_plan import CandidateItems, ExpectedVerdict, Finding, ItemPlan
from pipelines.core.ruling import Ruling, RulingVerdict
from pipelines.economics.planned_candidate import (
    HOPED_DISCORDANT,
    WITHIN_GROUP,
    Offer,
    Planned,
    Terms,
    pilot_of,
)
from pipelines.economics.rule_quality import Correction
from pipelines.economics.rule_words import usd
from pipelines.statistics import sequential

N_LOOKS = 5
FEW_ITEMS, FEW_DISCORDANT = 250, 0.05
"""Up to here the normal approximation promises more power than there is."""


def plan(
    title: str,
    offers: Mapping[str, Offer],
    terms: Terms,
    pilot: Evidence | None = None,
    source: str = "",
) -> ItemPlan:
    """Items, power, dollars and the expected verdict; nothing is measured here.

    Every candidate is planned alone, against its effective margin: the policy's, or what the likely
    saving per task pays for at the cost of an error.

    Args:
        title: of the workload or the table.
        offers: of all candidates, the incumbent among them.
        terms: what is asked.
        pilot: answers that are there already, of the incumbent and of some candidates.
        source: of the pilot, in words.

    Raises:
        ValueError: a number is out of range.
    """
    others = {name: each for name, each in offers.items() if name != terms.incumbent}
    tested = [each for each in others.values() if not each.out]
    correction = _correction(tested, offers[terms.incumbent])
    alpha = terms.alpha / max(1, len(tested)) if correction == "Holm" else terms.alpha
    shared = replace(terms, alpha=alpha)
    design = sequential.plan(N_LOOKS, alpha, terms.power)
    pilots = pilot.candidates if pilot and terms.incumbent in pilot.candidates else ()
    rows = {
        name: Planned(
            name, offer, offers[terms.incumbent], shared, design,
            pilot_of(pilot, name, terms, source) if pilot and name in pilots else None,
        ).row()
        for name, offer in others.items()
    }  # fmt: skip
    return ItemPlan(
        title=title,
        incumbent=terms.incumbent,
        margin=terms.margin,
        power=terms.power,
        correction=correction,
        n_now=terms.n_now,
        n_groups=len(terms.group_sizes) or None,
        n_looks=N_LOOKS,
        inflation=design.inflation,
        usd_per_error=terms.usd_per_error,
        tasks_per_month=terms.tasks_per_month,
        incumbent_usd_per_task=offers[terms.incumbent].usd_per_task,
        incumbent_price_from=offers[terms.incumbent].price_from,
        simulated=tuple(name for name, each in offers.items() if each.simulated),
        expected=_expected(rows, offers, terms),
        notes=_notes(rows, terms, correction),
        candidates=rows,
    )


def after(
    title: str, evidence: Evidence, ruling: Ruling, power: float, usd_per_label: float | None
) -> ItemPlan:
    """The same with a decided table as the pilot: its prices, its margins, its differences.

    Args:
        title: of the table.
        evidence: the table.
        ruling: what the rule said of it.
        power: see `ItemPlan`.
        usd_per_label: what the score of one more item costs, beside the answers.

    Raises:
        ValueError: a number is out of range.
    """
    offers = {
        name: Offer(
            kind=row.kind,
            usd_per_task=row.usd_per_task,
            price_from="not in the table" if row.usd_per_task is None else "mean of the table",
            usd_per_answer=None if row.usd_per_task is None else Decimal(f"{row.usd_per_task:.9g}"),
            margin=row.margin,
            comparison=row.comparison,
            out=row.excluded_because or "",
        )
        for name, row in ruling.candidates.items()
    }
    groups = evidence.groups
    sizes = () if groups is None else np.unique(groups, return_counts=True)[1].tolist()
    terms = Terms(
        incumbent=ruling.incumbent,
        margin=ruling.margin,
        n_now=ruling.n_items,
        group_sizes=sizes,
        alpha=ruling.alpha,
        power=power,
        usd_per_error=ruling.usd_per_error,
        tasks_per_month=ruling.requests_per_month,
        usd_per_label=usd_per_label,
    )
    return plan(title, offers, terms, evidence, "the table")


def _correction(tested: Sequence[Offer], incumbent: Offer) -> Correction:
    """As the rule will correct, if the prices are right."""
    if len(tested) < 2:
        return "none"
    now = incumbent.usd_per_task
    cheaper = now is not None and all(
        each.usd_per_task is not None and each.usd_per_task < now for each in tested
    )
    return "fixed sequence" if cheaper else "Holm"


def _expected(
    rows: Mapping[str, CandidateItems], offers: Mapping[str, Offer], terms: Terms
) -> ExpectedVerdict:
    """Who wins if every candidate is as good as hoped: the lowest loss of those that are shown."""
    incumbent, now = terms.incumbent, offers[terms.incumbent]
    if now.usd_per_task is None:
        why = f"the price of {incumbent} is not known: {now.price_from or 'nobody said it'}"
        return ExpectedVerdict(verdict=None, winner=None, reason=why)
    loss = {incumbent: now.usd_per_task}
    unpriced: list[str] = []
    for name, row in rows.items():
        if row.usd_per_task is not None and row.finding != "out":
            error = terms.usd_per_error or 0.0
            loss[name] = row.usd_per_task - error * row.hoped.true_difference
        elif row.finding != "out":
            unpriced.append(f"{name} has no price yet: {row.price_from or 'nobody said it'}")
    if rows and len(unpriced) == sum(row.finding != "out" for row in rows.values()) > 0:
        return ExpectedVerdict(verdict=None, winner=None, reason="; ".join(unpriced))

    def best(*findings: Finding) -> str:
        able = (
            name
            for name, row in rows.items()
            if name in loss
            and (row.finding in findings or (row.finding == "settled" and row.shown != "inferior"))
        )
        # min keeps the first of equals: the incumbent.
        return min((incumbent, *able), key=loss.__getitem__)

    at_hand = best("items at hand suffice")
    winner = best("items at hand suffice", "more items")
    better = [name for name in loss if loss[name] < loss[incumbent]]
    verdict: RulingVerdict = _word(offers, at_hand, incumbent)
    if at_hand == incumbent and any(rows[name].finding != "settled" for name in better):
        verdict = "insufficient"
    said = [_who(rows, terms, winner) if better else f"{incumbent} stays: it costs least"]
    said += [
        f"{name} would cost less, but that it is good enough cannot be shown: {rows[name].reason}"
        for name in better
        if rows[name].finding == "unprovable"
    ]
    return ExpectedVerdict(verdict=verdict, winner=winner, reason="; ".join((*said, *unpriced)))


def _word(offers: Mapping[str, Offer], chosen: str, incumbent: str) -> RulingVerdict:
    if any(each.kind is None for each in offers.values()):
        return "keep" if chosen == incumbent else "switch"
    return "rent" if offers[chosen].kind == "rent" else "own"


def _who(rows: Mapping[str, CandidateItems], terms: Terms, winner: str) -> str:
    if winner == terms.incumbent:
        return f"{winner} stays: no candidate that costs less can be shown to be good enough"
    row = rows[winner]
    saves = ""
    if row.saving_usd_per_month is not None:
        saves = f" and saves {usd(row.saving_usd_per_month)} a month"
        saves += "" if terms.usd_per_error is None else ", wrong answers included"
    return f"{winner} wins if it is as good as hoped{saves}; {row.reason}"


def _notes(
    rows: Mapping[str, CandidateItems], terms: Terms, correction: Correction
) -> tuple[str, ...]:
    found: list[str] = []
    if blind := [name for name, row in rows.items() if row.pilot is None]:
        found.append(
            f"{', '.join(blind)}: no pilot; hoped is the quality of {terms.incumbent}, and another "
            f"answer to {HOPED_DISCORDANT:.0%} of the items; 100 answered items tell more"
        )
        if terms.group_sizes:
            found.append(
                f"items of one group are taken to correlate by {WITHIN_GROUP:g} until a pilot says"
            )
    if len(blind) < len(rows):
        found.append(
            "items that are added because of a result, and tested together with the old ones at "
            "the same level, pass too often: test the new ones alone, or plan looks"
        )
    shown = [each for row in rows.values() for each in (row.hoped, *row.scenarios)]
    if any(
        each.n_needed is not None
        and (each.n_needed < FEW_ITEMS or each.discordant <= FEW_DISCORDANT)
        for each in shown
    ):
        found.append(
            f"up to {FEW_ITEMS} items, or where at most {FEW_DISCORDANT:.0%} differ, the power is "
            "lower than the formula's: take 20 to 40 % more items"
        )
    if correction == "fixed sequence":
        found.append("a candidate counts only if all dearer ones before it pass, too")
    if correction == "Holm":
        found.append("several candidates share the error rate: each is planned with its part")
    return tuple(found)
