"""Gemini through Google's own API, with an API key.

Models on Vertex AI answer at the `base_url`
`https://aiplatform.googleapis.com/v1/publishers/google`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pipelines.core.errors import ProviderError
from pipelines.core.records import Message, Usage
from pipelines.governance.egress import Client
from pipelines.providers import Ask, ChatRequest, Completion, Endpoint
from pipelines.providers.http import (
    Caller,
    StreamReader,
    api_key,
    error_event,
    logprob,
    usage_of,
    with_fields,
)

PUBLIC_URL = "https://generativelanguage.googleapis.com/v1beta"
SERVICE_TIER = "serviceTier"
LOGPROBS = True
ROLES = {"user": "user", "assistant": "model"}


@asynccontextmanager
async def connect(endpoint: Endpoint, client: Client) -> AsyncGenerator[Ask]:
    """Speak to `endpoint`."""
    base_url = (endpoint.base_url or PUBLIC_URL).rstrip("/")
    headers = {"x-goog-api-key": api_key(endpoint) or ""}
    caller = Caller(client, endpoint)

    async def ask(request: ChatRequest) -> Completion:
        url = f"{base_url}/models/{request.model}:streamGenerateContent?alt=sse"
        body = with_fields(_body(request), request.extra)
        return await caller.stream(url, headers, body, _handle, model=request.model)

    yield ask


def _body(request: ChatRequest) -> dict[str, Any]:
    system = [_part(m) for m in request.messages if m.role == "system"]
    config: dict[str, Any] = {"maxOutputTokens": request.max_output_tokens}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.logprobs:
        config["responseLogprobs"] = True
    return {
        **({"systemInstruction": {"parts": system}} if system else {}),
        "contents": [
            {"role": ROLES[m.role], "parts": [_part(m)]}
            for m in request.messages
            if m.role != "system"
        ],
        "generationConfig": config,
    }


def _part(message: Message) -> dict[str, str]:
    return {"text": message.content}


def _handle(reader: StreamReader, event: dict[str, Any]) -> None:
    reader.model = event.get("modelVersion") or reader.model
    usage = event.get("usageMetadata") or {}
    if "promptTokenCount" in usage:  # Vertex AI has other things there before the last event
        reader.usage = _usage(usage)
    if error := event.get("error"):
        raise error_event(error)
    if reason := (event.get("promptFeedback") or {}).get("blockReason"):
        raise ProviderError(f"the prompt was blocked: {reason}", "filtered")
    for candidate in event.get("candidates") or []:
        for part in (candidate.get("content") or {}).get("parts") or []:
            if not part.get("thought"):  # a summary of the thoughts, where one was asked for
                reader.add(part.get("text") or "")
        if (mean := candidate.get("avgLogprobs")) is not None:  # of the whole answer
            reader.logprobs = [logprob(mean)]
        if candidate.get("finishReason"):
            reader.finish_reason = candidate["finishReason"]
            reader.finished = True


def _usage(raw: dict[str, Any]) -> Usage | None:
    """Google counts thoughts beside the answer, and what tools read beside the prompt."""
    thought = raw.get("thoughtsTokenCount") or 0
    return usage_of(
        input_tokens=raw["promptTokenCount"] + (raw.get("toolUsePromptTokenCount") or 0),
        cached_input_tokens=raw.get("cachedContentTokenCount") or 0,
        output_tokens=(raw.get("candidatesTokenCount") or 0) + thought,
        reasoning_tokens=thought,
    )
