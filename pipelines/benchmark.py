"""Measure how much load each candidate carries within the latency limits.

    python -m pipelines.benchmark configs/quickstart.yaml --set benchmark.step_s=60

Reads:  the items of `prepare`, the adapter of `finetune` (both made now if needed)
Writes: requests.jsonl, result.json, capacity and latencies in one MLflow run per candidate, tag
        stage=benchmark
Next:   python -m pipelines.decide configs/quickstart.yaml
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pipelines.core import command, machine
from pipelines.core.candidate import Candidate, Own, Rent, Serving
from pipelines.core.command import Options
from pipelines.core.errors import ConfigError, ServerError
from pipelines.core.paths import ROOT
from pipelines.core.prices import Terms, TokenPrice
from pipelines.core.progress import say
from pipelines.core.records import Example, Record, TrainingRow, Usage
from pipelines.core.results import (
    EVAL_FILE,
    TRAIN_FILE,
    BenchmarkResult,
    BenchmarkResults,
    FinetuneResult,
    LoadStep,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.finetune import finetune
from pipelines.prepare import prepare
from pipelines.serve import Servers
from pipelines.serving.vllm_server import BASE, TUNED, check_installed

if TYPE_CHECKING:
    from pipelines.load.send import Exchange
    from pipelines.providers import Ask, ChatRequest
    from pipelines.tracking.store import Stage

REQUESTS = "requests.jsonl"
N_ALONE = 3
"""Requests that are sent one after another first: what cannot keep the limits then never will."""
N_BURSTS = 2
"""Batches that are sent at once, for a first guess."""
PLANNED_STEPS = (5, 2)
"""Guess for a dry run: steps of the first search, and of each further one."""
PLANNED_START_S = 40.0
"""Guess for a dry run: until a server is up."""


def benchmark(study: Study, options: Options) -> Record:
    """Measure every candidate that is not done yet."""
    names = _chosen(study)
    prepared = prepare(study, options)
    upstream = prepared
    if _need_adapter(study, names):
        upstream = finetune(study, options, prepared)
    if isinstance(upstream, Plan):
        return _plan(study, names, upstream)
    tuned = upstream if isinstance(upstream, FinetuneResult) else None
    assert isinstance(prepared, PrepareResult)

    from pipelines.tracking import store

    results: dict[str, BenchmarkResult] = {}
    left_usd = study.benchmark.budget_usd
    with Servers(study, tuned) as servers:
        for name in names:
            stage = _stage(study, name, prepared, tuned)
            if done := store.find_finished(stage):
                say(f"benchmark: {name}: nothing changed, run {done}")
                results[name] = store.load_result(done, BenchmarkResult)
            else:
                results[name] = _candidate(study, name, stage, prepared, tuned, servers, left_usd)
            if left_usd is not None:
                left_usd -= results[name].spent_usd or Decimal(0)
    return BenchmarkResults(results=results)


def load_tests(
    study: Study, prepared: PrepareResult, tuned: FinetuneResult | None
) -> dict[str, BenchmarkResult]:
    """The study's load tests that are done, by candidate; starts none."""
    from pipelines.tracking import store

    names = _chosen(study)
    # Without one of those that need it, no adapter was beside the base under load.
    beside = tuned if _need_adapter(study, names) else None
    runs = {name: store.find_finished(_stage(study, name, prepared, beside)) for name in names}
    return {name: store.load_result(run, BenchmarkResult) for name, run in runs.items() if run}


def show(record: Record) -> str:
    """The capacities as a table."""
    assert isinstance(record, BenchmarkResults)
    if not record.results:
        return "nothing to measure: benchmark.candidates names none, and all are rented"
    lines = [
        f"{'candidate':<22} {'tasks/s':>8} {'interval':>15} {'limited by':<14} "
        f"{'TTFT p95':>9} {'p95':>9} {'late':>9}"
    ]
    for name, result in record.results.items():
        step = result.at_capacity
        capacity = "none" if result.capacity_per_s is None else f"{result.capacity_per_s:.1f}"
        mark = " (simulated)" if result.simulated else " (toy)" if result.toy else ""
        lines.append(
            f"{name:<22} {capacity:>8} {_interval(result):>15} {result.limited_by:<14} "
            f"{_seconds(step.ttft.p95 if step else None):>9} "
            f"{_seconds(step.latency.p95 if step else None):>9} "
            f"{_seconds(result.send_error_p99_s):>9}{mark}"
        )
    lines.append("late: how long after they were due requests left, 99th percentile")
    return "\n".join(lines)


