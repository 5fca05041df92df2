"""Requests and responses of Gemini and Vertex AI, whose `usageMetadata` keeps thoughts apart.

A line is a response, one with its request, a line of a batch's output, or a row of Vertex AI's
request-response log.
"""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, WORKLOAD_KEYS, at, first, inside, parsed

TITLE = "Gemini and Vertex AI requests and responses"
_COUNT = {
    **dict.fromkeys(("promptTokenCount", "cachedContentTokenCount", "totalTokenCount"), "BIGINT"),
    **dict.fromkeys(("candidatesTokenCount", "thoughtsTokenCount"), "BIGINT"),
    "toolUsePromptTokenCount": "BIGINT",
    "trafficType": TEXT,
}
_REPLY = {
    **dict.fromkeys(("modelVersion", "createTime", "responseId", "candidates"), TEXT),
    "usageMetadata": _COUNT,
}
_REQUEST = {"systemInstruction": {"parts": [{"text": TEXT}]}, "contents": TEXT, "labels": TEXT}
_REPLIES = ("response", "full_response", "response_payload")


def detects(row: Mapping[str, Any]) -> bool:
    """A response has `usageMetadata`."""
    return any(isinstance(at(row, *path, "usageMetadata"), Mapping)
               for path in ((), *((each,) for each in _REPLIES)))  # fmt: skip


SHAPE = Shape(
    fields={
        **_REPLY,
        **dict.fromkeys(("timestamp", "logging_time", "processed_time", "time"), TEXT),
        **dict.fromkeys(("request_id", "model", "model_version", "status", "error"), TEXT),
        **dict.fromkeys(("full_response", "response_payload", "full_request"), TEXT),
        "request": _REQUEST,
        "response": _REPLY,
        "labels": TEXT,
    },
    rows=f"""SELECT *, coalesce(reply.usageMetadata, usageMetadata) AS used FROM (
        SELECT *, coalesce(response, {parsed("full_response", _REPLY)},
                {parsed("response_payload", _REPLY)}) AS reply,
            coalesce(request, {parsed("full_request", _REQUEST)}) AS asked FROM records)""",
    call={
        "ts": """moment(coalesce("timestamp", logging_time, "time", reply.createTime, createTime,
            processed_time))""",
        "provider": "CASE WHEN logging_time IS NOT NULL OR processed_time IS NOT NULL "
        "THEN 'vertex_ai' ELSE 'gemini' END",
        "model": "regexp_replace(coalesce(reply.modelVersion, modelVersion, model), '^.*/', '')",
        "tag": first(inside("labels", *WORKLOAD_KEYS), inside("asked.labels", *WORKLOAD_KEYS)),
        "project": first(inside("labels", "project"), inside("asked.labels", "project")),
        "prompt": "asked.systemInstruction.parts[1].text",
        "tier": """CASE WHEN processed_time IS NOT NULL THEN 'batch' ELSE used.trafficType END""",
        "failed": "coalesce(error, nullif(status, '')) IS NOT NULL",
        "input": "used.promptTokenCount + coalesce(used.toolUsePromptTokenCount, 0)",
        "cached": "used.cachedContentTokenCount",
        "output": """CASE WHEN used.promptTokenCount IS NOT NULL THEN
            coalesce(used.candidatesTokenCount, 0) + coalesce(used.thoughtsTokenCount, 0) END""",
        "reasoning": "used.thoughtsTokenCount",
        "request_id": first("reply.responseId", "responseId", "request_id"),
        "messages": "asked.contents",
        "answer": first("reply.candidates", "candidates"),
    },
)
