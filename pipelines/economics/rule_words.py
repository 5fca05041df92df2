"""The ruling in words. Names stay as they are: what shows them makes them harmless."""

from __future__ import annotations

import math

from pipelines.core.ruling import CandidateRuling, Interval, Ruling, Settling

TASKS = 1000
"""Dollars are told per so many requests where nobody said how many there are a month."""


def usd(amount: float | None) -> str:
    """Dollars for a person: `$1,234`, `$12.50`, `$0.0167`, `unknown`."""
    if amount is None:
        return "unknown"
    sign, size = "-" if amount < 0 else "", abs(amount)
    if size >= 1 or size == 0:
        return f"{sign}${size:,.0f}" if size >= 100 else f"{sign}${size:,.2f}"
    whole, _, digits = f"{size:.{2 - math.floor(math.log10(size))}f}".partition(".")
    return f"{sign}${whole}.{digits.rstrip('0').ljust(2, '0')}"


def verdict_words(verdict: str, chosen: str | None = None) -> str:
    """The verdict for a person, with the candidate: `own (small)`, `not enough evidence`."""
    word = "not enough evidence" if verdict == "insufficient" else verdict
    return f"{word} ({chosen})" if chosen else word


def points(share: float) -> str:
    """A share of the items for a person: `2.0 points`, `0.63 points`."""
    size = 100 * share
    return f"{size:.1f} points" if abs(size) >= 1 or size == 0 else f"{size:.2g} points"


def too_slow(p95: float | None, high: float | None, limit: float) -> str:
    """Why a latency is not shown to keep the limit, all in seconds; empty = it is shown."""
    if p95 is None:
        return "its latency is not known"
    if high is None:
        return (
            f"too few independent items were timed to bound its p95 latency of {p95:.2f} s (59 are "
            f"needed; limit {limit:g} s)"
        )
    return f"p95 latency up to {high:.2f} s (limit {limit:g} s)" if high > limit else ""


def headline(ruling: Ruling, min_coverage: float) -> str:
    """One sentence that a finance lead can repeat."""
    now = ruling.candidates[ruling.incumbent]
    if ruling.verdict == "insufficient":
        return f"Not enough evidence: {_what_is_missing(ruling, min_coverage)}."
    verb = ruling.verdict.capitalize()
    if ruling.verdict == "hybrid":
        assert ruling.cascade is not None
        c = ruling.cascade
        return (
            f"{verb}: {c.first} answers first and {c.second} the {c.escalated_share:.1%} of the "
            f"requests that it is unsure of; against {c.second} alone this saves "
            f"{_amount(ruling, c.saving_to_second.mean)}, wrong answers included."
        )
    assert ruling.chosen is not None
    row = ruling.candidates[ruling.chosen]
    if ruling.chosen == ruling.incumbent:
        keep = "Keep" if ruling.verdict == "keep" else f"{verb}: keep"
        price = "" if now.usd_per_1000 is None else f" at {_amount(ruling, now.usd_per_1000.mean)}"
        if now.usd_per_1000 is None:
            why = "is shown to be better"
        else:
            why = f"that is shown to be good enough {_better(ruling)}"
        return f"{keep} {ruling.chosen}{price}: no other candidate {why}."
    change = "Switch" if ruling.verdict == "switch" else f"{verb}: switch"
    change = f"{change} from {ruling.incumbent} to {ruling.chosen}"
    if now.expected_loss is not None and row.expected_loss is not None:
        saved = now.expected_loss.mean - row.expected_loss.mean
        why = f"this saves {_amount(ruling, saved)}, wrong answers included"
    elif now.usd_per_1000 is not None and row.usd_per_1000 is not None:
        saved = now.usd_per_1000.mean - row.usd_per_1000.mean
        why = f"this saves {_amount(ruling, saved)}"
    else:
        return f"{change}: it is shown to be better, by {_span(row.difference)}."
    return f"{change}: {why}, and the quality is shown to be {_shown(ruling, row)}."


