"""Azure's way of chat completions against a scripted server."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import ProviderError
from pipelines.core.records import Usage
from tests.conftest import sse
from tests.providers.conftest import KEY, UNSURE, ask

BASE, ROUTE = "/openai/v1", "/chat/completions"


def test_what_is_sent_and_what_comes_back(key: str) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append((request.headers["api-key"], "Authorization" in request.headers, body))
        return await sse(
            request,
            [
                {"choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]},
                {"choices": [{"delta": {"content": "Hello"}}], "model": "gpt-x-2026-09-29"},
                {"choices": [{"delta": {}, "finish_reason": "stop"}], "model": "gpt-x-2026-09-29"},
                {
                    "choices": [],
                    "usage": {
                        "prompt_tokens": 10,
                        "completion_tokens": 7,
                        "completion_tokens_details": {"reasoning_tokens": 5},
                    },
                },
                b"data: [DONE]\n\n",
            ],
        )

    answer = ask("azure_openai", BASE, ROUTE, handler, api_key_env=key)
    assert (answer.text, answer.model) == ("Hello", "gpt-x-2026-09-29")
    assert answer.usage == Usage(input_tokens=10, output_tokens=7, reasoning_tokens=5)
    assert seen == [
        (
            KEY,
            False,
            {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "hi"},
                ],
                "max_completion_tokens": 5,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        )
    ]


def test_how_likely_tokens_were_is_asked_and_read_as_openai_says_it() -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert body["logprobs"] is True
        logprobs = {"content": [{"token": "He", "logprob": -0.5}, {"token": "y", "logprob": -1}]}
        choice = {"delta": {"content": "Hey"}, "logprobs": logprobs, "finish_reason": "stop"}
        return await sse(request, [{"choices": [choice]}])

    assert ask("azure_openai", BASE, ROUTE, handler, UNSURE).mean_logprob == -0.75


def test_a_filter_of_the_prompt_and_one_of_the_answer_are_told() -> None:
    async def of_the_prompt(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        error = {"code": "content_filter", "message": "Azure's content management policy"}
        return web.json_response({"error": error}, status=400)

    async def of_the_answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(
            request,
            [{"choices": [{"delta": {"content": "He"}, "finish_reason": "content_filter"}]}],
        )

    with pytest.raises(ProviderError, match="HTTP 400") as caught:
        ask("azure_openai", BASE, ROUTE, of_the_prompt)
    assert (caught.value.outcome, caught.value.n_attempts) == ("filtered", 1)
    assert ask("azure_openai", BASE, ROUTE, of_the_answer).outcome == "filtered"
