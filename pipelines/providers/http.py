"""Streamed HTTP calls with their clock, their retries, their rate limit and their error texts."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from pydantic import ValidationError

from pipelines.core.errors import ConfigError, ProviderError
from pipelines.core.records import Outcome, Usage
from pipelines.governance.egress import Client
from pipelines.providers import Completion, Endpoint
from pipelines.providers.throttle import Throttle

RETRIED = {408, 409, 500, 502, 503, 504, 529}
"""Statuses that may be gone at the next try; 529 is Anthropic's `overloaded`."""
NO_CREDIT = ("insufficient_quota", "billing_hard_limit", "credit balance")
"""A 429 that no waiting mends."""
MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 120.0
MAX_THROTTLED_S = 600.0
MAX_ANSWER_BYTES = 64 * 1024**2
"""Of a stream: 500 bytes for each of 128,000 tokens. What is longer is no answer."""
MAX_ERROR_BYTES = 8000
"""What is read of an error page."""
MAX_ERROR_CHARACTERS = 400
"""What is kept of it."""
FINISH_REASONS: Mapping[Outcome, Sequence[str]] = {
    "truncated": (
        "length", "max_tokens", "max_output_tokens", "MAX_TOKENS", "model_context_window_exceeded",
    ),
    "filtered": (
        "content_filter", "content_filtered", "guardrail_intervened", "SAFETY", "RECITATION",
        "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE",
    ),
    "refused": ("refusal",),
}  # fmt: skip
"""Outcome <- finish reasons of all protocols; Google's are in capitals. Others are an answer."""
OUTCOMES: Mapping[str, Outcome] = {
    reason: outcome for outcome, reasons in FINISH_REASONS.items() for reason in reasons
}
SIGNS: Mapping[Outcome, Sequence[str]] = {
    "context_length": (
        "context_length_exceeded", "maximum context length", "prompt is too long",
        "input is too long", "exceeds the context window", "exceed context limit",
        "exceeds the maximum number of tokens allowed", "but model only supports up to",
    ),
    "filtered": (
        "content_filter", "content_policy", "content management policy", "our usage policy",
        "bio_policy",
    ),
}  # fmt: skip
"""Words in the body of a 400, or in an error event, that make it the candidate's doing."""
BAD_REQUEST = ("invalid_request", "invalid_prompt", "invalid_argument", "validationexception")
"""Error events that come again however often one asks."""
LEAST_KEY = 16
"""Characters; what is shorter, such as `EMPTY`, is no secret and may be a word of an answer."""
LEAST_LOGPROB = -9999.0
"""What OpenAI and vLLM write for a token that is hardly possible."""


class StreamReader:
    """Collects one streamed answer; a provider feeds it the events of its protocol."""

    def __init__(self, model: str) -> None:
        """Start empty; `model` stands until the server names one."""
        self.parts: list[str] = []
        self.model = model
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.first_token_at: float | None = None
        self.logprobs: list[float] = []
        """Of the answer's tokens."""
        self.refused = False
        self.finished = False
        self.began = False
        """The server has begun to answer: what it sent so far may be billed."""

    def add(self, text: str) -> None:
        """Append a piece of the answer; the first non-empty one stops the TTFT clock."""
        if text and self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self.parts.append(text)


def logprob(value: object) -> float:
    """A server's logarithm of a probability, at least `LEAST_LOGPROB`; NaN when it is none.

    A broken one costs no answer, which is why this raises nothing.
    """
    if not isinstance(value, int | float) or not value < 1e-3:  # rounding may lift it above 0
        return math.nan
    return float(min(0.0, max(LEAST_LOGPROB, value)))


def logprobs_of(tokens: object) -> list[float]:
    """Those in a list of `{"logprob": number}`, as OpenAI writes it; what is no list has none."""
    return [
        logprob(token.get("logprob") if isinstance(token, dict) else None)
        for token in (tokens if isinstance(tokens, list) else ())
    ]


def mean_logprob(logprobs: Sequence[float]) -> float | None:
    """Mean over the tokens; None when one of them is not known, or there are none."""
    mean = statistics.fmean(logprobs) if logprobs else math.nan
    return None if math.isnan(mean) else mean


