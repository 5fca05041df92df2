"""Observations of Langfuse, exported or from its API.

`usageDetails` may state cached and reasoning tokens inside `input` and `output` or beside them;
`total` tells which. Where nothing tells, they stand beside them, as Langfuse's own clients write.
"""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, WORKLOAD_KEYS, at, first, has, inside

TITLE = "Langfuse observations"
_DETAILS = dict.fromkeys(
    (
        "input", "output", "total", "input_cached_tokens", "input_cache_read",
        "cache_read_input_tokens", "cache_creation_input_tokens", "input_cache_creation",
        "input_cache_creation_5m", "input_cache_creation_1h", "output_reasoning_tokens",
        "output_reasoning", "reasoning_tokens",
    ),
    "BIGINT",
)  # fmt: skip
_OBSERVATION = {
    **dict.fromkeys(("id", "type", "name", "traceName", "startTime", "level", "model"), TEXT),
    **dict.fromkeys(("providedModelName", "environment", "projectId", "totalCost"), TEXT),
    **dict.fromkeys(("calculatedTotalCost", "input", "output"), TEXT),
    "tags": [TEXT],
    "metadata": TEXT,
    "usageDetails": _DETAILS,
    "usage": {"input": "BIGINT", "output": "BIGINT"},
    "costDetails": {"total": TEXT},
}
_SELF = ", ".join(f"'{key}': \"{key}\"" for key in _OBSERVATION)


def detects(row: Mapping[str, Any]) -> bool:
    """An observation has a type, a trace and a start."""
    rows = row.get("data")
    first_row = rows[0] if isinstance(rows, list) and rows else row
    return (
        isinstance(first_row, Mapping)
        and has(first_row, "id", "type", "startTime")
        and bool(has(first_row, "traceId") or at(first_row, "usageDetails"))
    )


_D = "observation.usageDetails"
_CACHED = first(f"{_D}.input_cached_tokens", f"{_D}.input_cache_read",
                f"{_D}.cache_read_input_tokens", "0")  # fmt: skip
_WRITTEN_1H = f"coalesce({_D}.input_cache_creation_1h, 0)"
_WRITTEN = first(f"{_D}.input_cache_creation_5m", f"{_D}.cache_creation_input_tokens",
                 f"{_D}.input_cache_creation", "0")  # fmt: skip
_REASONING = first(f"{_D}.output_reasoning_tokens", f"{_D}.output_reasoning",
                   f"{_D}.reasoning_tokens", "0")  # fmt: skip
SHAPE = Shape(
    fields={**_OBSERVATION, "data": [_OBSERVATION]},
    rows=f"""SELECT *, {_D}.input + {_D}.output AS shown,
            {_CACHED} + {_WRITTEN} + {_WRITTEN_1H} AS beside_input, {_REASONING} AS thought
        FROM (SELECT filename, line, unnest(coalesce("data", [{{{_SELF}}}])) AS observation
            FROM records)""",
    keep="coalesce(upper(observation.type), 'GENERATION') IN ('GENERATION', 'EMBEDDING')",
    call={
        "ts": "moment(observation.startTime)",
        "model": first("observation.providedModelName", "observation.model"),
        "tag": first("observation.tags[1]", inside("observation.metadata", *WORKLOAD_KEYS),
                     "observation.traceName", "observation.name"),
        "project": first("observation.projectId", "observation.environment"),
        "failed": "observation.level = 'ERROR'",
        "input": f"""CASE WHEN {_D}.input IS NULL THEN observation.usage.input
            WHEN {_D}.total IN (shown, shown + thought) THEN {_D}.input
            ELSE {_D}.input + beside_input END""",
        "cached": _CACHED,
        "write_5m": _WRITTEN,
        "write_1h": _WRITTEN_1H,
        "output": f"""CASE WHEN {_D}.input IS NULL THEN observation.usage.output
            WHEN {_D}.total IN (shown, shown + beside_input) THEN {_D}.output
            ELSE coalesce({_D}.output, 0) + thought END""",
        "reasoning": "thought",
        "request_id": "observation.id",
        "usd": first(*(f"TRY_CAST(observation.{each} AS DECIMAL(28, 12))"
                       for each in ("totalCost", "calculatedTotalCost", "costDetails.total"))),
        "messages": "observation.input",
        "answer": "observation.output",
    },
)  # fmt: skip
