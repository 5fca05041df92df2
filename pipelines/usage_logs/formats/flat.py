"""Tables and flat JSON objects with one call, or one sum, per row: names are told by synonyms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, first

TITLE = "table with columns such as model, input_tokens, output_tokens"
SYNONYMS = {
    "ts": (
        "timestamp", "ts", "time", "datetime", "created_at", "created", "start_time",
        "request_time", "event_time", "logged_at", "date", "day", "usage_date",
    ),
    "provider": ("provider", "vendor", "llm_provider", "model_provider"),
    "model": ("model", "model_name", "model_id", "llm_model", "response_model"),
    "tag": ("tag", "workload", "use_case", "feature", "task", "application", "app", "service"),
    "project": ("project", "project_id", "project_name", "workspace", "workspace_id", "team"),
    "key": ("api_key_id", "api_key_name", "api_key_alias", "key_id", "key_name", "user_id"),
    "tier": ("service_tier", "tier"),
    "region": ("region", "location", "inference_geo"),
    "n_calls": ("n_calls", "requests", "num_requests", "num_model_requests", "request_count",
                "n_requests", "calls"),
    "input": ("input_tokens", "prompt_tokens", "n_input_tokens", "tokens_in", "input_token_count",
              "prompt_token_count", "total_input_tokens", "n_context_tokens_total"),
    "cached": ("cached_input_tokens", "cached_tokens", "input_cached_tokens", "cache_read_tokens",
               "cache_read_input_tokens"),
    "write_5m": ("cache_write_tokens", "cache_write_5m_tokens", "cache_creation_tokens",
                 "cache_creation_input_tokens", "input_cache_write_tokens"),
    "write_1h": ("cache_write_1h_tokens",),
    "output": ("output_tokens", "completion_tokens", "n_output_tokens", "tokens_out",
               "output_token_count", "completion_token_count", "total_output_tokens",
               "n_generated_tokens_total"),
    "reasoning": ("reasoning_tokens", "output_reasoning_tokens"),
    "request_id": ("request_id", "response_id", "call_id", "id"),
    "usd": ("cost_usd", "usd", "total_cost", "cost", "spend", "amount"),
    "currency": ("currency",),
    "status": ("status", "status_code"),
    "error": ("error", "error_code"),
}  # fmt: skip
"""Column of a call -> what tables call it, the likeliest first; case, spaces and signs aside."""
ANTHROPICS = "cache_read_input_tokens IS NOT NULL OR cache_creation_input_tokens IS NOT NULL"
_COUNTS = ("input", "cached", "write_5m", "write_1h", "output", "reasoning")


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())


_KNOWN = {part: {_plain(each) for each in SYNONYMS[part]} for part in ("model", "input", "output")}


def detects(row: Mapping[str, Any]) -> bool:
    """There are columns for the model, the input and the output."""
    keys = {_plain(key) for key in row}
    return all(keys & known for known in _KNOWN.values())


def _count(name: str) -> str:
    """Exports write counts as `1200`, `1200.0` or `1,200`."""
    return f"TRY_CAST(TRY_CAST(replace({first(*SYNONYMS[name])}, ',', '') AS DOUBLE) AS BIGINT)"


_FIELDS = dict.fromkeys((each for all_ in SYNONYMS.values() for each in all_), TEXT)
_REQUESTS = first(*SYNONYMS["n_calls"])
_STATUS = "coalesce(status, status_code)"
SHAPE = Shape(
    fields=_FIELDS,
    call={
        **{name: first(*SYNONYMS[name])
           for name in ("provider", "model", "tag", "project", "key", "tier", "region",
                        "request_id", "currency")},
        **{name: _count(name) for name in _COUNTS},
        "input": f"""{_count("input")} + CASE WHEN input_tokens IS NOT NULL AND ({ANTHROPICS})
            THEN coalesce({_count("cached")}, 0) + coalesce({_count("write_5m")}, 0)
                + coalesce({_count("write_1h")}, 0) ELSE 0 END""",
        "ts": f"moment({first(*SYNONYMS['ts'])})",
        "timed": f"length({first(*SYNONYMS['ts'])}) > 10 "
        f"OR TRY_CAST({first(*SYNONYMS['ts'])} AS DOUBLE) IS NOT NULL",
        "n_calls": _count("n_calls"),
        "is_sum": f"{_REQUESTS} IS NOT NULL",
        "failed": f"""coalesce(TRY_CAST({_STATUS} AS BIGINT) >= 400, false)
            OR coalesce(lower({_STATUS}) IN ('failure', 'failed', 'error'), false)
            OR coalesce(nullif(error, ''), nullif(error_code, '')) IS NOT NULL""",
        "usd": f"TRY_CAST({first(*SYNONYMS['usd'])} AS DECIMAL(28, 12))",
    },
)  # fmt: skip
