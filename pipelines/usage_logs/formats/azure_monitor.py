"""Azure's resource logs as diagnostic settings store them: a call wrapped in `properties`.

Read are `GatewayLlmLogs` of API Management, and `AzureOpenAIRequestUsage` and `RequestResponse` of
the model's own account; the last states no tokens, and shares its ids with the one before. The
gateway and the account share none: where both are given, their calls count twice.
"""

# ruff: noqa: S608 - only names of our own stand in the SQL

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, first, has, parsed

TITLE = "Azure resource logs"
_STATING_TOKENS = ("GatewayLlmLogs", "AzureOpenAIRequestUsage")
_CATEGORIES = (*_STATING_TOKENS, "RequestResponse")
_PROPERTIES = {
    **dict.fromkeys(("modelName", "modelDeploymentName", "deploymentName"), TEXT),
    **dict.fromkeys(("requestId", "correlationId", "apimSubscriptionId", "objectId"), TEXT),
    **dict.fromkeys(("promptTokens", "cachedTokens", "promptCachedTokens"), TEXT),
    **dict.fromkeys(("completionTokens", "generatedTokens"), TEXT),
    **dict.fromkeys(("requestMessages", "responseMessages"), TEXT),
    "sequenceNumber": "BIGINT",
}
_DEPLOYMENT = first("p.modelDeploymentName", "p.deploymentName")
_MODEL = first("nullif(p.modelName, '')", _DEPLOYMENT)


def detects(row: Mapping[str, Any]) -> bool:
    """A record of one of the categories."""
    return has(row, "properties") and str(row.get("category")).endswith(_CATEGORIES)


def _sum(tokens: str) -> str:
    """A count, or a list of those of the parts of a call."""
    return f"coalesce(TRY_CAST({tokens} AS BIGINT), list_sum(TRY_CAST({tokens} AS BIGINT[])))"


SHAPE = Shape(
    fields={
        **dict.fromkeys(("time", "EnqueueTime", "category", "correlationId"), TEXT),
        **dict.fromkeys(("resultSignature", "location", "properties"), TEXT),
    },
    rows=f"SELECT *, {parsed('properties', _PROPERTIES)} AS p FROM records",
    # Later parts of a long message repeat the call; requests without a model are no calls.
    keep=f"""coalesce(p.sequenceNumber, 0) = 0 AND coalesce(
        regexp_matches(category, '({"|".join(_STATING_TOKENS)})$')
        OR category = 'RequestResponse' AND {_MODEL} IS NOT NULL, true)""",
    call={
        "ts": f"moment({first('time', 'EnqueueTime')})",
        "provider": "'azure'",
        "model": _MODEL,
        "project": _DEPLOYMENT,
        "key": first("p.apimSubscriptionId", "nullif(p.objectId, '')"),
        "region": "location",
        "failed": "TRY_CAST(resultSignature AS INTEGER) >= 400",
        # The gateway passes on what the model's API counted: Anthropic leaves out cached tokens.
        "input": f"""{_sum("p.promptTokens")} + CASE WHEN lower({_MODEL}) LIKE '%claude%'
            THEN coalesce({_sum("p.promptCachedTokens")}, 0) ELSE 0 END""",
        "cached": first(_sum("p.cachedTokens"), _sum("p.promptCachedTokens")),
        "output": first(_sum("p.completionTokens"), _sum("p.generatedTokens")),
        "request_id": first("nullif(p.requestId, '')", "p.correlationId", "correlationId"),
        "messages": "p.requestMessages",
        "answer": "p.responseMessages",
    },
)