@dataclass
class _Load:
    """Sends steps of load to one candidate, and keeps what came back."""

    ask: Ask
    runner: asyncio.Runner
    requests: Iterator[tuple[str, ChatRequest]]
    study: Study
    limits: Mapping[str, float]
    gaps: Any
    """Of the recording that is replayed; None without one."""
    price: TokenPrice | None
    terms: Terms
    left_usd: Decimal | None
    salted: bool
    """True for vLLM: its prefix cache then helps within a step, as it would with new prompts."""
    exchanges: list[Exchange] = field(default_factory=list)
    cpu_shares: list[float] = field(default_factory=list)
    spent_usd: Decimal = Decimal(0)

    def send(self, due_s: Sequence[float]) -> list[Exchange] | None:
        """One batch; None when the budget does not cover its longest answers."""
        from pipelines.economics.token_cost import usd_of_call
        from pipelines.evaluation.asked import estimated_usd
        from pipelines.load.send import send

        batch = list(itertools.islice(self.requests, len(due_s)))
        number = self.exchanges[-1].step + 1 if self.exchanges else 0
        if self.salted:
            batch = [(id_, _salted(request, number)) for id_, request in batch]
        most: list[Decimal] = []
        if self.price is not None:
            most = [estimated_usd(self.price, request, self.terms) for _, request in batch]
            if self.left_usd is not None and self.spent_usd + sum(most) > self.left_usd:
                return None
        wall, used = time.perf_counter(), time.process_time()
        found = self.runner.run(send(self.ask, batch, due_s, number))
        used = time.process_time() - used
        self.cpu_shares.append(used / (time.perf_counter() - wall))
        self.exchanges += found
        for exchange, usd in zip(found, most, strict=False):
            assert self.price is not None
            usage = _usage(exchange)
            self.spent_usd += usd_of_call(self.price, usage, self.terms) if usage else usd
        return found

    def step(self, rate: float, seed: int) -> LoadStep | None:
        """One offered rate, and what it did."""
        from pipelines.load.arrivals import schedule
        from pipelines.load.measures import measure

        config = self.study.benchmark
        longest = max((v for k, v in self.limits.items() if k != "tpot_p95_s"), default=0.0)
        n = max(config.min_requests, math.ceil(rate * max(config.step_s, longest)))
        due_s = schedule(config.arrivals, rate, n, seed, self.gaps)
        found = self.send([float(due) for due in due_s])
        if found is None:
            return None
        done = measure(found, rate, seed, self.limits, self.cpu_shares[-1])
        outcome = "holds" if done.holds else f"breaks {', '.join(done.broke)}"
        say(f"benchmark: {rate:.1f} requests/s: {outcome}; p95 {_seconds(done.latency.p95)}")
        return done


