"""One AuditResult from a usage log: its calls priced, compared with bills, and ranked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import cache

from pipelines.core.audit import AgreedTerms, AuditResult, Machine
from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError
from pipelines.core.hardware import Hardware
from pipelines.core.prices import TokenPrice
from pipelines.core.usage_log import UsageGroup, UsageLog
from pipelines.economics import agreed, catalog, reconcile, spend, workload_spend
from pipelines.economics.charge import Charge, charge
from pipelines.economics.price_book import load_prices, stale
from pipelines.economics.savings import batching, caching

MACHINE = "h100"
"""File in configs/hardware/ that dollars are translated into."""
MAX_NOTES = 20


def priced(
    groups: Iterable[UsageGroup], as_of: date | None, terms: Sequence[AgreedTerms] = ()
) -> list[Charge]:
    """Every group with the price of its day, or of `as_of`, and with the terms that apply."""

    @cache
    def price(name: str, day: date) -> TokenPrice | None:
        try:
            return load_prices([name], day).token_price(name)
        except ConfigError:
            return None

    found: list[Charge] = []
    for group in groups:
        name = catalog.find(group.model, group.provider)
        each = charge(group, name, None if name is None else price(name, as_of or group.day))
        found.append(replace(each, terms=agreed.of(each, terms), has_terms=bool(terms)))
    return found


def result(
    log: UsageLog,
    charges: Sequence[Charge],
    invoices: Mapping[str, Decimal],
    *,
    sources: Sequence[str],
    as_of: date | None,
    terms: Sequence[AgreedTerms] = (),
) -> AuditResult:
    """All that is found, without the run it will be logged in.

    Args:
        log: at least one group of calls.
        charges: of all its groups.
        invoices: provider -> dollars of the log's whole period; the key "" is for all of them.
        sources: what the user named.
        as_of: the day whose prices were used for every call; None = of each call's own day.
        terms: those that `charges` have.
    """
    days = [group.day for group in log.groups]
    n_days = (max(days) - min(days)).days + 1
    total = spend.summed(charges)
    machine = _machine()
    today = as_of or date.today()
    counted = log.n_rows - log.n_repeated
    return AuditResult(
        run_id="",
        sources=tuple(sources),
        files=log.files,
        first_day=min(days),
        last_day=max(days),
        n_days=n_days,
        n_days_with_calls=len(set(days)),
        as_of=today,
        prices_as_of=as_of,
        n_rows=log.n_rows,
        n_bad=log.n_bad,
        bad_rows=log.bad_rows,
        n_repeated=log.n_repeated,
        repeated=log.repeated,
        row_coverage=1 - sum(log.n_bad.values()) / counted if counted > 0 else 1.0,
        call_coverage=total.n_calls_priced / total.n_calls if total.n_calls else None,
        token_coverage=total.n_tokens_priced / total.n_tokens if total.n_tokens else None,
        n_calls_summed=sum(group.n_calls for group in log.groups if group.is_sum),
        total=total,
        terms=tuple(terms),
        usd_per_month=spend.per_month(total.usd, n_days),
        comparisons=reconcile.compare(charges, log.billed, invoices),
        workloads=workload_spend.workloads(charges, log.hourly, n_days, machine),
        models=spend.models(charges, n_days),
        days=spend.days(charges),
        caching=caching(charges),
        batching=batching(charges),
        retirements=spend.retirements(charges, today, n_days),
        machine=machine,
        notes=_notes(log, charges, as_of, terms),
    )


def figures(result: AuditResult) -> dict[str, float | None]:
    """MLflow metrics of the audit."""
    saved = result.batching.usd_saved
    paid = result.total.usd_at_terms
    return {
        "usd_at_terms": None if paid is None else float(paid),
        "usd_total": None if result.total.usd is None else float(result.total.usd),
        "usd_per_month": None if result.usd_per_month is None else float(result.usd_per_month),
        "row_coverage": result.row_coverage,
        "call_coverage": result.call_coverage,
        "token_coverage": result.token_coverage,
        "cache_hit_share": result.caching.hit_share,
        "usd_saved_if_batched": None if saved is None else float(saved),
        "n_calls": float(result.total.n_calls),
        "n_rows": float(result.n_rows),
        "n_bad": float(sum(result.n_bad.values())),
        "n_repeated": float(result.n_repeated),
        "n_workloads": float(len(result.workloads)),
    }


def digest(log: UsageLog) -> str:
    """SHA-256 of the calls that were counted."""
    sha256 = hashlib.sha256()
    for group in log.groups:
        sha256.update(repr(group).encode())
    return sha256.hexdigest()


def _machine() -> Machine | None:
    """None when configs/hardware/ has no such file."""
    path = CONFIGS / "hardware" / f"{MACHINE}.yaml"
    if not path.exists():
        return None
    hardware = Hardware.model_validate(read_yaml(path))
    return Machine(
        name=hardware.name,
        description=hardware.description,
        usd_per_hour=hardware.usd_per_hour,
    )


def _notes(
    log: UsageLog, charges: Sequence[Charge], as_of: date | None, terms: Sequence[AgreedTerms]
) -> tuple[str, ...]:
    """What a reader must know before trusting the figures."""
    notes = list(spend.counted_twice(charges))
    notes += [
        f"terms of {each.whose}: no call in the logs is theirs"
        for each in terms
        if not any(charge.terms == each for charge in charges)
    ]
    if log.skipped:
        listed = ", ".join(log.skipped[:MAX_NOTES])
        notes.append(f"{len(log.skipped)} files of no known format were left out: {listed}")
    if n := spend.summed(charges).n_tokens_without_calls:
        notes.append(f"{n:,} tokens come as sums over an unstated number of calls")
    if n := sum(group.n_calls for group in log.groups if group.is_sum):
        notes.append(
            f"{n:,} calls come as sums; whether their prompts pass a long-context threshold is "
            "taken from the mean of each sum"
        )
    used = {(e.price_name or "", as_of or e.group.day): e.price for e in charges if not e.why_not}
    old: dict[str, str] = {}
    for (name, day), price in sorted(used.items()):
        if price is not None and (doubt := stale(price, day)):
            old.setdefault(name, f"{name}: {doubt}")
    notes += list(old.values())[:MAX_NOTES]
    if len(old) > MAX_NOTES:
        notes.append(f"{len(old) - MAX_NOTES} more prices were checked long before or after")
    return tuple(notes)
