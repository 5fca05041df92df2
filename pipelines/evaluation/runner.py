"""Every example gets exactly one Response: from the journal, or asked for now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from pipelines.core.errors import ProviderError
from pipelines.core.progress import Advance
from pipelines.core.records import Example, Response
from pipelines.evaluation.budget import Budget
from pipelines.evaluation.journal import Journal
from pipelines.providers import Ask, ChatRequest

MakeRequest = Callable[[Example], ChatRequest]
UsdOf = Callable[[Response], Decimal]


class Answers:
    """The responses to a list of examples, in their order; read from the journal when iterated."""

    def __init__(
        self, examples: Sequence[Example], digests: Sequence[str], journal: Journal, model: str
    ) -> None:
        """`digests`: of each example's request; `model`: for those that were not asked."""
        self.examples, self.digests = examples, digests
        self._journal, self._model = journal, model

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def __iter__(self) -> Iterator[Response]:
        """One response for each example."""
        for example, digest in zip(self.examples, self.digests, strict=True):
            found = self._journal.get(digest)
            if found is None:
                yield Response(
                    example_id=example.id,
                    request_sha256=digest,
                    error="not asked: the budget was reached",
                    outcome="not_asked",
                    model=self._model,
                    started_at_s=0.0,
                    latency_s=0.0,
                )
            elif found.example_id == example.id:
                yield found
            else:  # the same question stands in the set under another id, too
                yield found.model_copy(update={"example_id": example.id})

    def received(self) -> Iterator[Response]:
        """All that ever came for these examples, earlier failures included: it is billed."""
        sent = set(self.digests)
        return (r for r in self._journal.rows() if r.request_sha256 in sent)


async def respond(
    ask: Ask,
    examples: Sequence[Example],
    digests: Sequence[str],
    request_of: MakeRequest,
    journal: Journal,
    *,
    concurrency: int,
    simulated: bool,
    advance: Advance,
    budget: Budget,
    reserve_usd: Callable[[ChatRequest], Decimal],
    usd_of: UsdOf,
) -> None:
    """Ask for every example that the journal does not answer, in input order.

    Each answer and each failure is in the journal before the next request of its worker is
    sent. The budget cuts the tail of the input order: what is answered stays a random sample if
    the order is one.
    """
    waiting = _unanswered(examples, digests, journal)
    advance(len(examples) - len(waiting))
    todo = iter(waiting)

    async def work() -> None:
        for example in todo:
            request = request_of(example)
            reserved = reserve_usd(request)
            if not budget.reserve(reserved):
                return
            response = await ask_once(ask, example.id, request, simulated)
            journal.add(response)
            budget.settle(reserved, usd_of(response))
            advance()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(waiting))):
            group.create_task(work())


def _unanswered(
    examples: Sequence[Example], digests: Sequence[str], journal: Journal
) -> list[Example]:
    """Examples to ask for; the same question under two ids is asked once."""
    seen: set[str] = set()
    waiting: list[Example] = []
    for example, digest in zip(examples, digests, strict=True):
        if digest not in journal and digest not in seen:
            seen.add(digest)
            waiting.append(example)
    return waiting


async def ask_once(ask: Ask, example_id: str, request: ChatRequest, simulated: bool) -> Response:
    """Send one request; a failure is a Response, too."""
    started_at_s, start = time.time(), time.perf_counter()
    about: dict[str, Any] = {
        "example_id": example_id,
        "request_sha256": request.sha256,
        "simulated": simulated,
    }
    try:
        answer = await ask(request)
    except ProviderError as error:
        return Response(
            **about,
            error=str(error),
            outcome=error.outcome,
            n_attempts=error.n_attempts,
            wasted_usage=error.wasted_usage,
            n_broken_off=error.n_broken_off,
            model=request.model,
            started_at_s=started_at_s,
            latency_s=time.perf_counter() - start,
        )
    return Response(**about, **dict(answer))
