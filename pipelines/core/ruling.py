"""What the decision rule says of the evidence: the documented, versioned outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pipelines.core.records import Record
from pipelines.core.results import Comparison, Kind

RulingVerdict = Literal["own", "rent", "hybrid", "insufficient", "switch", "keep"]


class Interval(Record):
    """A mean, and where the truth may lie."""

    mean: float
    low: float | None
    """None = too few independent items to tell; so `high`."""
    high: float | None


class Settling(Record):
    """What it takes to settle a comparison that is inconclusive."""

    n_needed: int | None
    """Items for 80 % power if the true difference is the observed one, those at hand included;
    None = no number of items would do: see `reason`."""
    n_groups: int | None
    """Independent groups that they must spread over; None = items are independent, or as above."""
    n_more: int | None
    """Of them those that are not at hand."""
    usd: float | None
    """Dollars of `n_more`: the label and the answers of both, as far as these are known; None =
    neither is."""
    saving_usd: float | None
    """What the candidate saves in a month if it is as good as it looks, wrong answers included
    where their cost is known; None = dollars or requests are not known, or it saves nothing."""
    evsi_usd: float | None
    """Expected value of `n_more` items to somebody who takes who looks best without proof, dollars
    over one month's requests; None = the cost of an error, dollars or requests are not known."""
    worth_it: bool | None
    """Whether `usd` is less than a month's worth of knowing: 80 % of `saving_usd`, since that is
    the chance to pass, or `evsi_usd`, if that is more. None = not known."""
    reason: str = ""
    """Why no number of items would do."""


class CandidateRuling(Record):
    """One candidate: what was measured of it, and what follows."""

    kind: Kind | None
    """None = nobody said whether it is rented or owned."""
    n: int
    """Items with a score."""
    n_paired: int
    """Items that the incumbent has a score for, too."""
    coverage: float
    """Share of all items with a score, in [0, 1]."""
    quality: Interval | None
    """Mean score with its 95 % interval; None without any score."""
    difference: Interval | None = None
    """Candidate - incumbent on the same items, in [-1, 1], level 1 - 2 alpha: each end is a
    one-sided test at alpha. None for the incumbent."""
    comparison: Comparison
    """superior: better, and by what its price demands · non-inferior: above -`margin` ·
    non-inferior-but-worse: between -`margin` and 0 · inferior: below -`margin`, which a better one
    can be whose price demands more · inconclusive: anything else. Corrected for the number of
    candidates."""
    reason: str = ""
    """Why nothing was tested, or why a test that passed alone does not count; of the incumbent,
    which requirement it misses."""
    margin: float | None = None
    """Loss of quality that is good enough: the policy's, or less where the dollars saved do not pay
    for it; negative = the gain that is demanded. None for the incumbent."""
    p_value: float | None = None
    """Of H0: the true difference is -`margin` or less."""
    p_adjusted: float | None = None
    """The same, to be read at alpha however many candidates there are; None = not tested, or out
    before the tests."""
    slices: tuple[str, ...] = ()
    """Parts of the items in which it is shown to be worse than the guard allows."""
    usd_per_task: float | None
    """Mean over all of its items with known dollars; None = not known of enough of them."""
    usd_per_good_task: Interval | None = None
    """Dollars per right answer, 95 %; None = unknown, or the quality may be 0."""
    usd_per_1000: Interval | None = None
    """1,000 `usd_per_task`, 95 %. Its ends, and the next three, are drawn from the items that all
    admissible candidates have a score and dollars for; None = out before, or dollars are not known.
    """
    saving: Interval | None = None
    """Dollars per task that it costs less than the incumbent, 95 %."""
    expected_loss: Interval | None = None
    """Dollars per 1,000 tasks, wrong answers included, 95 %; None = the cost of an error is not
    known."""
    probability_best: float | None = None
    """Share of the draws in which nobody loses less."""
    latency_p95_s: float | None
    latency_p95_high_s: float | None
    """One-sided 95 % upper bound of the true 95th percentile; None = too few were timed."""
    settling: Settling | None = None
    """None unless it is inconclusive."""
    excluded_because: str | None = None
    """Why it may not be chosen, whatever its comparison; None = it may."""


