"""What the report and the terminal say of the dollars of owning, in a real run."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.decision import Decision
from pipelines.decide import REPORT, decide
from pipelines.economics.verdict import usd
from pipelines.reports import terminal
from pipelines.tracking import store

COSTS = """{operations_usd_per_month: null, source: test,
  people: {fte: 0.01, salary_usd_per_year: 120_000, on_call_usd_per_month: 20},
  observability_usd_per_month: {low: 5, likely: 10, high: 40_000},
  outlook: {upfront_usd: 10_000_000, api_price_fall_per_month: 0.05, growth_per_month: 0,
            wacc: 0.1, months: 24}}"""


def test_the_bill_is_shown_line_by_line_with_its_range(small_study: Path, store_uri: str) -> None:
    study = load_study(
        small_study,
        [
            f"workload.own_costs={COSTS}",
            "workload.requirements.max_quality_loss=0.99",
            "workload.traffic.tasks_per_month=9_000_000",
            "workload.traffic.peak_to_mean=1.5",
            "workload.traffic.profile=day_and_night",
        ],
    )
    decision = decide(study, Options(Path("study.yaml"), store_uri, dry_run=False, json=False))
    assert isinstance(decision, Decision)
    row, now = decision.candidates["tfidf-logreg"], decision.candidates["frontier"]
    low, likely, high = row.usd_per_month_low, row.usd_per_month, row.usd_per_month_high
    assert low is not None
    assert likely is not None
    assert high is not None
    assert now.usd_per_month is not None
    # The API asks some hundred dollars; the high end of observability alone is dearer.
    assert low < now.usd_per_month < high
    assert high - low > 39_995
    assert row.swings[0].symbol == "observability_usd_per_month"
    assert row.swings[0].flips

    report = store.artifact(decision.run_id, REPORT).read_text(encoding="utf-8")
    [table] = re.findall(r"<h2>What owning costs</h2>(.*?)<h2>", report, flags=re.DOTALL)
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", table))
    assert "people $100" in words
    assert "observability $10 $5 to $40,000" in words
    assert "outages \N{EN DASH} not in the total" in words
    assert f"in all ${likely:,.0f} ${low:,.0f} to ${high:,.0f}" in words
    assert f"utilisation calls over what the machines could answer {row.utilisation:.1%}" in words
    assert "what the evaluation reached, 16 at a time: no load test was made" in words
    assert "machines for the busiest minute of the month with 67% headroom, 1 spare" in report

    shown = terminal.table(decision)
    assert f"  - tfidf-logreg: {usd(likely)} ({usd(low)} to {usd(high)}): machines, base" in shown
    assert "Whether tfidf-logreg is cheaper than frontier is unclear" in shown
    assert "mostly because of observability_usd_per_month" in shown
    # Ten million dollars are not saved in two years.
    assert "tfidf-logreg does not pay back its start within 24 months." in shown
