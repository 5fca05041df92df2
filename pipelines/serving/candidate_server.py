"""The server behind a candidate that does not bring its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from pipelines.core.candidate import Baseline, Candidate, Own, Rent
from pipelines.core.records import Example, TrainingRow


@asynccontextmanager
async def serve(
    candidate: Candidate,
    examples: Sequence[Example],
    train: Callable[[], Sequence[TrainingRow]],
    vllm: Callable[[], str],
) -> AsyncGenerator[str | None]:
    """Start what answers for `candidate`; yields its base URL, None for a provider's public one.

    Args:
        candidate: rented, own or classical.
        examples: the items, from whose targets a stand-in answers.
        train: reads the training rows; called for a classical model that learns.
        vllm: starts the server of the own candidates, or finds it running; gives its URL.
    """
    match candidate:
        case Own():
            yield vllm()
        case Baseline(method="patterns"):
            from pipelines.serving import patterns

            async with patterns.serve(candidate.method, candidate.patterns) as url:
                yield url
        case Baseline(method="extractive"):
            from pipelines.serving import extractive

            async with extractive.serve(candidate.method) as url:
                yield url
        case Baseline():
            from pipelines.serving import classical

            async with classical.serve(candidate.method, train()) as url:
                yield url
        case Rent(standin=behaviour) if candidate.simulated and behaviour is not None:
            from pipelines.serving import standin

            async with standin.serve(candidate.model, examples, behaviour) as url:
                yield url
        case Rent():
            yield candidate.base_url


@asynccontextmanager
async def serve_judge(judge: Rent | Own, vllm: Callable[[], str]) -> AsyncGenerator[str | None]:
    """Start what answers for `judge`; as `serve`, but a stand-in judges instead of answering."""
    if isinstance(judge, Own):
        yield vllm()
    elif judge.simulated and judge.standin is not None:
        from pipelines.serving import standin_judge

        async with standin_judge.serve(judge.model, judge.standin) as url:
            yield url
    else:
        yield judge.base_url