def reasons(ruling: Ruling) -> tuple[str, ...]:
    """What the verdict rests on, candidate by candidate."""
    found = [_about(ruling, name, row) for name, row in ruling.candidates.items()]
    if ruling.correction != "none":
        found.append(
            {
                "Holm": "Holm's correction keeps the chance that any candidate passes wrongly.",
                "fixed sequence": "The candidates were tested from the most to the least expensive "
                "until one failed, so that the chance that any passes wrongly is kept.",
            }[ruling.correction]
        )
    if (plug_in := ruling.plug_in_choice) is not None:
        row = ruling.candidates[plug_in]
        assert row.expected_loss is not None
        text = (
            f"At {usd(ruling.usd_per_error)} an error, {plug_in} loses least on average, "
            f"{usd(row.expected_loss.mean)} per 1,000 requests; it is the best in "
            f"{row.probability_best:.0%} of the draws, and costs "
            f"{usd(ruling.plug_in_regret_usd_per_1000)} more than the best of each draw"
        )
        serving = ruling.chosen or ruling.incumbent
        if ruling.regret_usd_per_1000 is not None and plug_in != serving:
            text += f" ({serving}: {usd(ruling.regret_usd_per_1000)})"
        found.append(f"{text}.")
    if (c := ruling.cascade) is not None:
        found.append(
            f"{c.first} with {c.second} for {c.escalated_share:.1%} of the requests: quality "
            f"{c.quality.mean:.3f}, {usd(c.expected_loss_usd_per_1000)} per 1,000 requests, wrong "
            f"answers included; {c.fails_because or 'it loses less than either alone'}."
        )
    if any(row.kind is None for row in ruling.candidates.values()):
        found.append(
            "Nobody said which candidates are rented and which are owned: the verdict says switch "
            "or keep."
        )
    if all(row.usd_per_1000 is None for row in ruling.candidates.values()):
        found.append(
            "Nobody said what both the incumbent and another candidate cost: only a better "
            "candidate replaces it."
        )
    return tuple(found)


def flips_when(ruling: Ruling) -> tuple[str, ...]:
    """What would have to change for another verdict, one thing at a time."""
    if ruling.verdict == "hybrid":
        return _against_cascade(ruling)
    return (*_price(ruling), *_error_cost(ruling), *_margins(ruling), *_dollars(ruling))


def _what_is_missing(ruling: Ruling, min_coverage: float) -> str:
    incumbent, candidates = ruling.incumbent, ruling.candidates
    if candidates[incumbent].coverage < min_coverage:
        return (
            f"only {candidates[incumbent].coverage:.1%} of the items of {incumbent}, which is used "
            f"today, have a score (limit {min_coverage:.1%})"
        )
    if not ruling.open_questions and (reason := candidates[incumbent].reason):
        return (
            f"{incumbent}, which is used today, does not meet the requirements ({reason}), and no "
            "other candidate is shown to"
        )
    if not ruling.open_questions:
        name, row = next(
            (name, row)
            for name, row in candidates.items()
            if row.comparison == "inconclusive" and row.excluded_because is None
        )
        return f"{name} could not be compared with {incumbent}: {row.reason}"
    name = ruling.open_questions[0]
    row = candidates[name]
    assert row.margin is not None
    asked = (
        f"loses no more than {points(row.margin)} of quality"
        if row.margin >= 0
        else f"is better by the {points(-row.margin)} that it must be"
    )
    more = ""
    if row.settling is not None:
        more = f"; {row.settling.reason or f'about {_items(row.settling)} would settle it'}"
    return (
        f"{name} {_better(ruling)} than {incumbent}, but {row.n_paired:,} items do not show that "
        f"it {asked}{more}"
    )


def _better(ruling: Ruling) -> str:
    now = ruling.candidates[ruling.incumbent]
    if now.expected_loss is not None:
        return "loses less"
    return "is cheaper" if now.usd_per_1000 is not None else "is more often right"


def _about(ruling: Ruling, name: str, row: CandidateRuling) -> str:
    price = "" if row.usd_per_task is None else f"; {usd(TASKS * row.usd_per_task)} per 1,000"
    if name == ruling.incumbent:
        quality = "nothing was scored"
        if (q := row.quality) is not None:
            quality = f"quality {q.mean:.3f} ({q.low:.3f} to {q.high:.3f})"
        return f"{name} is what is used today: {quality}{price}."
    if row.excluded_because:
        return f"{name} is out: {row.excluded_because}{price}."
    text = f"{name}: {_span(row.difference)} on {row.n_paired:,} items, {_meaning(ruling, row)}"
    if row.reason:
        text += f" ({row.reason})"
    return f"{text}{price}.{_settling(ruling, row)}"


