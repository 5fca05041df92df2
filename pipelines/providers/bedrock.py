"""Amazon Bedrock: every model that has ConverseStream (Claude, Llama, Nova, Mistral and others).

Needs a Bedrock API key; requests that are signed with AWS credentials are not supported. `model`
is the identifier or the ARN of a model or an inference profile.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp

from pipelines.core.records import Usage
from pipelines.governance.egress import Client
from pipelines.providers import Ask, ChatRequest, Completion, Endpoint
from pipelines.providers.http import (
    Caller,
    StreamReader,
    error_event,
    own_address,
    usage_of,
    with_fields,
)
from pipelines.providers.openai_compatible import bearer

N_PRELUDE = 12
"""Bytes before a message's headers: its length, its headers' length, a checksum of the two."""
N_CHECKSUM = 4
MAX_MESSAGE_BYTES = 1 << 24
ADDRESS = "https://bedrock-runtime.REGION.amazonaws.com"
SERVICE_TIER = "serviceTier.type"
STRING = 7
"""The type of a header whose value is text."""


@asynccontextmanager
async def connect(endpoint: Endpoint, client: Client) -> AsyncGenerator[Ask]:
    """Speak to `endpoint`."""
    base_url = own_address(endpoint, ADDRESS)
    headers = bearer(endpoint)
    caller = Caller(client, endpoint)

    async def ask(request: ChatRequest) -> Completion:
        url = f"{base_url}/model/{quote(request.model, safe=':')}/converse-stream"
        body = with_fields(_body(request), request.extra)
        return await caller.stream(
            url, headers, body, _handle, model=request.model, events=_messages
        )

    yield ask


def _body(request: ChatRequest) -> dict[str, Any]:
    system = [{"text": m.content} for m in request.messages if m.role == "system"]
    config: dict[str, Any] = {"maxTokens": request.max_output_tokens}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    return {
        **({"system": system} if system else {}),
        "messages": [
            {"role": m.role, "content": [{"text": m.content}]}
            for m in request.messages
            if m.role != "system"
        ],
        "inferenceConfig": config,
    }


def _handle(reader: StreamReader, event: dict[str, Any]) -> None:
    if error := event.get("error"):
        raise error_event(error)
    if said := event.get("contentBlockDelta"):
        reader.add(said["delta"].get("text") or "")
    if stop := event.get("messageStop"):
        reader.finish_reason = stop["stopReason"]
        reader.finished = True
    if about := event.get("metadata"):
        reader.usage = _usage(about["usage"])


def _usage(raw: dict[str, Any]) -> Usage | None:
    """`inputTokens` leaves out what the prompt cache read and wrote; the total has all."""
    written = raw.get("cacheWriteInputTokens") or 0
    by_life = {each["ttl"]: each["inputTokens"] for each in raw.get("cacheDetails") or []}
    return usage_of(
        input_tokens=raw["totalTokens"] - raw["outputTokens"],
        cached_input_tokens=raw.get("cacheReadInputTokens") or 0,
        cache_write_5m_tokens=written - by_life.get("1h", 0),
        cache_write_1h_tokens=by_life.get("1h", 0),
        output_tokens=raw["outputTokens"],
    )


async def _messages(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """`{event type: payload}` for each message of an AWS event stream, `{"error": ...}` for a bad.

    Raises:
        ValueError: the stream is malformed.
    """
    try:
        while True:
            prelude = await answer.content.readexactly(N_PRELUDE)
            length, n_headers = int.from_bytes(prelude[:4]), int.from_bytes(prelude[4:8])
            if length > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes")
            rest = await answer.content.readexactly(length - N_PRELUDE)
            content, checksum = rest[:-N_CHECKSUM], rest[-N_CHECKSUM:]
            if zlib.crc32(prelude + content) != int.from_bytes(checksum):
                raise ValueError("a message's checksum is wrong")
            headers, payload = _headers(content[:n_headers]), content[n_headers:]
            if headers.get(":message-type") == "event":
                yield {headers[":event-type"]: json.loads(payload)}
            else:
                yield {"error": headers | {"payload": payload.decode(errors="replace")}}
    except asyncio.IncompleteReadError:
        return  # whether the answer was complete is the reader's to say


def _headers(raw: bytes) -> dict[str, str]:
    """Names and texts: each is a length (1 byte), the name, the type, a length (2), the text."""
    found: dict[str, str] = {}
    while raw:
        name, raw = raw[1 : 1 + raw[0]], raw[1 + raw[0] :]
        if raw[:1] != bytes([STRING]):
            raise ValueError(f"header {name!r} is no text")
        end = 3 + int.from_bytes(raw[1:3])
        found[name.decode()] = raw[3:end].decode()
        raw = raw[end:]
    return found
