"""Hedged requests against a scripted server: what comes first counts, and nothing is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from pipelines import providers
from pipelines.core.errors import ProviderError
from pipelines.core.records import Usage
from pipelines.governance.egress import open_client
from pipelines.providers import Completion, Endpoint
from pipelines.providers.hedge import hedged
from tests.conftest import scripted_server, sse
from tests.providers.conftest import GATE, REQUEST


def ask(delays_s: Sequence[float], statuses: Sequence[int] = (200, 200)) -> tuple[Completion, int]:
    """The hedged answer to a server that delays its k-th answer, and how many calls it saw."""
    n_calls = 0

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal n_calls
        k, n_calls = n_calls, n_calls + 1
        await asyncio.sleep(delays_s[k])
        if statuses[k] != 200:
            return web.Response(status=statuses[k], text="no")
        choice = {"index": 0, "delta": {"content": f"call {k}"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        return await sse(request, [{"choices": [choice]}, {"choices": [], "usage": usage}])

    async def go() -> Completion:
        connect = providers.load("openai_compatible")
        async with scripted_server("/v1/chat/completions", handler) as url:
            async with open_client(GATE, "test", url) as client:
                async with connect(Endpoint(base_url=f"{url}/v1", max_attempts=1), client) as send:
                    return await hedged(send, after_s=0.2)(REQUEST)

    return asyncio.run(go()), n_calls


@pytest.mark.alone
def test_a_quick_answer_is_not_asked_for_twice() -> None:
    answer, n_calls = ask([0])
    assert (answer.text, n_calls, answer.n_attempts, answer.n_broken_off) == ("call 0", 1, 1, 0)


def test_the_second_call_overtakes_and_the_clock_runs_from_the_first() -> None:
    answer, n_calls = ask([5, 0])
    assert (answer.text, n_calls, answer.n_attempts) == ("call 1", 2, 2)
    assert 0.2 <= answer.latency_s < 2
    assert answer.ttft_s is not None
    assert answer.ttft_s >= 0.2
    assert answer.n_broken_off == 1  # the first one may be billed, and nobody says how much


@pytest.mark.alone
def test_the_first_call_may_still_win() -> None:
    answer, _ = ask([0.4, 5])
    assert (answer.text, answer.n_attempts, answer.n_broken_off) == ("call 0", 2, 1)
    assert 0.4 <= answer.latency_s < 2


def test_a_failed_second_call_leaves_the_first_one_its_time() -> None:
    answer, _ = ask([0.5, 0], statuses=[200, 500])
    assert (answer.text, answer.n_attempts) == ("call 0", 2)
    assert answer.n_broken_off == 0  # an error page is no begun answer


def test_two_failures_are_one_error_with_both_attempts() -> None:
    with pytest.raises(ProviderError, match="HTTP 500") as caught:
        ask([0.4, 0.3], statuses=[500, 500])
    assert caught.value.n_attempts == 2


def test_an_answer_that_came_too_late_is_paid_for() -> None:
    async def go() -> Completion:
        calls = 0

        async def both_at_once(request: object) -> Completion:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.2 if calls == 1 else 0.1)
            return Completion(
                text="a", model="m", usage=Usage(input_tokens=10, output_tokens=2), n_attempts=1,
                finish_reason="stop", ttft_s=0.05, latency_s=0.1, started_at_s=100.0,
            )  # fmt: skip

        return await hedged(both_at_once, after_s=0.1)(REQUEST)

    answer = asyncio.run(go())
    # Either one call was cancelled (its tokens unknown), or both answered (and both are paid).
    assert (answer.n_broken_off, answer.wasted_usage) in (
        (1, None),
        (0, Usage(input_tokens=10, output_tokens=2)),
    )
