"""Chat completions against a scripted server that speaks the protocol, faults included."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import ProviderError
from pipelines.core.records import Usage
from pipelines.providers import Completion
from tests.conftest import Handler, sse
from tests.providers.conftest import REQUEST, UNSURE, ask


def openai(handler: Handler, **more: Any) -> Completion:
    return ask(
        "openai_compatible", "/v1", "/chat/completions", handler, **{"timeout_s": 0.5, **more}
    )


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


def billed(**usage: Any) -> Usage | None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(request, [delta("Hello", "stop"), {"choices": [], "usage": usage}])

    answer = openai(handler)
    assert (answer.text, answer.n_attempts) == ("Hello", 1)
    return answer.usage


def test_cached_and_written_tokens_are_parts_of_the_prompt() -> None:
    details = {"cached_tokens": 400, "cache_write_tokens": 100}
    usage = billed(prompt_tokens=1000, completion_tokens=5, prompt_tokens_details=details)
    assert usage == Usage(
        input_tokens=1000, cached_input_tokens=400, cache_write_5m_tokens=100, output_tokens=5
    )


def test_thoughts_that_stand_beside_the_answer_are_counted_too() -> None:
    # 150 in all - 100 of the prompt = 50 generated: 10 of the answer, 40 thought.
    usage = billed(
        prompt_tokens=100,
        completion_tokens=10,
        completion_tokens_details={"reasoning_tokens": 40},
        total_tokens=150,
    )
    assert usage == Usage(input_tokens=100, output_tokens=50, reasoning_tokens=40)


def test_figures_that_contradict_one_another_are_no_figures_and_cost_no_answer() -> None:
    details = {"cached_tokens": 11}
    assert billed(prompt_tokens=10, completion_tokens=2, prompt_tokens_details=details) is None


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


@pytest.mark.alone
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


def test_a_dotted_field_goes_inside() -> None:
    seen: list[dict[str, Any]] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append(body)
        return await sse(request, ANSWER)

    extra = {"top_k": 1, "chat_template_kwargs.enable_thinking": False, "stream_options.x.y": 2}
    openai(handler, request=REQUEST.model_copy(update={"extra": extra}))
    assert seen[0]["top_k"] == 1
    assert seen[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert seen[0]["stream_options"] == {"include_usage": True, "x": {"y": 2}}


def test_a_refusal_is_told_from_an_answer() -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        choice = {"delta": {"refusal": "I can't help."}, "finish_reason": "stop"}
        return await sse(request, [{"choices": [choice]}])

    answer = openai(handler)
    assert (answer.text, answer.outcome) == ("I can't help.", "refused")


def test_a_prompt_that_is_repeated_in_an_error_is_not_its_reason() -> None:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        prompt = "Why did you say that my prompt is too long?"
        return web.json_response({"detail": "x" * 400, "input": prompt}, status=422)

    with pytest.raises(ProviderError, match="HTTP 422") as caught:
        openai(handler)
    assert caught.value.outcome == "failed"


def tokens(*logprobs: Any) -> dict[str, Any]:
    return {"content": [{"token": "x", "logprob": each} for each in logprobs]}


def said(*choices: dict[str, Any], seen: list[Any] | None = None) -> Completion:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if seen is not None:
            seen.append(body.get("logprobs"))
        return await sse(request, [{"choices": [choice]} for choice in (*choices, END)])

    return openai(handler, request=UNSURE, max_attempts=1)


END = {"delta": {"content": ""}, "logprobs": {"content": None}, "finish_reason": "stop"}


def test_the_mean_is_over_all_tokens_not_over_the_pieces() -> None:
    seen: list[Any] = []
    answer = said(
        {"delta": {"role": "assistant", "content": ""}, "logprobs": None},
        {"delta": {"content": "Hel"}, "logprobs": tokens(-0.5, -1)},
        {"delta": {"content": ""}, "logprobs": tokens(-0.3)},  # half a character
        {"delta": {"content": "lo"}, "logprobs": tokens(-0.2)},
        seen=seen,
    )
    assert seen == [True]
    assert answer.text == "Hello"
    assert answer.mean_logprob == pytest.approx((-0.5 - 1 - 0.3 - 0.2) / 4)


def test_thoughts_are_no_part_of_the_answer_and_a_refusal_is() -> None:
    for thought in ("reasoning", "reasoning_content"):
        answer = said(
            {"delta": {thought: "Hm"}, "logprobs": tokens(-9)},
            {"delta": {"content": "Hello"}, "logprobs": tokens(-0.5)},
        )
        assert (answer.text, answer.mean_logprob) == ("Hello", -0.5)
    refusal = {"content": None, "refusal": [{"token": "No", "logprob": -0.25}]}
    assert said({"delta": {"refusal": "No"}, "logprobs": refusal}).mean_logprob == -0.25


@pytest.mark.parametrize(
    ("logprobs", "mean"),
    [
        (None, None),
        ({}, None),
        ({"content": []}, None),
        ({"tokens": ["x"], "token_logprobs": [-1]}, None),
        (-0.5, None),
        (["x"], None),
        ({"content": ["x"]}, None),
        ({"content": "x"}, None),
        (tokens(-0.5, None), None),
        (tokens(-0.5, "-0.5"), None),
        (tokens(-0.5, 0.5), None),
        (tokens(math.nan), None),
        (tokens(math.inf), None),
        (tokens(-0.5, 10**400), None),
        (tokens(-math.inf, -1), -5000.0),  # -9999 stands for what is hardly possible
        (tokens(-(10**400), -1), -5000.0),
        (tokens(0, 1e-7), 0.0),
    ],
)
def test_broken_figures_are_no_figures_and_cost_no_answer(
    logprobs: Any, mean: float | None
) -> None:
    answer = said({"delta": {"content": "Hello"}, "logprobs": logprobs})
    assert (answer.text, answer.n_attempts) == ("Hello", 1)
    assert answer.mean_logprob == mean


def test_an_attempt_that_broke_off_says_nothing_of_the_answer() -> None:
    calls: list[int] = []
    piece = {"delta": {"content": "Hello"}, "logprobs": tokens(-3)}

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(1)
        choices = [piece] if len(calls) == 1 else [{**piece, "logprobs": tokens(-1)}, END]
        return await sse(request, [{"choices": [choice]} for choice in choices])

    answer = openai(handler, request=UNSURE)
    assert (answer.n_attempts, answer.mean_logprob) == (2, -1.0)


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
