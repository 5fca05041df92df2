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
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.errors import BudgetReached, ConfigError
from pipelines.core.progress import progress, say
from pipelines.core.records import Example, Record, Score, TrainingRow
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
    from pipelines.core.prices import PriceBook, TokenPrice
    from pipelines.evaluation.budget import Budget
    from pipelines.evaluation.journal import Journal
    from pipelines.evaluation.runner import Answers
    from pipelines.tracking.store import Stage, StageRun

RESPONSES, SCORES = "responses.jsonl", "scores.jsonl"
SECONDS_PER_CALL = 2.0
"""Guess for the duration in a dry run."""


@dataclass(frozen=True)
class _Job:
    """One candidate to be evaluated, with all that it needs."""

    study: Study
    name: str
    stage: Stage
    examples: Sequence[Example]
    prepared: PrepareResult
    tuned: FinetuneResult | None
    """The adapter; None for a candidate that does not use it."""
    price: TokenPrice | None
    budget: Budget
    vllm: Callable[[], str]
    """Starts the server of the own candidates, or finds it running; gives its URL."""

    @property
    def candidate(self) -> Candidate:
        return self.study.candidates[self.name]

    @property
    def simulated(self) -> bool:
        return asked.is_simulated(self.candidate)


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

    items = _rows(prepared.run_id, EVAL_FILE, Example)
    examples = asked.repeated(items, study.evaluate.n_samples)
    results: dict[str, EvaluateResult] = {}
    stages = {name: _stage(study, name, prepared, tuned, prices) for name in study.candidates}
    budget = _budget(study, stages, prices)
    with ExitStack() as stack:

        @cache
        def vllm() -> str:
            """One server for all own candidates, started when the first one has to be asked."""
            return stack.enter_context(endpoint(study, tuned))

        for name in study.candidates:
            stage = stages[name]
            if done := store.find_finished(stage):
                say(f"evaluate: {name}: nothing changed, run {done}")
                results[name] = store.load_result(done, EvaluateResult)
                continue
            candidate = study.candidates[name]
            job = _Job(
                study, name, stage, examples, prepared,
                tuned if isinstance(candidate, Own) and candidate.tuned else None,
                prices.token_price(candidate.price) if isinstance(candidate, Rent) else None,
                budget, vllm,
            )  # fmt: skip
            results[name] = _evaluate_one(job)
    if budget.reached:
        raise BudgetReached(
            f"evaluate.budget_usd is reached: ${budget.spent_usd:.4f} of ${budget.limit_usd} are "
            "spent. What was answered is kept and in MLflow; go on with "
            "--set evaluate.budget_usd=MORE"
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
    from pipelines.evaluation import recorded
    from pipelines.serving.vllm_server import check_installed

    for spec in study.workload.metrics.values():
        metrics.load(spec.metric)
    for name, candidate in study.candidates.items():
        if isinstance(candidate, Rent) and candidate.recorded:
            recorded.load(candidate.recorded)
        elif isinstance(candidate, Rent) and not asked.is_simulated(candidate):
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
        "grading": study.evaluate.grading.model_dump(mode="json"),
        "n_samples": study.evaluate.n_samples,
        "traffic": workload.traffic.model_dump(mode="json"),
    }
    if isinstance(candidate, Rent):
        inputs["price"] = prices.token_price(candidate.price).model_dump(mode="json")
    else:
        inputs["hardware"] = candidate.hardware.model_dump(mode="json")
        inputs["own_costs"] = workload.own_costs.model_dump(mode="json")
    return Stage("evaluate", workload.name, inputs, candidate=name)


def _evaluate_one(job: _Job) -> EvaluateResult:
    from pipelines.evaluation.journal import Journal
    from pipelines.tracking import store

    inputs = {"prepare": job.prepared.run_id}
    if job.tuned is not None:
        inputs["finetune"] = job.tuned.run_id
    with (
        store.open_run(
            job.stage,
            data_sha256=job.prepared.eval_sha256,
            inputs=inputs,
            description=job.candidate.title,
        ) as run,
        Journal(_journal_path(job.stage)) as journal,
    ):
        params = asked.params(job.study, job.candidate)
        run.set_tags({"simulated": str(job.simulated).lower(), "kind": job.candidate.kind})
        run.log_params({"title": job.candidate.title, **params})
        run.log_dataset(
            job.study.workload.eval_set.path,
            job.prepared.eval_sha256,
            len(job.examples),
            "evaluation",
        )
        answers = asyncio.run(_respond(job, journal))
        adapter = None if job.tuned is None else store.artifact(job.tuned.run_id, ADAPTER)
        model_id = run.log_candidate(job.name, params, adapter)
        result = _grade(job, run, answers, model_id)
    if result.n_errors:
        listed = "; ".join(f"{count} x {reason}" for reason, count in result.errors.items())
        say(f"evaluate: {job.name}: {result.n_errors} of {result.n_total} calls failed: {listed}")
        say("evaluate: the same command asks only these again")
    if len(result.served_models) > 1:
        say(f"evaluate: {job.name}: several models answered: {', '.join(result.served_models)}")
    return result


