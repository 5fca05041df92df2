"""One streamed HTTP call with its clock, its retries and its error text."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from pipelines.core.errors import ConfigError, ProviderError
from pipelines.core.records import Usage
from pipelines.providers import Completion, Endpoint

RETRIED = {408, 409, 429, 500, 502, 503, 504, 529}
"""Statuses that may be gone at the next try; 529 is Anthropic's `overloaded`."""
MAX_WAIT_S = 30.0


class StreamReader:
    """Collects one streamed answer; a provider feeds it the events of its protocol."""

    def __init__(self, model: str) -> None:
        """Start empty; `model` stands until the server names one."""
        self.parts: list[str] = []
        self.model = model
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.first_token_at: float | None = None
        self.finished = False

    def add(self, text: str) -> None:
        """Append a piece of the answer; the first non-empty one stops the TTFT clock."""
        if text and self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self.parts.append(text)


Handle = Callable[[StreamReader, dict[str, Any]], None]


def api_key(endpoint: Endpoint) -> str | None:
    """The key from the environment, None when the endpoint needs none.

    Raises:
        ConfigError: the variable is named and not set.
    """
    if endpoint.api_key_env is None:
        return None
    key = os.environ.get(endpoint.api_key_env)
    if not key:
        raise ConfigError(f"environment variable {endpoint.api_key_env} is not set")
    return key


async def stream(
    client: aiohttp.ClientSession,
    endpoint: Endpoint,
    url: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    handle: Handle,
) -> Completion:
    """POST `body`, feed the server-sent events to `handle`, return the answer with its clock.

    The clock is that of the last attempt; how many there were is in `n_attempts`.

    Raises:
        ProviderError: refused for good, or still failing after `endpoint.max_attempts`.
    """
    for attempt in range(1, endpoint.max_attempts + 1):
        reader = StreamReader(str(body.get("model", "")))
        started_at_s, start = time.time(), time.perf_counter()
        wait_s: float | None = None
        try:
            async with client.post(
                url,
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s),
            ) as answer:
                if answer.status == 200:
                    async for event in _events(answer):
                        handle(reader, event)
                    if reader.finished:
                        end = time.perf_counter()
                        first = reader.first_token_at
                        return Completion(
                            text="".join(reader.parts),
                            model=reader.model,
                            usage=reader.usage,
                            finish_reason=reader.finish_reason,
                            ttft_s=None if first is None else first - start,
                            latency_s=end - start,
                            started_at_s=started_at_s,
                            n_attempts=attempt,
                        )
                    problem = "the stream ended before the answer did"
                else:
                    text = " ".join((await answer.text(errors="replace"))[:300].split())
                    problem = f"HTTP {answer.status}: {text}"
                    if answer.status not in RETRIED:
                        raise ProviderError(problem)
                    wait_s = _retry_after(answer.headers.get("Retry-After"))
        except TimeoutError:
            problem = f"no complete answer within {endpoint.timeout_s:g} s"
        except (aiohttp.ClientError, ConnectionError, json.JSONDecodeError) as error:
            problem = f"{type(error).__name__}: {error}"
        if attempt == endpoint.max_attempts:
            raise ProviderError(f"{problem} ({attempt} attempts)")
        # Full jitter, so that 64 throttled calls do not come back in the same instant.
        backoff = random.uniform(0, min(MAX_WAIT_S, 0.5 * 2**attempt))
        await asyncio.sleep(min(wait_s, MAX_WAIT_S) if wait_s is not None else backoff)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """JSON payloads of a server-sent event stream."""
    async for raw in answer.content:
        line = raw.decode("utf-8", errors="replace").strip()
        if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
            event = json.loads(data)
            if isinstance(event, dict):
                yield event


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait; None when the header is absent or an HTTP date."""
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
