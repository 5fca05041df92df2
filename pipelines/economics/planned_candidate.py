"""One candidate of a plan: its margin, and the items, power and dollars that a proof takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from pipelines.core.evidence import Evidence
from pipelines.core.item_plan import CandidateItems, Finding, Pilot, Sample, Scenario
from pipelines.core.records import Record
from pipelines.core.results import Comparison, Kind
from pipelines.economics.expected_loss import effective_margin
from pipelines.economics.plan import NORMAL, POWER, best_sample, proof
from pipelines.economics.rule_quality import Pairs, n_units, pairs, per_item_variance
from pipelines.economics.rule_words import points, usd
from pipelines.statistics import sequential
from pipelines.statistics.non_inferiority import MIN_UNITS

DISCORDANT = (0.05, 0.1, 0.2, 0.3)
DIFFERENCES = (-0.01, 0.0, 0.01)
"""The table of a candidate, points of a share."""
HOPED_DISCORDANT = 0.2
"""Share of items on which a tuned small model and a large one differ, before there is a pilot."""
WITHIN_GROUP = 0.2
"""Correlation of the differences of one group, before there is a pilot."""
MOST_ITEMS = 10_000
"""More labelled items than these are not within reason for one workload."""


class Offer(Record):
    """What is known of a candidate before the verdict."""

    kind: Kind | None = None
    """None = nobody said."""
    simulated: bool = False
    usd_per_task: float | None = None
    """What a task will cost; None = not known yet."""
    price_from: str = ""
    """How the price comes about, or what must be measured first."""
    usd_per_answer: Decimal | None = None
    """Its side of one more item: the answer and its judges; None = not known."""
    margin: float | None = None
    """Loss of quality that is good enough, where a ruling has said it; None = found here."""
    comparison: Comparison | None = None
    """What a ruling has shown; None = found here, if there is a pilot."""
    out: str = ""
    """Why it may not be chosen; empty = it may."""


@dataclass(frozen=True)
class Terms:
    """What is asked, and the items there are."""

    incumbent: str
    margin: float
    """Of the policy, in [0, 1)."""
    n_now: int
    """Items at hand, at least one."""
    group_sizes: Sequence[int] = ()
    """Items of each group; empty = they are independent."""
    alpha: float = 0.05
    """One-sided."""
    power: float = POWER
    usd_per_error: float | None = None
    tasks_per_month: int | None = None
    usd_per_label: float | None = None
    """Of one more item, beside the answers; None = not known."""

    @property
    def n_units(self) -> int:
        """Independent groups, or items."""
        return len(self.group_sizes) or self.n_now

    @property
    def supposed_design_effect(self) -> float:
        """1 + (m - 1) x the correlation, m being the size of an item's group on average."""
        if not self.group_sizes:
            return 1.0
        m = sum(size * size for size in self.group_sizes) / sum(self.group_sizes)
        return 1 + (m - 1) * WITHIN_GROUP


@dataclass(frozen=True)
class Known:
    """What the answers at hand say of one candidate."""

    shown: Pilot
    design_effect: float
    both: Pairs


