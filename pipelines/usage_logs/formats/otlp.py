"""OpenTelemetry spans of generative AI as OTLP JSON: resources, scopes, spans, typed attributes."""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT
from pipelines.usage_logs.formats.telemetry import ATTRIBUTES, CALL, LEAVES

TITLE = "OpenTelemetry GenAI spans (OTLP JSON)"
_VALUE = dict.fromkeys(("stringValue", "intValue", "doubleValue", "boolValue"), TEXT)
_ATTRIBUTES = [{"key": TEXT, "value": _VALUE}]
_SPAN = {
    **dict.fromkeys(("traceId", "spanId", "parentSpanId", "startTimeUnixNano"), TEXT),
    "attributes": _ATTRIBUTES,
    "status": {"code": TEXT},
}


def detects(row: Mapping[str, Any]) -> bool:
    """The outermost key of OTLP."""
    return isinstance(row.get("resourceSpans"), list)


def _texts(attributes: str) -> str:
    """A list of typed attributes with their values as text."""
    text = ", ".join(f"x.value.{each}" for each in _VALUE)
    return f"list_transform({attributes}, lambda x: {{'key': x.key, 'text': coalesce({text})}})"


def _value(texts: str, key: str) -> str:
    return f"list_filter({texts}, lambda x: x.key = '{key}')[1].text"


_A = ", ".join(f"'{key}': {_value('texts', key)}" for key in ATTRIBUTES)
SHAPE = Shape(
    fields={
        "resourceSpans": [
            {"resource": {"attributes": _ATTRIBUTES}, "scopeSpans": [{"spans": [_SPAN]}]}
        ]
    },
    rows=LEAVES.format(
        spans=f"""SELECT filename, line, {{{_A}}} AS a, s.status.code AS code,
            s.traceId AS trace, s.spanId AS span, nullif(s.parentSpanId, '') AS parent,
            s.startTimeUnixNano AS start, {_value("about", "service.name")} AS service
        FROM (SELECT *, {_texts("s.attributes")} AS texts,
            {_texts("r.resource.attributes")} AS about
        FROM (SELECT filename, line, r, unnest(CASE WHEN r IS NULL THEN [NULL]
                ELSE flatten(list_transform(r.scopeSpans, lambda x: x.spans)) END) AS s
            FROM (SELECT filename, line, unnest(coalesce(resourceSpans, [NULL])) AS r
                FROM records)))"""
    ),
    keep="is_call",
    call=CALL,
)
