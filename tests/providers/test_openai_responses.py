"""The Responses protocol against a scripted server."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import ProviderError
from pipelines.core.records import Outcome, Usage
from pipelines.providers import Completion
from tests.conftest import sse
from tests.providers.conftest import KEY, TURNS, UNSURE, ask

USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 6},
    "output_tokens": 32,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 52,
}


def delta(text: str, kind: str = "output_text") -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": 1, "delta": text}


def end(status: str, **more: Any) -> dict[str, Any]:
    response = {"model": "m-2026", "status": status, "usage": USAGE, **more}
    return {"type": f"response.{status}", "response": response}


def responses(*events: Any, **more: Any) -> Completion:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(request, list(events))

    return ask("openai_responses", "/v1", "/responses", handler, **more)


def test_what_is_sent(key: str) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append((request.headers["Authorization"], body))
        return await sse(request, [end("completed")])

    request = TURNS.model_copy(update={"temperature": None, "extra": {"reasoning.effort": "low"}})
    ask("openai_responses", "/v1", "/responses", handler, request, api_key_env=key)
    ask("openai_responses", "/v1", "/responses", handler, api_key_env=key)
    assert seen[0] == (
        f"Bearer {KEY}",
        {
            "model": "m",
            "input": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hello"},
                {"role": "user", "content": "bye"},
            ],
            "max_output_tokens": 5,
            "stream": True,
            "store": False,
            "reasoning": {"effort": "low"},
        },
    )
    assert seen[1][1]["temperature"] == 0.0


def test_text_usage_and_the_served_name() -> None:
    answer = responses(
        {"type": "response.created", "response": {"model": "m-2026", "status": "in_progress"}},
        delta("I must be brief.", "reasoning_text"),
        delta("Good"),
        delta("bye"),
        {"type": "response.output_text.done", "text": "Goodbye"},
        end("completed", error=None, incomplete_details=None),
    )
    assert answer.text == "Goodbye"
    assert answer.model == "m-2026"
    assert (answer.outcome, answer.finish_reason) == ("answered", "completed")
    assert answer.usage == Usage(
        input_tokens=20,
        cached_input_tokens=8,
        cache_write_5m_tokens=6,
        output_tokens=32,
        reasoning_tokens=30,
    )
    assert answer.ttft_s is not None


def test_how_likely_the_tokens_of_the_text_were() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append(body["include"])
        first = {**delta("Good"), "logprobs": [{"token": "Good", "logprob": -0.5}]}
        second = {
            **delta("bye"),
            "logprobs": [{"token": "b", "logprob": -1.5}, {"token": "ye", "logprob": -0.25}],
        }
        return await sse(request, [first, second, end("completed")])

    answer = ask("openai_responses", "/v1", "/responses", handler, UNSURE)
    assert seen == [["message.output_text.logprobs"]]
    assert answer.mean_logprob == -0.75  # -2.25 over three tokens
    assert responses(delta("Bye"), end("completed")).mean_logprob is None


@pytest.mark.parametrize(
    ("reason", "outcome"), [("max_output_tokens", "truncated"), ("content_filter", "filtered")]
)
def test_an_incomplete_answer_says_why(reason: str, outcome: Outcome) -> None:
    answer = responses(delta("Go"), end("incomplete", incomplete_details={"reason": reason}))
    assert (answer.text, answer.outcome, answer.finish_reason) == ("Go", outcome, reason)


def test_a_refusal_is_told_from_an_answer() -> None:
    answer = responses(delta("I can't help.", "refusal"), end("completed"))
    assert (answer.text, answer.outcome) == ("I can't help.", "refused")


def test_a_failed_response_is_tried_again_and_billed() -> None:
    calls: list[int] = []
    failed = end("failed", error={"code": "server_error", "message": "The model crashed."})

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(1)
        events = [delta("Go"), failed] if len(calls) == 1 else [delta("Bye"), end("completed")]
        return await sse(request, events)

    answer = ask("openai_responses", "/v1", "/responses", handler)
    assert (answer.text, answer.n_attempts, answer.n_broken_off) == ("Bye", 2, 1)
    assert answer.wasted_usage == answer.usage


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ({"code": "invalid_prompt", "message": "Bad prompt."}, "failed"),
        ({"code": "bio_policy", "message": "No."}, "filtered"),
        (
            {"code": "invalid_prompt", "message": "flagged as violating our usage policy."},
            "filtered",
        ),
        ({"code": "context_length_exceeded", "message": "Too long."}, "context_length"),
    ],
)
def test_a_response_that_fails_for_good_is_not_tried_again(
    error: dict[str, str], outcome: Outcome
) -> None:
    for event in (
        end("failed", error=error),
        {"type": "error", **error},
        {"type": "error", "error": error},
    ):
        with pytest.raises(ProviderError, match=error["message"]) as caught:
            responses(event)
        assert (caught.value.outcome, caught.value.n_attempts) == (outcome, 1)
