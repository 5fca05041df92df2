"""The inputs of the bill of owning in the words of a finance lead."""

from __future__ import annotations

from pipelines.economics.rule_words import usd

IN_WORDS = {
    "usd_per_machine_hour": "an hour of the machine",
    "capacity_per_s": "calls per second that one machine answers",
    "cold_start_s": "seconds until a new machine answers",
    "operations_usd_per_month": "operations per month",
    "people.fte": "engineers who keep it running",
    "people.salary_usd_per_year": "an engineer's salary per year",
    "people.on_call_usd_per_month": "on-call per month",
    "observability_usd_per_month": "observability per month",
    "storage_usd_per_month": "storage and egress per month",
    "tuning_usd_per_month": "tuning per month",
    "tuning.labels": "labels for each tuning",
    "tuning.usd_per_label": "a label",
    "tuning.trials": "trials for each tuning",
    "tuning.machine_hours_per_trial": "machine hours of a trial",
    "tuning.eval_calls": "evaluation calls for each tuning",
    "tuning.usd_per_eval_call": "an evaluation call",
    "tuning.judge_calls": "judge calls for each tuning",
    "tuning.usd_per_judge_call": "a judge call",
    "tuning.engineer_days": "engineer days for each tuning",
    "tuning.usd_per_engineer_day": "an engineer day",
    "tuning.life_months": "months that a tuned model lasts",
    "tuning.refreshes": "refreshes within a tuned model's life",
    "risk.outages_per_month": "outages per month",
    "risk.hours_per_outage": "hours of an outage",
    "risk.usd_per_hour": "an hour of outage",
    "headroom": "capacity kept free at the peak, as a share of its load",
    "calls_per_task": "calls for each task",
    "retries_per_call": "repeated calls for each call",
}


def in_words(symbol: str) -> str:
    """The symbol's name for a person; itself where it needs no words."""
    return IN_WORDS.get(symbol, symbol)


def amount(symbol: str, value: float) -> str:
    """A value of the symbol, with the dollar sign where it is money."""
    return usd(value) if "usd_per" in symbol else f"{value:,.3g}"
