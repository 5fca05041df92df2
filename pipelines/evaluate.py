"""Evaluate the study's candidates on its eval set, all on the same items.

    python -m pipelines.evaluate configs/quickstart.yaml --set 'candidates=[frontier-standin]'

Reads:  the split of `prepare`, the adapter of `finetune` (both made now if needed), price book
Writes: responses.jsonl, scores.jsonl, result.json in one MLflow run per candidate,
        tag stage=evaluate
Next:   python -m pipelines.decide configs/quickstart.yaml
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.errors import ConfigError
from pipelines.core.progress import progress, say
from pipelines.core.records import Example, Record, Response, TrainingRow
from pipelines.core.results import (
    EvaluateResult,
    EvaluateResults,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Baseline, Candidate, Own, Rent, Study
from pipelines.evaluation import asked
from pipelines.finetune import ADAPTER, finetune
from pipelines.prepare import EVAL_FILE, TRAIN_FILE, prepare
from pipelines.serve import endpoint
from pipelines.training.base_identity import identity

if TYPE_CHECKING:
    from pipelines.core.prices import PriceBook
    from pipelines.evaluation.journal import Journal
    from pipelines.providers import ChatRequest, Completion
    from pipelines.tracking.store import Stage

RESPONSES, SCORES = "responses.jsonl", "scores.jsonl"
SECONDS_PER_CALL = 2.0
"""Guess for the duration in a dry run."""


def evaluate(study: Study, options: Options) -> Record:
    """Ask and grade every candidate that is not done yet."""
    _check(study)
    prices = _prices(study)
    needs_tuning = any(isinstance(c, Own) and c.tuned for c in study.candidates.values())
    prepared = prepare(study, options)
    upstream = finetune(study, options, prepared) if needs_tuning else prepared
    if isinstance(upstream, Plan):
        return _plan(study, prices, upstream)
    tuned = upstream if isinstance(upstream, FinetuneResult) else None
    assert isinstance(prepared, PrepareResult)

    from pipelines.tracking import store

    examples = _rows(prepared.run_id, EVAL_FILE, Example)
    results: dict[str, EvaluateResult] = {}
    with ExitStack() as stack:

        @cache
        def vllm() -> str:
            """One server for all own candidates, started when the first one has to be asked."""
            return stack.enter_context(endpoint(study, tuned))

        for name in study.candidates:
            stage = _stage(study, name, prepared, tuned, prices)
            if done := store.find_finished(stage):
                say(f"evaluate: {name}: nothing changed, run {done}")
                results[name] = store.load_result(done, EvaluateResult)
                continue
            results[name] = _evaluate_one(
                study, name, stage, examples, prepared, tuned, prices, vllm
            )
    return EvaluateResults(results=results)


def show(record: Record) -> str:
    """The results as a table."""
    assert isinstance(record, EvaluateResults)
    lines = [f"{'candidate':<22} {'quality':>8} {'95 % interval':>16} {'coverage':>9} {'p95':>8}"]
    for name, result in record.results.items():
        mark = " (simulated)" if result.simulated else ""
        quality = result.metrics[result.quality_metric]
        if quality is None:
            lines.append(f"{name:<22} {'not scored':>8}{mark}")
            continue
        span = f"{quality.low:.3f} - {quality.high:.3f}"
        p95 = "" if result.latency_p95_s is None else f"{result.latency_p95_s:.3f} s"
        lines.append(
            f"{name:<22} {quality.mean:>8.3f} {span:>16} {quality.coverage:>9.1%} {p95:>8}{mark}"
        )
    return "\n".join(lines)


def _check(study: Study) -> None:
    """Everything that can be wrong is said before anything is trained or paid.

    Raises:
        ConfigError: an unknown metric or provider, or a missing key.
    """
    from pipelines import metrics, providers
    from pipelines.serving.vllm_server import check_installed

    for spec in study.workload.metrics.values():
        metrics.load(spec.metric)
    for name, candidate in study.candidates.items():
        if isinstance(candidate, Rent) and not asked.is_simulated(candidate):
            providers.load(candidate.provider)
            if candidate.api_key_env and not os.environ.get(candidate.api_key_env):
                raise ConfigError(
                    f"candidate {name} needs an API key: set {candidate.api_key_env}, or leave "
                    "the candidate out with --set 'candidates=[...]'"
                )
    if any(isinstance(c, Own) for c in study.candidates.values()):
        check_installed()


def _prices(study: Study) -> PriceBook:
    """Prices of the rented candidates; a missing one is an error before the first call."""
    from pipelines.economics.price_book import load_prices

    names = {c.price for c in study.candidates.values() if isinstance(c, Rent)}
    prices = load_prices(names)
    for name in sorted(names):
        prices.token_price(name)
    return prices


def _stage(
    study: Study,
    name: str,
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    prices: PriceBook,
) -> Stage:
    """The stage of one candidate.

    `inputs` holds all that its result depends on; `inputs["asked"]` only what its answers
    depend on: a new price or another metric grades and prices the old answers anew.
    """
    from pipelines.tracking.store import Stage

    workload, candidate = study.workload, study.candidates[name]
    base = identity(study.finetune.base)
    inputs: dict[str, Any] = {
        "asked": asked.what_is_asked(study, name, prepared, tuned, base),
        "title": candidate.title,
        "eval_sha256": prepared.eval_sha256,
        "metrics": {k: v.model_dump(mode="json") for k, v in workload.metrics.items()},
        "quality": workload.quality,
        "traffic": workload.traffic.model_dump(mode="json"),
    }
    if isinstance(candidate, Rent):
        inputs["price"] = prices.token_price(candidate.price).model_dump(mode="json")
    else:
        inputs["hardware"] = candidate.hardware.model_dump(mode="json")
        inputs["own_costs"] = workload.own_costs.model_dump(mode="json")
    return Stage("evaluate", workload.name, inputs, candidate=name)


def _evaluate_one(
    study: Study,
    name: str,
    stage: Stage,
    examples: Sequence[Example],
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    prices: PriceBook,
    vllm: Callable[[], str],
) -> EvaluateResult:
    from pipelines.evaluation import runner
    from pipelines.evaluation.journal import Journal
    from pipelines.evaluation.summary import describe, figures, summarise
    from pipelines.tracking import store

    candidate = study.candidates[name]
    uses_adapter = isinstance(candidate, Own) and candidate.tuned
    inputs = {"prepare": prepared.run_id}
    if uses_adapter and tuned is not None:
        inputs["finetune"] = tuned.run_id
    with store.open_run(
        stage, data_sha256=prepared.eval_sha256, inputs=inputs, description=candidate.title
    ) as run:
        run.set_tags(
            {"simulated": str(asked.is_simulated(candidate)).lower(), "kind": candidate.kind}
        )
        run.log_params({"title": candidate.title, **asked.params(study, candidate)})
        run.log_dataset(
            study.workload.eval_set.path, prepared.eval_sha256, len(examples), "evaluation"
        )
        with Journal(_journal_path(stage)) as journal:
            responses = asyncio.run(_respond(study, name, stage, examples, prepared, vllm, journal))
        scores = {
            metric: runner.grade(metric, spec, examples, responses)
            for metric, spec in study.workload.metrics.items()
        }
        adapter = None
        if uses_adapter and tuned is not None:
            adapter = store.artifact(tuned.run_id, ADAPTER)
        model_id = run.log_candidate(name, asked.params(study, candidate), adapter)
        price = prices.token_price(candidate.price) if isinstance(candidate, Rent) else None
        result = summarise(
            study, name, examples, responses, scores, price,
            run_id=run.run_id, model_id=model_id, eval_sha256=prepared.eval_sha256,
            adapter_sha256=tuned.adapter_sha256 if uses_adapter and tuned else None,
        )  # fmt: skip
        run.log_rows(RESPONSES, responses)
        run.log_rows(SCORES, [score for each in scores.values() for score in each])
        run.log_metrics(figures(result), model_id=model_id)
        run.set_tags({"reusable": str(result.n_errors == 0).lower()})
        run.describe(describe(result))
        run.save_result(result)
    if result.n_errors:
        listed = "; ".join(f"{count} x {reason}" for reason, count in result.errors.items())
        say(f"evaluate: {name}: {result.n_errors} of {result.n_total} calls failed: {listed}")
        say("evaluate: the same command asks only these again")
    return result


async def _respond(
    study: Study,
    name: str,
    stage: Stage,
    examples: Sequence[Example],
    prepared: PrepareResult,
    vllm: Callable[[], str],
    journal: Journal,
) -> list[Response]:
    """Ask for what the journal does not answer; without any, no server is started."""
    import aiohttp

    from pipelines import providers
    from pipelines.evaluation import runner
    from pipelines.serving.vllm_server import BASE, TUNED

    candidate, config = study.candidates[name], study.evaluate
    simulated = asked.is_simulated(candidate)
    system = stage.inputs["asked"]["instructions"]
    own_model = TUNED if isinstance(candidate, Own) and candidate.tuned else BASE
    requests = asked.requests(study, name, system, examples, own_model)
    complete = all(request.sha256 in journal.answered for request in requests)
    own_url = vllm() if isinstance(candidate, Own) and not complete else None
    async with AsyncExitStack() as stack:
        ask: providers.Ask = _no_ask
        if not complete:
            url = await stack.enter_async_context(_server(candidate, examples, prepared, own_url))
            public = candidate if isinstance(candidate, Rent) and not simulated else None
            where = providers.Endpoint(
                base_url=url,
                api_key_env=public.api_key_env if public else None,
                timeout_s=config.timeout_s,
                max_attempts=config.max_attempts,
            )
            connect = providers.load(public.provider if public else "openai_compatible")
            connector = aiohttp.TCPConnector(limit=config.concurrency)
            client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            ask = await stack.enter_async_context(connect(where, client))
        label = f"evaluate: {name}{' (simulated)' if simulated else ''}"
        with progress(label, len(examples), "items") as advance:
            return await runner.respond(
                ask, examples, requests, journal,
                concurrency=config.concurrency, simulated=simulated, advance=advance,
            )  # fmt: skip


async def _no_ask(request: ChatRequest) -> Completion:
    raise AssertionError(f"the journal answers everything, yet {request.sha256} was asked")


@asynccontextmanager
async def _server(
    candidate: Candidate,
    examples: Sequence[Example],
    prepared: PrepareResult,
    own_url: str | None,
) -> AsyncGenerator[str | None]:
    """The server behind a candidate; yields its base URL, None for the provider's own."""
    match candidate:
        case Own():
            yield own_url
        case Baseline():
            from pipelines.serving import classical

            rows = _rows(prepared.run_id, TRAIN_FILE, TrainingRow)
            async with classical.serve(candidate.method, rows) as url:
                yield url
        case Rent() if asked.is_simulated(candidate) and candidate.standin is not None:
            from pipelines.serving import standin

            async with standin.serve(candidate.model, examples, candidate.standin) as url:
                yield url
        case Rent():
            yield candidate.base_url


