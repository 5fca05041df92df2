"""OpenTelemetry spans of generative AI, one JSON object per span, attributes as an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT
from pipelines.usage_logs.formats.telemetry import ATTRIBUTES, CALL, LEAVES

TITLE = "OpenTelemetry GenAI spans"


def detects(row: Mapping[str, Any]) -> bool:
    """There are `gen_ai` attributes."""
    attributes = row.get("attributes")
    return isinstance(attributes, Mapping) and any(
        str(key).startswith("gen_ai.") for key in attributes
    )


SHAPE = Shape(
    fields={
        **dict.fromkeys(("name", "startTimeUnixNano", "start_time", "traceId", "spanId"), TEXT),
        **dict.fromkeys(("parentSpanId", "parent_id"), TEXT),
        "context": {"trace_id": TEXT, "span_id": TEXT},
        "status": {"code": TEXT, "status_code": TEXT},
        "resource": {"attributes": {"service.name": TEXT}},
        "attributes": dict.fromkeys(ATTRIBUTES, TEXT),
    },
    rows=LEAVES.format(
        spans="""SELECT filename, line, attributes AS a, status.code AS code,
        coalesce(traceId, context.trace_id) AS trace, coalesce(spanId, context.span_id) AS span,
        nullif(coalesce(parentSpanId, parent_id), '') AS parent,
        coalesce(startTimeUnixNano, start_time) AS start,
        resource.attributes."service.name" AS service FROM records"""
    ),
    keep="is_call",
    call=CALL,
)
