"""Calls of the OpenAI and Anthropic APIs, one JSON object with a `usage` per call.

The object is the API's response, or a line of one's own that repeats its `usage`. Whether input
tokens include cached ones is told from each row.
"""

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
    first,
    has_tokens,
    inside,
    system_turn,
    tokens,
)

TITLE = "responses with a usage (OpenAI, Anthropic)"
_NAMES = ("tag", "workload", "use_case", "feature", "task")
_PROJECTS = ("project", "project_id", "workspace_id")
_KEYS = ("api_key_alias", "api_key_id", "key")


def detects(row: Mapping[str, Any]) -> bool:
    """`usage` states tokens."""
    return has_tokens(row.get("usage"))


SHAPE = Shape(
    fields={
        **dict.fromkeys((*TIMES, *_NAMES, *_PROJECTS, *_KEYS), TEXT),
        **dict.fromkeys(("id", "request_id", "model", "provider", "service_tier"), TEXT),
        **dict.fromkeys(("region", "error", "choices", "output", "content", "system"), TEXT),
        "status_code": "BIGINT",
        "usage": USAGE,
        "metadata": TEXT,
        "messages": [TURN],
    },
    call={
        "ts": f"moment({first(*TIMES)})",
        "provider": "provider",
        "model": "model",
        "tag": first(*_NAMES, inside("metadata", *WORKLOAD_KEYS)),
        "project": first(*_PROJECTS, inside("metadata", "project")),
        "key": first(*_KEYS),
        "prompt": first(system_turn("messages"), "system"),
        "tier": first("usage.service_tier", "service_tier"),
        "region": "region",
        "failed": "error IS NOT NULL OR status_code >= 400",
        **tokens("usage"),
        "request_id": first("request_id", "id"),
        "usd": "usage.cost",
        "messages": "to_json(messages)",
        "answer": first("choices", "output", "content"),
    },
)