def _journal_path(stage: Stage) -> Path:
    """One file per way of asking; prices and metrics do not change what was answered."""
    from pipelines.tracking.store import work_root

    asked = json.dumps(stage.inputs["asked"], sort_keys=True, default=str)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return work_root() / "journal" / f"{stage.workload}-{stage.candidate}-{digest}.jsonl"


RowT = TypeVar("RowT", bound=Record)


def _rows(run_id: str, name: str, row_type: type[RowT]) -> list[RowT]:
    from pipelines.tracking import store

    text = store.artifact(run_id, name).read_text(encoding="utf-8")
    return [row_type.model_validate_json(line) for line in text.splitlines()]


def _plan(study: Study, prices: PriceBook, plan: Plan) -> Plan:
    """What each candidate would cost; only rented, real ones cost dollars per call."""
    from pipelines.data import sources
    from pipelines.tracking import store

    examples = sources.load_eval(study.workload.eval_set)
    by_stage = {each.stage: each for each in plan.stages}
    prepared_id = by_stage["prepare"].run_id
    prepared = store.load_result(prepared_id, PrepareResult) if prepared_id else None
    tuned_line = by_stage.get("finetune")
    tuned_id = tuned_line.run_id if tuned_line else None
    tuned = store.load_result(tuned_id, FinetuneResult) if tuned_id else None
    lines: list[PlannedStage] = []
    for name, candidate in study.candidates.items():
        waits = prepared is None or (isinstance(candidate, Own) and candidate.tuned and not tuned)
        done = None
        if prepared is not None and not waits:
            done = store.find_finished(_stage(study, name, prepared, tuned, prices))
        n_calls = 0 if done else len(examples)
        usd, note = None, candidate.title
        if isinstance(candidate, Rent) and not asked.is_simulated(candidate):
            price = prices.token_price(candidate.price)
            usd = Decimal(0) if done else asked.estimated_usd(study, examples, price)
            note += "; dollars at four characters per token and the longest answers"
        elif asked.is_simulated(candidate):
            note += "; SIMULATED, costs nothing"
        lines.append(
            PlannedStage(
                stage=f"evaluate {name}",
                state="done" if done else "depends" if waits else "to do",
                run_id=done,
                calls=n_calls,
                usd=usd,
                hours=n_calls * SECONDS_PER_CALL / study.evaluate.concurrency / 3600,
                note=note,
            )
        )
    return Plan(stages=(*plan.stages, *lines))


if __name__ == "__main__":
    sys.exit(command.main(__doc__, evaluate, show))
