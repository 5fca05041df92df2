"""The key of an embedder goes to its server and stands in no error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import UserError
from pipelines.core.workload import Embedder
from pipelines.governance.egress import Gate
from pipelines.retrieval import embedder as of_retrieval
from tests.conftest import scripted_server

KEY = "sk-0123456789-secret"


def test_a_server_that_repeats_the_key_does_not_get_it_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBEDDER_KEY", KEY)
    seen: list[str] = []

    async def echo(request: web.Request, body: dict[str, Any]) -> web.Response:
        seen.append(request.headers["Authorization"])
        # At the place where the text is cut: half a key would be left.
        return web.Response(status=401, text=f"{'x' * 290}{KEY}")

    async def go() -> None:
        async with scripted_server("/v1/embeddings", echo) as url:
            spec = Embedder(base_url=f"{url}/v1", model="m", api_key_env="EMBEDDER_KEY")
            await of_retrieval._endpoint([["text"]], spec, f"{url}/v1", Gate("w", "public"))

    with pytest.raises(UserError, match=r"HTTP 401: x{290}\[key\]") as caught:
        asyncio.run(go())
    assert seen == [f"Bearer {KEY}"]
    assert KEY[:4] not in str(caught.value)
