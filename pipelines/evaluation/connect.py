"""A connection to the model behind a candidate or a judge."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp

from pipelines import providers
from pipelines.core.candidate import Baseline, Own, Rent
from pipelines.core.study import EvaluateConfig
from pipelines.providers.hedge import hedged


@asynccontextmanager
async def connected(
    model: Rent | Own | Baseline, base_url: str | None, config: EvaluateConfig
) -> AsyncGenerator[providers.Ask]:
    """Speak to `model`: to a server of ours at `base_url`, or to the provider it names.

    Args:
        model: only a rented one that is not simulated brings its provider and its key.
        base_url: None = the provider's public address.
        config: timeout, attempts and concurrency.
    """
    public = model if isinstance(model, Rent) and not model.simulated else None
    where = providers.Endpoint(
        base_url=base_url,
        api_key_env=public.api_key_env if public else None,
        timeout_s=config.timeout_s,
        max_attempts=config.max_attempts,
        concurrency=config.concurrency,
    )
    connect = providers.load(public.provider if public else "openai_compatible")
    connector = aiohttp.TCPConnector(limit=config.concurrency)
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        connect(where, client) as ask,
    ):
        yield hedged(ask, config.hedge_after_s) if public and config.hedge_after_s else ask
