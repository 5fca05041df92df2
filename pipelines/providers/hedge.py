"""Hedged requests: a slow call is sent a second time, and the first answer counts."""

from __future__ import annotations

import asyncio

from pipelines.core.errors import ProviderError
from pipelines.providers import Ask, ChatRequest, Completion


def hedged(ask: Ask, after_s: float) -> Ask:
    """`ask`, sent again when no whole answer is there after `after_s` seconds.

    The clock runs from the first sending. The call that lost is cancelled and counted in
    `n_broken_off`: the provider may bill it, and never says how many tokens it had.
    """

    async def ask_again(request: ChatRequest) -> Completion:
        first = asyncio.create_task(ask(request))
        calls = {first}
        try:
            done, _ = await asyncio.wait(calls, timeout=after_s)
            if done:
                return first.result()
            second = asyncio.create_task(ask(request))
            calls.add(second)
            done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            if all(call.exception() for call in done) and waiting:
                done, waiting = await asyncio.wait(waiting)
            winner = next((call for call in (first, second) if _answered(call)), None)
            if winner is None:
                raise _both(first, second)
            waited_s = after_s if winner is second else 0.0
            return _counted(winner.result(), second if winner is first else first, waited_s)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    return ask_again


def _answered(call: asyncio.Task[Completion]) -> bool:
    return call.done() and not call.cancelled() and call.exception() is None


def _counted(answer: Completion, loser: asyncio.Task[Completion], waited_s: float) -> Completion:
    """The answer with what is known of the other call."""
    error = loser.exception() if loser.done() and not loser.cancelled() else None
    failed = error if isinstance(error, ProviderError) else None
    late = loser.result() if _answered(loser) else None
    wasted = [
        usage
        for usage in (answer.wasted_usage, failed and failed.wasted_usage, late and late.usage)
        if usage
    ]
    return answer.model_copy(
        update={
            "latency_s": answer.latency_s + waited_s,
            "ttft_s": None if answer.ttft_s is None else answer.ttft_s + waited_s,
            "started_at_s": answer.started_at_s - waited_s,
            "n_attempts": answer.n_attempts + (failed.n_attempts if failed else 1),
            "n_broken_off": answer.n_broken_off
            + (failed.n_broken_off if failed else int(late is None)),
            "wasted_usage": sum(wasted[1:], wasted[0]) if wasted else None,
        }
    )


def _both(first: asyncio.Task[Completion], second: asyncio.Task[Completion]) -> BaseException:
    """The second call's error, with what both cost."""
    one, other = first.exception(), second.exception()
    if isinstance(one, ProviderError) and isinstance(other, ProviderError):
        other.n_attempts += one.n_attempts
        other.n_broken_off += one.n_broken_off
        usages = [u for u in (one.wasted_usage, other.wasted_usage) if u]
        other.wasted_usage = sum(usages[1:], usages[0]) if usages else None
    assert other is not None
    return other