def _grade(job: _Job, run: StageRun, answers: Answers, model_id: str) -> EvaluateResult:
    """Score the answers and write everything to the run."""
    from pipelines.evaluation.grading import UNPARSEABLE, grade
    from pipelines.evaluation.summary import describe, figures, summarise
    from pipelines.metrics import whole_set

    workload, grading = job.study.workload, job.study.evaluate.grading
    values: dict[str, dict[str, float | None]] = {metric: {} for metric in workload.metrics}
    weights: dict[str, dict[str, float]] = {metric: {} for metric in workload.metrics}
    labels: dict[str, dict[str, tuple[str, str] | None]] = {
        name: {} for name, spec in workload.metrics.items() if whole_set(spec.metric)
    }
    n_unparseable = 0

    def scores() -> Iterator[Score]:
        """Each score once: kept as a number here, as a row in MLflow."""
        nonlocal n_unparseable
        for metric, spec in workload.metrics.items():
            for score in grade(metric, spec, job.examples, answers, grading):
                values[metric][score.example_id] = score.value
                if score.weight != 1:
                    weights[metric][score.example_id] = score.weight
                if metric in labels:
                    labels[metric][score.example_id] = score.labels
                if metric == workload.quality:
                    n_unparseable += score.reason.startswith(UNPARSEABLE)
                yield score

    run.log_rows(RESPONSES, answers)
    run.log_rows(SCORES, scores())
    if weights[workload.quality] or workload.quality in labels:
        raise ConfigError(
            f"workload.quality: {workload.quality!r} is a figure of the whole set, which cannot "
            "be compared item by item; keep it in metrics and choose another one as quality"
        )
    result = summarise(
        job.study, job.name, job.examples, answers, values, weights, labels, job.price,
        n_unparseable=n_unparseable,
        run_id=run.run_id, model_id=model_id, eval_sha256=job.prepared.eval_sha256,
        adapter_sha256=job.tuned.adapter_sha256 if job.tuned else None,
    )  # fmt: skip
    run.log_metrics(figures(result), model_id=model_id)
    run.set_tags({"reusable": str(result.n_errors == 0).lower()})
    run.describe(describe(result))
    run.save_result(result)
    return result


async def _respond(job: _Job, journal: Journal) -> Answers:
    """Ask for what the journal does not answer; without any, no server is started."""
    import aiohttp

    from pipelines import providers
    from pipelines.economics.token_cost import usd_of_response
    from pipelines.evaluation import recorded, runner
    from pipelines.evaluation.budget import Budget
    from pipelines.serving.vllm_server import BASE, TUNED

    candidate, config, examples = job.candidate, job.study.evaluate, job.examples
    system = job.stage.inputs["asked"]["instructions"]
    own_model = TUNED if isinstance(candidate, Own) and candidate.tuned else BASE
    request_of = asked.request_maker(job.study, job.name, system, own_model)
    digests = [request_of(example).sha256 for example in examples]
    answers = runner.Answers(examples, digests, journal, job.name)
    if isinstance(candidate, Rent) and candidate.recorded:
        recorded.fill(journal, examples, digests, candidate.recorded, candidate.model)
        return answers
    if all(digest in journal for digest in digests):
        return answers
    paid = None if job.simulated else job.price
    own_url = job.vllm() if isinstance(candidate, Own) else None
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_server(candidate, examples, job.prepared, own_url))
        public = candidate if isinstance(candidate, Rent) and not job.simulated else None
        where = providers.Endpoint(
            base_url=url,
            api_key_env=public.api_key_env if public else None,
            timeout_s=config.timeout_s,
            max_attempts=config.max_attempts,
            concurrency=config.concurrency,
        )
        connect = providers.load(public.provider if public else "openai_compatible")
        connector = aiohttp.TCPConnector(limit=config.concurrency)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        ask = await stack.enter_async_context(connect(where, client))
        label = f"evaluate: {job.name}{' (simulated)' if job.simulated else ''}"
        with progress(label, len(examples), "items") as advance:
            await runner.respond(
                ask, examples, digests, request_of, journal,
                concurrency=config.concurrency,
                simulated=job.simulated,
                advance=advance,
                budget=job.budget if paid else Budget(None),
                reserve_usd=lambda r: asked.estimated_usd(paid, r) if paid else Decimal(0),
                usd_of=lambda r: usd_of_response(paid, r) if paid else Decimal(0),
            )  # fmt: skip
    return answers


def _budget(study: Study, stages: Mapping[str, Stage], prices: PriceBook) -> Budget:
    """The study's budget with what all paid candidates have cost so far."""
    from pipelines.economics.token_cost import usd_of_response
    from pipelines.evaluation.budget import Budget
    from pipelines.evaluation.journal import Journal

    spent = Decimal(0)
    if study.evaluate.budget_usd is not None:
        for name, candidate in study.candidates.items():
            if isinstance(candidate, Rent) and not asked.is_simulated(candidate):
                price = prices.token_price(candidate.price)
                with Journal(_journal_path(stages[name])) as journal:
                    spent += sum((usd_of_response(price, r) for r in journal.rows()), Decimal(0))
    return Budget(study.evaluate.budget_usd, spent)


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

    with store.artifact(run_id, name).open(encoding="utf-8") as file:
        return [row_type.model_validate_json(line) for line in file]


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
        n_calls = 0 if done else len(examples) * study.evaluate.n_samples
        usd, note = None, candidate.title
        if isinstance(candidate, Rent) and candidate.recorded:
            note += "; recorded answers, nothing is sent"
        elif isinstance(candidate, Rent) and not asked.is_simulated(candidate):
            price = prices.token_price(candidate.price)
            request_of = asked.request_maker(study, name, study.workload.instructions, name)
            each = (asked.estimated_usd(price, request_of(example)) for example in examples)
            usd = Decimal(0) if done else sum(each, Decimal(0)) * study.evaluate.n_samples
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
