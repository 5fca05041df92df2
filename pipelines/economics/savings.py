"""What prompt caches saved, and what batches would save."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from pipelines.core.audit import Batching, Caching
from pipelines.economics.charge import Charge, dollars
from pipelines.economics.token_cost import MILLION


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
