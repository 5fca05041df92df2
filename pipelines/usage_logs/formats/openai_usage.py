"""Pages of OpenAI's organization usage: sums over the calls of a minute, an hour or a day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, at, buckets, dimensions, first_result

TITLE = "OpenAI organization usage"
_DIMENSIONS = ("project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "object")


def detects(row: Mapping[str, Any]) -> bool:
    """Its results call themselves usage."""
    name = at(first_result(row), "object")
    return isinstance(name, str) and name.startswith("organization.usage.")


SHAPE = Shape(
    **buckets(
        ("start_time", "end_time"),
        {
            **dict.fromkeys(_DIMENSIONS, TEXT),
            **dict.fromkeys(("input_tokens", "input_cached_tokens"), "BIGINT"),
            **dict.fromkeys(("input_cache_write_tokens", "output_tokens"), "BIGINT"),
            "num_model_requests": "BIGINT",
        },
    ),
    call={
        "ts": "moment(bucket.start_time)",
        "timed": "epoch(moment(bucket.end_time)) - epoch(moment(bucket.start_time)) <= 3600",
        "provider": "'openai'",
        "model": "result.model",
        "project": "result.project_id",
        "key": "result.api_key_id",
        "tier": "CASE WHEN result.batch = 'true' THEN 'batch' ELSE result.service_tier END",
        "n_calls": "result.num_model_requests",
        "input": "result.input_tokens",
        "cached": "result.input_cached_tokens",
        "write_5m": "result.input_cache_write_tokens",
        "output": "result.output_tokens",
        "request_id": dimensions("openai", ("start_time", "end_time"), _DIMENSIONS),
        "is_sum": "true",
    },
)  # fmt: skip
