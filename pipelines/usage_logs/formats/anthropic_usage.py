"""Pages of Anthropic's usage report on messages: sums of tokens; it does not count the calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, buckets, dimensions, first_result

TITLE = "Anthropic usage report"
_DIMENSIONS = (
    "api_key_id", "workspace_id", "model", "service_tier", "context_window", "inference_geo",
    "speed", "account_id", "service_account_id",
)  # fmt: skip
_WRITTEN = "result.cache_creation.ephemeral_{}_input_tokens"


def detects(row: Mapping[str, Any]) -> bool:
    """Its results have uncached input tokens."""
    return "uncached_input_tokens" in first_result(row)


SHAPE = Shape(
    **buckets(
        ("starting_at", "ending_at"),
        {
            **dict.fromkeys(_DIMENSIONS, TEXT),
            **dict.fromkeys(("uncached_input_tokens", "cache_read_input_tokens"), "BIGINT"),
            "cache_creation": {
                "ephemeral_5m_input_tokens": "BIGINT",
                "ephemeral_1h_input_tokens": "BIGINT",
            },
            "output_tokens": "BIGINT",
        },
    ),
    call={
        "ts": "moment(bucket.starting_at)",
        "timed": "false",
        "provider": "'anthropic'",
        "model": "result.model",
        "project": "result.workspace_id",
        "key": "result.api_key_id",
        "tier": "result.service_tier",
        "region": "nullif(result.inference_geo, 'not_available')",
        "n_calls": "0",
        "input": f"""result.uncached_input_tokens + coalesce(result.cache_read_input_tokens, 0)
            + coalesce({_WRITTEN.format("5m")}, 0) + coalesce({_WRITTEN.format("1h")}, 0)""",
        "length": """CASE WHEN result.context_window IS NULL THEN NULL
            WHEN starts_with(result.context_window, '0') THEN 0 ELSE 200001 END""",
        "cached": "result.cache_read_input_tokens",
        "write_5m": _WRITTEN.format("5m"),
        "write_1h": _WRITTEN.format("1h"),
        "output": "result.output_tokens",
        "request_id": dimensions("anthropic", ("starting_at", "ending_at"), _DIMENSIONS),
        "is_sum": "true",
    },
)
