"""Every example gets exactly one Response, every Response one Score per metric."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from pipelines import metrics
from pipelines.core.errors import ProviderError, ScoringError
from pipelines.core.progress import Advance
from pipelines.core.records import Example, Message, Response, Score
from pipelines.core.study import MetricSpec
from pipelines.evaluation.journal import Journal
from pipelines.providers import Ask, ChatRequest


def requests_for(
    examples: Sequence[Example],
    *,
    model: str,
    instructions: str,
    max_output_tokens: int,
    temperature: float | None = 0.0,
    extra: dict[str, str | int | float | bool | None] | None = None,
) -> list[ChatRequest]:
    """What is sent for each example: the instructions as system prompt, then its own turns."""
    system = (Message(role="system", content=instructions),) if instructions else ()
    return [
        ChatRequest(
            model=model,
            messages=system + example.messages,
            max_output_tokens=max_output_tokens,
            temperature=temperature,
            extra=extra or {},
        )
        for example in examples
    ]


async def respond(
    ask: Ask,
    examples: Sequence[Example],
    requests: Sequence[ChatRequest],
    journal: Journal,
    *,
    concurrency: int,
    simulated: bool,
    advance: Advance,
) -> list[Response]:
    """Ask for every example that the journal does not answer, in input order.

    A failed call becomes a Response with `error`. Answers are journaled as they arrive.
    """
    slots = asyncio.Semaphore(concurrency)

    async def one(example: Example, request: ChatRequest) -> Response:
        digest = request.sha256
        if (known := journal.answered.get(digest)) is not None:
            advance()
            # The same question may stand in the set under another id.
            return known.model_copy(update={"example_id": example.id})
        async with slots:
            started_at_s, start = time.time(), time.perf_counter()
            try:
                answer = await ask(request)
            except ProviderError as error:
                response = Response(
                    example_id=example.id,
                    request_sha256=digest,
                    error=str(error),
                    model=request.model,
                    started_at_s=started_at_s,
                    latency_s=time.perf_counter() - start,
                    simulated=simulated,
                )
            else:
                response = Response(
                    example_id=example.id,
                    request_sha256=digest,
                    text=answer.text,
                    usage=answer.usage,
                    model=answer.model,
                    finish_reason=answer.finish_reason,
                    n_attempts=answer.n_attempts,
                    started_at_s=answer.started_at_s,
                    ttft_s=answer.ttft_s,
                    latency_s=answer.latency_s,
                    simulated=simulated,
                )
        journal.add(response)
        advance()
        return response

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(e, r)) for e, r in zip(examples, requests, strict=True)]
    return [task.result() for task in tasks]


def grade(
    name: str, spec: MetricSpec, examples: Sequence[Example], responses: Sequence[Response]
) -> list[Score]:
    """Score every response; one that cannot be scored gets `value=None` and the reason."""
    score = metrics.load(spec.metric)
    scores: list[Score] = []
    for example, response in zip(examples, responses, strict=True):
        value, reason = None, response.error or ""
        if response.text is not None:
            try:
                value = score(example, response.text, **spec.params)
            except ScoringError as error:
                reason = str(error)
        scores.append(Score(example_id=example.id, metric=name, value=value, reason=reason))
    return scores


def throughput(responses: Sequence[Response]) -> float | None:
    """Answers per second of wall time in which at least one request was in flight.

    Independent of pauses, so that a run which was killed and resumed measures the same.
    None when nothing was answered.
    """
    answered = [r for r in responses if r.error is None]
    spans = sorted((r.started_at_s, r.started_at_s + r.latency_s) for r in answered)
    busy_s, until = 0.0, float("-inf")
    for start, end in spans:
        busy_s += max(0.0, end - max(start, until))
        until = max(until, end)
    return len(answered) / busy_s if busy_s else None
