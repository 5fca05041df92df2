"""The beginning of a study of one logged workload: what the log knows, and blanks for the rest."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import timedelta
from typing import Any

import yaml

from pipelines.core.audit import AuditResult, TrafficShape, WorkloadSpend
from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.workload import TIERS
from pipelines.economics.spend import Charge
from pipelines.reports.names import short

DAYS_PER_WEEK = 7
BLANKS = (
    "workload.tier",
    "workload.instructions",
    "workload.max_output_tokens",
    "workload.requirements.max_quality_loss",
    "workload.requirements.max_latency_p95_s",
    "workload.own_costs.source",
)
"""Keys that are left empty: reading the study names each of them until it is filled in. The costs
of operations are left empty, too, and missed when these are there."""
ADAPTERS = {
    "openai": ("openai_compatible", "OPENAI_API_KEY"),
    "anthropic": ("anthropic", "ANTHROPIC_API_KEY"),
    "gemini": ("google", "GEMINI_API_KEY"),
    "azure": ("azure_openai", "AZURE_OPENAI_API_KEY"),
    "bedrock": ("bedrock", "AWS_BEARER_TOKEN_BEDROCK"),
}
"""The catalog's provider -> file in pipelines/providers/, and the usual name of its key."""
PUBLIC = ("openai", "anthropic", "gemini")
"""Providers whose address is known; the others need a `base_url`."""


def slug(workload: str) -> str:
    """A study's name from a workload's; `workload` when nothing of it can stand in a name."""
    text = re.sub(r"[^a-z0-9_-]+", "-", workload.casefold()).strip("-_")[:60]
    return text.strip("-_") or "workload"


def text(name: str, workload: WorkloadSpend, incumbent: Charge, result: AuditResult) -> str:
    """The YAML of the study.

    Args:
        name: of the study, as `slug` makes it.
        workload: as audited.
        incumbent: a charge of its most expensive model.
        result: gives the period.
    """
    spend = workload.spend
    n = spend.n_calls - spend.n_without_usage
    known = n > 0 and not spend.n_tokens_without_calls
    n_input = round(spend.n_input_tokens / n) if known else None
    n_output = round(spend.tokens["output"] / n) if known else None
    fragment = _fragment(incumbent)
    candidate = fragment or slug(incumbent.group.model)
    lines = [
        f"# Study of the logged workload {_quoted(short(workload.workload))}.",
        f"# Written from usage logs of {result.first_day} to {result.last_day}: "
        f"{spend.n_calls:,} calls.",
        "# Fill in what is empty; until then reading the study names the keys that are missing.",
        "workload:",
        f'  name: "{name}"',
        f"  title: {_quoted(workload.workload[:200])}",
        f"  tier:  # who may read the data: {', '.join(TIERS)}",
        "  # Items with right answers, as JSON Lines of id, messages and target; make this file.",
        f"  eval_set: {{path: eval_sets/{name}/eval.jsonl}}",
        "  instructions:  # the system prompt in use today",
        "  # exact_match suits labels; pipelines/metrics/ and pipelines/judging/ have the others.",
        "  metrics: {accuracy: {metric: exact_match}}",
        "  quality: accuracy",
        f"  max_output_tokens:  # the log's mean is {_known(n_output)}",
        "  requirements:",
        "    max_quality_loss:  # how much worse than today it may be, such as 0.02",
        "    max_latency_p95_s:  # how long an answer may take, in seconds",
        "  traffic:",
        "    tasks_per_month:  # the log does not say how many calls it sums"
        if workload.calls_per_month is None
        else f"    tasks_per_month: {max(1, workload.calls_per_month)}  # calls, at the log's pace",
        *_traffic(name, workload.traffic, result),
        "  own_costs:",
        "    operations_usd_per_month:  # people, on-call and monitoring",
        "    source:  # where that figure comes from",
        "",
        "prepare:",
        "  # Rows to learn from: JSON Lines of messages that end with the right answer.",
        f"  train: {{path: eval_sets/{name}/train.jsonl}}",
        "finetune: {preset: llama-3.1-8b}",
        f"serve: {{max_model_len: {_context((n_input or 0) + (n_output or 0))}}}"
        f"  # the longest prompt must fit; the log's mean is {_known(n_input)}",
        "",
        f'incumbent: "{candidate}"',
        "candidates:",
        *_rented(candidate, fragment, incumbent),
        "  own-base: own-base",
        "  own-lora: own-lora",
        "  tfidf-logreg: tfidf-logreg",
        "",
    ]
    return "\n".join(lines)