def _meaning(ruling: Ruling, row: CandidateRuling) -> str:
    assert row.margin is not None
    now, margin = ruling.incumbent, row.margin
    if row.comparison == "inferior":
        return (
            f"worse than {now} by more than {points(margin)}"
            if margin >= 0
            else f"not better than {now} by the {points(-margin)} that its price demands"
        )
    if row.comparison == "inconclusive":
        return "not settled: " + (
            f"more or less than {points(margin)} worse, both are possible"
            if margin > 0
            else f"it would have to be better by {points(-margin)}"
        )
    return _shown(ruling, row)


def _shown(ruling: Ruling, row: CandidateRuling) -> str:
    assert row.margin is not None
    now, margin = ruling.incumbent, row.margin
    if row.comparison == "superior":
        return f"better than that of {now}" + (
            f", by the {points(-margin)} that its price demands" if margin < 0 else ""
        )
    if row.comparison == "non-inferior":
        return f"as good as that of {now} within {points(margin)}"
    return f"below that of {now}, but by less than {points(margin)}"


def _settling(ruling: Ruling, row: CandidateRuling) -> str:
    if (s := row.settling) is None:
        return ""
    if s.n_needed is None:
        return f" {s.reason[:1].upper()}{s.reason[1:]}."
    text = f" About {_items(s)} would settle it, {s.n_more:,} more"
    if s.usd is not None:
        text += f" for {usd(s.usd)}"
    if s.saving_usd is not None:
        text += f"; then it saves about {usd(s.saving_usd)} a month"
    if s.worth_it is not None:
        text += f", so they are {'' if s.worth_it else 'not '}worth their price within a month"
    if s.evsi_usd is not None:
        text += f"; to whoever takes who looks best without proof, they are worth {usd(s.evsi_usd)}"
    return f"{text}."


def _items(settling: Settling) -> str:
    groups = "" if settling.n_groups is None else f" in {settling.n_groups:,} independent groups"
    return f"{settling.n_needed:,} items{groups}"


def _price(ruling: Ruling) -> tuple[str, ...]:
    """Of the incumbent."""
    incumbent, now = ruling.incumbent, ruling.candidates[ruling.incumbent]
    if now.usd_per_1000 is None or now.usd_per_1000.mean <= 0:
        return ()
    price = now.usd_per_1000.mean
    chosen = ruling.candidates[ruling.chosen or incumbent]
    if chosen is not now:
        assert chosen.usd_per_1000 is not None
        gap, then = price - chosen.usd_per_1000.mean, "costs"
        if now.expected_loss is not None and chosen.expected_loss is not None:
            gap, then = now.expected_loss.mean - chosen.expected_loss.mean, "loses"
        if gap > price:
            return ()
        return (f"the price of {incumbent} falls by {gap / price:.0%}: it then {then} as little",)
    rises: list[tuple[float, str]] = []
    for name, row in _others(ruling):
        if row.usd_per_1000 is None or row.saving is None or row.saving.low is None:
            continue
        if row.comparison not in ("inferior", "inconclusive"):
            if ruling.usd_per_error is None and row.usd_per_1000.mean > price:
                rise = row.usd_per_1000.mean - price
                rises.append((rise, f"{name}, which is good enough, is then the cheapest"))
        elif _hindrances(ruling, row) == (False, True):
            assert row.difference is not None
            assert row.difference.low is not None
            assert ruling.usd_per_error is not None
            rise = TASKS * (-row.difference.low * ruling.usd_per_error - row.saving.low)
            rises.append((rise, f"{name} is then shown to lose less"))
    if not rises:
        return ()
    rise, what = min(rises)
    return (f"the price of {incumbent} rises by {rise / price:.0%}: {what}",)


