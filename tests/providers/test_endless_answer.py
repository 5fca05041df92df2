"""A server that never stops is cut, by bytes or by time, and what it may bill is counted."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import ProviderError
from pipelines.providers import http
from tests.conftest import Handler
from tests.providers.conftest import ask

PIECE = {"choices": [{"index": 0, "delta": {"content": "x" * 4000}, "finish_reason": None}]}
EVENT = f"data: {json.dumps(PIECE)}\n\n".encode()


def cut(handler: Handler, **more: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ask("openai_compatible", "/v1", "/chat/completions", handler, **more)
    return caught.value


async def flood(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:  # until the other side hangs up
        await response.write(EVENT)


async def trickle(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(EVENT)
        await asyncio.sleep(0.02)


async def bomb(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    packed = gzip.compress(EVENT * 2000)  # 8 MB in less than 60 kB
    assert len(packed) < 60_000
    return web.Response(body=packed, headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("handler", [flood, bomb])
def test_bytes_without_end_are_cut_once_and_for_good(
    monkeypatch: pytest.MonkeyPatch, handler: Handler
) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 1_000_000)
    error = cut(handler, timeout_s=20, max_attempts=4)
    assert str(error) == "the answer has no end: 1,000,000 bytes"
    assert (error.n_attempts, error.n_broken_off) == (1, 1)


def test_an_answer_without_end_is_cut_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.providers.http.random.uniform", lambda *_: 0.0)
    error = cut(trickle, timeout_s=0.2, max_attempts=2)
    assert str(error) == "no complete answer within 0.2 s (2 attempts)"
    assert (error.n_attempts, error.n_broken_off) == (2, 2)


def test_the_limit_is_above_the_longest_real_answer() -> None:
    assert http.MAX_ANSWER_BYTES > 128_000 * 500
