"""Gemini's protocol against a scripted server."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import ProviderError
from pipelines.core.records import Outcome, Usage
from pipelines.providers import ChatRequest, Completion
from tests.conftest import sse
from tests.providers.conftest import KEY, TURNS, UNSURE, ask


def piece(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "m-001", **more}


def gemini(events: list[Any], request: ChatRequest = TURNS, **more: Any) -> Completion:
    async def handler(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(_, events)

    return ask("google", "/v1beta", "/models/m:streamGenerateContent", handler, request, **more)


def test_what_is_sent(key: str) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append((request.query_string, request.headers["x-goog-api-key"], body))
        return await sse(request, [piece("Bye", "STOP")])

    route = "/models/m:streamGenerateContent"
    extra = {"generationConfig.thinkingConfig.thinkingLevel": "low", "serviceTier": "flex"}
    request = TURNS.model_copy(update={"extra": extra})
    ask("google", "/v1beta", route, handler, request, api_key_env=key)
    request = TURNS.model_copy(update={"messages": TURNS.messages[1:2], "temperature": None})
    ask("google", "/v1beta", route, handler, request, api_key_env=key)
    assert seen[0] == (
        "alt=sse",
        KEY,
        {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "hi"}]},
                {"role": "model", "parts": [{"text": "hello"}]},
                {"role": "user", "parts": [{"text": "bye"}]},
            ],
            "generationConfig": {
                "maxOutputTokens": 5,
                "temperature": 0.0,
                "thinkingConfig": {"thinkingLevel": "low"},
            },
            "serviceTier": "flex",
        },
    )
    assert seen[1][2] == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"maxOutputTokens": 5},
    }


def test_text_usage_and_the_served_name() -> None:
    answer = gemini(
        [
            {
                "candidates": [
                    {"content": {"parts": [{"text": "I must be brief.", "thought": True}]}}
                ],
                "usageMetadata": {"trafficType": "ON_DEMAND"},
            },
            piece("Good", usageMetadata={"promptTokenCount": 20, "totalTokenCount": 20}),
            piece(
                "bye",
                "STOP",
                usageMetadata={
                    "promptTokenCount": 20,
                    "cachedContentTokenCount": 8,
                    "toolUsePromptTokenCount": 5,
                    "candidatesTokenCount": 2,
                    "thoughtsTokenCount": 30,
                    "totalTokenCount": 57,
                },
            ),
        ]
    )
    assert answer.text == "Goodbye"
    assert answer.model == "m-001"
    assert (answer.outcome, answer.finish_reason) == ("answered", "STOP")
    # 20 + 5 read by tools = 25 in; 2 + 30 thought = 32 out; 25 + 32 = 57.
    assert answer.usage == Usage(
        input_tokens=25, cached_input_tokens=8, output_tokens=32, reasoning_tokens=30
    )
    assert answer.ttft_s is not None
    assert 0 < answer.ttft_s <= answer.latency_s


def test_how_likely_the_tokens_were() -> None:
    seen: list[Any] = []
    last = piece("bye", "STOP")
    last["candidates"][0]["avgLogprobs"] = -0.125

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append(body["generationConfig"]["responseLogprobs"])
        return await sse(request, [piece("Good"), last])

    route = "/models/m:streamGenerateContent"
    answer = ask("google", "/v1beta", route, handler, UNSURE)
    assert seen == [True]
    assert (answer.text, answer.mean_logprob) == ("Goodbye", -0.125)
    assert gemini([piece("Bye", "STOP")]).mean_logprob is None
    last["candidates"][0]["avgLogprobs"] = "NaN"
    assert gemini([last]).mean_logprob is None


def test_a_server_that_names_no_model_served_the_one_asked_for() -> None:
    answer = gemini([{"candidates": [{"finishReason": "STOP"}]}])
    assert (answer.model, answer.text, answer.usage) == ("m", "", None)


@pytest.mark.parametrize(
    ("finish", "outcome"),
    [
        ("STOP", "answered"),
        ("MAX_TOKENS", "truncated"),
        ("SAFETY", "filtered"),
        ("RECITATION", "filtered"),
        ("PROHIBITED_CONTENT", "filtered"),
        ("BLOCKLIST", "filtered"),
        ("SPII", "filtered"),
        ("LANGUAGE", "filtered"),
    ],
)
def test_finish_reasons(finish: str, outcome: Outcome) -> None:
    assert gemini([piece("Go"), piece("", finish)]).outcome == outcome


def test_a_blocked_prompt_is_filtered_and_its_tokens_are_billed() -> None:
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    }
    with pytest.raises(ProviderError, match=r"^the prompt was blocked: PROHIBITED_CONT") as caught:
        gemini([blocked])
    assert caught.value.outcome == "filtered"
    assert caught.value.n_attempts == 1
    assert caught.value.wasted_usage == Usage(input_tokens=9, output_tokens=0)


def test_an_error_after_the_answer_began_is_tried_again_and_billed() -> None:
    calls: list[int] = []
    broken = [
        piece("Goo", usageMetadata={"promptTokenCount": 9, "candidatesTokenCount": 1}),
        {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}},
    ]

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(1)
        return await sse(request, broken if len(calls) == 1 else [piece("Bye", "STOP")])

    answer = ask("google", "/v1beta", "/models/m:streamGenerateContent", handler)
    assert answer.text == "Bye"
    assert (answer.n_attempts, answer.n_broken_off) == (2, 1)
    assert answer.wasted_usage == Usage(input_tokens=9, output_tokens=1)


def test_an_error_that_comes_again_is_not_tried_again() -> None:
    error = {"error": {"code": 400, "message": "Bad level", "status": "INVALID_ARGUMENT"}}
    with pytest.raises(ProviderError, match="error inside the stream: .*Bad level") as caught:
        gemini([error])
    assert (caught.value.outcome, caught.value.n_attempts) == ("failed", 1)


@pytest.mark.parametrize(
    "hostile",
    [
        {"candidates": [{"content": {"parts": [{"text": 5}]}, "finishReason": "STOP"}]},
        {"candidates": [{"finishReason": ["STOP"]}]},
        {"candidates": [{"finishReason": "STOP"}], "modelVersion": {"a": 1}},
        {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": "many"}},
        {"candidates": 7},
    ],
)
def test_fields_of_another_type_are_a_fault_of_the_call(hostile: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="malformed event") as caught:
        gemini([hostile], max_attempts=1)
    assert caught.value.outcome == "failed"
