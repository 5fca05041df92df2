"""What an audit shows on its page, in a terminal and as a study; and that it obeys no log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from pipelines import audit
from pipelines.core.audit import AuditResult
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError
from pipelines.core.usage_log import BadRow, BilledLine, SourceFile, UsageGroup, UsageLog
from pipelines.core.workload import Traffic
from pipelines.economics import audited as audits
from pipelines.economics.charge import Charge
from pipelines.reports import audit as report
from pipelines.reports import study_file
from tests import conftest

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\n![x](http://e) {{ 7*7 }} |\"': #" * 6
CALLS = replace(conftest.CALLS, provider="anthropic", model="claude-haiku-4-5")
MONDAY = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp()) // 3600


def audited(
    groups: Sequence[UsageGroup],
    invoices: Mapping[str, Decimal] | None = None,
    **parts: object,
) -> tuple[AuditResult, list[Charge]]:
    bad = parts.pop("bad", ())
    log = UsageLog(
        files=(SourceFile(file="a.jsonl", format="OpenAI requests", n_rows=1000, n_bad=1),),
        groups=groups,
        billed=(),
        hourly={"claims": {MONDAY: 60, MONDAY + 30: 40}},
        n_rows=1000,
        n_bad={row.reason: 1 for row in bad},  # pyright: ignore[reportGeneralTypeIssues]
        bad_rows=bad,  # pyright: ignore[reportArgumentType]
        n_repeated=len(parts.get("repeated", ())),  # pyright: ignore[reportArgumentType]
        **parts,  # pyright: ignore[reportArgumentType]
    )
    charges = audits.priced(groups, None)
    return audits.result(log, charges, invoices or {}, sources=["a.jsonl"], as_of=None), charges


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("<body>")[2]))


def section(page: str, title: str) -> str:
    [found] = re.findall(rf"<h2>{title}</h2>(.*?)(?=<h2>|</main>)", page, flags=re.DOTALL)
    return words(f"<body>{found}")


def test_total_period_coverage_and_difference_come_first() -> None:
    # claude-haiku-4-5: $1 in, $0.10 cached, $5 out: 0.6 + 0.04 + 0.1 = 0.74
    result, _ = audited([CALLS], {"": Decimal("0.80"), "anthropic": Decimal("0.74")})
    assert result.total.usd == Decimal("0.74")
    page = report.render(result)
    top = words(page.partition("<h2>")[0])
    assert "$0.7400 at list prices" in top
    assert "2026-11-02 to 2026-11-02 (UTC), 1 day: 100 calls, $22.52 a month" in top
    assert "Priced are 100.0 % of the calls" in top
    assert "$0.0600 (7.50 %) below the invoice" in top
    assert "invoice of anthropic" not in top
    assert "anthropic invoice $0.7400 $0.7400 equal to" in section(page, "Against bills")
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[:4] == [
        "Against bills",
        "Which workloads are worth a study",
        "Models",
        "Classes of tokens",
    ]


def test_what_is_not_priced_is_said_and_never_a_zero() -> None:
    unknown = replace(CALLS, provider="", model="house-model", workload="dark", n_calls=300)
    result, _ = audited([CALLS, unknown])
    assert result.call_coverage == 0.25
    assert result.token_coverage == 0.5
    page = report.render(result)
    top = words(page.partition("<h2>")[0])
    assert "Priced are 25.0 % of the calls and 50.0 % of the tokens" in top
    assert "300 calls not in the dollars: no price is known for house-model" in top
    dark = section(page, "Which workloads are worth a study").partition("2. dark")[2]
    assert dark.split()[:3] == ["by", "tag", "unknown"]
    nothing, _ = audited([unknown])
    assert nothing.total.usd is None
    assert "unknown at list prices" in report.table(nothing)


def test_bad_and_repeated_rows_stand_there_with_file_and_line() -> None:
    bad = (BadRow(file="a.jsonl", line=7, reason="the model is missing"),)
    twice = (BadRow(file="b.jsonl", line=9, reason="request id r1 was counted before"),)
    result, _ = audited([CALLS], bad=bad, repeated=twice)
    page = report.render(result)
    assert "a.jsonl:7 the model is missing" in section(page, "Rows that could not be counted")
    assert "b.jsonl:9 request id r1" in section(page, "Rows that came twice")
    assert "1 row not counted" in report.table(result)
    # 998 of the 999 rows that are no repetition
    assert result.row_coverage == 1 - 1 / 999
    nearly = result.model_copy(update={"row_coverage": 0.99996})
    assert "over 99.9 % of the log's rows" in report.headline(nearly)
    assert "over 99.9" not in report.headline(result)
    assert "99.9 % of the log's rows" in report.headline(result)


def test_traffic_signs_and_machine() -> None:
    result, _ = audited([CALLS, replace(CALLS, day=date(2026, 11, 3))])
    page = report.render(result)
    # 60 calls in the busiest hour, 100 timed ones in 48 hours
    assert "2026-11-02 00:00 60 calls 28.8 Mon 00:00 60.0 % of the calls" in section(
        page, "Traffic"
    )
    row = section(page, "Which workloads are worth a study").partition("1. claims")[2]
    assert "100 % of the dollars are anthropic/claude-haiku-4-5; limit 90 %" in row
    assert "busiest hour 28.8 times the mean; limit 4" in row
    assert "less than one" in row


def test_names_from_logs_are_shown_and_not_obeyed() -> None:
    groups = [
        replace(CALLS, workload=HOSTILE, model=HOSTILE, provider=""),
        replace(CALLS, workload=HOSTILE),
    ]
    bad = (BadRow(file=HOSTILE, line=1, reason=HOSTILE),)
    result, charges = audited(groups, bad=bad, repeated=bad)
    page = report.render(result)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "49 |" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 6
    terminal = report.table(result)
    assert "\x1b" not in terminal
    assert "\u202e" not in terminal
    note = report.markdown(result)
    assert "<script" not in note.replace("\\<", "")
    assert "![x]" not in note
    study = yaml.safe_load(audit._study(result, charges, HOSTILE))
    assert study["workload"]["title"] == HOSTILE[:200]
    assert (
        study["workload"]["name"] == "script-alert-1-script-31m-x-http-e-7-7-script-alert-1-script"
    )


def test_the_page_needs_no_network() -> None:
    result, _ = audited([CALLS])
    page = report.render(result)
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", page) == []
    assert page.count("<svg") == 3


def test_a_written_study_loads_once_its_blanks_are_filled(tmp_path: Path) -> None:
    groups = [replace(CALLS, day=date(2026, 11, day)) for day in (2, 3, 4)]
    result, charges = audited(groups)
    path = tmp_path / "claims.yaml"
    path.write_text(audit._study(result, charges, "claims"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    for key in study_file.BLANKS:
        assert key in str(caught.value)
    filled = [
        "workload.tier=confidential",
        "workload.instructions=Name the claim.",
        "workload.max_output_tokens=16",
        "workload.requirements.max_quality_loss=0.02",
        "workload.requirements.max_latency_p95_s=2",
        "workload.own_costs.source=us",
    ]
    with pytest.raises(ConfigError, match="operations_usd_per_month"):
        load_study(path, filled)
    study = load_study(path, [*filled, "workload.own_costs.operations_usd_per_month=900"])
    assert study.workload.name == "claims"
    # 300 calls in three days: 100 x 30.4375 a month
    assert study.workload.traffic.tasks_per_month == 3044
    # 60 of 100 timed calls in one of 72 hours
    assert study.workload.traffic.peak_to_mean == 43.2
    assert study.workload.traffic.profile is None
    assert study.incumbent == "claude-haiku-4-5"
    assert study.candidates["claude-haiku-4-5"].title == "Claude Haiku 4.5"


@pytest.mark.parametrize("name", ["123", "no", "null", "2026-11-01", "1e3"])
def test_a_name_that_yaml_would_read_as_something_else_stays_a_name(name: str) -> None:
    result, charges = audited([replace(CALLS, workload=name, provider="", model=name)])
    tree = yaml.safe_load(audit._study(result, charges, name))
    assert tree["workload"]["name"] == name
    assert tree["incumbent"] == name
    assert next(iter(tree["candidates"])) == name


def test_a_log_of_a_week_gives_the_study_its_hours() -> None:
    # Eight days, the 2nd to the 9th: two Mondays, one of every other day.
    result, charges = audited([CALLS, replace(CALLS, day=date(2026, 11, 9))])
    traffic = yaml.safe_load(audit._study(result, charges, "claims"))["workload"]["traffic"]
    weights = Traffic.model_validate(traffic).profile
    assert weights is not None
    # 60 calls in the first hour of two Mondays, 40 at 6:00 on one Tuesday
    assert {k: n for k, n in enumerate(weights.weights) if n} == {0: 30.0, 30: 40.0}
    assert traffic["peak_to_mean"] is None


def test_an_incumbent_without_a_file_is_written_out(tmp_path: Path) -> None:
    result, charges = audited([replace(CALLS, model="claude-sonnet-4-5-20250929")])
    path = tmp_path / "claims.yaml"
    path.write_text(audit._study(result, charges, "claims"), encoding="utf-8")
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert tree["candidates"]["claude-sonnet-4-5-20250929"] == {
        "kind": "rent",
        "title": "claude-sonnet-4-5-20250929",
        "provider": "anthropic",
        "model": "claude-sonnet-4-5-20250929",
        "price": "anthropic/claude-sonnet-4-5-20250929",
        "api_key_env": "ANTHROPIC_API_KEY",
    }
    unpriced, charges = audited([replace(CALLS, provider="", model="house-model")])
    tree = yaml.safe_load(audit._study(unpriced, charges, "claims"))
    found = tree["candidates"]["house-model"]
    assert found["price"] is None
    assert found["base_url"] == "https://FILL-IN.invalid"


def test_a_cost_report_is_shown_day_by_day() -> None:
    charges = audits.priced([CALLS], None)
    log = UsageLog(
        files=(), groups=[CALLS], billed=[
            BilledLine(day=CALLS.day, provider="anthropic", project="", description="",
                       usd=Decimal("0.70")),
        ], hourly={}, n_rows=1, n_bad={}, bad_rows=(), n_repeated=0,
    )  # fmt: skip
    result = audits.result(log, charges, {}, sources=["x"], as_of=None)
    page = report.render(result)
    assert "cost report, 2026-11-02 $0.7400 $0.7000 $0.0400 (5.71 %) above" in section(
        page, "Against cost reports, day by day"
    )
    assert "The logs state no time of day." in section(page, "Traffic")
