"""Dollars of logged calls, summed over all of them, over models and over days."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal

from pipelines.core.audit import TOKEN_CLASSES, DaySpend, ModelSpend, Retirement, Spend
from pipelines.core.prices import TokenPrice
from pipelines.economics.charge import NO_TOKENS, Charge, grouped
from pipelines.economics.token_cost import MILLION

HOURS_PER_MONTH = Decimal("730.5")
"""365.25 days / 12 x 24 h."""
RETIRES_WITHIN = timedelta(days=180)
MAX_REASONS = 5


def summed(charges: Iterable[Charge]) -> Spend:
    """All of them together."""
    n_calls = n_failed = n_without = n_priced = n_reasoning = n_tokens_priced = n_uncounted = 0
    tokens = dict.fromkeys(TOKEN_CLASSES, 0)
    usd = dict.fromkeys(TOKEN_CLASSES, Decimal(0))
    paid, priced, has_terms = Decimal(0), False, False
    reasons: dict[str, int] = defaultdict(int)
    for each in charges:
        group = each.group
        n_calls += group.n_calls
        n_failed += group.n_failed
        n_without += group.n_without_usage
        n_reasoning += group.reasoning_tokens
        if not group.n_calls:
            n_uncounted += sum(each.tokens.values())
        for name, n in each.tokens.items():
            tokens[name] += n
        if each.why_not:
            reasons[each.why_not] += group.n_calls
            continue
        priced = True
        n_priced += group.n_calls - group.n_without_usage
        if group.n_without_usage:
            reasons[NO_TOKENS] += group.n_without_usage
        n_tokens_priced += sum(each.tokens.values())
        has_terms = has_terms or each.has_terms
        for name, n in each.tokens.items():
            if n:
                cost = n * each.per_million[name] / MILLION
                usd[name] += cost
                paid += cost * each.factor
    return Spend(
        n_calls=n_calls,
        n_failed=n_failed,
        n_without_usage=n_without,
        n_calls_priced=n_priced,
        tokens=tokens,
        n_tokens_without_calls=n_uncounted,
        reasoning_tokens=n_reasoning,
        n_tokens_priced=n_tokens_priced,
        usd=sum(usd.values(), Decimal(0)) if priced else None,
        usd_by_class=usd if priced else {},
        usd_at_terms=paid if has_terms else None,
        why_not=_listed(reasons),
    )


def per_month(amount: Decimal | None, n_days: int) -> Decimal | None:
    """`amount` of `n_days` days at the same pace for 730.5 hours."""
    return None if amount is None else amount * HOURS_PER_MONTH / (24 * n_days)


def models(charges: Sequence[Charge], n_days: int) -> tuple[ModelSpend, ...]:
    """Every model of every provider, the most expensive first."""
    found: list[ModelSpend] = []
    for (provider, model), part in _by_model(charges).items():
        newest = max(part, key=lambda each: each.group.day)
        spend = summed(part)
        found.append(
            ModelSpend(
                provider=provider,
                model=model,
                price=newest.price_name,
                source="" if newest.price is None else _source(newest.price),
                spend=spend,
                usd_per_month=per_month(spend.usd, n_days),
            )
        )
    return tuple(sorted(found, key=lambda m: (-(m.spend.usd or 0), -m.spend.n_tokens, m.model)))


def days(charges: Sequence[Charge]) -> tuple[DaySpend, ...]:
    """Every day with calls, in order."""
    parts = grouped(charges, lambda each: each.group.day)
    found: list[DaySpend] = []
    for day in sorted(parts):
        spend = summed(parts[day])
        found.append(
            DaySpend(
                day=day,
                n_calls=spend.n_calls,
                usd=spend.usd,
                usd_by_model={
                    label: part.usd
                    for label, part in by_label(parts[day]).items()
                    if part.usd is not None
                },
            )
        )
    return tuple(found)


def by_label(charges: Iterable[Charge]) -> dict[str, Spend]:
    """`provider/model` -> its part, the most expensive first."""
    parts = grouped(charges, lambda each: each.label)
    found = [(label, summed(part)) for label, part in parts.items()]
    return dict(sorted(found, key=lambda item: (-(item[1].usd or 0), item[0])))


def retirements(charges: Sequence[Charge], as_of: date, n_days: int) -> tuple[Retirement, ...]:
    """Models in use whose retirement is past or near, the nearest first."""
    found: list[Retirement] = []
    for (provider, model), part in _by_model(charges).items():
        price = max(part, key=lambda each: each.group.day).price
        on = None if price is None else price.deprecation_date
        if on is not None and on <= as_of + RETIRES_WITHIN:
            spend = summed(part)
            found.append(
                Retirement(
                    provider=provider,
                    model=model,
                    on=on,
                    days_left=(on - as_of).days,
                    n_calls=spend.n_calls,
                    usd_per_month=per_month(spend.usd, n_days),
                )
            )
    return tuple(sorted(found, key=lambda each: (each.on, each.model)))


def counted_twice(charges: Sequence[Charge]) -> tuple[str, ...]:
    """Models that came both as single calls and as sums on one day: perhaps the same calls."""
    single, sums = (
        {(e.label, e.group.day) for e in charges if e.group.is_sum is is_sum}
        for is_sum in (False, True)
    )
    days_of: dict[str, int] = defaultdict(int)
    for label, _ in single & sums:
        days_of[label] += 1
    return tuple(
        f"{label}: on {counted(n, 'day')} the logs hold both single calls and sums; where these "
        "are the same calls, they are counted twice: leave one of the sources out"
        for label, n in sorted(days_of.items())
    )


def counted(n: int, what: str) -> str:
    """`1 call`, `2,000 calls`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _by_model(charges: Iterable[Charge]) -> dict[tuple[str, str], list[Charge]]:
    return grouped(charges, lambda each: (each.provider, each.group.model))


def _source(price: TokenPrice) -> str:
    return f"{price.source}, {price.checked_on}"


def _listed(reasons: Mapping[str, int]) -> tuple[str, ...]:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{reason} ({counted(n, 'call')})" for reason, n in ordered[:MAX_REASONS]]
    if len(ordered) > MAX_REASONS:
        n = sum(count for _, count in ordered[MAX_REASONS:])
        more = counted(len(ordered) - MAX_REASONS, "more reason")
        listed.append(f"{more} ({counted(n, 'call')})")
    return tuple(listed)
