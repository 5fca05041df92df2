"""A connection to the model behind a candidate or a judge, through the gate of the study's data."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from pipelines import providers
from pipelines.core.candidate import Baseline, Own, Rent
from pipelines.core.errors import ProviderError
from pipelines.core.study import EvaluateConfig, Study
from pipelines.governance import egress
from pipelines.governance.egress import Gate
from pipelines.providers import Ask, ChatRequest, Completion
from pipelines.providers.hedge import hedged
from pipelines.serving import own_server

OURS = "http://127.0.0.1"
"""Where the servers of own models, classical ones and stand-ins listen."""


@asynccontextmanager
async def connected(
    gate: Gate,
    who: str,
    model: Rent | Own | Baseline,
    base_url: str | None,
    config: EvaluateConfig,
) -> AsyncGenerator[providers.Ask]:
    """Speak to `model`: to a server of ours at `base_url`, or to the provider it names.

    Args:
        gate: asked before every call, tries and hedges included.
        who: the candidate or judge, in words.
        model: only a rented one that is not simulated brings its provider and its key; of an own
            one, answers count that its server gives in its name.
        base_url: None = the provider's public address.
        config: timeout, attempts and concurrency.

    Raises:
        Refused: the policy says no.
    """
    public = model if isinstance(model, Rent) and not model.simulated else None
    provider = public.provider if public else "openai_compatible"
    where = providers.Endpoint(
        base_url=base_url,
        api_key_env=key_env_of(model),
        timeout_s=config.timeout_s,
        max_attempts=config.max_attempts,
        concurrency=config.concurrency,
    )
    url = providers.address(provider, base_url)
    async with (
        egress.open_client(gate, who, url, limit=config.concurrency) as client,
        providers.load(provider)(where, client) as ask,
    ):
        if isinstance(model, Own):
            ask = in_its_name(ask)
        yield hedged(ask, config.hedge_after_s) if public and config.hedge_after_s else ask


def key_env_of(model: Rent | Own | Baseline) -> str | None:
    """Environment variable with the key that a model is asked with; None = it needs none."""
    if isinstance(model, Own):
        return own_server.key_env()
    return model.api_key_env if isinstance(model, Rent) and not model.simulated else None


def in_its_name(ask: Ask) -> Ask:
    """`ask`, but an answer of another model than the one that was asked is an error."""

    async def checked(request: ChatRequest) -> Completion:
        answer = await ask(request)
        if answer.model != request.model:
            error = ProviderError(f"asked for {request.model!r}, {answer.model!r} answered")
            error.n_attempts, error.wasted_usage = answer.n_attempts, answer.usage
            raise error
        return answer

    return checked


def check_allowed(study: Study, names: Sequence[str] | None = None) -> None:
    """Ask the gate about all that the study's data will be sent to; nothing is sent.

    Args:
        study: its judges and its embedder count, too, where all candidates do.
        names: of candidates; None = all.

    Raises:
        Refused: names every endpoint that is refused.
    """
    gate = egress.gate_of(study.workload)
    chosen = study.candidates if names is None else names
    models = {f"candidate {name}": study.candidates[name] for name in chosen}
    retrieval = study.workload.retrieval
    if names is None:
        models |= {f"judge {name}": judge for name, judge in study.judges.items()}
    checks: list[Callable[[], None]] = []
    for who, model in models.items():
        url, public = OURS, False
        if isinstance(model, Rent) and model.recorded:
            continue
        if isinstance(model, Rent) and not model.simulated:
            url, public = providers.address(model.provider, model.base_url), not model.base_url
        checks.append(partial(egress.check, gate, who, url, public=public))
    if retrieval is not None and retrieval.embedder.base_url is not None:
        checks.append(partial(egress.check, gate, "the embedder", retrieval.embedder.base_url))
    egress.check_all(checks)