def usage_of(**tokens: int) -> Usage | None:
    """What was billed; None when the provider's figures contradict one another."""
    try:
        return Usage(**tokens)
    except ValidationError:
        return None


Handle = Callable[[StreamReader, dict[str, Any]], None]
Events = Callable[[aiohttp.ClientResponse], AsyncIterator[dict[str, Any]]]
"""Takes a stream apart."""


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


def own_address(endpoint: Endpoint, form: str) -> str:
    """The base URL of a provider without a public one; `form` shows what it looks like.

    Raises:
        ConfigError: there is none.
    """
    if endpoint.base_url is None:
        raise ConfigError(f"the candidate has no base_url; it looks like {form}")
    return endpoint.base_url.rstrip("/")


def with_fields(body: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """`body` and `fields`, which win; the name `a.b` means the field `b` inside `a`."""
    merged = dict(body)
    for name, value in fields.items():
        *parents, leaf = name.split(".")
        node = merged
        for parent in parents:
            child = node.get(parent)
            node[parent] = dict(child) if isinstance(child, dict) else {}
            node = node[parent]
        node[leaf] = value
    return merged


async def server_sent_events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """JSON payloads of a server-sent event stream."""
    async for raw in answer.content:
        line = raw.decode("utf-8", errors="replace").strip()
        if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
            event = json.loads(data)
            if isinstance(event, dict):
                yield event


class Caller:
    """Calls of one provider: its slots, its retries, its clock."""

    def __init__(self, client: Client, endpoint: Endpoint) -> None:
        """Speak to `endpoint` through `client`."""
        self.client = client
        self.endpoint = endpoint
        self.throttle = Throttle(endpoint.concurrency)
        self._key = api_key(endpoint)

    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any],
        handle: Handle,
        *,
        model: str | None = None,
        events: Events = server_sent_events,
    ) -> Completion:
        """POST `body`, feed the events to `handle`, return the answer with its clock.

        The clock is that of the last attempt; how many there were is in `n_attempts`. A rate
        limit makes everybody wait and does not count as a try, for `MAX_THROTTLED_S` at most.

        Args:
            url: the whole address.
            headers: with the key.
            body: sent as JSON.
            handle: feeds a `StreamReader` with one event.
            model: what was asked for, where `body` does not say it.
            events: takes the stream apart.

        Raises:
            ProviderError: refused for good, or still failing after `endpoint.max_attempts`.
        """
        n_attempts = n_failures = n_broken_off = 0
        wasted: Usage | None = None
        give_up_at = time.monotonic() + MAX_THROTTLED_S
        while True:
            n_attempts += 1
            reader = StreamReader(model or str(body.get("model", "")))
            try:
                async with self.throttle:
                    return await self._attempt(
                        url, headers, body, handle, events, reader, n_attempts, wasted, n_broken_off
                    )
            except _RateLimited as limit:
                problem, throttled = str(limit), time.monotonic() < give_up_at
                self.throttle.slow_down(
                    random.uniform(0.5, 1.5) if limit.retry_after_s is None else limit.retry_after_s
                )
            except Transient as fault:
                problem, throttled = str(fault), False
            except ProviderError as error:
                error.args = (self._shown(str(error)),)
                error.n_attempts, error.wasted_usage = n_attempts, _sum(wasted, reader.usage)
                error.n_broken_off = n_broken_off + reader.began
                raise
            wasted = _sum(wasted, reader.usage)
            n_broken_off += reader.began
            n_failures += not throttled
            if n_failures == self.endpoint.max_attempts:
                error = ProviderError(f"{self._shown(problem)} ({n_attempts} attempts)")
                error.n_attempts, error.wasted_usage = n_attempts, wasted
                error.n_broken_off = n_broken_off
                raise error
            if not throttled:
                # Full jitter, so that 64 failed calls do not come back in the same instant.
                await asyncio.sleep(random.uniform(0, min(MAX_WAIT_S, 0.5 * 2**n_failures)))

    def _shown(self, problem: str) -> str:
        """An error's text on one printable line, without the key that a server may repeat."""
        text = problem.replace(self._key, "[key]") if self._key else problem
        printable = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(printable.split())[:MAX_ERROR_CHARACTERS]

    def _without_key(self, text: str) -> str:
        """A server's text; more people read the files that it ends up in than know the key."""
        secret = self._key is not None and len(self._key) >= LEAST_KEY
        return text.replace(str(self._key), "[key]") if secret else text

    async def _attempt(
        self,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any],
        handle: Handle,
        events: Events,
        reader: StreamReader,
        n_attempts: int,
        wasted: Usage | None,
        n_broken_off: int,
    ) -> Completion:
        started_at_s, start = time.time(), time.perf_counter()
        timeout_s = self.endpoint.timeout_s
        try:
            async with self.client.post(url, body, headers, timeout_s) as answer:
                if answer.status != 200:
                    raise _refusal(answer.status, answer.headers, await _beginning(answer))
                reader.began = True
                async for event in events(answer):
                    handle(reader, event)
                    if answer.content.total_bytes > MAX_ANSWER_BYTES:
                        raise ProviderError(f"the answer has no end: {MAX_ANSWER_BYTES:,} bytes")
            if not reader.finished:
                raise Transient("the stream ended before the answer did")
            first = reader.first_token_at
            completion = Completion(
                text=self._without_key("".join(reader.parts)),
                model=self._without_key(reader.model),
                usage=reader.usage,
                finish_reason=reader.finish_reason and self._without_key(reader.finish_reason),
                outcome="refused"
                if reader.refused
                else OUTCOMES.get(reader.finish_reason or "", "answered"),
                ttft_s=None if first is None else first - start,
                latency_s=time.perf_counter() - start,
                started_at_s=started_at_s,
                n_attempts=n_attempts,
                wasted_usage=wasted,
                n_broken_off=n_broken_off,
                mean_logprob=mean_logprob(reader.logprobs),
            )
        except TimeoutError:
            raise Transient(f"no complete answer within {self.endpoint.timeout_s:g} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Transient(f"{type(error).__name__}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # Broken JSON, a line without end, an event of another shape: nobody's answer.
            raise Transient(f"malformed event: {type(error).__name__}: {error}") from None
        self.throttle.speed_up()
        return completion


class Transient(Exception):
    """May be gone at the next try."""


def error_event(error: object) -> Exception:
    """An error that came inside the stream: a filter's, the request's own, or one that passes."""
    text = str(error).casefold()
    problem = f"error inside the stream: {error}"
    for outcome, signs in SIGNS.items():
        if any(sign in text for sign in signs):
            return ProviderError(problem, outcome)
    bad = any(sign in text for sign in BAD_REQUEST)
    return ProviderError(problem) if bad else Transient(problem)


class _RateLimited(Exception):
    """HTTP 429, or 503 and 529 with a time to come back."""

    def __init__(self, problem: str, retry_after_s: float | None) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


def _refusal(status: int, headers: Mapping[str, str], text: str) -> Exception:
    """What a status other than 200 means."""
    problem = f"HTTP {status}: {text}"
    named = re.search(r'"retryDelay":\s*"([\d.]+)s"', text)  # where Google puts it
    retry_after_s = _retry_after(headers.get("Retry-After") or (named[1] if named else None))
    if status == 429 and not any(sign in text.casefold() for sign in NO_CREDIT):
        return _RateLimited(problem, retry_after_s)
    if status in (503, 529) and retry_after_s is not None:
        return _RateLimited(problem, retry_after_s)
    if status in RETRIED:
        return Transient(problem)
    reason = text[:MAX_ERROR_CHARACTERS].casefold()  # further on, a server may repeat the prompt
    for outcome, signs in SIGNS.items():
        if status in (400, 413, 422) and any(sign in reason for sign in signs):
            return ProviderError(problem, outcome)
    return ProviderError(problem)


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    return one + other if one and other else one or other


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """The beginning of an error page."""
    try:
        raw = await answer.content.readexactly(MAX_ERROR_BYTES)
    except asyncio.IncompleteReadError as end:
        raw = end.partial
    return raw.decode("utf-8", errors="replace")


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
