from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines.core.usage_log import UsageLog
from pipelines.usage_logs import formats
from pipelines.usage_logs.read import read

FIXTURES = Path(__file__).parent / "fixtures"
THRESHOLDS = (200_000, 272_000)
NO_MODEL = "no model"
NO_TIME = "no timestamp, or one that cannot be read"
NO_TIER = "an unknown service tier, or capacity paid by the hour"
CACHED = "an impossible count: cached and written tokens exceed the input"


def log(name: str) -> UsageLog:
    return read([FIXTURES / name], thresholds=THRESHOLDS)


def rows(found: UsageLog) -> list[tuple[object, ...]]:
    """Day of the month, workload, model, tier, context; calls, failed; six kinds of tokens."""
    return [
        (
            *(each.day.day, each.workload, each.model, each.service_tier, each.context_over),
            *(each.n_calls, each.n_failed),
            *(each.input_tokens, each.cached_input_tokens, each.cache_write_5m_tokens),
            *(each.cache_write_1h_tokens, each.output_tokens, each.reasoning_tokens),
        )
        for each in found.groups
    ]


SOL, LUNA, SONNET, HAIKU = "gpt-6.1-sol", "gpt-6-luna", "claude-sonnet-5-5", "claude-haiku-4-5"
ROLE = "arn:aws:sts::123456789012:assumed-role/claims/s"
EXPECTED: dict[str, list[tuple[object, ...]]] = {
    # Anthropic's `input_tokens` (200) leave out 1000 read and 800 written: 2000 in all. 12:30+02:00
    # and 23:59:59.9Z are the first of November; the failed call states no tokens.
    "requests.jsonl": [
        (1, "claims", LUNA, "flex", 0, 1, 0, 500, 100, 200, 0, 50, 20),
        (1, "claims", SOL, "standard", 0, 3, 1, 2000, 1000, 0, 0, 400, 120),
        (1, "claims", SOL, "standard", 200_000, 1, 0, 250_000, 0, 0, 0, 700, 0),
        (1, "triage", SONNET, "standard", 0, 1, 0, 2000, 1000, 500, 300, 400, 0),
        (2, "prompt 8a8c7d8a3ef9", LUNA, "standard", 0, 1, 0, 100, 0, 0, 0, 10, 0),
    ],
    # Both habits in one file; lines of a batch are priced as one.
    "exchanges.jsonl": [
        (1, "faq", SOL, "standard", 0, 1, 1, 0, 0, 0, 0, 0, 0),
        (1, "faq", f"{SOL}-2026-08-01", "priority", 0, 1, 0, 900, 0, 0, 0, 90, 0),
        (1, LUNA, LUNA, "batch", 0, 2, 0, 800, 0, 0, 0, 80, 0),
        (1, "prompt 4cfcf2d18bd9", HAIKU, "standard", 0, 1, 0, 500, 400, 0, 0, 20, 0),
    ],
    # 1,000,000 include 400,000 cached and 100,000 written; 900,000 / 3 calls are above 272,000.
    "openai_usage.json": [
        (1, "proj_claims", SOL, "batch", 272_000, 3, 0, 900_000, 0, 0, 0, 9000, 0),
        (1, "proj_claims", SOL, "standard", 0, 500, 0, 1_000_000, 400_000, 100_000, 0, 50_000, 0),
        (3, "proj_mail", LUNA, "flex", 0, 70, 0, 7000, 1000, 0, 0, 700, 0),
    ],
    # 1500 uncached + 200 read + 500 + 1000 written = 3200; the report does not count calls.
    "anthropic_usage.jsonl": [
        (1, "wrkspc_1", SONNET, "standard", 0, 0, 0, 3200, 200, 500, 1000, 500, 0),
        (1, "wrkspc_1", SONNET, "standard", 200_000, 0, 0, 700_000, 0, 0, 0, 2000, 0),
        (2, "apikey_7", HAIKU, "batch", 0, 0, 0, 100, 0, 0, 0, 10, 0),
    ],
    # The second row of the first call has SequenceNumber 1 and repeats its tokens.
    "azure.jsonl": [
        (1, "luna-us", "luna-us", "standard", 0, 1, 0, 50, 0, 0, 0, 5, 0),
        (1, "sol-eu", SOL, "standard", 0, 2, 0, 2000, 0, 0, 0, 400, 0),
    ],
    # The gateway: Claude's 974 cached tokens stand beside its 26. The account: lists over the parts
    # of a call, 700 + 100; its request log has the same call without tokens, and a throttled one.
    # A later part of a message, a thread and an audit record are no calls.
    "azure_monitor.jsonl": [
        (1, "haiku-eu", HAIKU, "standard", 0, 1, 0, 1000, 974, 0, 0, 50, 0),
        (1, "luna-eu", LUNA, "standard", 0, 2, 1, 800, 256, 0, 0, 100, 0),
        (1, "sol-eu", SOL, "standard", 0, 1, 0, 1200, 1000, 0, 0, 300, 0),
    ],
    # 500 + 1000 read + 300 written.
    "bedrock.jsonl": [
        (1, ROLE, "amazon.nova-2-lite-v1:0", "standard", 0, 2, 1, 700, 0, 0, 0, 70, 0),
        (1, "claims", f"us.anthropic.{HAIKU}-v1:0", "standard", 0, 1, 0, 1800, 1000, 300, 0, 50, 0),
    ],
    # Thoughts (120) come on top of the candidates (80); tool prompts (50) on top of the prompt.
    "gemini.jsonl": [
        (1, "gemini-3-flash", "gemini-3-flash", "batch", 0, 1, 0, 40, 0, 0, 0, 4, 0),
        (1, "gemini-3-flash", "gemini-3-flash", "standard", 0, 1, 1, 0, 0, 0, 0, 0, 0),
        (1, "gemini-3-pro", "gemini-3-pro", "standard", 272_000, 1, 0, 300_050, 0, 0, 0, 10, 0),
        (1, "search", "gemini-3-flash", "standard", 0, 1, 0, 1000, 600, 0, 0, 200, 120),
    ],
    # Cached tokens from the metadata, as an object or as text; LiteLLM's own cache hit costs none.
    "litellm.jsonl": [
        (1, "88dc02", SOL, "standard", 0, 1, 1, 0, 0, 0, 0, 0, 0),
        (1, "t1", SONNET, "standard", 0, 1, 0, 1000, 500, 200, 0, 100, 0),
        (1, "wf:claims", SOL, "standard", 0, 2, 0, 1200, 1000, 0, 0, 300, 40),
    ],
    # Beside the input: 200 + 1000 + 300 = 1500. Inside: 1200 + 300 = 1500, and 100 thought inside
    # 300. Thought beside: 100 + 200 + 100 = 400. The span of the chain is no call.
    "langfuse.json": [
        (1, "answer", SONNET, "standard", 0, 2, 1, 1200, 1000, 0, 0, 300, 0),
        (1, "answer", SOL, "standard", 0, 2, 0, 1300, 1000, 0, 0, 600, 200),
        (1, "answer", "text-embedding-4", "standard", 0, 1, 0, 64, 0, 0, 0, 0, 0),
    ],
    # The agent's 2000 repeat its children's; of two nested chat spans the inner one counts.
    "otlp.jsonl": [
        (1, "helpdesk", HAIKU, "standard", 0, 1, 0, 800, 0, 200, 0, 100, 0),
        (1, "helpdesk", SOL, "standard", 0, 2, 1, 1200, 1000, 0, 0, 300, 120),
    ],
    "spans.jsonl": [
        (1, SOL, SOL, "standard", 0, 1, 0, 1200, 1000, 0, 0, 300, 120),
        (1, "mail", LUNA, "standard", 0, 1, 0, 90, 0, 0, 0, 9, 0),
    ],
    # The agent's and the trace's sums are left out; the second trace has only its sum.
    "mlflow_traces.jsonl": [
        (1, "agent", LUNA, "standard", 0, 1, 0, 70, 0, 0, 0, 7, 0),
        (1, "agent", SONNET, "standard", 0, 1, 0, 800, 0, 300, 200, 100, 0),
        (1, "agent", SOL, "standard", 0, 1, 0, 1200, 1000, 0, 0, 300, 0),
    ],
    # "1,200,000" and 600000.0 are counts; 1,200,000 / 1000 calls are 1200 each.
    "table.csv": [
        (1, "claims", SOL, "standard", 0, 1000, 0, 1_200_000, 400_000, 0, 0, 90_000, 0),
        (1, "mail, inbound", LUNA, "standard", 0, 10, 0, 5000, 0, 0, 0, 500, 0),
        (2, "claims", SOL, "standard", 0, 500, 0, 600_000, 0, 0, 0, 45_000, 0),
    ],
}
BAD: dict[str, dict[str, list[int]]] = {
    "requests.jsonl": {},
    "exchanges.jsonl": {NO_TIME: [6]},
    "openai_usage.json": {NO_MODEL: [3], NO_TIER: [5]},
    "openai_costs.json": {"a currency other than USD": [1]},
    "anthropic_usage.jsonl": {},
    "anthropic_costs.json": {"no amount, or one that cannot be read": [1]},
    "azure.jsonl": {NO_TIME: [5]},
    "azure_monitor.jsonl": {NO_TIME: [9]},
    "bedrock.jsonl": {},
    "gemini.jsonl": {NO_TIER: [4]},
    "litellm.jsonl": {CACHED: [5]},
    "langfuse.json": {},
    "otlp.jsonl": {"a negative count": [2]},
    "spans.jsonl": {},
    "mlflow_traces.jsonl": {NO_MODEL: [4]},
    "table.csv": {NO_MODEL: [5], "output tokens without input tokens": [6]},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_calls_and_tokens_of_a_format_are_those_added_by_hand(name: str) -> None:
    assert sorted(rows(log(name)), key=str) == sorted(EXPECTED[name], key=str)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_counted_is_listed_with_its_place(name: str) -> None:
    found = log(name)
    listed: dict[str, list[int]] = {}
    for each in found.bad_rows:
        assert each.file.endswith(name)
        listed.setdefault(each.reason, []).append(each.line)
    assert listed == BAD[name]
    assert found.n_bad == {reason: len(lines) for reason, lines in BAD[name].items()}


def test_every_format_has_a_fixture() -> None:
    stems = {name.partition(".")[0] for name in BAD}
    assert set(formats.names()) == (stems - {"table"}) | {"flat"}


@pytest.mark.parametrize("name", BAD)
def test_a_row_belongs_to_one_format(name: str) -> None:
    [file] = log(name).files
    stem = name.partition(".")[0].replace("table", "flat")
    assert file.format == formats.load(stem).TITLE


def test_anthropic_costs_are_cents() -> None:
    found = log("anthropic_costs.json")
    assert [(each.project, each.usd) for each in found.billed] == [
        ("", Decimal("0.5")),
        ("wrkspc_1", Decimal("1.2378912")),
    ]


def test_openai_costs_are_dollars_and_other_currencies_are_left_out() -> None:
    found = log("openai_costs.json")
    assert [(each.day.day, each.description, each.usd) for each in found.billed] == [
        (1, "gpt-6.1-sol, input", Decimal("0.06")),
        (1, "gpt-6.1-sol, output", Decimal("1.5")),
        (2, "", Decimal("0.125")),
    ]
    assert not found.groups


def test_dollars_are_reported_only_where_every_call_states_some() -> None:
    by_model = {each.model: each.usd_reported for each in log("mlflow_traces.jsonl").groups}
    assert by_model == {LUNA: Decimal("0.001"), SONNET: None, SOL: Decimal("0.0035")}
    assert [each.usd_reported for each in log("table.csv").groups] == [
        Decimal("3.25"),
        Decimal("0.01"),
        None,
    ]


def test_providers_are_named_as_in_the_price_catalog() -> None:
    assert {each.model: each.provider for each in log("spans.jsonl").groups} == {
        SOL: "openai",
        LUNA: "azure",
    }


def test_sums_of_a_day_have_no_hour_and_those_of_an_hour_have() -> None:
    found = log("openai_usage.json")
    assert all(each.is_sum for each in found.groups)
    assert found.hourly == {"proj_mail": {1793664000 // 3600: 70}}
    assert log("table.csv").hourly == {}


def test_a_call_that_two_azure_logs_hold_counts_once_with_its_tokens() -> None:
    found = log("azure_monitor.jsonl")
    [again] = found.repeated
    assert (found.n_repeated, again.line) == (1, 4)
    assert again.reason.endswith("azure_monitor.jsonl:5")
    [luna] = [each for each in found.groups if each.model == LUNA]
    assert (luna.provider, luna.n_without_usage) == ("azure", 1)


def test_azure_properties_may_be_an_object_or_its_text(tmp_path: Path) -> None:
    rows_of: list[list[tuple[object, ...]]] = []
    for change in (json.loads, lambda text: text):
        lines = (FIXTURES / "azure_monitor.jsonl").read_text(encoding="utf-8").splitlines()
        calls = [json.loads(line) for line in lines]
        for each in calls:
            if isinstance(each["properties"], str):
                each["properties"] = change(each["properties"])
        path = tmp_path / "PT1H.json"
        path.write_text("".join(json.dumps(each) + "\n" for each in calls), encoding="utf-8")
        rows_of.append(rows(read([path], thresholds=THRESHOLDS)))
    assert rows_of[0] == rows_of[1] != []