def _traffic(name: str, shape: TrafficShape | None, result: AuditResult) -> list[str]:
    """The mean week where the log covers one, else how far the busiest hour is above the mean."""
    if shape is None:
        return [
            "    peak_to_mean:  # busiest minute over the mean; the log has no hours; empty = 4"
        ]
    if result.n_days < DAYS_PER_WEEK:
        peak = math.ceil(10 * max(1.0, shape.peak_to_mean)) / 10
        return [f"    peak_to_mean: {peak}  # of the log's hours; its busiest minute is above it"]
    days = (result.first_day + timedelta(days=k) for k in range(result.n_days))
    n_of = Counter(day.weekday() for day in days)
    means = [n / n_of[k // 24] for k, n in enumerate(shape.hour_of_week)]
    rows = [
        "        " + ", ".join(f"{mean:.1f}" for mean in means[24 * day : 24 * day + 24]) + ","
        for day in range(DAYS_PER_WEEK)
    ]
    return [
        "    profile:",
        f'      name: "{name}"',
        "      description: Mean calls of each hour of the week, Monday 0:00 UTC first",
        "      weights: [",
        *rows,
        "      ]",
        f"      source: usage logs of {result.first_day} to {result.last_day}",
        "    peak_to_mean:  # busiest minute over its hour; the log has hours only; empty = 4",
    ]


def _fragment(incumbent: Charge) -> str | None:
    """The file in configs/candidates/ that asks this very model; None when there is none."""
    for path in sorted((CONFIGS / "candidates").glob("*.yaml"), key=lambda p: (len(p.stem), p)):
        found = read_yaml(path)
        if found.get("kind") != "rent" or found.get("standin") or found.get("recorded"):
            continue
        if incumbent.price_name is not None and found.get("price") == incumbent.price_name:
            return path.stem
    return None


def _rented(name: str, fragment: str | None, incumbent: Charge) -> list[str]:
    """The candidate that answers today, at the terms that the audit was given for it."""
    agreed = incumbent.terms
    if agreed is None or agreed.factor == 1:
        return [f'  "{fragment}": "{fragment}"'] if fragment else _inline(name, incumbent)
    terms = {"discount": float(agreed.discount), "regional_uplift": float(agreed.regional_uplift)}
    lines = _inline(name, incumbent)
    if fragment:
        fields = read_yaml(CONFIGS / "candidates" / f"{fragment}.yaml")
        terms = {**fields.pop("terms", {}), **terms}
        dumped = yaml.safe_dump(fields, sort_keys=False, width=math.inf)
        lines = [f'  "{name}":', *(f"    {line}" for line in dumped.splitlines())]
    where = " ".join(agreed.source.split())
    lines.append(f"    # {where}, checked on {agreed.checked_on}")
    lines.append(f"    terms: {yaml.safe_dump(terms, default_flow_style=True).strip()}")
    return lines


def _inline(name: str, incumbent: Charge) -> list[str]:
    provider, model = incumbent.provider, incumbent.group.model
    adapter, key = ADAPTERS.get(provider, ("openai_compatible", None))
    fields: dict[str, Any] = {
        "kind": "rent",
        "title": model[:200],
        "provider": adapter,
        "model": model,
    }
    lines = [f'  "{name}":']
    lines += [f"    {field}: {_quoted(value)}" for field, value in fields.items()]
    if incumbent.price_name is None:
        lines.append("    price:  # the log's model has none: add it to configs/prices/")
    else:
        lines.append(f"    price: {_quoted(incumbent.price_name)}")
    if provider not in PUBLIC:
        lines.append("    base_url: https://FILL-IN.invalid  # address of the API")
    if key is None:
        lines.append("    api_key_env: FILL_IN_API_KEY  # environment variable with the key")
    else:
        lines.append(f"    api_key_env: {key}")
    return lines


def _known(n: int | None) -> str:
    return "not known" if n is None else str(n)


def _context(n_tokens: int) -> int:
    """Twice the mean call, as a power of two of at least 4,096."""
    return max(4096, 2 ** math.ceil(math.log2(max(1, 2 * n_tokens))))


def _quoted(value: str) -> str:
    """A YAML string on one line, whatever is in it."""
    dumped = yaml.safe_dump(value, default_style='"', width=math.inf)
    return dumped.strip()
