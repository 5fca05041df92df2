"""Rows of LiteLLM's table `LiteLLM_SpendLogs`; cached tokens stand only in their metadata."""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, USAGE, first, has, parsed, tokens

TITLE = "LiteLLM spend logs"
_METADATA = {
    "usage_object": USAGE,
    "project_id": TEXT,
    "user_api_key_alias": TEXT,
    "service_tier": TEXT,
}
_PARTS = tokens("used.usage_object")


def detects(row: Mapping[str, Any]) -> bool:
    """The columns of the table."""
    return has(row, "request_id", "spend", "prompt_tokens", "startTime")


def _sent(tokens_: str) -> str:
    """What LiteLLM answered from its own cache cost no tokens."""
    return f"CASE WHEN lower(cache_hit) = 'true' THEN 0 ELSE {tokens_} END"


SHAPE = Shape(
    fields={
        **dict.fromkeys(("request_id", "spend", "startTime", "model", "status", "cache_hit"), TEXT),
        **dict.fromkeys(("custom_llm_provider", "api_key", "team_id"), TEXT),
        **dict.fromkeys(("metadata", "request_tags", "messages", "response"), TEXT),
        "prompt_tokens": "BIGINT",
        "completion_tokens": "BIGINT",
    },
    rows=f"""SELECT *, {parsed("metadata", _METADATA)} AS used,
        {parsed("request_tags", [TEXT])} AS tags FROM records""",
    call={
        "ts": "moment(startTime)",
        "provider": "custom_llm_provider",
        "model": "model",
        "tag": "list_filter(tags, lambda x: NOT starts_with(x, 'User-Agent:'))[1]",
        "project": first("nullif(team_id, '')", "used.project_id"),
        "key": first("used.user_api_key_alias", "api_key"),
        "tier": first("used.usage_object.service_tier", "used.service_tier"),
        "failed": "status = 'failure'",
        **{name: _sent(_PARTS[name]) for name in ("cached", "write_5m", "write_1h", "reasoning")},
        "input": _sent("prompt_tokens"),
        "output": _sent("completion_tokens"),
        "request_id": "request_id",
        "usd": "TRY_CAST(spend AS DECIMAL(28, 12))",
        "messages": "messages",
        "answer": "response",
    },
)
