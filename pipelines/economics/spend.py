"""What logged calls cost at list prices, and how that spreads over workloads, models and days."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from pipelines.core.audit import (
    TOKEN_CLASSES,
    Batching,
    Caching,
    DaySpend,
    Machine,
    ModelSpend,
    Retirement,
    Sign,
    Spend,
    TokenClass,
    TrafficShape,
    WorkloadSpend,
)
from pipelines.core.prices import Rates, ServiceTier, TokenPrice
from pipelines.core.records import Usage
from pipelines.core.usage_log import UsageGroup
from pipelines.economics import own_prices
from pipelines.economics.token_cost import MILLION, rates_of, usd_of_tokens

HOURS_PER_MONTH = Decimal("730.5")
"""365.25 days / 12 x 24 h."""
HOURS_PER_WEEK = 168
EPOCH_HOUR_OF_WEEK = 72
"""1970 began on a Thursday."""
RETIRES_WITHIN = timedelta(days=180)

ONE_MODEL_SHARE = 0.9
SHORT_OUTPUT_TOKENS = 300
STEADY_PEAK_TO_MEAN = 4.0
MAX_REASONS = 5
NO_TOKENS = "the log does not state the tokens"
NO_CALLS = "the log does not say how many calls it sums"
THRESHOLDS = (32_000, 128_000, 200_000, 256_000, 272_000, 512_000)
"""Prompt lengths beyond which a model of the catalog costs more."""

BATCHABLE: tuple[ServiceTier, ...] = ("standard", "priority")
"""Tiers whose calls could have gone out as batches instead."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One group of calls with what its tokens cost."""

    group: UsageGroup
    provider: str
    """The group's, else that of the price; empty = not known."""
    price_name: str | None
    price: TokenPrice | None
    tokens: Mapping[TokenClass, int]
    per_million: Mapping[TokenClass, Decimal]
    """Dollars per million tokens of each class; empty when the group is not priced."""
    batch_per_million: Mapping[TokenClass, Decimal]
    """The same at batch rates; empty where the calls were batched, or there is no such rate."""
    why_not: str
    """Why the group is not priced; empty when it is."""

    @property
    def label(self) -> str:
        """`provider/model`, or the model alone."""
        model = self.group.model
        known = self.provider and not model.startswith(f"{self.provider}/")
        return f"{self.provider}/{model}" if known else model

    @property
    def usd(self) -> Decimal | None:
        """Dollars of the group; None when it is not priced."""
        return None if self.why_not else dollars(self.tokens, self.per_million)


def charge(group: UsageGroup, price_name: str | None, price: TokenPrice | None) -> Charge:
    """Price one group at the rates of its tier and prompt length.

    Args:
        group: calls that are priced alike.
        price_name: `provider/model` in the price book; None = the model was not found there.
        price: valid on the group's day; None = there is none.
    """
    tokens = _tokens(group)
    per_million: Mapping[TokenClass, Decimal] = {}
    batched: Mapping[TokenClass, Decimal] = {}
    why_not = ""
    if not any(tokens.values()) and group.n_without_usage >= group.n_calls:
        why_not = NO_TOKENS
    elif price_name is None:
        why_not = f"no price is known for {_named(group)}"
    elif price is None:
        why_not = f"{price_name} has no price on {group.day}"
    elif group.service_tier != "standard" and group.service_tier not in price.service_tiers:
        why_not = f"{price_name} has no price for the service tier {group.service_tier}"
    else:
        per_million = _per_million(price, group.service_tier, group)
        if tokens["cache_write_1h"] and "cache_write_1h" not in per_million:
            per_million = {}
            why_not = f"the price of {price_name} does not say what a one-hour cache write costs"
        elif group.service_tier in BATCHABLE and "batch" in price.service_tiers:
            batched = _per_million(price, "batch", group)
    provider = group.provider or (price_name or "").partition("/")[0]
    return Charge(group, provider, price_name, price, tokens, per_million, batched, why_not)


def thresholds() -> tuple[int, ...]:
    """Prompt lengths beyond which some model costs more, in our own price files or elsewhere."""
    own = (price for prices in own_prices.read(own_prices.FOLDER).values() for price in prices)
    return tuple(
        sorted({*THRESHOLDS, *(step.threshold_tokens for p in own for step in p.long_context)})
    )


