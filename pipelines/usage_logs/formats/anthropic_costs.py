"""Pages of Anthropic's cost report; its amounts are cents, written as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, buckets, dimensions, first_result, has

TITLE = "Anthropic cost report"
_DIMENSIONS = (
    "workspace_id", "description", "cost_type", "context_window", "model", "service_tier",
    "token_type", "inference_geo",
)  # fmt: skip


def detects(row: Mapping[str, Any]) -> bool:
    """Its results have an amount and a currency."""
    return has(first_result(row), "amount", "currency")


SHAPE = Shape(
    **buckets(
        ("starting_at", "ending_at"),
        {**dict.fromkeys(_DIMENSIONS, TEXT), "amount": TEXT, "currency": TEXT},
    ),
    bill={
        "ts": "moment(bucket.starting_at)",
        "provider": "'anthropic'",
        "project": "result.workspace_id",
        "description": "coalesce(result.description, result.cost_type)",
        "usd": "TRY_CAST(result.amount AS DECIMAL(28, 12)) / 100",
        "currency": "result.currency",
        "request_id": dimensions(
            "anthropic", ("starting_at", "ending_at"), (*_DIMENSIONS, "amount")
        ),
    },
)
