"""Claude through Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pipelines.core.records import Usage
from pipelines.governance.egress import Client
from pipelines.providers import Ask, ChatRequest, Completion, Endpoint
from pipelines.providers.http import Caller, StreamReader, api_key, error_event, usage_of

PUBLIC_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"


@asynccontextmanager
async def connect(endpoint: Endpoint, client: Client) -> AsyncGenerator[Ask]:
    """Speak to `endpoint`."""
    url = f"{(endpoint.base_url or PUBLIC_URL).rstrip('/')}/v1/messages"
    headers = {"anthropic-version": API_VERSION, "x-api-key": api_key(endpoint) or ""}

    caller = Caller(client, endpoint)

    async def ask(request: ChatRequest) -> Completion:
        system = "\n\n".join(m.content for m in request.messages if m.role == "system")
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [m.model_dump() for m in request.messages if m.role != "system"],
            "max_tokens": request.max_output_tokens,
            "stream": True,
            **({"system": system} if system else {}),
            **request.extra,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        return await caller.stream(url, headers, body, _handle)

    yield ask


def _handle(reader: StreamReader, event: dict[str, Any]) -> None:
    match event.get("type"):
        case "message_start":
            message = event["message"]
            reader.model = message.get("model") or reader.model
            reader.usage = _usage(message.get("usage") or {}, None)
        case "content_block_delta":
            reader.add(event["delta"].get("text") or "")
        case "message_delta":
            reader.finish_reason = event["delta"].get("stop_reason")
            reader.usage = _usage(event.get("usage") or {}, reader.usage)
        case "message_stop":
            reader.finished = True
        case "error":
            raise error_event(event.get("error"))
        case _:
            pass


def _usage(raw: dict[str, Any], before: Usage | None) -> Usage | None:
    """Anthropic counts cached and written tokens beside `input_tokens`; ours include them.

    The last event repeats the counts of the first one or leaves them out, and it never says which
    of the written tokens stay for an hour.
    """
    if before is None and raw.get("input_tokens") is None:
        return None
    cached = written = written_1h = fresh = 0
    if before is not None:
        cached, written_1h = before.cached_input_tokens, before.cache_write_1h_tokens
        written = before.cache_write_5m_tokens + written_1h
        fresh = before.input_tokens - cached - written
    cached = _stated(raw, "cache_read_input_tokens", cached)
    written = _stated(raw, "cache_creation_input_tokens", written)
    details = raw.get("cache_creation") or {}
    written_1h = _stated(details, "ephemeral_1h_input_tokens", written_1h)
    details = raw.get("output_tokens_details") or {}
    return usage_of(
        input_tokens=_stated(raw, "input_tokens", fresh) + cached + written,
        cached_input_tokens=cached,
        cache_write_5m_tokens=written - written_1h,
        cache_write_1h_tokens=written_1h,
        output_tokens=raw.get("output_tokens") or 0,
        reasoning_tokens=details.get("thinking_tokens") or 0,
    )


def _stated(raw: dict[str, Any], name: str, otherwise: int) -> int:
    return otherwise if raw.get(name) is None else raw[name]
