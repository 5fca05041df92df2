"""Chat completions as OpenAI defined them: OpenAI, vLLM, Gemini, and most hosted open models."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from pipelines.core.records import Usage
from pipelines.providers import Ask, ChatRequest, Completion, Endpoint
from pipelines.providers.http import Caller, StreamReader, api_key, error_event

PUBLIC_URL = "https://api.openai.com/v1"


@asynccontextmanager
async def connect(endpoint: Endpoint, client: aiohttp.ClientSession) -> AsyncGenerator[Ask]:
    """Speak to `endpoint`."""
    base_url = (endpoint.base_url or PUBLIC_URL).rstrip("/")
    key = api_key(endpoint)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # OpenAI's own models refuse `max_tokens`; many other servers know nothing else.
    limit = "max_completion_tokens" if base_url == PUBLIC_URL else "max_tokens"

    caller = Caller(client, endpoint)

    async def ask(request: ChatRequest) -> Completion:
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [message.model_dump() for message in request.messages],
            limit: request.max_output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **request.extra,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        url = f"{base_url}/chat/completions"
        return await caller.stream(url, headers, body, _handle)

    yield ask


def _handle(reader: StreamReader, event: dict[str, Any]) -> None:
    if error := event.get("error"):
        raise error_event(error)
    reader.model = event.get("model") or reader.model
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {}
        reader.add(delta.get("content") or delta.get("refusal") or "")
        reader.refused = reader.refused or bool(delta.get("refusal"))
        if choice.get("finish_reason"):
            reader.finish_reason = choice["finish_reason"]
            reader.finished = True
    if usage := event.get("usage"):
        details = usage.get("prompt_tokens_details") or {}
        thought = usage.get("completion_tokens_details") or {}
        reader.usage = Usage(
            input_tokens=usage["prompt_tokens"],
            cached_input_tokens=details.get("cached_tokens") or 0,
            output_tokens=usage["completion_tokens"],
            reasoning_tokens=thought.get("reasoning_tokens") or 0,
        )