def counted(n: int, what: str) -> str:
    """`1 call`, `2,000 calls`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def dollars(tokens: Mapping[TokenClass, int], per_million: Mapping[TokenClass, Decimal]) -> Decimal:
    """Exact sum over the classes."""
    parts = (n * per_million[each] for each, n in tokens.items() if n)
    return sum(parts, Decimal(0)) / MILLION


def per_month(amount: Decimal | None, n_days: int) -> Decimal | None:
    """`amount` of `n_days` days at the same pace for 730.5 hours."""
    return None if amount is None else amount * HOURS_PER_MONTH / (24 * n_days)


def summed(charges: Iterable[Charge]) -> Spend:
    """All of them together."""
    n_calls = n_failed = n_without = n_priced = n_reasoning = n_tokens_priced = n_uncounted = 0
    tokens = dict.fromkeys(TOKEN_CLASSES, 0)
    usd = dict.fromkeys(TOKEN_CLASSES, Decimal(0))
    priced = False
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
        for name, n in each.tokens.items():
            if n:
                usd[name] += n * each.per_million[name] / MILLION
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
        why_not=_listed(reasons),
    )


def workloads(
    charges: Sequence[Charge],
    hourly: Mapping[str, Mapping[int, int]],
    n_days: int,
    machine: Machine | None,
) -> tuple[WorkloadSpend, ...]:
    """Every workload, ranked by dollars per month; those without dollars follow, by tokens.

    Args:
        charges: of the whole log.
        hourly: workload -> Unix hour -> calls.
        n_days: days that the log covers.
        machine: what the dollars are translated into.
    """
    parts: dict[str, list[Charge]] = defaultdict(list)
    for each in charges:
        parts[each.group.workload].append(each)
    found = [
        _workload(name, part, hourly.get(name, {}), n_days, machine) for name, part in parts.items()
    ]
    return tuple(
        sorted(found, key=lambda w: (-(w.usd_per_month or 0), -w.spend.n_tokens, w.workload))
    )


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
    parts: dict[date, list[Charge]] = defaultdict(list)
    for each in charges:
        parts[each.group.day].append(each)
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
                    for label, part in _by_label(parts[day]).items()
                    if part.usd is not None
                },
            )
        )
    return tuple(found)


def caching(charges: Sequence[Charge]) -> Caching:
    """What was read from prompt caches, what that saved, and what filling them cost."""
    n_cached = sum(each.tokens["cached_input"] for each in charges)
    n_input = sum(each.group.input_tokens for each in charges)
    priced = [each for each in charges if not each.why_not]
    saved = extra = Decimal(0)
    for each in priced:
        fresh = each.per_million["fresh_input"]
        saved += each.tokens["cached_input"] * (fresh - each.per_million["cached_input"]) / MILLION
        for name in ("cache_write_5m", "cache_write_1h"):
            if n := each.tokens[name]:
                extra += n * (each.per_million[name] - fresh) / MILLION
    return Caching(
        hit_share=n_cached / n_input if n_input else None,
        usd_saved_reading=saved if priced else None,
        usd_extra_writing=extra if priced else None,
    )


def batching(charges: Sequence[Charge]) -> Batching:
    """What the calls at other rates would cost at batch rates."""
    could = [each for each in charges if each.batch_per_million]
    now = sum((dollars(each.tokens, each.per_million) for each in could), Decimal(0))
    then = sum((dollars(each.tokens, each.batch_per_million) for each in could), Decimal(0))
    return Batching(
        n_calls_batched=sum(e.group.n_calls for e in charges if e.group.service_tier == "batch"),
        n_calls=sum(each.group.n_calls for each in could),
        usd=now if could else None,
        usd_saved=now - then if could else None,
    )


def traffic(hours: Mapping[int, int], n_days: int) -> TrafficShape | None:
    """How the calls spread over the hours; None when no call has a time of day.

    Args:
        hours: Unix hour -> calls.
        n_days: days that the log covers; the mean is taken over all their hours.
    """
    n_timed = sum(hours.values())
    if not n_timed:
        return None
    week = [0] * HOURS_PER_WEEK
    for hour, n in hours.items():
        week[(hour + EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK] += n
    busiest = max(hours, key=lambda hour: (hours[hour], -hour))
    return TrafficShape(
        n_calls=n_timed,
        busiest_hour=datetime.fromtimestamp(busiest * 3600, UTC),
        busiest_hour_calls=hours[busiest],
        peak_to_mean=hours[busiest] * 24 * n_days / n_timed,
        hour_of_week=tuple(week),
    )


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


def _workload(
    name: str,
    charges: Sequence[Charge],
    hours: Mapping[int, int],
    n_days: int,
    machine: Machine | None,
) -> WorkloadSpend:
    spend = summed(charges)
    month = per_month(spend.usd, n_days)
    shape = traffic(hours, n_days)
    by_model = _by_label(charges)
    batch = batching(charges)
    hourly = None if month is None else month / HOURS_PER_MONTH
    n_machines = None
    if hourly is not None and machine is not None:
        n_machines = int(hourly // machine.usd_per_hour)
    return WorkloadSpend(
        workload=name,
        grouped_by=charges[0].group.grouped_by,
        spend=spend,
        usd_per_month=month,
        calls_per_month=_calls_per_month(spend, n_days),
        by_model=by_model,
        caching=caching(charges),
        batching=batch,
        traffic=shape,
        signs=(
            _one_model(by_model),
            _short_outputs(spend),
            _steady(shape),
            _batchable(batch, spend.n_calls),
        ),
        usd_per_hour=hourly,
        n_machines_paid=n_machines,
    )


def _one_model(by_model: Mapping[str, Spend]) -> Sign:
    known = {label: float(it.usd) for label, it in by_model.items() if it.usd is not None}
    what = "dollars"
    if len(known) < len(by_model):
        what, known = "tokens", {label: float(it.n_tokens) for label, it in by_model.items()}
    total = sum(known.values())
    if not total:
        return Sign(name="one model", holds=None, figure=f"no {what}")
    label = max(known, key=lambda name: known[name])
    share = known[label] / total
    limit = f"limit {100 * ONE_MODEL_SHARE:.0f} %"
    figure = f"{100 * share:.0f} % of the {what} are {label}; {limit}"
    return Sign(name="one model", holds=share >= ONE_MODEL_SHARE, figure=figure)


def _short_outputs(spend: Spend) -> Sign:
    n = spend.n_calls - spend.n_without_usage
    if spend.n_tokens_without_calls or n <= 0:
        figure = NO_CALLS if spend.n_tokens_without_calls else NO_TOKENS
        return Sign(name="short outputs", holds=None, figure=figure)
    mean = spend.tokens["output"] / n
    figure = f"{mean:,.0f} output tokens a call; limit {SHORT_OUTPUT_TOKENS}"
    return Sign(name="short outputs", holds=mean <= SHORT_OUTPUT_TOKENS, figure=figure)


def _steady(shape: TrafficShape | None) -> Sign:
    if shape is None:
        return Sign(name="steady traffic", holds=None, figure="the log states no time of day")
    figure = (
        f"busiest hour {shape.peak_to_mean:.1f} times the mean; limit {STEADY_PEAK_TO_MEAN:.0f}"
    )
    holds = shape.peak_to_mean <= STEADY_PEAK_TO_MEAN
    return Sign(name="steady traffic", holds=holds, figure=figure)


def _batchable(batch: Batching, n_calls: int) -> Sign:
    share = batch.n_calls_batched / n_calls if n_calls else 0.0
    figure = f"{100 * share:.0f} % of the calls came as batches"
    # That a call was not batched does not say that nobody could have waited.
    return Sign(name="batchable", holds=True if share >= 0.5 else None, figure=figure)


def _tokens(group: UsageGroup) -> dict[TokenClass, int]:
    written = group.cache_write_5m_tokens + group.cache_write_1h_tokens
    return {
        "fresh_input": group.input_tokens - group.cached_input_tokens - written,
        "cached_input": group.cached_input_tokens,
        "cache_write_5m": group.cache_write_5m_tokens,
        "cache_write_1h": group.cache_write_1h_tokens,
        "output": group.output_tokens,
    }


def _per_million(
    price: TokenPrice, tier: ServiceTier, group: UsageGroup
) -> Mapping[TokenClass, Decimal]:
    """Dollars per million tokens of each class; a class whose rate is not known is left out.

    The prompts count as just longer than the threshold that the group's prompts exceed.
    """
    rates = rates_of(price, tier, group.context_over + 1 if group.context_over else 0)
    return _of_classes(tuple(rates.model_dump().items()))


@lru_cache(maxsize=4096)
def _of_classes(rate_items: tuple[tuple[str, Decimal | None], ...]) -> Mapping[TokenClass, Decimal]:
    rates = Rates.model_validate(dict(rate_items))
    million = int(MILLION)
    usages: dict[TokenClass, Usage] = {
        "fresh_input": Usage(input_tokens=million, output_tokens=0),
        "cached_input": Usage(input_tokens=million, cached_input_tokens=million, output_tokens=0),
        "cache_write_5m": Usage(
            input_tokens=million, cache_write_5m_tokens=million, output_tokens=0
        ),
        "output": Usage(input_tokens=0, output_tokens=million),
    }
    if rates.cache_write_1h is not None:
        usages["cache_write_1h"] = Usage(
            input_tokens=million, cache_write_1h_tokens=million, output_tokens=0
        )
    return {name: usd_of_tokens(rates, usage) for name, usage in usages.items()}


def _by_model(charges: Iterable[Charge]) -> dict[tuple[str, str], list[Charge]]:
    parts: dict[tuple[str, str], list[Charge]] = defaultdict(list)
    for each in charges:
        parts[each.provider, each.group.model].append(each)
    return parts


def _by_label(charges: Iterable[Charge]) -> dict[str, Spend]:
    """`provider/model` -> its part, the most expensive first."""
    parts: dict[str, list[Charge]] = defaultdict(list)
    for each in charges:
        parts[each.label].append(each)
    found = [(label, summed(part)) for label, part in parts.items()]
    return dict(sorted(found, key=lambda item: (-(item[1].usd or 0), item[0])))


def _calls_per_month(spend: Spend, n_days: int) -> int | None:
    if spend.n_tokens_without_calls:
        return None
    return round(spend.n_calls * HOURS_PER_MONTH / (24 * n_days))


def _named(group: UsageGroup) -> str:
    return f"{group.model} of {group.provider}" if group.provider else group.model


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
