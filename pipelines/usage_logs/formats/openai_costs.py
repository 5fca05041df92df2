"""Pages of OpenAI's organization costs: dollars per day, project and line item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, at, buckets, dimensions, first_result

TITLE = "OpenAI organization costs"


def detects(row: Mapping[str, Any]) -> bool:
    """Its results call themselves costs."""
    return at(first_result(row), "object") == "organization.costs.result"


SHAPE = Shape(
    **buckets(
        ("start_time", "end_time"),
        {
            **dict.fromkeys(("line_item", "project_id", "api_key_id"), TEXT),
            "amount": {"value": TEXT, "currency": TEXT},
        },
    ),
    bill={
        "ts": "moment(bucket.start_time)",
        "provider": "'openai'",
        "project": "result.project_id",
        "description": "result.line_item",
        "usd": "TRY_CAST(TRY_CAST(result.amount.value AS DOUBLE) AS DECIMAL(28, 12))",
        "currency": "result.amount.currency",
        "request_id": dimensions(
            "openai",
            ("start_time", "end_time"),
            ("line_item", "project_id", "api_key_id", "amount.value"),
        ),
    },
)
