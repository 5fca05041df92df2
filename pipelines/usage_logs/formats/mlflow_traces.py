"""Traces of MLflow, `trace.to_json()` of each one a line or a document.

Tokens stand on the spans of the calls and once more, summed, on the trace. The spans are counted,
those without one inside that has tokens, too; the trace's sum only where no span has tokens.
"""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, at, first, parsed

TITLE = "MLflow traces"
_TOKENS = {
    **dict.fromkeys(("input_tokens", "output_tokens", "cache_read_input_tokens"), "BIGINT"),
    "cache_creation_input_tokens": "BIGINT",
    "cache_creation_input_tokens_above_1hr": "BIGINT",
}
_ATTRIBUTES = dict.fromkeys(
    (
        "mlflow.chat.tokenUsage", "mlflow.llm.model", "mlflow.llm.provider", "mlflow.llm.cost",
        "mlflow.spanInputs", "mlflow.spanOutputs",
    ),
    TEXT,
)  # fmt: skip
_SPAN = {
    **dict.fromkeys(("trace_id", "span_id", "parent_span_id", "start_time_unix_nano"), TEXT),
    "status": {"code": TEXT},
    "attributes": _ATTRIBUTES,
}
_INFO = {
    **dict.fromkeys(("trace_id", "request_id", "request_time", "timestamp_ms", "state"), TEXT),
    "trace_location": {"mlflow_experiment": {"experiment_id": TEXT}},
    "trace_metadata": dict.fromkeys(("mlflow.trace.tokenUsage", "mlflow.trace.cost"), TEXT),
    "tags": dict.fromkeys(("mlflow.traceName", "workload"), TEXT),
}
_HAS = 'x.attributes."mlflow.chat.tokenUsage" IS NOT NULL'
_WRITTEN_1H = "used.cache_creation_input_tokens_above_1hr"


def detects(row: Mapping[str, Any]) -> bool:
    """A trace has an `info` with its id."""
    info = row.get("info")
    return isinstance(info, Mapping) and (
        "trace_metadata" in info or at(info, "trace_id") is not None
    )


def _unquoted(attribute: str) -> str:
    """Attributes are JSON: a text stands in quotes."""
    return f"""trim(s.attributes."mlflow.llm.{attribute}", '"')"""


def _rows(without_tokens: str) -> str:
    """Rows of calls; those of a trace in which no span has tokens are told by the caller."""
    return f"""SELECT *, coalesce({parsed('s.attributes."mlflow.chat.tokenUsage"', _TOKENS)},
            {parsed('info.trace_metadata."mlflow.trace.tokenUsage"', _TOKENS)}) AS used,
            coalesce(s.attributes."mlflow.llm.cost", CASE WHEN s IS NULL
                THEN info.trace_metadata."mlflow.trace.cost" END) AS cost
        FROM (SELECT *, unnest(CASE WHEN len(used_spans) > 0 THEN list_filter(used_spans, lambda x:
                    NOT coalesce(list_contains(parents, x.span_id), false))
                    ELSE {without_tokens} END) AS s
            FROM (SELECT *, list_transform(used_spans, lambda x: x.parent_span_id) AS parents
                FROM (SELECT *, list_filter(coalesce(data.spans, spans), lambda x: {_HAS})
                    AS used_spans FROM records)))"""


SHAPE = Shape(
    fields={"info": _INFO, "spans": [_SPAN], "data": {"spans": [_SPAN]}},
    rows=_rows("[NULL]"),
    keep="""s IS NOT NULL OR info IS NULL
        OR info.trace_metadata."mlflow.trace.tokenUsage" IS NOT NULL""",
    call={
        "ts": "moment(coalesce(s.start_time_unix_nano, info.request_time, info.timestamp_ms))",
        "provider": _unquoted("provider"),
        "model": f"""coalesce({_unquoted("model")}, CASE WHEN s IS NULL THEN list_filter(
            coalesce(data.spans, spans), lambda x: x.attributes."mlflow.llm.model" IS NOT NULL
            )[1].attributes."mlflow.llm.model".trim('"') END)""",
        "tag": first("info.tags.workload", 'info.tags."mlflow.traceName"'),
        "project": "info.trace_location.mlflow_experiment.experiment_id",
        "failed": """coalesce(s.status.code, '') LIKE '%ERROR'
            OR (s IS NULL AND info.state = 'ERROR')""",
        "input": "used.input_tokens",
        "cached": "used.cache_read_input_tokens",
        "write_5m": f"used.cache_creation_input_tokens - coalesce({_WRITTEN_1H}, 0)",
        "write_1h": _WRITTEN_1H,
        "output": "used.output_tokens",
        "request_id": """coalesce(info.trace_id, info.request_id, s.trace_id) || '/'
            || coalesce(s.span_id, '')""",
        "usd": "TRY_CAST(TRY(json_extract_string(cost, '$.total_cost')) AS DOUBLE)",
        "messages": 's.attributes."mlflow.spanInputs"',
        "answer": 's.attributes."mlflow.spanOutputs"',
    },
)
CONTENT = replace(
    SHAPE,
    rows=_rows("""coalesce(nullif(list_filter(coalesce(data.spans, spans),
        lambda x: coalesce(x.parent_span_id, '') = ''), []), [NULL])"""),
    keep="true",
)
"""What is said, not what is billed: of a trace without tokens, the outermost span is the call."""
