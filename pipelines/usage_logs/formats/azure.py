"""Azure API Management's log of language models, `ApiManagementGatewayLlmLog`.

A long message takes several rows; those after the first repeat the call, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, first, has

TITLE = "Azure API Management"


def detects(row: Mapping[str, Any]) -> bool:
    """The columns of the table."""
    return has(row, "DeploymentName", "PromptTokens", "CompletionTokens")


SHAPE = Shape(
    fields={
        **dict.fromkeys(("TimeGenerated", "TimeGenerated [UTC]", "CorrelationId"), TEXT),
        **dict.fromkeys(("RequestId", "DeploymentName", "ModelName", "Region"), TEXT),
        **dict.fromkeys(("ApimSubscriptionId", "RequestMessages", "ResponseMessages"), TEXT),
        **dict.fromkeys(("PromptTokens", "CompletionTokens", "SequenceNumber"), "BIGINT"),
    },
    keep="coalesce(SequenceNumber, 0) = 0",
    call={
        "ts": 'moment(coalesce(TimeGenerated, "TimeGenerated [UTC]"))',
        "provider": "'azure'",
        "model": first("nullif(ModelName, '')", "DeploymentName"),
        "project": "DeploymentName",
        "key": "ApimSubscriptionId",
        "region": "Region",
        "input": "PromptTokens",
        "output": "CompletionTokens",
        "request_id": first("RequestId", "CorrelationId"),
        "messages": "RequestMessages",
        "answer": "ResponseMessages",
    },
)
