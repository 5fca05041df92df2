"""Each provider against a scripted server that speaks its protocol, faults included."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pipelines import providers
from pipelines.core.errors import ConfigError, ProviderError
from pipelines.core.records import Message, Usage
from pipelines.providers import ChatRequest, Completion, Endpoint
from tests.conftest import Handler, scripted_server, sse

REQUEST = ChatRequest(
    model="m",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="hi")),
    max_output_tokens=5,
)


def ask(provider: str, path: str, handler: Handler, **more: Any) -> Completion:
    async def go() -> Completion:
        async with scripted_server(path, handler) as url, aiohttp.ClientSession() as client:
            base_url = url + path.removesuffix("/chat/completions").removesuffix("/v1/messages")
            where = Endpoint(base_url=base_url, timeout_s=0.5, **more)
            async with providers.load(provider)(where, client) as send:
                return await send(REQUEST)

    return asyncio.run(go())


def openai(handler: Handler, **more: Any) -> Completion:
    return ask("openai_compatible", "/v1/chat/completions", handler, **more)


def delta(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"model": "m-2026", "choices": [choice]}


ANSWER = [
    delta("Hel"),
    delta("lo", "stop"),
    {
        "model": "m-2026",
        "choices": [],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    },
    b"data: [DONE]\n\n",
]


def test_openai_streams_text_usage_and_the_served_name() -> None:
    seen: list[dict[str, Any]] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append({**body, "auth": request.headers.get("Authorization")})
        return await sse(request, ANSWER)

    answer = openai(handler)
    assert answer.text == "Hello"
    assert answer.model == "m-2026"
    assert answer.finish_reason == "stop"
    assert answer.usage == Usage(input_tokens=10, cached_input_tokens=4, output_tokens=2)
    assert answer.ttft_s is not None
    assert 0 < answer.ttft_s <= answer.latency_s
    [body] = seen
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["max_tokens"] == 5
    assert body["temperature"] == 0.0
    assert body["auth"] is None


def test_anthropic_counts_cached_tokens_as_input() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append((request.headers["x-api-key"], request.headers["anthropic-version"], body))
        usage = {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1}
        return await sse(
            request,
            [
                {"type": "message_start", "message": {"model": "claude-x", "usage": usage}},
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hel"}},
                {"type": "ping"},
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "lo"}},
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"output_tokens": 4},
                },
                {"type": "message_stop"},
            ],
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_KEY", "secret-key")
        answer = ask("anthropic", "/v1/messages", handler, api_key_env="TEST_KEY")
    assert answer.text == "Hello"
    # 7 fresh + 3 cached = 10 input tokens.
    assert answer.usage == Usage(input_tokens=10, cached_input_tokens=3, output_tokens=4)
    assert answer.finish_reason == "end_turn"
    key, version, body = seen[0]
    assert (key, version) == ("secret-key", "2023-06-01")
    assert body["system"] == "Be brief."
    assert [m["role"] for m in body["messages"]] == ["user"]


def test_a_rate_limit_is_retried_after_the_time_it_names() -> None:
    calls: list[float] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(asyncio.get_running_loop().time())
        if len(calls) == 1:
            return web.Response(status=429, headers={"Retry-After": "0.2"}, text="slow down")
        return await sse(request, ANSWER)

    answer = openai(handler)
    assert answer.n_attempts == 2
    assert calls[1] - calls[0] >= 0.2
    assert answer.latency_s < 0.2  # of the answered attempt, without the wait


def test_a_permanent_error_is_not_retried_and_says_what_the_server_said() -> None:
    calls: list[int] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(1)
        return web.Response(status=400, text='{"error": "context_length_exceeded"}')

    with pytest.raises(ProviderError, match=r"HTTP 400: .*context_length_exceeded"):
        openai(handler)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "fault",
    ["status 500", "cut stream", "broken json", "hang", "error event", "closed connection"],
)
def test_a_fault_becomes_an_error_with_a_reason_never_a_wrong_answer(fault: str) -> None:
    calls: list[int] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(1)
        match fault:
            case "status 500":
                return web.Response(status=500)
            case "cut stream":
                return await sse(request, ANSWER[:1])
            case "broken json":
                return await sse(request, [b"data: {broken\n\n"])
            case "hang":
                await asyncio.sleep(5)
            case "error event":
                return await sse(request, [{"error": {"message": "overloaded"}}])
            case _:
                assert request.transport is not None
                request.transport.abort()
        return web.Response()

    with pytest.raises(ProviderError) as caught:
        openai(handler, max_attempts=2)
    assert str(caught.value)
    assert len(calls) == 2


def test_a_missing_key_is_an_error_before_any_call() -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        raise AssertionError("no call may be made without the key")

    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        openai(handler, api_key_env="NO_SUCH_KEY")
