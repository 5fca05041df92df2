"""Calls with both sides of the exchange, and output files of batches (OpenAI, Anthropic).

A line has `request` and `response`, or is one of a batch: `response.body` or `result.message`.
"""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import (
    TEXT,
    TIMES,
    TURN,
    USAGE,
    WORKLOAD_KEYS,
    at,
    first,
    has_tokens,
    inside,
    system_turn,
    tokens,
)

TITLE = "requests with responses, and batch output (OpenAI, Anthropic)"
_REPLY = {
    **dict.fromkeys(("id", "model", "created", "created_at", "service_tier", "error"), TEXT),
    **dict.fromkeys(("choices", "output", "content"), TEXT),
    "usage": USAGE,
}
_METADATA = ("metadata", "request.metadata")
_REPLIES = ("response", "response.body", "result.message")


def detects(row: Mapping[str, Any]) -> bool:
    """A response states tokens, or is one that failed beside its request."""
    replies = (at(row, *name.split("."), "usage") for name in _REPLIES)
    failed = "request" in row and "response" in row and "usageMetadata" not in str(row)
    return any(map(has_tokens, replies)) or (failed and bool(at(row, "request", "model")))


def _each(key: str) -> str:
    return first(*(f"{reply}.{key}" for reply in _REPLIES))


SHAPE = Shape(
    fields={
        **dict.fromkeys((*TIMES, "id", "request_id", "custom_id", "provider", "tag"), TEXT),
        **dict.fromkeys(("project", "key", "region", "error"), TEXT),
        "metadata": TEXT,
        "request": {
            **dict.fromkeys(("model", "input", "instructions", "system", "service_tier"), TEXT),
            "messages": [TURN],
            "metadata": TEXT,
        },
        "response": {**_REPLY, "status_code": "BIGINT", "body": _REPLY},
        "result": {"type": TEXT, "message": _REPLY},
    },
    rows=f"SELECT *, {_each('usage')} AS used FROM records",
    call={
        "ts": f"moment({first(*TIMES, _each('created'), _each('created_at'))})",
        "provider": "provider",
        "model": first(_each("model"), "request.model"),
        "tag": first(
            "tag", inside("metadata", *WORKLOAD_KEYS), inside("request.metadata", *WORKLOAD_KEYS)
        ),
        "project": first(
            "project", inside("metadata", "project"), inside("request.metadata", "project")
        ),
        "key": "key",
        "prompt": first(system_turn("request.messages"), "request.instructions", "request.system"),
        "tier": f"""CASE WHEN custom_id IS NOT NULL THEN 'batch'
            ELSE {first("used.service_tier", _each("service_tier"), "request.service_tier")} END""",
        "region": "region",
        "failed": f"""coalesce(error, {_each("error")}) IS NOT NULL OR response.status_code >= 400
            OR result.type <> 'succeeded'""",
        **tokens("used"),
        "request_id": first(
            "response.body.id", "response.id", "result.message.id", "request_id", "id"
        ),
        "usd": "used.cost",
        "messages": first("to_json(request.messages)", "request.input"),
        "answer": first(_each("choices"), _each("output"), _each("content")),
    },
)
