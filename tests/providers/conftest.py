"""What every test of a provider may use: one question, and a way to ask a scripted server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipelines import providers
from pipelines.core.records import Message
from pipelines.governance.egress import Gate, open_client
from pipelines.providers import ChatRequest, Completion, Endpoint
from tests.conftest import Handler, scripted_server

GATE = Gate("test", "public")
KEY = "sk-0123456789-secret"
REQUEST = ChatRequest(
    model="m",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="hi")),
    max_output_tokens=5,
)
UNSURE = REQUEST.model_copy(update={"logprobs": True})
"""Asks how likely each token was, too."""
TURNS = REQUEST.model_copy(
    update={
        "messages": (
            Message(role="system", content="Be brief."),
            Message(role="user", content="hi"),
            Message(role="assistant", content="hello"),
            Message(role="user", content="bye"),
        )
    }
)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key, and the variable that holds it."""
    monkeypatch.setenv("TEST_KEY", KEY)
    return "TEST_KEY"


def ask(
    provider: str,
    base: str,
    route: str,
    handler: Handler,
    request: ChatRequest = REQUEST,
    **more: Any,
) -> Completion:
    """Ask a scripted server that answers at `base` + `route`; `base` ends the base URL."""

    async def go() -> Completion:
        async with scripted_server(base + route, handler) as url:
            async with open_client(GATE, "test", url) as client:
                where = Endpoint(**{"base_url": url + base, "timeout_s": 2, **more})
                async with providers.load(provider)(where, client) as send:
                    return await send(request)

    return asyncio.run(go())
