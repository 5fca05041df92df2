"""OpenAI's models on Azure: chat completions of the v1 API; `model` is the deployment's name.

`base_url` is `https://NAME.openai.azure.com/openai/v1`, which needs no API version.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pipelines.governance.egress import Client
from pipelines.providers import Ask, Endpoint
from pipelines.providers.http import Caller, api_key, own_address
from pipelines.providers.openai_compatible import chat

ADDRESS = "https://NAME.openai.azure.com/openai/v1"
SERVICE_TIER = "service_tier"
LOGPROBS = True


@asynccontextmanager
async def connect(endpoint: Endpoint, client: Client) -> AsyncGenerator[Ask]:
    """Speak to `endpoint`."""
    base_url = own_address(endpoint, ADDRESS)
    headers = {"api-key": api_key(endpoint) or ""}
    yield chat(Caller(client, endpoint), base_url, headers, "max_completion_tokens")