def _candidate(
    study: Study,
    name: str,
    stage: Stage,
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    servers: Servers,
    left_usd: Decimal | None,
) -> BenchmarkResult:
    from pipelines.load import measures
    from pipelines.tracking import store

    candidate = study.candidates[name]
    inputs = {"prepare": prepared.run_id}
    if tuned is not None and isinstance(candidate, Own) and candidate.tuned:
        inputs["finetune"] = tuned.run_id
    with store.open_run(
        stage,
        data_sha256=prepared.eval_sha256,
        inputs=inputs,
        description=f"Load on {candidate.title}.",
    ) as run:
        load, capacity, limited_by = _measured(study, name, prepared, tuned, servers, left_usd)
        steps = capacity.steps if capacity else ()
        per_s = capacity.per_s if capacity else None
        sent = _by_step(load.exchanges)[-len(steps) :]  # before them: alone, and in bursts
        held = [e for step, each in zip(steps, sent, strict=False) if step.holds for e in each]
        result = BenchmarkResult(
            run_id=run.run_id,
            candidate=name,
            title=candidate.title,
            kind=candidate.kind,
            simulated=candidate.simulated,
            toy=isinstance(candidate, Own) and study.finetune.base.build == "toy",
            limits=dict(load.limits),
            capacity_per_s=per_s,
            capacity_low=capacity.low if capacity else 0.0,
            capacity_high=capacity.high if capacity else None,
            limited_by=capacity.limited_by if capacity else limited_by,
            at_capacity=next((s for s in steps if s.holds and s.offered_per_s == per_s), None),
            steps=steps,
            n_requests=len(load.exchanges),
            n_items=len({e.example_id for e in load.exchanges}),
            send_error_p99_s=measures.send_error_p99_s(held) if held else None,
            spent_usd=None if load.price is None else load.spent_usd,
            hardware=None if isinstance(candidate, Rent) else candidate.hardware.name,
            machine=machine.here(),
            serving=_serving(candidate, tuned),
        )
        run.log_params({"title": result.title, "machine": result.machine, **result.serving})
        run.log_rows(REQUESTS, load.exchanges)
        for k, step in enumerate(steps):
            run.log_metrics(_step_metrics(step), step=k)
        run.log_metrics(_metrics(result))
        failed = not any(e.error is None for e in load.exchanges)
        run.set_tags(
            {
                "kind": result.kind,
                "simulated": str(result.simulated).lower(),
                "toy": str(result.toy).lower(),
                "reusable": str(not failed and result.limited_by != "budget").lower(),
            }
        )
        run.describe(_describe(result))
        run.save_result(result)
    return result


def _measured(
    study: Study,
    name: str,
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    servers: Servers,
    left_usd: Decimal | None,
):
    """The load that was sent, the capacity if there is one, and otherwise why there is none."""
    from pipelines.evaluation import asked
    from pipelines.evaluation.job import reader_of, rows_of
    from pipelines.load import arrivals, measures, search
    from pipelines.load.send import connected
    from pipelines.providers import Endpoint

    config, candidate = study.benchmark, study.candidates[name]
    items = rows_of(prepared.run_id, EVAL_FILE, Example)
    random.Random(config.seed).shuffle(items)
    own_name = TUNED if isinstance(candidate, Own) and candidate.tuned else BASE
    request_of = asked.request_maker(
        study, name, asked.instructions(study, candidate, tuned), own_name
    )
    public = candidate if isinstance(candidate, Rent) and not candidate.simulated else None
    path = config.arrivals.path
    gaps = None if path is None else arrivals.recorded_gaps(path)
    read_rows = reader_of(prepared.run_id, TRAIN_FILE, TrainingRow)
    with _server(candidate, items, read_rows, servers) as url, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        where = Endpoint(
            base_url=url,
            api_key_env=public.api_key_env if public else None,
            timeout_s=study.evaluate.timeout_s,
        )
        provider = public.provider if public else "openai_compatible"
        load = _Load(
            ask=runner.run(stack.enter_async_context(connected(where, provider))),
            runner=runner,
            requests=((item.id, request_of(item)) for item in itertools.cycle(items)),
            study=study,
            limits=_limits(study),
            gaps=gaps,
            price=_price(public.price) if public else None,
            terms=asked.terms_of(candidate).as_sent,
            left_usd=left_usd,
            salted=isinstance(candidate, Own),
        )
        try:
            say(f"benchmark: {name}{' (simulated)' if candidate.simulated else ''}")
            alone = [e for _ in range(N_ALONE) for e in load.send([0.0]) or ()]
            if not alone:
                return load, None, "budget"
            if all(e.error for e in alone):
                say(f"benchmark: {name}: no request was answered: {alone[0].error}")
                return load, None, "errors"
            for limit, most in load.limits.items():
                values = [measures.OF_LIMIT[limit](e) for e in alone]
                best = min((value for value in values if value is not None), default=None)
                if best is not None and best > most:
                    say(f"benchmark: {name}: one request alone takes {best:.3f} s: no {limit}")
                    return load, None, limit
            # All at once, twice: the first time a server may still compile and allocate.
            bursts = [load.send([0.0] * config.min_requests) for _ in range(N_BURSTS)]
            rates = [len(burst) / max(e.end_s for e in burst) for burst in bursts if burst]
            if not rates:
                return load, None, "budget"
            found = search.find(
                load.step,
                max(rates),
                max_rate=config.max_rate,
                repeats=config.repeats,
                seed=config.seed,
            )
            return load, found, found.limited_by
        finally:
            runner.run(stack.aclose())


