"""What both forms of OpenTelemetry spans share: attribute names, old and new, and which count.

A span of an agent or of a chain repeats the tokens of the calls inside it, and so does a wrapper
around a client that writes a span itself. Only spans of calls count, and of these the innermost.
"""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from pipelines.usage_logs.formats.fields import first

_USED = "gen_ai.usage."
ATTRIBUTES = (
    "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.system", "gen_ai.request.model",
    "gen_ai.response.model", "gen_ai.response.id", "gen_ai.agent.name", "gen_ai.input.messages",
    "gen_ai.output.messages", "gen_ai.system_instructions", "workload", "cloud.region",
    "error.type", "gen_ai.openai.response.service_tier", "openai.response.service_tier",
    *(_USED + each for each in (
        "input_tokens", "prompt_tokens", "output_tokens", "completion_tokens",
        "cache_read.input_tokens", "cache_read_input_tokens", "cache_write.input_tokens",
        "cache_creation.input_tokens", "cache_creation_input_tokens", "reasoning.output_tokens",
        "reasoning_tokens",
    )),
)  # fmt: skip
OPERATIONS = ("chat", "text_completion", "generate_content", "embeddings", "response", "completion")
"""Names of operations that are one call to a model."""


def _a(*keys: str) -> str:
    return first(*(f'a."{key}"' for key in keys), "NULL")


def _count(*keys: str) -> str:
    return f"TRY_CAST({_a(*(_USED + key for key in keys))} AS BIGINT)"


_INPUT = _count("input_tokens", "prompt_tokens")
_OPERATIONS = ", ".join(f"'{each}'" for each in OPERATIONS)
LEAVES = (
    """WITH spans AS ({spans}), counted AS (SELECT *, CASE
            WHEN span IS NULL AND start IS NULL THEN true
            WHEN """
    + _a("gen_ai.operation.name")
    + " IS NOT NULL THEN "
    + _a("gen_ai.operation.name")
    + f" IN ({_OPERATIONS}) ELSE "
    + _INPUT
    + """ IS NOT NULL END AS is_one FROM spans)
    SELECT *, is_one AND (trace IS NULL OR span IS NULL OR (trace, span) NOT IN (
        SELECT (trace, parent) FROM counted
        WHERE is_one AND trace IS NOT NULL AND parent IS NOT NULL)) AS is_call FROM counted"""
)
"""Rows of spans -> rows with `is_call`; a row of which nothing could be read is one."""
CALL = {
    "ts": "moment(start)",
    "provider": _a("gen_ai.provider.name", "gen_ai.system"),
    "model": _a("gen_ai.response.model", "gen_ai.request.model"),
    "tag": _a("workload", "gen_ai.agent.name"),
    "project": "service",
    "prompt": _a("gen_ai.system_instructions"),
    "tier": _a("openai.response.service_tier", "gen_ai.openai.response.service_tier"),
    "region": _a("cloud.region"),
    "failed": f"{_a('error.type')} IS NOT NULL OR code IN ('2', 'STATUS_CODE_ERROR', 'ERROR')",
    "input": _INPUT,
    "cached": _count("cache_read.input_tokens", "cache_read_input_tokens"),
    "write_5m": _count(
        "cache_write.input_tokens", "cache_creation.input_tokens", "cache_creation_input_tokens"
    ),
    "output": _count("output_tokens", "completion_tokens"),
    "reasoning": _count("reasoning.output_tokens", "reasoning_tokens"),
    "request_id": f"coalesce({_a('gen_ai.response.id')}, trace || '/' || span)",
    "messages": _a("gen_ai.input.messages"),
    "answer": _a("gen_ai.output.messages"),
}
"""Columns of a call over the rows of `LEAVES`."""
