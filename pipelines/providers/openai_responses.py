"""OpenAI's Responses API, which some of its models need. It refuses fewer than 16 output tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pipelines.core.records import Usage
from pipelines.governance.egress import Client
from pipelines.providers import Ask, ChatRequest, Completion, Endpoint
from pipelines.providers.http import (
    Caller,
    StreamReader,
    error_event,
    logprobs_of,
    usage_of,
    with_fields,
)
from pipelines.providers.openai_compatible import PUBLIC_URL, bearer

SERVICE_TIER = "service_tier"
LOGPROBS = True


@asynccontextmanager
async def connect(endpoint: Endpoint, client: Client) -> AsyncGenerator[Ask]:
    """Speak to `endpoint`."""
    url = f"{(endpoint.base_url or PUBLIC_URL).rstrip('/')}/responses"
    headers = bearer(endpoint)
    caller = Caller(client, endpoint)

    async def ask(request: ChatRequest) -> Completion:
        body: dict[str, Any] = {
            "model": request.model,
            "input": [message.model_dump() for message in request.messages],
            "max_output_tokens": request.max_output_tokens,
            "stream": True,
            "store": False,  # else OpenAI keeps the conversation for a month
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.logprobs:
            body["include"] = ["message.output_text.logprobs"]
        return await caller.stream(url, headers, with_fields(body, request.extra), _handle)

    yield ask


def _handle(reader: StreamReader, event: dict[str, Any]) -> None:
    match event.get("type"):
        case "response.output_text.delta":
            reader.add(event["delta"])
            reader.logprobs += logprobs_of(event.get("logprobs"))
        case "response.refusal.delta":
            reader.add(event["delta"])
            reader.refused = True
        case "response.completed" | "response.incomplete" | "response.failed" as kind:
            response = event["response"]
            reader.model = response.get("model") or reader.model
            reader.usage = _usage(response.get("usage"))
            if kind == "response.failed":
                raise error_event(response.get("error"))
            why = response.get("incomplete_details") or {}
            reader.finish_reason = why.get("reason") or response["status"]
            reader.finished = True
        case "error":
            raise error_event(event.get("error") or event)
        case _:
            pass


def _usage(raw: dict[str, Any] | None) -> Usage | None:
    if raw is None:
        return None
    details = raw.get("input_tokens_details") or {}
    return usage_of(
        input_tokens=raw["input_tokens"],
        cached_input_tokens=details.get("cached_tokens") or 0,
        cache_write_5m_tokens=details.get("cache_write_tokens") or 0,
        output_tokens=raw["output_tokens"],
        reasoning_tokens=(raw.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
