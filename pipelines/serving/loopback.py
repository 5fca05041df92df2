"""A real HTTP server on loopback that speaks the OpenAI protocol for any Python function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pipelines.core.records import Message, Usage

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English, where there is no tokenizer."""


@dataclass(frozen=True)
class Reply:
    """What the function says, and how slowly."""

    text: str
    usage: Usage | None = None
    """None = not billed by the token, and no usage is reported."""
    ttft_s: float = 0.0
    tokens_per_s: float | None = None
    """None = the whole text at once."""


Answer = Callable[[tuple[Message, ...]], Awaitable[Reply]]


@asynccontextmanager
async def openai_server(model: str, answer: Answer) -> AsyncGenerator[str]:
    """Serve `answer` as `model` on a free port; yields the base URL, `http://127.0.0.1:N/v1`."""

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        reply = await answer(tuple(Message.model_validate(m) for m in body["messages"]))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await asyncio.sleep(reply.ttft_s)
        await response.prepare(request)
        size = CHARACTERS_PER_TOKEN if reply.tokens_per_s else max(1, len(reply.text))
        for start in range(0, len(reply.text), size):
            if start and reply.tokens_per_s:
                await asyncio.sleep(1 / reply.tokens_per_s)
            await response.write(_event(model, delta=reply.text[start : start + size]))
        await response.write(_event(model, finish_reason="stop"))
        if reply.usage:
            await response.write(_event(model, usage=reply.usage))
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


def _event(
    model: str,
    *,
    delta: str | None = None,
    finish_reason: str | None = None,
    usage: Usage | None = None,
) -> bytes:
    choice = {"index": 0, "delta": {"content": delta}, "finish_reason": finish_reason}
    event: dict[str, Any] = {
        "object": "chat.completion.chunk",
        "model": model,
        "choices": [] if usage else [choice],
    }
    if usage:
        event["usage"] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
    return f"data: {json.dumps(event)}\n\n".encode()
