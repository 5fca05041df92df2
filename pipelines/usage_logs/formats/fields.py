"""Fields that several formats share, and the SQL that reads them."""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TEXT = "VARCHAR"
TIMES = ("timestamp", "ts", "time", "created_at", "created", "start_time", "date")
WORKLOAD_KEYS = (
    "workload", "workflow", "use_case", "usecase", "feature", "task", "tag", "application", "app",
    "service", "team",
)  # fmt: skip
"""Keys of free metadata that name a workload, the most telling first."""
TURN = {"role": TEXT, "content": TEXT}
USAGE = {
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "prompt_tokens_details": {"cached_tokens": "BIGINT", "cache_write_tokens": "BIGINT"},
    "input_tokens_details": {"cached_tokens": "BIGINT", "cache_write_tokens": "BIGINT"},
    "completion_tokens_details": {"reasoning_tokens": "BIGINT"},
    "output_tokens_details": {"reasoning_tokens": "BIGINT"},
    "cache_read_input_tokens": "BIGINT",
    "cache_creation_input_tokens": "BIGINT",
    "cache_creation": {
        "ephemeral_5m_input_tokens": "BIGINT",
        "ephemeral_1h_input_tokens": "BIGINT",
    },
    "service_tier": "VARCHAR",
    "cost": "DOUBLE",
}
"""`usage` as OpenAI's and Anthropic's APIs answer it, in both of OpenAI's spellings."""


def first(*expressions: str) -> str:
    """The first that is known."""
    return f"coalesce({', '.join(expressions)})"


def inside(metadata: str, *keys: str) -> str:
    """The first of `keys` in free metadata, an object written as text.

    Rows without metadata are not looked into, which is faster than a field for each key.
    """
    paths = ", ".join(f"'$.{key}'" for key in keys)
    found = f"json_extract_string({metadata}, [{paths}])"
    return f"""CASE WHEN json_valid({metadata})
        THEN list_filter({found}, lambda x: x IS NOT NULL)[1] END"""


def tokens(u: str) -> dict[str, str]:
    """Token columns of a `USAGE`.

    OpenAI's input tokens include the cached and the written ones. Anthropic's do not: what its
    cache read and wrote stands beside `input_tokens`, and is added here.
    """
    beside = f"""({u}.prompt_tokens IS NULL AND ({u}.cache_read_input_tokens IS NOT NULL
        OR {u}.cache_creation_input_tokens IS NOT NULL))"""
    written_1h = f"{u}.cache_creation.ephemeral_1h_input_tokens"
    return {
        "input": f"""CASE WHEN {beside}
            THEN {u}.input_tokens + coalesce({u}.cache_read_input_tokens, 0)
                + coalesce({u}.cache_creation_input_tokens,
                    {u}.cache_creation.ephemeral_5m_input_tokens + {written_1h}, 0)
            ELSE coalesce({u}.prompt_tokens, {u}.input_tokens) END""",
        "cached": first(
            f"{u}.prompt_tokens_details.cached_tokens",
            f"{u}.input_tokens_details.cached_tokens",
            f"{u}.cache_read_input_tokens",
        ),
        "write_5m": first(
            f"{u}.cache_creation.ephemeral_5m_input_tokens",
            f"{u}.cache_creation_input_tokens - coalesce({written_1h}, 0)",
            f"{u}.prompt_tokens_details.cache_write_tokens",
            f"{u}.input_tokens_details.cache_write_tokens",
        ),
        "write_1h": written_1h,
        "output": first(f"{u}.completion_tokens", f"{u}.output_tokens"),
        "reasoning": first(
            f"{u}.completion_tokens_details.reasoning_tokens",
            f"{u}.output_tokens_details.reasoning_tokens",
        ),
    }


def system_turn(messages: str) -> str:
    """What the system says first in a list of `TURN`."""
    return f"list_filter({messages}, lambda x: x.role IN ('system', 'developer'))[1].content"


def has_tokens(usage: object) -> bool:
    """True when `usage` is one of `USAGE`."""
    return isinstance(usage, Mapping) and ("prompt_tokens" in usage or "input_tokens" in usage)


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def parsed(text: str, field: Any) -> str:
    """JSON in a text, read as an entry of `Fields`; NULL where it is none."""
    structure = literal(json.dumps(field))
    return f"CASE WHEN json_valid({text}) THEN json_transform({text}, {structure}) END"


def buckets(times: tuple[str, str], result: Mapping[str, Any]) -> dict[str, Any]:
    """Fields and rows of usage pages: `data` of buckets, each with two times and `results`.

    A record may be a page or a bare bucket; a row has `bucket` and `result`.
    """
    bucket = {times[0]: TEXT, times[1]: TEXT, "results": [dict(result)]}
    itself = ", ".join(f"'{key}': {key}" for key in bucket)
    return {
        "fields": {**bucket, "data": [bucket]},
        "rows": f"""SELECT filename, line, bucket, unnest(coalesce(bucket.results, [NULL]))
            AS result FROM (SELECT filename, line,
                unnest(coalesce(data, [{{{itself}}}])) AS bucket FROM records)""",
    }


def dimensions(provider: str, times: tuple[str, str], keys: tuple[str, ...]) -> str:
    """What tells one sum of a usage page from every other: it is in two exports, or twice."""
    parts = [f"bucket.{time}" for time in times] + [f"result.{key}" for key in keys]
    stated = (f"coalesce({each}, '')" for each in parts)
    return f"concat_ws('|', '{provider}', {', '.join(stated)})"


def first_result(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first result of a usage page, or of a bucket."""
    pages = row.get("data") if isinstance(row.get("data"), list) else [row]
    results = (at(bucket, "results") for bucket in pages or [])
    found = (each[0] for each in results if isinstance(each, list) and each)
    return next((each for each in found if isinstance(each, Mapping)), {})


def has(row: Mapping[str, Any], *keys: str) -> bool:
    """True when the row has all of `keys`."""
    return all(key in row for key in keys)


def at(row: object, *keys: str) -> Any:
    """The value under nested keys; None where there is none."""
    for key in keys:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row