def _error_cost(ruling: Ruling) -> tuple[str, ...]:
    found, now = ruling.v_star, ruling.usd_per_error
    if found is None or found.likely is None or found.likely == 0:
        return ()
    serving = ruling.chosen or ruling.incumbent
    ends = f"{usd(found.low)} to {usd(found.high) if found.high is not None else 'never'}"
    if serving == found.cheaper and (now is None or now < found.likely):
        return (f"an error costs more than {usd(found.likely)} ({ends}): {found.dearer} pays",)
    barred, _ = _hindrances(ruling, ruling.candidates[found.cheaper])
    if serving == found.dearer and not barred and (now is None or now > found.likely):
        return (
            f"an error costs less than {usd(found.likely)} ({ends}): {found.cheaper} loses less",
        )
    return ()


def _against_cascade(ruling: Ruling) -> tuple[str, ...]:
    """From where on one of its models alone loses less than the cascade with its thresholds."""
    c, v = ruling.cascade, ruling.usd_per_error
    assert c is not None
    assert v is not None
    found: list[str] = []
    for name, saving in ((c.first, c.saving_to_first), (c.second, c.saving_to_second)):
        usd_alone = ruling.candidates[name].usd_per_task
        assert usd_alone is not None
        # saving = V x quality gained - dollars added; at another V only the first part changes.
        added = c.usd_per_task - usd_alone
        gained = (saving.mean / TASKS + added) / v if v > 0 else 0.0
        if abs(gained) > 1e-12 and (limit := added / gained) > 0:
            found.append(
                f"an error costs {'less' if gained > 0 else 'more'} than {usd(limit)}: {name} "
                "alone loses less"
            )
    return tuple(found)


def _margins(ruling: Ruling) -> tuple[str, ...]:
    """Where the policy alone stands in the way of a candidate that serves better."""
    serving = ruling.candidates[ruling.chosen or ruling.incumbent]
    found: list[tuple[float, float, str]] = []
    for name, row in _others(ruling):
        if _hindrances(ruling, row) != (True, False):
            continue
        if row.usd_per_1000 is None or serving.usd_per_1000 is None:
            continue
        assert row.difference is not None
        assert row.difference.low is not None
        gap = serving.usd_per_1000.mean - row.usd_per_1000.mean
        if row.expected_loss is not None and serving.expected_loss is not None:
            gap = serving.expected_loss.mean - row.expected_loss.mean
        found.append((-row.difference.low, gap, name))
    said: list[str] = []
    most = 0.0
    for loss, gap, name in sorted(found):
        if gap > most:
            most = gap
            said.append(
                f"a quality loss of {points(loss)} is acceptable: {name} saves "
                f"{_amount(ruling, gap)}"
            )
    return tuple(said)


def _dollars(ruling: Ruling) -> tuple[str, ...]:
    good = [
        name
        for name, row in _others(ruling)
        if row.usd_per_1000 is None and row.comparison.startswith("non-inferior")
    ]
    if not good or ruling.verdict == "insufficient":
        return ()
    return (f"dollars are given: {' and '.join(good)} may be the cheaper choice",)


def _hindrances(ruling: Ruling, row: CandidateRuling) -> tuple[bool, bool]:
    """Whether the policy, and whether the dollars, forbid the loss that there may be."""
    low = row.difference.low if row.difference else None
    if low is None or row.comparison not in ("inferior", "inconclusive"):
        return False, False
    v, saved = ruling.usd_per_error, row.saving
    paid = v is None or saved is None or saved.low is None or -low * v < saved.low
    return low <= -ruling.margin, not paid


def _others(ruling: Ruling) -> list[tuple[str, CandidateRuling]]:
    return [
        (name, row)
        for name, row in ruling.candidates.items()
        if name not in (ruling.incumbent, ruling.chosen) and row.excluded_because is None
    ]


def _amount(ruling: Ruling, usd_per_1000: float) -> str:
    if ruling.requests_per_month is None:
        return f"{usd(usd_per_1000)} per 1,000 requests"
    return f"{usd(usd_per_1000 / TASKS * ruling.requests_per_month)} a month"


def _span(difference: Interval | None) -> str:
    if difference is None:
        return "no item in common"
    mean = f"{100 * difference.mean:+.1f} points"
    if difference.low is None or difference.high is None:
        return mean
    return f"{mean} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