@dataclass(frozen=True)
class Planned:
    """One comparison on its way to a row."""

    name: str
    offer: Offer
    incumbent: Offer
    terms: Terms
    design: sequential.Design
    pilot: Known | None

    def row(self) -> CandidateItems:
        """All of it."""
        hoped = self._scenario(self._discordant, self._difference)
        finding, reason = self._finding(hoped)
        return CandidateItems(
            kind=self.offer.kind,
            usd_per_task=self.offer.usd_per_task,
            price_from=self.offer.price_from,
            saving_usd_per_month=self._per_month(),
            usd_per_item=self._usd_per_item,
            margin=self._margin,
            alpha=self.terms.alpha,
            pilot=self.pilot and self.pilot.shown,
            design_effect=self._design_effect,
            hoped=hoped,
            scenarios=tuple(
                self._scenario(psi, difference)
                for difference in DIFFERENCES
                for psi in ((self._discordant,) if self.pilot else DISCORDANT)
                if abs(difference) <= psi
            ),
            margin_now=self._z * math.sqrt(self._variance(hoped) / self.terms.n_now)
            - self._difference,
            shown=self._shown,
            finding=finding,
            reason=reason,
            worth_buying=self._worth_buying(hoped),
        )

    @property
    def _discordant(self) -> float:
        return self.pilot.shown.discordant if self.pilot else HOPED_DISCORDANT

    @property
    def _difference(self) -> float:
        return self.pilot.shown.difference if self.pilot else 0.0

    @property
    def _design_effect(self) -> float:
        return self.pilot.design_effect if self.pilot else self.terms.supposed_design_effect

    @property
    def _saving(self) -> float | None:
        """Dollars per task."""
        ours, theirs = self.offer.usd_per_task, self.incumbent.usd_per_task
        return None if ours is None or theirs is None else theirs - ours

    @property
    def _margin(self) -> float:
        found, saving = self.offer.margin, self._saving
        if found is None and saving is not None:
            found = effective_margin(self.terms.margin, saving, self.terms.usd_per_error)
        return self.terms.margin if found is None else max(-1.0, found)

    @property
    def _shown(self) -> Comparison | None:
        found = self.offer.comparison
        if found is None and self.pilot and self._margin > -1:
            found = self.pilot.both.compared(self._margin, self.terms.alpha).finding
        return None if found == "inconclusive" else found

    @property
    def _usd_per_item(self) -> Decimal | None:
        ours, theirs = self.offer.usd_per_answer, self.incumbent.usd_per_answer
        if ours is None or theirs is None:
            return None
        return ours + theirs + Decimal(repr(self.terms.usd_per_label or 0))

    @property
    def _z(self) -> float:
        return NORMAL.inv_cdf(1 - self.terms.alpha) + NORMAL.inv_cdf(self.terms.power)

    def _variance(self, scenario: Scenario) -> float:
        """Of one item."""
        return self._design_effect * (scenario.discordant - scenario.true_difference**2)

    def _scenario(self, discordant: float, difference: float) -> Scenario:
        n_now, price = self.terms.n_now, self._usd_per_item
        n_answered = self.pilot.shown.n if self.pilot else 0
        found = proof(
            self._margin,
            discordant,
            difference,
            n_now=n_answered,
            usd_per_item=price or Decimal(0),
            n_available=n_now,
            design_effect=self._design_effect,
            power=self.terms.power,
            alpha=self.terms.alpha,
        )
        needed = found.n_needed
        if needed is not None:
            needed = max(needed, math.ceil(MIN_UNITS * n_now / self.terms.n_units))
        scenario = Scenario(
            true_difference=difference,
            discordant=discordant,
            n_needed=needed,
            power=found.power_reachable,
            usd=None if price is None or needed is None else max(0, needed - n_answered) * price,
            share_saved=0.0,
        )
        return scenario.model_copy(update={"share_saved": self._share_saved(scenario)})

    def _share_saved(self, scenario: Scenario) -> float:
        needed, n_now, inflation = scenario.n_needed, self.terms.n_now, self.design.inflation
        fixed = most = n_now
        if needed is not None and needed > n_now:
            fixed, most = needed, inflation * needed
        if (variance := self._variance(scenario)) <= 0:
            return 0.0
        drift = (self._margin + scenario.true_difference) * math.sqrt(most / variance)
        return 1 - sequential.expected_n(self.design, most / inflation, drift) / fixed

    def _per_month(self) -> float | None:
        tasks, gap = self.terms.tasks_per_month, self._gap()
        return None if tasks is None or gap is None else tasks * gap

    def _gap(self) -> float | None:
        """Dollars per task that it loses less than the incumbent, if it is as hoped."""
        saving = self._saving
        return (
            None
            if saving is None
            else saving + (self.terms.usd_per_error or 0.0) * (self._difference)
        )

    def _finding(self, hoped: Scenario) -> tuple[Finding, str]:
        needed, n_now = hoped.n_needed, self.terms.n_now
        if self.offer.out:
            return "out", self.offer.out
        if self.pilot and self._shown:
            return "settled", f"{self._shown} on {self.pilot.shown.n:,} answered items"
        if needed is None:
            return "unprovable", self._why_never()
        if needed <= n_now:
            return "items at hand suffice", f"the {n_now:,} items at hand suffice"
        if needed > MOST_ITEMS:
            limit = f"it takes {needed:,} items, and more than {MOST_ITEMS:,} are not within reason"
            if self._margin < self.terms.margin:
                error = usd(self.terms.usd_per_error)
                limit += (
                    f": at {error} an error what it saves pays for a loss of "
                    f"{points(self._margin)} only; consider a cascade (hybrid)"
                )
            return "unprovable", limit
        return "more items", f"it takes {needed:,} items, {needed - n_now:,} more than are at hand"

    def _why_never(self) -> str:
        margin, incumbent = self._margin, self.terms.incumbent
        if self.pilot:
            hope = f"and the pilot says {100 * self._difference:+.1f} points"
        else:
            hope = "and as good as hoped is equal quality"
        if margin <= -1:
            return "no quality would pay for its price"
        if margin < 0:
            return (
                f"no number of items: its price demands {points(-margin)} more quality than "
                f"{incumbent} has, {hope}"
            )
        if margin == 0:
            return f"no number of items: a margin of 0 demands better quality, {hope}"
        return f"no number of items: it may lose {points(margin)}, {hope}"

    def _worth_buying(self, hoped: Scenario) -> Sample | None:
        """R6: EVSI less price, over one month; in groups where items hang together."""
        error, tasks, gap = self.terms.usd_per_error, self.terms.tasks_per_month, self._gap()
        price = self._usd_per_item
        if self.pilot is None or error is None or tasks is None or gap is None or price is None:
            return None
        n, units = self.pilot.shown.n, n_units(self.pilot.both)
        size = n / units
        found = best_sample(
            gap,
            error * math.sqrt(self._variance(hoped) / n),
            units,
            tasks,
            price * Decimal(repr(size)),
            math.floor(MOST_ITEMS / size),
        )
        return found.model_copy(update={"k": math.ceil(found.k * size)})


def pilot_of(evidence: Evidence, name: str, terms: Terms, source: str) -> Known | None:
    """None with too few independent items to plan with."""
    both = pairs(evidence, name, terms.incumbent)
    n, units = len(both.items), n_units(both)
    if units < 2:
        return None
    delta = both.ours - both.theirs
    mean = float(delta.mean())
    differ = max(float(np.abs(delta).mean()), abs(mean))
    alone, variance = differ - mean**2, per_item_variance(both)
    return Known(
        Pilot(n=n, difference=mean, discordant=differ or min(1.0, 3 / n), source=source),
        variance / alone if alone > 0 and variance > 0 else 1.0,
        both,
    )
