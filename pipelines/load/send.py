"""Send each request when it is due, however many are still open, and note when what came back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
from aiohttp.tracing import TraceRequestChunkSentParams

from pipelines import providers
from pipelines.core.errors import FreeholdError, ProviderError
from pipelines.core.records import Record, Usage
from pipelines.governance.egress import Gate, open_client
from pipelines.providers import Ask, ChatRequest, Completion, Endpoint, openai_compatible
from pipelines.providers.http import Caller, Events, Handle, StreamReader, server_sent_events

LEAD_S = 0.05
"""Between the call and the start of the schedule."""
SPIN_S = 0.0015
"""The event loop's timers are late by up to a millisecond; the rest of a wait is spun."""
AHEAD = 10
"""Steps of niceness by which the sender goes before a server on the same machine, where allowed."""

KEEP_S = 2.0
"""A connection is used again within this time; vLLM closes idle ones after 5 s, and a request that
meets the closing would look like a failure of the model."""


class Exchange(Record):
    """One request and its answer. All times are seconds after the start of the step."""

    example_id: str
    step: int = 0
    intended_s: float
    sent_s: float | None
    """When the request went to the socket; None when there was no connection."""
    first_token_s: float | None = None
    last_token_s: float | None = None
    end_s: float
    """When the stream had ended, or the request had failed."""
    gaps_s: tuple[float, ...] = ()
    """Between pieces of the answer."""
    usage: Usage | None = None
    """None when the provider reported none."""
    error: str | None = None
    """Why there is no answer; such a request keeps no limit."""


@dataclass
class _Clock:
    """Times of one request, `time.perf_counter` seconds."""

    sent: float | None = None
    pieces: list[float] = field(default_factory=list)


_CLOCK: ContextVar[_Clock] = ContextVar("clock of this request")


class _OneTry(Caller):
    """Neither waits for a slot nor tries again, and notes when each piece of text comes."""

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
        """POST once.

        Raises:
            ProviderError: whatever went wrong, a rate limit included.
        """
        clock = _CLOCK.get(None) or _Clock()

        def noting(reader: StreamReader, event: dict[str, Any]) -> None:
            before = len(reader.parts)
            handle(reader, event)
            if any(reader.parts[before:]):
                clock.pieces.append(time.perf_counter())

        reader = StreamReader(model or str(body.get("model", "")))
        try:
            return await self._attempt(url, headers, body, noting, events, reader, 1, None, 0)
        except FreeholdError:
            raise
        except Exception as error:  # a rate limit and a broken stream have types of their own
            raise ProviderError(self._shown(str(error))) from None


@asynccontextmanager
async def connected(gate: Gate, who: str, endpoint: Endpoint, provider: str) -> AsyncGenerator[Ask]:
    """A provider without a limit on open requests, whose requests have clocks.

    What speaks the OpenAI protocol is asked once, and each piece of an answer is timed. The other
    providers are asked as in an evaluation: the waits that their rate limit orders are inside the
    latency, and there are no gaps between pieces.

    Args:
        gate: asked before every request.
        who: the candidate, in words.
        endpoint: where; its `max_attempts` and `concurrency` are not used.
        provider: a file in pipelines/providers/.

    Raises:
        ConfigError: no such provider, or its key is not set.
        Refused: the policy says no.
    """
    unlimited = endpoint.model_copy(update={"max_attempts": 1, "concurrency": 1_000_000})
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_note_sent)
    url = providers.address(provider, endpoint.base_url)
    async with open_client(
        gate, who, url, traces=[trace], limit=0, keepalive_timeout=KEEP_S
    ) as client:
        connect = providers.load(provider)
        if provider == "openai_compatible":
            connect = partial(openai_compatible.connect, caller=_OneTry)
        async with connect(unlimited, client) as ask:
            yield ask


async def _note_sent(_session: object, _context: object, _: TraceRequestChunkSentParams) -> None:
    """Called right before the request is written to its socket."""
    clock = _CLOCK.get(None)
    if clock is not None and clock.sent is None:
        clock.sent = time.perf_counter()


async def send(
    ask: Ask, requests: Sequence[tuple[str, ChatRequest]], due_s: Sequence[float], step: int = 0
) -> list[Exchange]:
    """Send each request at its time; returns when the last one has ended.

    Args:
        ask: from `connected`.
        requests: example id and what is sent.
        due_s: ascending seconds after the start, one for each request.
        step: noted on each exchange.

    Returns:
        In the order of `requests`.
    """
    gc.collect()
    gc.freeze()  # a collection of all that was imported would hold requests up by tens of ms
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):  # not everybody may
        os.setpriority(os.PRIO_PROCESS, 0, priority - AHEAD)
    try:
        start = time.perf_counter() + LEAD_S
        tasks: list[asyncio.Task[Exchange]] = []
        for (example_id, request), due in zip(requests, due_s, strict=True):
            await _until(start + due)
            one = _exchange(ask, example_id, request, start, float(due), step)
            tasks.append(asyncio.create_task(one))
        return list(await asyncio.gather(*tasks))
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, priority)
        gc.unfreeze()


async def _until(moment: float) -> None:
    while (wait_s := moment - time.perf_counter()) > 0:
        await asyncio.sleep(wait_s - SPIN_S if wait_s > SPIN_S else 0)


async def _exchange(
    ask: Ask, example_id: str, request: ChatRequest, start: float, due_s: float, step: int
) -> Exchange:
    clock = _Clock()
    _CLOCK.set(clock)
    about: dict[str, Any] = {"example_id": example_id, "step": step, "intended_s": due_s}
    try:
        done = await ask(request)
    except ProviderError as error:
        end = time.perf_counter() - start
        sent = None if clock.sent is None else clock.sent - start
        return Exchange(**about, sent_s=sent, end_s=end, error=str(error))
    end = time.perf_counter()
    pieces = clock.pieces
    if not pieces and done.ttft_s is not None:
        pieces = [end - done.latency_s + done.ttft_s]
    return Exchange(
        **about,
        sent_s=None if clock.sent is None else clock.sent - start,
        first_token_s=pieces[0] - start if pieces else None,
        last_token_s=clock.pieces[-1] - start if clock.pieces else None,
        end_s=end - start,
        gaps_s=tuple(b - a for a, b in itertools.pairwise(pieces)),
        usage=done.usage,
    )
