"""The sender against a real server in another process: it neither waits nor loses anything."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web

from pipelines.core.paths import ROOT
from pipelines.core.records import Message, Usage
from pipelines.governance.egress import Gate
from pipelines.load.measures import latency_s, tpot_s
from pipelines.load.send import Exchange, connected, send
from pipelines.providers import ChatRequest, Endpoint
from tests.conftest import Handler, scripted_server, sse

pytestmark = pytest.mark.alone
GATE = Gate("test", "public")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """scripts/benchmarks/load.py: the same server and figures, here at a small scale."""
    path = ROOT / "scripts" / "benchmarks" / "load.py"
    spec = importlib.util.spec_from_file_location("load_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def question(text: str = "hello") -> ChatRequest:
    turn = Message(role="user", content=text)
    return ChatRequest(model="m", messages=(turn,), max_output_tokens=5)


@asynccontextmanager
async def sending(handler: Handler, **endpoint: Any) -> AsyncGenerator[Any]:
    """`send` bound to a scripted server."""
    async with scripted_server("/chat/completions", handler) as url:
        where = Endpoint(base_url=url, **endpoint)
        async with connected(GATE, "test", where, "openai_compatible") as ask:
            yield lambda requests, due: send(ask, requests, due, step=7)


def event(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"delta": {"content": text}} | more]}


def test_a_frozen_server_shows_in_the_users_latency(bench: ModuleType) -> None:
    with bench.server(1000, 0.02) as (url, pid):

        def freeze() -> None:
            time.sleep(0.6)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(2.0)
            os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=freeze)
        thread.start()
        found: list[Exchange] = bench.load(url, "constant", 50.0, 200, 0)
        thread.join()
    latencies = sorted(late for e in found if (late := latency_s(e)) is not None)
    assert len(latencies) == 200
    assert latencies[-1] >= 1.9
    # A hundred of the two hundred were due while it stood, evenly: so many waited over a second.
    assert 35 <= sum(late > 1.0 for late in latencies) <= 80
    # None was held back because of them.
    assert all(e.sent_s is not None and e.sent_s - e.intended_s < 0.5 for e in found)


def test_the_capacity_of_a_real_server_is_found(bench: ModuleType) -> None:
    """16 slots of 0.2 s carry 80 evenly spaced requests a second."""
    with bench.server(16, 0.2) as (url, _):
        found = bench.capacity(url, 60.0, seconds=0.5, limit_s=1.0)
    # How exact it is, scripts/bench says; a machine busy with other tests may carry less.
    assert 40 < found.per_s < 90
    assert found.low <= found.per_s < found.high < 110


def test_times_tokens_and_gaps_of_a_stream() -> None:
    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for text, wait_s in (("", 0.0), ("a", 0.1), ("b", 0.1), ("c", 0.2)):
            await asyncio.sleep(wait_s)
            await response.write(f"data: {json.dumps(event(text))}\n\n".encode())
        cache = {"cached_tokens": 2, "cache_write_tokens": 4}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": cache}
        last = event("", finish_reason="stop") | {"usage": usage}
        await response.write(f"data: {json.dumps(last)}\n\n".encode())
        return response

    async def run() -> list[Exchange]:
        async with sending(slowly) as load:
            return await load([("x", question()), ("y", question())], [0.05, 0.1])

    first, second = asyncio.run(run())
    assert (first.example_id, second.example_id, first.step) == ("x", "y", 7)
    assert (first.intended_s, second.intended_s) == (0.05, 0.1)
    assert first.sent_s is not None
    assert first.first_token_s is not None
    assert first.sent_s >= first.intended_s
    # The empty piece that opens the stream is no token.
    assert first.first_token_s - first.sent_s >= 0.099
    assert len(first.gaps_s) == 2
    assert first.gaps_s[0] >= 0.09
    assert first.gaps_s[1] >= 0.19
    assert first.usage == Usage(
        input_tokens=9, cached_input_tokens=2, cache_write_5m_tokens=4, output_tokens=3
    )
    per_token = tpot_s(first)
    assert per_token is not None
    assert per_token >= 0.145  # 0.3 s for two tokens after the first


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_is_an_exchange_and_is_not_tried_again(status: int) -> None:
    n_asked = 0

    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal n_asked
        n_asked += 1
        return web.Response(status=status, text="no", headers={"Retry-After": "0"})

    async def run() -> list[Exchange]:
        async with sending(refuse) as load:
            return await load([("x", question())], [0.0])

    [only] = asyncio.run(run())
    assert only.error == f"HTTP {status}: no"
    assert (only.first_token_s, only.usage, latency_s(only)) == (None, None, None)
    assert n_asked == 1


def test_an_answer_that_breaks_off_or_never_comes_is_an_error() -> None:
    async def cut(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["messages"][0]["content"] == "hang":
            await asyncio.sleep(5)
        return await sse(request, [event("a")])

    async def run() -> list[Exchange]:
        async with sending(cut, timeout_s=0.3) as load:
            return await load([("x", question("cut")), ("y", question("hang"))], [0.0, 0.0])

    broken, silent = asyncio.run(run())
    assert broken.error is not None
    assert "stream ended" in broken.error
    assert silent.error is not None
    assert "no complete answer within 0.3 s" in silent.error


def test_no_server_is_an_error_of_each_request() -> None:
    async def run() -> list[Exchange]:
        where = Endpoint(base_url="http://127.0.0.1:9")
        async with connected(GATE, "test", where, "openai_compatible") as ask:
            return await send(ask, [("x", question())], [0.0])

    [only] = asyncio.run(run())
    assert only.error is not None
    assert only.sent_s is None


def test_the_key_is_not_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOAD_TEST_KEY", "sk-very-secret")

    async def echo(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=401, text=f"bad {request.headers['Authorization']}")

    async def run() -> list[Exchange]:
        async with sending(echo, api_key_env="LOAD_TEST_KEY") as load:
            return await load([("x", question())], [0.0])

    [only] = asyncio.run(run())
    assert only.error == "HTTP 401: bad Bearer [key]"


def test_another_protocol_is_asked_through_its_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOAD_TEST_KEY", "k")

    async def claude(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await sse(
            request,
            [
                {"type": "message_start", "message": {"usage": {"input_tokens": 4}}},
                {"type": "content_block_delta", "delta": {"text": "hi"}},
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"output_tokens": 2},
                },
                {"type": "message_stop"},
            ],
        )

    async def run() -> list[Exchange]:
        async with scripted_server("/v1/messages", claude) as url:
            where = Endpoint(base_url=url, api_key_env="LOAD_TEST_KEY")
            async with connected(GATE, "test", where, "anthropic") as ask:
                return await send(ask, [("x", question())], [0.1])

    [only] = asyncio.run(run())
    assert only.error is None
    assert only.sent_s is not None
    assert only.first_token_s is not None
    assert only.first_token_s - only.sent_s >= 0.045
    assert only.gaps_s == ()
    assert only.usage == Usage(input_tokens=4, output_tokens=2)
