"""Put load on one candidate, and write what it carries within the limits to its MLflow run."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pipelines.core import machine
from pipelines.core.candidate import Candidate, Own, Rent, Serving
from pipelines.core.prices import TokenPrice
from pipelines.core.progress import say
from pipelines.core.records import Example, TrainingRow
from pipelines.core.results import (
    EVAL_FILE,
    TRAIN_FILE,
    BenchmarkResult,
    FinetuneResult,
    LoadStep,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.economics.price_book import load_prices
from pipelines.economics.token_cost import usd_of_call
from pipelines.evaluation import asked
from pipelines.evaluation.connect import key_env_of
from pipelines.evaluation.job import reader_of, rows_of
from pipelines.evaluation.recorded import file_sha256
from pipelines.governance.egress import gate_of
from pipelines.load import arrivals, measures, search
from pipelines.load.search import Capacity
from pipelines.load.send import Exchange, connected, send
from pipelines.providers import Ask, ChatRequest, Endpoint
from pipelines.reports.load import describe, figures, seconds, step_figures
from pipelines.serving import apart
from pipelines.serving.vllm_server import BASE, TUNED
from pipelines.tracking import store
from pipelines.tracking.store import Stage
from pipelines.training.base_identity import identity

REQUESTS = "requests.jsonl"
N_ALONE = 3
"""Requests that are sent one after another first: what cannot keep the limits then never will."""
N_BURSTS = 2
"""Batches that are sent at once, for a first guess."""


@dataclass(frozen=True)
class LoadJob:
    """One candidate to be loaded."""

    study: Study
    name: str
    stage: Stage
    prepared: PrepareResult
    tuned: FinetuneResult | None
    """The adapter beside the base; None where no candidate of the load test uses one."""
    vllm: Callable[[Serving], str]
    """Starts the server of the own candidates, or finds it running; gives its URL."""
    left_usd: Decimal | None
    """Most that the requests may cost; None = no limit."""

    @property
    def candidate(self) -> Candidate:
        """What the study says of it."""
        return self.study.candidates[self.name]

    @property
    def paid(self) -> Rent | None:
        """The candidate, where a provider answers for it and is paid per token."""
        candidate = self.candidate
        return candidate if isinstance(candidate, Rent) and not candidate.simulated else None


def stage_of(
    study: Study, name: str, prepared: PrepareResult, tuned: FinetuneResult | None
) -> Stage:
    """The stage of one candidate; `inputs` holds all that its capacity depends on."""
    config, candidate = study.benchmark, study.candidates[name]
    base = identity(study.finetune.base)
    inputs: dict[str, Any] = {
        "asked": asked.what_is_asked(study, name, prepared, tuned, base),
        "title": candidate.title,
        "eval_sha256": prepared.eval_sha256,
        "limits": limits_of(study),
        "load": config.model_dump(mode="json", exclude={"candidates", "rent", "budget_usd"}),
        "timeout_s": study.evaluate.timeout_s,
        "serving": _serving(candidate, tuned),
        "serve": study.serve.model_dump(
            mode="json", exclude={"port", "startup_timeout_s", "parity"}
        ),
    }
    del inputs["asked"]["concurrency"]
    if not isinstance(candidate, Rent):
        inputs["hardware"] = candidate.hardware.name
        inputs["asked"].pop("logprobs", None)  # a load test never asks an own model for them
    if config.arrivals.path is not None:
        inputs["replayed_sha256"] = file_sha256(str(arrivals.resolved(config.arrivals.path)))
    return Stage("benchmark", study.workload.name, inputs, candidate=name)


def limits_of(study: Study) -> dict[str, float]:
    """Seconds that 95 of 100 requests must keep."""
    limits = study.benchmark.limits
    if limits is None:
        return {"latency_p95_s": study.workload.requirements.max_latency_p95_s}
    return limits.given()


def load_candidate(job: LoadJob) -> BenchmarkResult:
    """Measure one candidate, from the first request to the run in MLflow."""
    inputs = {"prepare": job.prepared.run_id}
    if job.tuned is not None and isinstance(job.candidate, Own) and job.candidate.tuned:
        inputs["finetune"] = job.tuned.run_id
    with store.open_run(
        job.stage,
        data_sha256=job.prepared.eval_sha256,
        inputs=inputs,
        description=f"Load on {job.candidate.title}.",
    ) as run:
        load, capacity = _measured(job, run)
        result = _result(job, run.run_id, load, capacity)
        run.log_params({"title": result.title, "machine": result.machine, **result.serving})
        run.log_rows(REQUESTS, load.exchanges)
        for k, step in enumerate(result.steps):
            run.log_metrics(step_figures(step), step=k)
        run.log_metrics(figures(result))
        failed = not any(e.error is None for e in load.exchanges)
        run.set_tags(
            {
                "kind": result.kind,
                "simulated": str(result.simulated).lower(),
                "toy": str(result.toy).lower(),
                "reusable": str(not failed and result.limited_by != "budget").lower(),
            }
        )
        run.describe(describe(result))
        run.save_result(result)
    return result


@dataclass
class _Load:
    """Sends steps of load to one candidate, and keeps what came back."""

    job: LoadJob
    ask: Ask
    runner: asyncio.Runner
    requests: Iterator[tuple[str, ChatRequest]]
    limits: Mapping[str, float]
    gaps: Any
    """Of the recording that is replayed; None without one."""
    price: TokenPrice | None
    run: store.StageRun
    exchanges: list[Exchange] = field(default_factory=list)
    held: list[Exchange] = field(default_factory=list)
    """Those of rates that held."""
    cpu_shares: list[float] = field(default_factory=list)
    spent_usd: Decimal = Decimal(0)
    n_noted: int = 0

    def send(self, due_s: Sequence[float]) -> list[Exchange] | None:
        """One batch; None when the budget does not cover its longest answers."""
        batch = list(itertools.islice(self.requests, len(due_s)))
        number = self.exchanges[-1].step + 1 if self.exchanges else 0
        if isinstance(self.job.candidate, Own):
            batch = [(id_, _salted(request, number)) for id_, request in batch]
        terms = asked.terms_of(self.job.candidate).as_sent
        most: list[Decimal] = []
        if self.price is not None:
            most = [asked.estimated_usd(self.price, request, terms) for _, request in batch]
            left_usd = self.job.left_usd
            if left_usd is not None and self.spent_usd + sum(most) > left_usd:
                return None
            self._note_spent(self.spent_usd + sum(most))
        wall, used = time.perf_counter(), time.process_time()
        found = self.runner.run(send(self.ask, batch, due_s, number))
        used = time.process_time() - used
        self.cpu_shares.append(used / (time.perf_counter() - wall))
        self.exchanges += found
        for exchange, usd in zip(found, most, strict=False):
            assert self.price is not None
            usage = exchange.usage
            self.spent_usd += usd_of_call(self.price, usage, terms) if usage else usd
        if self.price is not None:
            self._note_spent(self.spent_usd)
        return found

    def _note_spent(self, usd: Decimal) -> None:
        """For the budget of later runs, whatever becomes of this one."""
        self.n_noted += 1
        self.run.log_metrics({"spent_usd": float(usd)}, step=self.n_noted)

    def step(self, rate: float, seed: int, times: int) -> LoadStep | None:
        """One offered rate for so many times the usual length, and what it did."""
        config = self.job.study.benchmark
        longest = max((v for k, v in self.limits.items() if k != "tpot_p95_s"), default=0.0)
        n = max(config.min_requests, math.ceil(rate * max(config.step_s, longest))) * times
        due_s = arrivals.schedule(config.arrivals, rate, n, seed, self.gaps)
        found = self.send([float(due) for due in due_s])
        if found is None:
            return None
        done = measures.measure(found, rate, seed, self.limits, self.cpu_shares[-1])
        if done.holds:
            self.held += found
        outcome = "holds" if done.holds else f"breaks {', '.join(done.broke)}"
        say(f"benchmark: {rate:.1f} requests/s: {outcome}; p95 {seconds(done.latency.p95)}")
        return done


def _measured(job: LoadJob, run: store.StageRun) -> tuple[_Load, Capacity]:
    """The load that was sent, and what it showed."""
    study, candidate, paid = job.study, job.candidate, job.paid
    items = rows_of(job.prepared.run_id, EVAL_FILE, Example)
    random.Random(study.benchmark.seed).shuffle(items)
    train = reader_of(job.prepared.run_id, TRAIN_FILE, TrainingRow)
    own_name = TUNED if isinstance(candidate, Own) and candidate.tuned else BASE
    system = asked.instructions(study, candidate, job.tuned)
    request_of = asked.request_maker(study, job.name, system, own_name)
    # The capacity of an own model is that of answering, without what only a cascade needs.
    bare = {} if paid else {"logprobs": False}
    path = study.benchmark.arrivals.path
    gaps = None if path is None else arrivals.recorded_gaps(path)
    price = load_prices({paid.price}).token_price(paid.price) if paid else None
    with apart.serve(candidate, items, train, job.vllm) as url, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        where = Endpoint(
            base_url=url,
            api_key_env=key_env_of(candidate),
            timeout_s=study.evaluate.timeout_s,
        )
        provider = paid.provider if paid else "openai_compatible"
        gate, who = gate_of(study.workload), f"candidate {job.name}"
        load = _Load(
            job=job,
            ask=runner.run(stack.enter_async_context(connected(gate, who, where, provider))),
            runner=runner,
            requests=(
                (item.id, request_of(item).model_copy(update=bare))
                for item in itertools.cycle(items)
            ),
            limits=limits_of(study),
            gaps=gaps,
            price=price,
            run=run,
        )
        try:
            return load, _capacity(load)
        finally:
            runner.run(stack.aclose())


def _capacity(load: _Load) -> Capacity:
    """Ask one by one, then all at once, then search; ends early where that says it all."""
    name, config = load.job.name, load.job.study.benchmark
    say(f"benchmark: {name}{' (simulated)' if load.job.candidate.simulated else ''}")
    alone = [e for _ in range(N_ALONE) for e in load.send([0.0]) or ()]
    if not alone:
        return _none("budget")
    if all(e.error for e in alone):
        say(f"benchmark: {name}: no request was answered: {alone[0].error}")
        return _none("errors")
    for limit, most in load.limits.items():
        values = [measures.OF_LIMIT[limit](e) for e in alone]
        best = min((value for value in values if value is not None), default=None)
        if best is not None and best > most:
            say(f"benchmark: {name}: one request alone takes {best:.3f} s: no {limit}")
            return _none(limit)
    # All at once, twice: the first time a server may still compile and allocate.
    bursts = [load.send([0.0] * config.min_requests) for _ in range(N_BURSTS)]
    rates = [len(burst) / max(e.end_s for e in burst) for burst in bursts if burst]
    if not rates:
        return _none("budget")
    return search.find(
        search.confirmed(load.step),
        max(rates),
        max_rate=config.max_rate,
        repeats=config.repeats,
        seed=config.seed,
    )


def _none(limited_by: str) -> Capacity:
    """Without a search."""
    return Capacity(per_s=None, low=0.0, high=None, limited_by=limited_by, steps=())


def _result(job: LoadJob, run_id: str, load: _Load, capacity: Capacity) -> BenchmarkResult:
    candidate, steps, per_s = job.candidate, capacity.steps, capacity.per_s
    return BenchmarkResult(
        run_id=run_id,
        candidate=job.name,
        title=candidate.title,
        kind=candidate.kind,
        simulated=candidate.simulated,
        toy=isinstance(candidate, Own) and job.study.finetune.base.build == "toy",
        limits=dict(load.limits),
        capacity_per_s=per_s,
        capacity_low=capacity.low,
        capacity_high=capacity.high,
        limited_by=capacity.limited_by,
        at_capacity=next((s for s in steps if s.holds and s.offered_per_s == per_s), None),
        steps=steps,
        n_requests=len(load.exchanges),
        n_items=len({e.example_id for e in load.exchanges}),
        send_error_p99_s=measures.send_error_p99_s(load.held) if load.held else None,
        spent_usd=None if load.price is None else load.spent_usd,
        hardware=None if isinstance(candidate, Rent) else candidate.hardware.name,
        machine=machine.here(),
        serving=_serving(candidate, job.tuned),
    )


def _serving(candidate: Candidate, tuned: FinetuneResult | None) -> dict[str, str]:
    """How the model is served, for people and for MLflow."""
    if not isinstance(candidate, Own):
        return {}
    serving = candidate.serving
    beside = tuned is not None and serving.weights == "adapter"
    return {**serving.model_dump(mode="json"), "lora_enabled": str(beside).lower()}


def _salted(request: ChatRequest, number: int) -> ChatRequest:
    """With a prefix cache of this step alone: prompts repeat from step to step, real ones do not.

    The prompt and the answer are the same without it.
    """
    return request.model_copy(update={"extra": {**request.extra, "cache_salt": f"step-{number}"}})
