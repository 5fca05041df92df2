"""The decision rule on arrays: who is admissible, shown good enough, and loses least."""

from __future__ import annotations

from pipelines.core.evidence import Evidence
from pipelines.core.results import Kind
from pipelines.core.ruling import CandidateRuling, Ruling, RulingVerdict
from pipelines.economics import expected_loss, rule_words
from pipelines.economics.draws import N_DRAWS, Draws, doubts
from pipelines.economics.expected_loss import Losses
from pipelines.economics.rule_cascade import best_cascade
from pipelines.economics.rule_money import (
    acceptability,
    drawn_items,
    draws_of,
    group_names,
    settling,
    v_star,
    with_dollars,
    without_price,
)
from pipelines.economics.rule_quality import (
    Rows,
    Terms,
    check,
    guarded,
    measured,
    tested,
    with_margin,
)

GOOD_ENOUGH = ("incumbent", "superior", "non-inferior", "non-inferior-but-worse")


def rule(
    evidence: Evidence,
    *,
    incumbent: str,
    margin: float,
    alpha: float = 0.05,
    usd_per_error: float | None = None,
    requests_per_month: int | None = None,
    min_coverage: float = 0.98,
    max_latency_p95_s: float | None = None,
    usd_per_label: float | None = None,
    slice_margin: float | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Ruling:
    """The verdict on candidates that met the same items.

    Out is who was scored on too few of them, is not shown to be fast enough, or has no known price
    where others have one. The rest is tested against a margin that the dollars saved must pay for.
    Of those that pass the lowest expected loss wins; where the cost of an error is not known, the
    lowest price; without any dollars only a superior candidate replaces the incumbent. A cascade
    wins when it is shown to lose less than both of its models. The incumbent stays at a tie. The
    same arguments give the same ruling.

    Args:
        evidence: what was measured. A missing score lowers the coverage, it is never wrong.
        incumbent: what is used today. All others are compared with it, and it is never excluded;
            where `evidence.out` names it, that it stays is no verdict.
        margin: the loss of quality that is good enough, in [0, 1).
        alpha: one-sided, of every test; at look k of a sequential design, its `levels[k - 1]`.
        usd_per_error: what a wrong answer costs that nobody notices; None = not known.
        requests_per_month: for dollars a month and the worth of more items; None = not known.
        min_coverage: share of the items that must have a score.
        max_latency_p95_s: seconds; a candidate's upper 95 % bound of its 95th percentile must keep
            it.
        usd_per_label: what the score of one more item costs, beside the answers.
        slice_margin: the loss in a part of the items that is not worth an alarm; None = `margin`.
        n_draws: of the bootstrap behind all dollars.
        seed: of these draws.

    Raises:
        ValueError: the incumbent is not among the candidates, or a number is out of range.
    """
    terms = Terms(
        incumbent=incumbent,
        margin=margin,
        alpha=alpha,
        usd_per_error=usd_per_error,
        requests_per_month=requests_per_month,
        min_coverage=min_coverage,
        max_latency_p95_s=max_latency_p95_s,
        usd_per_label=usd_per_label,
        slice_margin=margin if slice_margin is None else slice_margin,
    )
    check(evidence, terms)
    rows = {name: measured(evidence, name, terms) for name in evidence.candidates}
    rows, priced = without_price(rows, incumbent)
    draws = draws_of(evidence, rows, terms, n_draws, seed) if priced else None
    losses = None
    if draws is not None:
        if usd_per_error is not None:
            losses = expected_loss.losses(draws, usd_per_error)
        rows = with_dollars(rows, draws, losses, incumbent)
    rows = {name: with_margin(row, name, terms) for name, row in rows.items()}
    rows, correction = tested(evidence, rows, terms, priced=draws is not None)
    rows = {name: guarded(evidence, name, row, terms) for name, row in rows.items()}
    n_tests = sum(row.p_adjusted is not None for row in rows.values())
    share = n_tests if correction == "Holm" else 1
    rows = {
        name: row.model_copy(update={"settling": settling(evidence, name, rows, terms, share)})
        if row.comparison == "inconclusive" and row.excluded_because is None
        else row
        for name, row in rows.items()
    }
    best = _best(rows, incumbent, losses, priced=draws is not None)
    both = None
    if losses is not None:
        both = best_cascade(evidence, rows, terms, _burden(rows[best], losses, priced=True))
    verdict: RulingVerdict = _word(rows, incumbent, best)
    chosen: str | None = best
    undecided = _open(rows, incumbent, losses, priced=draws is not None)
    if rows[incumbent].coverage < min_coverage:
        verdict, chosen = "insufficient", None
    elif both is not None and both.wins:
        verdict, chosen = "hybrid", both.first
    elif best == incumbent and (undecided or rows[incumbent].reason or _nothing_tested(rows)):
        verdict, chosen = "insufficient", None
    serving = chosen or incumbent
    ruling = Ruling(
        verdict=verdict,
        chosen=chosen,
        incumbent=incumbent,
        alpha=alpha,
        margin=margin,
        headline="",
        reasons=(),
        flips_when=(),
        open_questions=undecided if verdict == "insufficient" else (),
        required_n={
            name: row.settling.n_needed
            for name, row in rows.items()
            if row.settling is not None and row.settling.n_needed is not None
        },
        n_items=len(evidence.ids),
        n_drawn=None if draws is None else int(drawn_items(evidence, draws.names).sum()),
        usd_per_error=usd_per_error,
        requests_per_month=requests_per_month,
        correction=correction,
        plug_in_choice=losses and losses.plug_in,
        plug_in_regret_usd_per_1000=losses and _regret(losses, losses.plug_in),
        regret_usd_per_1000=_regret(losses, serving) if losses and verdict != "hybrid" else None,
        v_star=None if draws is None else v_star(draws, serving),
        acceptability=() if draws is None else acceptability(draws, usd_per_error),
        cascade=both,
        candidates=rows,
    )
    notes = (*_about_incumbent(rows, terms), *_about_draws(evidence, draws))
    return ruling.model_copy(
        update={
            "headline": rule_words.headline(ruling, min_coverage),
            "reasons": (*rule_words.reasons(ruling), *notes),
            "flips_when": rule_words.flips_when(ruling),
        }
    )


def _best(rows: Rows, incumbent: str, losses: Losses | None, *, priced: bool) -> str:
    """Who serves best of those that are shown good enough; the incumbent at a tie."""
    passing = [
        name
        for name, row in rows.items()
        if name != incumbent and row.excluded_because is None and row.comparison in GOOD_ENOUGH
    ]
    if not priced:
        passing = [name for name in passing if rows[name].comparison == "superior"]
    # min keeps the first of equals.
    return min((incumbent, *passing), key=lambda name: _burden(rows[name], losses, priced=priced))


def _burden(row: CandidateRuling, losses: Losses | None, *, priced: bool) -> float:
    """What is to be as low as possible: the expected loss, else the dollars, else the errors."""
    if losses is not None:
        assert row.expected_loss is not None, "it was drawn"
        return row.expected_loss.mean
    if priced:
        assert row.usd_per_task is not None, "without dollars it is excluded"
        return row.usd_per_task
    return -row.difference.mean if row.difference is not None else 0.0


def _open(rows: Rows, incumbent: str, losses: Losses | None, *, priced: bool) -> tuple[str, ...]:
    """Inconclusive candidates that look better than the incumbent, the best first."""

    def burden(name: str) -> float:
        return _burden(rows[name], losses, priced=priced)

    undecided = [
        name
        for name, row in rows.items()
        if row.excluded_because is None and row.comparison == "inconclusive"
    ]
    return tuple(sorted((n for n in undecided if burden(n) < burden(incumbent)), key=burden))


def _nothing_tested(rows: Rows) -> bool:
    """Whether there were candidates to test, and not one could be."""
    found = [row for row in rows.values() if row.comparison != "incumbent"]
    admitted = [row for row in found if row.excluded_because is None]
    return bool(admitted) and all(row.p_value is None for row in admitted)


def _word(rows: Rows, incumbent: str, chosen: str) -> RulingVerdict:
    kind = rows[chosen].kind
    if kind is None or any(row.kind is None for row in rows.values()):
        return "keep" if chosen == incumbent else "switch"
    return verdict_of(kind)


def verdict_of(kind: Kind) -> RulingVerdict:
    """A classical baseline runs on one's own machine, too: it is owned."""
    return "rent" if kind == "rent" else "own"


def _regret(losses: Losses, name: str) -> float:
    return losses.candidates[name].regret_usd_per_1000_tasks


def _about_incumbent(rows: Rows, terms: Terms) -> tuple[str, ...]:
    """It is not excluded where it misses the limit that the others must keep."""
    limit, now, name = terms.max_latency_p95_s, rows[terms.incumbent], terms.incumbent
    if limit is None:
        return ()
    slow = rule_words.too_slow(now.latency_p95_s, now.latency_p95_high_s, limit)
    return (f"{name}, which is used today, is not shown to be fast enough: {slow}.",) * bool(slow)


def _about_draws(evidence: Evidence, draws: Draws | None) -> tuple[str, ...]:
    """Where the dollars are surer than they should be, or rest on fewer items."""
    if draws is None:
        return ()
    items = drawn_items(evidence, draws.names)
    columns = [evidence.column(name) for name in draws.names]
    found = doubts(draws.names, evidence.scores[items][:, columns], group_names(evidence, items))
    if not items.all():
        few = (
            f"dollars are compared on the {int(items.sum()):,} items that all admissible "
            "candidates have a score and dollars for"
        )
        found = (few, *found)
    return tuple(f"Note: {each}." for each in found)
