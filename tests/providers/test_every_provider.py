"""What holds for every provider, whatever its protocol; a new one is covered by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from pipelines import providers
from pipelines.core.errors import ConfigError, ProviderError
from pipelines.providers import ChatRequest, Completion
from tests.conftest import Handler, sse
from tests.providers.conftest import KEY, REQUEST, UNSURE, ask

EVERY = pytest.mark.parametrize("provider", providers.names())
GARBAGE = {
    "nothing": b"",
    "no protocol": b"\x00\x00\x00\x10\xff" * 40,
    "a number": b"data: 5\n\n",
    "a list": b"data: [1]\n\n",
    "broken JSON": b"data: {broken\n\n",
    "a deep list": b"data: " + b"[" * 100_000 + b"\n\n",
    "an empty object": b"data: {}\n\n",
    "a line without end": b"data: " + b"x" * 300_000,
}


def ask_anywhere(provider: str, handler: Handler, **more: Any) -> Completion:
    return ask(provider, "", "/{anything:.*}", handler, **more)


@EVERY
def test_a_missing_key_is_an_error_before_any_call(provider: str) -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        raise AssertionError("no call may be made without the key")

    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        ask_anywhere(provider, handler, api_key_env="NO_SUCH_KEY")


@EVERY
def test_the_key_is_sent_and_never_shown(provider: str, key: str) -> None:
    sent: list[str] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        sent.append(str(dict(request.headers)))
        return web.Response(status=401, text=f"Incorrect\nAPI key: {KEY}\x1b[2J")

    with pytest.raises(ProviderError) as caught:
        ask_anywhere(provider, handler, api_key_env=key)
    assert KEY in sent[0]
    assert str(caught.value) == "HTTP 401: Incorrect API key: [key] [2J"
    assert len(sent) == 1


@EVERY
def test_the_key_is_not_in_the_error_of_the_last_attempt_either(provider: str, key: str) -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=500, text=f"{'x' * 390} {KEY}")

    with pytest.raises(ProviderError, match=r"HTTP 500: x+.* \(1 attempts\)") as caught:
        ask_anywhere(provider, handler, api_key_env=key, max_attempts=1)
    assert KEY[:4] not in str(caught.value)


@EVERY
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_an_error_with_a_reason_never_an_answer(provider: str, name: str) -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(request, [GARBAGE[name]])

    with pytest.raises(ProviderError, match=r"malformed event|stream ended") as caught:
        ask_anywhere(provider, handler, max_attempts=1)
    assert caught.value.outcome == "failed"
    assert caught.value.n_broken_off == 1


@EVERY
def test_how_likely_tokens_were_is_asked_where_it_can_be_said(provider: str) -> None:
    def sent(request: ChatRequest) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        async def handler(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            seen.append(body)
            return web.Response(status=400, text="enough")

        with pytest.raises(ProviderError, match="enough"):
            ask_anywhere(provider, handler, request=request)
        return seen[0]

    assert (sent(UNSURE) != sent(REQUEST)) == providers.tells_logprobs(provider)


def test_asking_how_likely_tokens_were_is_the_same_question() -> None:
    assert UNSURE.sha256 == REQUEST.sha256


@EVERY
def test_a_prompt_that_is_too_long_is_the_candidates_doing(provider: str) -> None:
    said = {
        "anthropic": "prompt is too long: 201000 tokens > 200000 maximum",
        "azure_openai": "context_length_exceeded",
        "bedrock": "Input is too long for requested model.",
        "google": "The input token count (1200000) exceeds the maximum number of tokens allowed "
        "(1048576).",
        "openai_responses": "Your input exceeds the context window of this model.",
    }.get(provider, "This model's maximum context length is 1024 tokens.")

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"code": 400, "message": said}}, status=400)

    with pytest.raises(ProviderError, match="HTTP 400") as caught:
        ask_anywhere(provider, handler)
    assert caught.value.outcome == "context_length"
    assert caught.value.n_attempts == 1


@EVERY
def test_a_rate_limit_that_names_a_wait_in_its_body_is_waited_for(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google names the time to come back in the body, behind a long text."""
    monkeypatch.setattr("pipelines.providers.http.random.uniform", lambda *_: 0.0)
    calls: list[float] = []
    details = [
        {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "x" * 2000}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.3s"},
    ]
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(asyncio.get_running_loop().time())
        if len(calls) == 1:
            return web.Response(status=429, text=json.dumps(error, indent=2))
        return web.Response(status=400, text="enough")

    with pytest.raises(ProviderError, match="enough") as caught:
        ask_anywhere(provider, handler)
    assert caught.value.n_attempts == 2
    assert calls[1] - calls[0] >= 0.3


@pytest.mark.parametrize("provider", ["azure_openai", "bedrock"])
def test_a_provider_without_a_public_address_asks_for_one(provider: str) -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        raise AssertionError("there is no address to call")

    with pytest.raises(ConfigError, match=r"no base_url; it looks like https://"):
        ask_anywhere(provider, handler, base_url=None)