class CascadePoint(Record):
    """One threshold of a cascade, on all items: what is escalated, and what that gives."""

    escalated_share: float
    quality: float
    usd_per_task: float
    expected_loss_usd_per_1000: float


class CascadeRuling(Record):
    """The cheap candidate answers first, the incumbent where it was unsure."""

    first: str
    second: str
    """The incumbent."""
    n: int
    threshold: float | None
    """Confidence of `first` below which the incumbent is asked; where it is unknown, always. None =
    otherwise never, or always."""
    escalated_share: float
    """Of the requests."""
    quality: Interval
    """95 %, measured with thresholds chosen on other items; so the rest, except latency and slices,
    which are those of `threshold`."""
    difference: Interval
    """To the incumbent, paired, 95 % or wider: wide enough for alpha and for all cascades tried."""
    margin: float
    """The policy's: that the dollars pay for the loss is what `saving_to_second` tests."""
    usd_per_task: float
    expected_loss_usd_per_1000: float
    saving_to_first: Interval
    """Expected loss of the candidate alone less that of the cascade, dollars per 1,000 tasks; level
    as `difference`."""
    saving_to_second: Interval
    """The same for the incumbent alone."""
    latency_p95_high_s: float | None
    """One-sided 95 % upper bound; both answers take their time one after the other."""
    curve: tuple[CascadePoint, ...] = ()
    """All thresholds, from nothing escalated to everything."""
    wins: bool
    fails_because: str
    """The first condition that it misses; empty when it wins."""


class VStar(Record):
    """What an error must cost, in dollars, for the dearer of two candidates to pay; 95 %."""

    dearer: str
    cheaper: str
    likely: float | None
    """None = no cost of an error makes it pay; 0 = it always pays. So the next two."""
    low: float | None
    high: float | None
    probability_never: float


class AcceptabilityPoint(Record):
    """How surely each candidate loses least, at one cost of an error."""

    usd_per_error: float
    probability_best: dict[str, float]


class Ruling(Record):
    """The answer, and everything that it rests on."""

    schema_version: Literal[1] = 1
    verdict: RulingVerdict
    """rent, own: of the chosen candidate, where all kinds are known; keep, switch: where they are
    not · hybrid: `cascade` · insufficient: the incumbent stays because nothing was shown."""
    chosen: str | None
    """None when the evidence is insufficient; of a hybrid, who answers first."""
    incumbent: str
    alpha: float
    """One-sided, of every test."""
    margin: float
    """Of the policy: the loss of quality that is good enough, whatever it saves."""
    headline: str
    """One sentence."""
    reasons: tuple[str, ...]
    flips_when: tuple[str, ...]
    """Changes that would change the answer, one at a time."""
    open_questions: tuple[str, ...]
    """Inconclusive candidates that look better than the incumbent, the best first, while nobody
    else replaces it; better = loses less, without the cost of an error is cheaper, without dollars
    is more often right."""
    required_n: dict[str, int]
    """Inconclusive candidate -> about how many items would settle it."""
    n_items: int
    n_drawn: int | None
    """Items behind all that is drawn: those that every admissible candidate has a score and dollars
    for. None = dollars are not known."""
    usd_per_error: float | None
    """What a wrong answer costs that nobody notices; None = not given."""
    requests_per_month: int | None
    correction: Literal["none", "fixed sequence", "Holm"]
    """For several candidates."""
    plug_in_choice: str | None
    """Who loses least on average, whatever was shown; None = dollars or the cost of an error are
    not known."""
    plug_in_regret_usd_per_1000: float | None
    """How much more the plug-in choice loses than the best of each draw, dollars per 1,000 tasks:
    what perfect knowledge is worth."""
    regret_usd_per_1000: float | None
    """The same of who answers under this ruling: the chosen candidate, or the incumbent while
    nothing is shown; None = as above, or a hybrid."""
    v_star: VStar | None
    """Between who answers under this ruling and who takes over first as errors cost more; where
    nobody does, as they cost less. None = dollars are not known, or there is no other candidate."""
    acceptability: tuple[AcceptabilityPoint, ...]
    """Empty = dollars are not known."""
    cascade: CascadeRuling | None
    """The best one; None = no cheaper candidate with a confidence, or dollars or the cost of an
    error are not known."""
    candidates: Mapping[str, CandidateRuling]
    """By name, in the order of the evidence."""
