"""Streamed HTTP calls with their clock, their retries, their rate limit and their error texts."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from pipelines.core.errors import ConfigError, ProviderError
from pipelines.core.records import Outcome, Usage
from pipelines.providers import Completion, Endpoint
from pipelines.providers.throttle import Throttle

RETRIED = {408, 409, 500, 502, 503, 504, 529}
"""Statuses that may be gone at the next try; 529 is Anthropic's `overloaded`."""
NO_CREDIT = ("insufficient_quota", "billing_hard_limit", "credit balance")
"""A 429 that no waiting mends."""
MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 120.0
MAX_THROTTLED_S = 600.0
OUTCOMES: Mapping[str, Outcome] = {
    "length": "truncated",
    "max_tokens": "truncated",
    "content_filter": "filtered",
    "refusal": "refused",
}
"""Finish reason of the OpenAI and Anthropic protocols -> outcome; anything else is an answer."""
SIGNS: Mapping[Outcome, Sequence[str]] = {
    "context_length": (
        "context_length_exceeded", "maximum context length", "prompt is too long",
        "input is too long", "exceeds the context window",
    ),
    "filtered": ("content_filter", "content_policy", "content management policy"),
}  # fmt: skip
"""Words in the body of a 400 that make it the candidate's doing."""


class StreamReader:
    """Collects one streamed answer; a provider feeds it the events of its protocol."""

    def __init__(self, model: str) -> None:
        """Start empty; `model` stands until the server names one."""
        self.parts: list[str] = []
        self.model = model
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.first_token_at: float | None = None
        self.refused = False
        self.finished = False
        self.began = False
        """The server has begun to answer: what it sent so far may be billed."""

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


class Caller:
    """Calls of one provider: its slots, its retries, its clock."""

    def __init__(self, client: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        """Speak to `endpoint` through `client`."""
        self.client = client
        self.endpoint = endpoint
        self.throttle = Throttle(endpoint.concurrency)

    async def stream(
        self, url: str, headers: Mapping[str, str], body: Mapping[str, Any], handle: Handle
    ) -> Completion:
        """POST `body`, feed the server-sent events to `handle`, return the answer with its clock.

        The clock is that of the last attempt; how many there were is in `n_attempts`. A rate
        limit makes everybody wait and does not count as a try, for `MAX_THROTTLED_S` at most.

        Raises:
            ProviderError: refused for good, or still failing after `endpoint.max_attempts`.
        """
        n_attempts = n_failures = n_broken_off = 0
        wasted: Usage | None = None
        give_up_at = time.monotonic() + MAX_THROTTLED_S
        while True:
            n_attempts += 1
            reader = StreamReader(str(body.get("model", "")))
            try:
                async with self.throttle:
                    return await self._attempt(
                        url, headers, body, handle, reader, n_attempts, wasted, n_broken_off
                    )
            except _RateLimited as limit:
                problem, throttled = str(limit), time.monotonic() < give_up_at
                self.throttle.slow_down(
                    random.uniform(0.5, 1.5) if limit.retry_after_s is None else limit.retry_after_s
                )
            except Transient as fault:
                problem, throttled = str(fault), False
            except ProviderError as error:
                error.n_attempts, error.wasted_usage = n_attempts, _sum(wasted, reader.usage)
                error.n_broken_off = n_broken_off + reader.began
                raise
            wasted = _sum(wasted, reader.usage)
            n_broken_off += reader.began
            n_failures += not throttled
            if n_failures == self.endpoint.max_attempts:
                error = ProviderError(f"{problem} ({n_attempts} attempts)")
                error.n_attempts, error.wasted_usage = n_attempts, wasted
                error.n_broken_off = n_broken_off
                raise error
            if not throttled:
                # Full jitter, so that 64 failed calls do not come back in the same instant.
                await asyncio.sleep(random.uniform(0, min(MAX_WAIT_S, 0.5 * 2**n_failures)))

    async def _attempt(
        self,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any],
        handle: Handle,
        reader: StreamReader,
        n_attempts: int,
        wasted: Usage | None,
        n_broken_off: int,
    ) -> Completion:
        started_at_s, start = time.time(), time.perf_counter()
        timeout = aiohttp.ClientTimeout(total=self.endpoint.timeout_s)
        try:
            async with self.client.post(url, json=body, headers=headers, timeout=timeout) as answer:
                if answer.status != 200:
                    raise _refusal(answer.status, answer.headers, await _beginning(answer))
                reader.began = True
                async for event in _events(answer):
                    handle(reader, event)
        except TimeoutError:
            raise Transient(f"no complete answer within {self.endpoint.timeout_s:g} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Transient(f"{type(error).__name__}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Broken JSON, a line without end, an event of another shape: nobody's answer.
            raise Transient(f"malformed event: {type(error).__name__}: {error}"[:300]) from None
        if not reader.finished:
            raise Transient("the stream ended before the answer did")
        self.throttle.speed_up()
        first = reader.first_token_at
        return Completion(
            text="".join(reader.parts),
            model=reader.model,
            usage=reader.usage,
            finish_reason=reader.finish_reason,
            outcome="refused"
            if reader.refused
            else OUTCOMES.get(reader.finish_reason or "", "answered"),
            ttft_s=None if first is None else first - start,
            latency_s=time.perf_counter() - start,
            started_at_s=started_at_s,
            n_attempts=n_attempts,
            wasted_usage=wasted,
            n_broken_off=n_broken_off,
        )


class Transient(Exception):
    """May be gone at the next try."""


def error_event(error: object) -> Exception:
    """An error that came inside the stream: a filter's, the request's own, or one that passes."""
    text = str(error)[:300]
    problem = f"error inside the stream: {text}"
    for outcome, signs in SIGNS.items():
        if any(sign in text.casefold() for sign in signs):
            return ProviderError(problem, outcome)
    return ProviderError(problem) if "invalid_request" in text else Transient(problem)


class _RateLimited(Exception):
    """HTTP 429, or 503 and 529 with a time to come back."""

    def __init__(self, problem: str, retry_after_s: float | None) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


def _refusal(status: int, headers: Mapping[str, str], text: str) -> Exception:
    """What a status other than 200 means."""
    problem = f"HTTP {status}: {text}"
    retry_after_s = _retry_after(headers.get("Retry-After"))
    if status == 429 and not any(sign in text.casefold() for sign in NO_CREDIT):
        return _RateLimited(problem, retry_after_s)
    if status in (503, 529) and retry_after_s is not None:
        return _RateLimited(problem, retry_after_s)
    if status in RETRIED:
        return Transient(problem)
    for outcome, signs in SIGNS.items():
        if status in (400, 413, 422) and any(sign in text.casefold() for sign in signs):
            return ProviderError(problem, outcome)
    return ProviderError(problem)


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    return one + other if one and other else one or other


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """The first words of an error page, on one line."""
    raw = await answer.content.read(2000)
    return " ".join(raw.decode("utf-8", errors="replace").split())[:300]


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """JSON payloads of a server-sent event stream."""
    async for raw in answer.content:
        line = raw.decode("utf-8", errors="replace").strip()
        if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
            event = json.loads(data)
            if isinstance(event, dict):
                yield event


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, `MAX_RETRY_AFTER_S` at most; None without a header that can be read."""
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(MAX_RETRY_AFTER_S, max(0.0, wait_s)) if math.isfinite(wait_s) else None