@contextmanager
def _server(
    candidate: Candidate,
    items: Sequence[Example],
    read_rows: Callable[[], list[TrainingRow]],
    servers: Servers,
) -> Generator[str | None]:
    """What answers for the candidate; yields its base URL, None for a provider's public one."""
    if isinstance(candidate, Own):
        yield servers.url(candidate.serving)
        return
    if isinstance(candidate, Rent) and not candidate.simulated:
        yield candidate.base_url
        return
    rows = read_rows() if candidate.kind == "baseline" else []
    what = _Served(candidate=candidate, items=tuple(items), rows=tuple(rows))
    # In a process of its own: in ours it would hold up what has to be sent.
    code = "from pipelines.benchmark import serve_apart; serve_apart()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(what.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        url = next((line for line in process.stdout if line.startswith(b"http://")), b"")
        if not url:
            raise ServerError(f"{candidate.title}: its server ended before it was ready")
        yield url.decode().strip()
    finally:
        process.kill()
        process.communicate()


class _Served(Record):
    """What a server in another process answers for."""

    candidate: Candidate
    items: tuple[Example, ...]
    rows: tuple[TrainingRow, ...]


def serve_apart() -> None:
    """Serve what stdin says, print the base URL, and end when stdin does: with the parent."""
    from pipelines.serving import candidate_server

    what = _Served.model_validate_json(sys.stdin.buffer.readline())

    def no_vllm() -> str:
        raise AssertionError("own models are served elsewhere")

    async def run() -> None:
        async with candidate_server.serve(
            what.candidate, what.items, lambda: what.rows, no_vllm
        ) as url:
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.buffer.read)

    asyncio.run(run())


def _chosen(study: Study) -> list[str]:
    """The candidates to measure.

    Raises:
        ConfigError: one is unknown, was recorded elsewhere, is rented without `rent: true`, or has
            no key.
        ServerError: one needs vLLM, and there is none.
    """
    config, candidates = study.benchmark, study.candidates
    names = config.candidates
    if names is None:
        return _able(
            study,
            [
                name
                for name, each in candidates.items()
                if not isinstance(each, Rent) and each.control_of is None
            ],
        )
    for name in names:
        if name not in candidates:
            raise ConfigError(
                f"benchmark.candidates: no candidate {name!r}; there are: {', '.join(candidates)}"
            )
        each = candidates[name]
        if not isinstance(each, Rent):
            continue
        if each.recorded:
            raise ConfigError(
                f"benchmark.candidates: {name}: recorded answers can carry no load; leave it out"
            )
        if not config.rent:
            raise ConfigError(
                f"benchmark.candidates: {name} is rented, and load costs money: set "
                "benchmark.rent=true and benchmark.budget_usd, or leave it out"
            )
        if not each.simulated and each.api_key_env and not os.environ.get(each.api_key_env):
            raise ConfigError(f"{name} needs an API key: set {each.api_key_env}, or leave it out")
    return _able(study, list(names))


def _need_adapter(study: Study, names: Sequence[str]) -> bool:
    chosen = (study.candidates[name] for name in names)
    return any(isinstance(model, Own) and model.tuned for model in chosen)


