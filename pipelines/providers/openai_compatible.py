"""Chat completions as OpenAI defined them: OpenAI, vLLM, and most hosted open models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pipelines.core.records import Usage
from pipelines.governance.egress import Client
from pipelines.providers import Ask, ChatRequest, Completion, Endpoint
from pipelines.providers.http import (
    Caller,
    StreamReader,
    api_key,
    error_event,
    logprobs_of,
    usage_of,
    with_fields,
)

PUBLIC_URL = "https://api.openai.com/v1"
SERVICE_TIER = "service_tier"
LOGPROBS = True


@asynccontextmanager
async def connect(
    endpoint: Endpoint, client: Client, caller: type[Caller] = Caller
) -> AsyncGenerator[Ask]:
    """Speak to `endpoint`; `caller` makes the calls."""
    base_url = (endpoint.base_url or PUBLIC_URL).rstrip("/")
    # OpenAI's own models refuse `max_tokens`; many other servers know nothing else.
    limit = "max_completion_tokens" if base_url == PUBLIC_URL else "max_tokens"
    yield chat(caller(client, endpoint), base_url, bearer(endpoint), limit)


def bearer(endpoint: Endpoint) -> dict[str, str]:
    """The header that carries the key, none without one.

    Raises:
        ConfigError: the key's variable is named and not set.
    """
    key = api_key(endpoint)
    return {"Authorization": f"Bearer {key}"} if key else {}


def chat(caller: Caller, base_url: str, headers: Mapping[str, str], limit: str) -> Ask:
    """Ask through `base_url`/chat/completions.

    Args:
        caller: makes the calls.
        base_url: without a slash at its end.
        headers: with the key.
        limit: the server's name for the most tokens of an answer.
    """

    async def ask(request: ChatRequest) -> Completion:
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [message.model_dump() for message in request.messages],
            limit: request.max_output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.logprobs:
            body["logprobs"] = True
        body = with_fields(body, request.extra)
        return await caller.stream(f"{base_url}/chat/completions", headers, body, _handle)

    return ask


def _handle(reader: StreamReader, event: dict[str, Any]) -> None:
    if error := event.get("error"):
        raise error_event(error)
    reader.model = event.get("model") or reader.model
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {}
        reader.add(delta.get("content") or delta.get("refusal") or "")
        reader.refused = reader.refused or bool(delta.get("refusal"))
        said = choice.get("logprobs")
        if isinstance(said, dict) and not _thinks(delta):
            reader.logprobs += logprobs_of(said.get("content"))
            reader.logprobs += logprobs_of(said.get("refusal"))
        if choice.get("finish_reason"):
            reader.finish_reason = choice["finish_reason"]
            reader.finished = True
    if usage := event.get("usage"):
        reader.usage = _usage(usage)


def _thinks(delta: dict[str, Any]) -> bool:
    """The piece is of what servers of open models show as thoughts, beside the answer."""
    return bool(delta.get("reasoning") or delta.get("reasoning_content"))


def _usage(raw: dict[str, Any]) -> Usage | None:
    """Some servers leave the thoughts out of `completion_tokens`; the total has all."""
    details = raw.get("prompt_tokens_details") or {}
    thought = raw.get("completion_tokens_details") or {}
    n_input = raw["prompt_tokens"]
    return usage_of(
        input_tokens=n_input,
        cached_input_tokens=details.get("cached_tokens") or 0,
        cache_write_5m_tokens=details.get("cache_write_tokens") or 0,
        output_tokens=max(raw["completion_tokens"], (raw.get("total_tokens") or 0) - n_input),
        reasoning_tokens=thought.get("reasoning_tokens") or 0,
    )
