"""What it takes to settle a study's question: the documented, versioned plan."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

from pipelines.core.records import Record
from pipelines.core.results import Comparison, Kind
from pipelines.core.ruling import RulingVerdict

Finding = Literal["settled", "items at hand suffice", "more items", "unprovable", "out"]


class Pilot(Record):
    """What answers that are already there say of the two numbers that a plan rests on."""

    n: int
    """Items that both have a score for."""
    difference: float
    """Mean of candidate - incumbent."""
    discordant: float
    """Share of items on which they differ; of graded scores the mean size of the difference. Where
    none of n differs, 3 / n: there may be that many."""
    source: str
    """In words."""


class Scenario(Record):
    """What it takes if the truth is this."""

    true_difference: float
    """Candidate - incumbent, as supposed."""
    discordant: float
    """Share of items that one of the two gets right and the other wrong, as supposed."""
    n_needed: int | None
    """Items for the plan's power, those at hand included, by a normal approximation; None = no
    number of items: the truth is not above -margin."""
    power: float
    """With the items at hand."""
    usd: Decimal | None
    """Dollars of those of `n_needed` that not both have answered; None = not known."""
    share_saved: float
    """Share of the candidate's calls that looks save on average, negative = they ask for more: of
    the items at hand if these suffice or no number does; else of `n_needed`, which looks with the
    same power make larger by `inflation`."""


class Sample(Record):
    """So many more items, what they cost, and what the better choice after them is worth."""

    k: int
    """0 = knowing more is not worth its price."""
    value_usd: float
    """Expected value of sample information."""
    usd: float


class CandidateItems(Record):
    """One candidate against the incumbent."""

    kind: Kind | None
    """None = nobody said whether it is rented or owned."""
    usd_per_task: float | None
    """What a task will cost; None = not known yet."""
    price_from: str
    """How the price comes about, or what must be measured first."""
    saving_usd_per_month: float | None
    """Against the incumbent if it is as good as hoped, wrong answers included where their cost is
    known; negative = it costs more. None = dollars or the volume are not known."""
    usd_per_item: Decimal | None
    """One more item: the answers of both, their judges, and the label where its price is given;
    None = that of an answer is not known. The incumbent's answers serve all comparisons and are
    paid once. Machines that are paid by the hour are not in it."""
    margin: float
    """Loss of quality that is good enough: the policy's, or less where the saving does not pay for
    it; negative = the gain that is demanded."""
    alpha: float
    """One-sided, with the correction for several candidates."""
    pilot: Pilot | None
    """None = nothing is known: the first of `scenarios` is an assumption."""
    design_effect: float
    """Variance with the groups over variance without them."""
    hoped: Scenario
    """As the pilot says; without one, as good as the incumbent."""
    scenarios: tuple[Scenario, ...]
    """True differences times shares of discordant items."""
    margin_now: float
    """The smallest margin that the items at hand show with the plan's power, if it is as hoped."""
    shown: Comparison | None
    """What the pilot shows already; None = nothing yet."""
    finding: Finding
    """settled: see `shown`. Otherwise what it takes, if it is as good as hoped."""
    reason: str
    """In words, what it takes or what stands in the way."""
    worth_buying: Sample | None
    """The number of further items whose worth within a month exceeds their price by the most; None
    without a pilot, dollars, volume or cost of an error."""


class ExpectedVerdict(Record):
    """What the study will say if every candidate is as good as hoped."""

    verdict: RulingVerdict | None
    """With the items at hand; None = dollars are not known."""
    winner: str | None
    """Who wins with as many items as it takes; None = as above."""
    reason: str


class ItemPlan(Record):
    """Items, power and dollars before they are spent, and who would win."""

    schema_version: Literal[1] = 1
    title: str
    incumbent: str
    margin: float
    """Of the policy."""
    power: float
    """Chance to succeed that `n_needed` gives."""
    correction: Literal["none", "fixed sequence", "Holm"]
    """For several candidates: in a fixed sequence all use alpha, but the dearer ones must pass
    before; with Holm the plan gives each an equal part of alpha."""
    n_now: int
    """Items at hand."""
    n_groups: int | None
    """Independent groups of them; None = items are independent."""
    n_looks: int
    """Early stops that `share_saved` supposes, the end included."""
    inflation: float
    """Most items with looks over the items of one test at the end."""
    usd_per_error: float | None
    tasks_per_month: int | None
    incumbent_usd_per_task: float | None
    incumbent_price_from: str
    """As those of a candidate."""
    simulated: tuple[str, ...]
    """Candidates whose answers are simulated: a plan that rests on one shows how planning works."""
    expected: ExpectedVerdict
    notes: tuple[str, ...]
    """What the plan assumes."""
    candidates: Mapping[str, CandidateItems]
    """All but the incumbent, by name."""