def _able(study: Study, names: list[str]) -> list[str]:
    if any(isinstance(study.candidates[name], Own) for name in names):
        check_installed()
    return names


def _limits(study: Study) -> dict[str, float]:
    """Seconds that 95 of 100 requests must keep."""
    limits = study.benchmark.limits
    if limits is None:
        return {"latency_p95_s": study.workload.requirements.max_latency_p95_s}
    return limits.given()


def _stage(study: Study, name: str, prepared: PrepareResult, tuned: FinetuneResult | None) -> Stage:
    from pipelines.evaluation import asked
    from pipelines.evaluation.recorded import file_sha256
    from pipelines.load.arrivals import resolved
    from pipelines.tracking import store
    from pipelines.training.base_identity import identity

    config, candidate = study.benchmark, study.candidates[name]
    base = identity(study.finetune.base)
    inputs: dict[str, Any] = {
        "asked": asked.what_is_asked(study, name, prepared, tuned, base),
        "title": candidate.title,
        "eval_sha256": prepared.eval_sha256,
        "limits": _limits(study),
        "load": config.model_dump(mode="json", exclude={"candidates", "rent", "budget_usd"}),
        "timeout_s": study.evaluate.timeout_s,
        "serving": _serving(candidate, tuned),
        "serve": study.serve.model_dump(mode="json", exclude={"port", "startup_timeout_s"}),
    }
    del inputs["asked"]["concurrency"]
    if not isinstance(candidate, Rent):
        inputs["hardware"] = candidate.hardware.name
    if config.arrivals.path is not None:
        inputs["replayed_sha256"] = file_sha256(str(resolved(config.arrivals.path)))
    return store.Stage("benchmark", study.workload.name, inputs, candidate=name)


def _serving(candidate: Candidate, tuned: FinetuneResult | None) -> dict[str, str]:
    """How the model is served, for people and for MLflow."""
    if not isinstance(candidate, Own):
        return {}
    serving = candidate.serving
    beside = tuned is not None and serving.weights == "adapter"
    return {**serving.model_dump(mode="json"), "lora_enabled": str(beside).lower()}


def _price(name: str) -> TokenPrice:
    from pipelines.economics.price_book import load_prices

    return load_prices({name}).token_price(name)


def _salted(request: ChatRequest, number: int) -> ChatRequest:
    """With a prefix cache of this step alone: prompts repeat from step to step, real ones do not.

    The prompt and the answer are the same without it.
    """
    return request.model_copy(update={"extra": {**request.extra, "cache_salt": f"step-{number}"}})


def _usage(exchange: Exchange) -> Usage | None:
    if exchange.input_tokens is None or exchange.output_tokens is None:
        return None
    return Usage(
        input_tokens=exchange.input_tokens,
        cached_input_tokens=exchange.cached_input_tokens or 0,
        output_tokens=exchange.output_tokens,
    )


def _by_step(exchanges: Sequence[Exchange]) -> list[list[Exchange]]:
    return [list(group) for _, group in itertools.groupby(exchanges, lambda e: e.step)]


def _metrics(result: BenchmarkResult) -> dict[str, float | None]:
    step = result.at_capacity
    found: dict[str, float | None] = {
        "capacity_per_s": result.capacity_per_s,
        "capacity_low": result.capacity_low,
        "capacity_high": result.capacity_high,
        "send_error_p99_s": result.send_error_p99_s,
        "n_requests": float(result.n_requests),
        "spent_usd": None if result.spent_usd is None else float(result.spent_usd),
    }
    if step is not None:
        for name in ("ttft", "latency", "tpot", "itl", "server_ttft", "server_latency"):
            quantiles = getattr(step, name)
            for which in ("p50", "p95", "p99"):
                found[f"{name}_{which}_s"] = getattr(quantiles, which)
        found["goodput_per_s"] = step.goodput_per_s
        found["client_cpu_share"] = step.client_cpu_share
    return found


