"""Anthropic's Messages protocol against a scripted server."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import ProviderError
from pipelines.core.records import Outcome, Usage
from pipelines.providers import Completion
from tests.conftest import sse
from tests.providers.conftest import KEY, TURNS, ask


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"model": "claude-x", "usage": usage}}


def delta(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}


def end(reason: str = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    stop = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}
    return [stop, {"type": "message_stop"}]


def claude(*events: Any, **more: Any) -> Completion:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(request, list(events))

    return ask("anthropic", "", "/v1/messages", handler, **more)


def test_what_is_sent(key: str) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append((request.headers["x-api-key"], request.headers["anthropic-version"], body))
        return await sse(request, [start(input_tokens=1), *end(output_tokens=1)])

    ask("anthropic", "", "/v1/messages", handler, TURNS, api_key_env=key)
    assert seen == [
        (
            KEY,
            "2023-06-01",
            {
                "model": "m",
                "system": "Be brief.",
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "hello"},
                    {"role": "user", "content": "bye"},
                ],
                "max_tokens": 5,
                "temperature": 0.0,
                "stream": True,
            },
        )
    ]


def test_text_and_usage_with_what_the_cache_read_and_wrote() -> None:
    thought = {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm"}}
    answer = claude(
        start(
            input_tokens=7,
            cache_read_input_tokens=3,
            cache_creation_input_tokens=20,
            output_tokens=1,
        ),
        thought,
        delta("Hel"),
        {"type": "ping"},
        delta("lo"),
        *end(output_tokens=4, output_tokens_details={"thinking_tokens": 2}),
    )
    assert (answer.text, answer.model) == ("Hello", "claude-x")
    assert (answer.outcome, answer.finish_reason) == ("answered", "end_turn")
    # 7 fresh + 3 read from the cache + 20 written to it = 30 input tokens.
    assert answer.usage == Usage(
        input_tokens=30,
        cached_input_tokens=3,
        cache_write_5m_tokens=20,
        output_tokens=4,
        reasoning_tokens=2,
    )


@pytest.mark.parametrize("last", [{}, {"input_tokens": 7, "cache_creation_input_tokens": 20}])
def test_what_stays_in_the_cache_for_an_hour_is_told_apart(last: dict[str, Any]) -> None:
    begun = start(
        input_tokens=7,
        cache_creation_input_tokens=20,
        cache_creation={"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15},
    )
    # 7 fresh + 20 written = 27; 20 - 15 = 5 for minutes.
    assert claude(begun, *end(output_tokens=4, **last)).usage == Usage(
        input_tokens=27, cache_write_5m_tokens=5, cache_write_1h_tokens=15, output_tokens=4
    )


def test_without_the_input_tokens_the_usage_is_unknown() -> None:
    assert claude(start(), delta("Hi"), *end(output_tokens=4)).usage is None


@pytest.mark.parametrize(
    "last",
    [
        {},
        {"input_tokens": None, "cache_read_input_tokens": None},
        {"input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": None},
    ],
)
def test_the_last_usage_may_repeat_the_input_or_not(last: dict[str, Any]) -> None:
    begun = start(input_tokens=7, cache_read_input_tokens=3)
    usage = claude(begun, *end(output_tokens=4, **last)).usage
    assert usage == Usage(input_tokens=10, cached_input_tokens=3, output_tokens=4)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("stop_sequence", "answered"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("refusal", "refused"),
    ],
)
def test_stop_reasons(reason: str, outcome: Outcome) -> None:
    assert claude(start(input_tokens=1), *end(reason, output_tokens=1)).outcome == outcome


@pytest.mark.parametrize(
    ("kind", "n_attempts"), [("overloaded_error", 2), ("invalid_request_error", 1)]
)
def test_an_error_event_is_billed_and_tried_again_only_if_that_can_help(
    kind: str, n_attempts: int
) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "No."}}
    with pytest.raises(ProviderError, match=kind) as caught:
        claude(start(input_tokens=7, output_tokens=1), delta("He"), error, max_attempts=2)
    assert caught.value.n_attempts == n_attempts
    assert caught.value.wasted_usage == Usage(
        input_tokens=7 * n_attempts, output_tokens=1 * n_attempts
    )
