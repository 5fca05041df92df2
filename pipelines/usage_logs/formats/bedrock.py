"""Amazon Bedrock's log of model invocations; its input tokens leave out what the cache did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import TEXT, WORKLOAD_KEYS, first, inside

TITLE = "Bedrock model invocation log"


def detects(row: Mapping[str, Any]) -> bool:
    """It says so."""
    return row.get("schemaType") == "ModelInvocationLog"


SHAPE = Shape(
    fields={
        **dict.fromkeys(("timestamp", "region", "inferenceRegion", "requestId", "modelId"), TEXT),
        **dict.fromkeys(("errorCode", "serviceTier"), TEXT),
        "identity": {"arn": TEXT},
        "requestMetadata": TEXT,
        "input": {
            "inputTokenCount": "BIGINT",
            "cacheReadInputTokenCount": "BIGINT",
            "cacheWriteInputTokenCount": "BIGINT",
            "inputBodyJson": {"system": TEXT, "messages": TEXT},
        },
        "output": {"outputTokenCount": "BIGINT", "outputBodyJson": TEXT},
    },
    call={
        "ts": 'moment("timestamp")',
        "provider": "'bedrock'",
        "model": "regexp_replace(modelId, '^.*/', '')",
        "tag": inside("requestMetadata", *WORKLOAD_KEYS),
        "project": inside("requestMetadata", "project"),
        "key": "identity.arn",
        "prompt": "input.inputBodyJson.system",
        "tier": "serviceTier",
        "region": first("inferenceRegion", "region"),
        "failed": "errorCode IS NOT NULL",
        "input": """input.inputTokenCount + coalesce(input.cacheReadInputTokenCount, 0)
            + coalesce(input.cacheWriteInputTokenCount, 0)""",
        "cached": "input.cacheReadInputTokenCount",
        "write_5m": "input.cacheWriteInputTokenCount",
        "output": "output.outputTokenCount",
        "request_id": "requestId",
        "messages": "input.inputBodyJson.messages",
        "answer": "output.outputBodyJson",
    },
)