def _step_metrics(step: LoadStep) -> dict[str, float | None]:
    return {
        "step/offered_per_s": step.offered_per_s,
        "step/achieved_per_s": step.achieved_per_s,
        "step/goodput_per_s": step.goodput_per_s,
        "step/latency_p95_s": step.latency.p95,
        "step/ttft_p95_s": step.ttft.p95,
        "step/holds": float(step.holds),
        "step/send_error_p99_s": step.send_error_p99_s,
        "step/client_cpu_share": step.client_cpu_share,
    }


def _describe(result: BenchmarkResult) -> str:
    """The result in words, Markdown."""
    mark = "**SIMULATED** " if result.simulated else "**TOY** " if result.toy else ""
    limits = ", ".join(f"{name} {value:g} s" for name, value in result.limits.items())
    if result.capacity_per_s is None:
        return f"{mark}No rate holds {limits}: {result.limited_by}. Measured on {result.machine}."
    return (
        f"{mark}{result.title} carries {result.capacity_per_s:.2f} requests a second "
        f"({_interval(result)}) within {limits}; above that, {result.limited_by}. "
        f"{result.n_requests} requests, measured on {result.machine}."
    )


def _interval(result: BenchmarkResult) -> str:
    low = "?" if result.capacity_low is None else f"{result.capacity_low:.1f}"
    high = "?" if result.capacity_high is None else f"{result.capacity_high:.1f}"
    return f"{low} - {high}"


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f} s"


def _plan(study: Study, names: Sequence[str], upstream: Plan) -> Plan:
    """One line for each candidate; a search takes more steps or fewer, and finds its own rates."""
    from pipelines.data import sources
    from pipelines.evaluation import asked, forecast
    from pipelines.tracking import store

    config = study.benchmark
    ids = {line.stage: line.run_id for line in upstream.stages}
    prepared_id, tuned_id = ids["prepare"], ids.get("finetune")
    prepared = store.load_result(prepared_id, PrepareResult) if prepared_id else None
    tuned = store.load_result(tuned_id, FinetuneResult) if tuned_id else None
    n_steps = PLANNED_STEPS[0] + PLANNED_STEPS[1] * (config.repeats - 1)
    n_calls = N_ALONE + config.min_requests * (N_BURSTS + n_steps)
    lines: list[PlannedStage] = []
    started: set[Serving] = set()
    for name in names:
        candidate = study.candidates[name]
        waits = prepared is None or (isinstance(candidate, Own) and candidate.tuned and not tuned)
        done = None
        if prepared is not None and not waits:
            done = store.find_finished(_stage(study, name, prepared, tuned))
        hours = n_steps * max(config.step_s, *_limits(study).values()) / 3600
        note = f"{candidate.title}; {n_steps} steps or so, calls at least"
        usd: dict[str, Any] = {}
        if isinstance(candidate, Own) and candidate.serving not in started and not done:
            started.add(candidate.serving)
            hours += PLANNED_START_S / 3600
        if isinstance(candidate, Rent) and candidate.simulated:
            note += "; SIMULATED, costs nothing"
        elif isinstance(candidate, Rent) and not done:
            examples = sources.load_eval(study.workload.eval_set)
            system = asked.instructions(study, candidate, tuned)
            request_of = asked.request_maker(study, name, system, name)
            each = forecast.usd_of_answers(
                _price(candidate.price),
                ((request_of(e).messages, e.target) for e in examples),
                study.workload.max_output_tokens,
                candidate.terms.as_sent,
            )
            share, most = Decimal(n_calls) / len(examples), config.budget_usd
            assert most is not None
            usd = {
                "tokens": int(each.tokens * share),
                "usd_low": min(most, each.low * share),
                "usd": min(most, each.likely * share),
                "usd_high": most,
            }
        state = "done" if done else "depends" if waits else "to do"
        lines.append(
            PlannedStage(
                stage=f"benchmark {name}",
                state=state,
                run_id=done,
                calls=0 if done else n_calls,
                hours=0.0 if done else hours,
                note=note,
                **usd,
            )
        )
    return Plan(stages=(*upstream.stages, *lines))


if __name__ == "__main__":
    sys.exit(command.main(__doc__, benchmark, show))
