"""Evaluate one candidate: ask, judge, grade, and write all of it to its MLflow run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal

from pipelines.core.candidate import Own, Rent
from pipelines.core.progress import progress, say
from pipelines.core.records import Example, Score, TrainingRow
from pipelines.core.results import (
    ADAPTER,
    RESPONSES,
    SCORES,
    TRAIN_FILE,
    VERDICTS,
    EvaluateResult,
    LooksResult,
)
from pipelines.economics.token_cost import usd_of_response
from pipelines.evaluation import asked, looks, recorded, runner
from pipelines.evaluation.budget import Budget
from pipelines.evaluation.connect import connected
from pipelines.evaluation.grading import grade, no_quality
from pipelines.evaluation.job import Job, journal_path, reader_of
from pipelines.evaluation.journal import Journal
from pipelines.evaluation.judges import Judged, judge_answers
from pipelines.evaluation.runner import Answers
from pipelines.evaluation.scores import ScoreBook
from pipelines.evaluation.summary import describe, figures, summarise
from pipelines.governance.egress import gate_of
from pipelines.providers import ChatRequest
from pipelines.serving import candidate_server
from pipelines.serving.vllm_server import BASE, TUNED
from pipelines.tracking import prompts, store, traces
from pipelines.tracking.store import StageRun


def evaluate_candidate(job: Job) -> EvaluateResult:
    """All of one candidate; what an earlier, cut run was answered is not asked again."""
    prepared = job.work.prepared
    inputs = {"prepare": prepared.run_id}
    if job.tuned is not None:
        inputs["finetune"] = job.tuned.run_id
    with (
        store.open_run(
            job.stage,
            data_sha256=prepared.eval_sha256,
            inputs=inputs,
            description=job.candidate.title,
        ) as run,
        Journal(journal_path(job.stage)) as journal,
    ):
        params = asked.params(job.study, job.candidate)
        run.set_tags({"kind": job.candidate.kind})
        prompt = prompts.link(
            run, job.study.workload.name, job.stage.inputs["asked"]["instructions"]
        )
        run.log_params({"title": job.candidate.title, "prompt": prompt, **params})
        run.log_dataset(
            job.study.workload.eval_set.path,
            prepared.eval_sha256,
            len(job.work.examples),
            "evaluation",
        )
        found = asyncio.run(_ask(job, journal))
        judged = found.judged
        adapter = None if job.tuned is None else store.artifact(job.tuned.run_id, ADAPTER)
        model_id = run.log_candidate(job.name, params, adapter)
        result, scores = _grade(job, run, found, model_id)
        traces.log_traces(run, job.name, _sample(job, found.answers, scores))
    if result.n_errors:
        listed = "; ".join(f"{count} x {reason}" for reason, count in result.errors.items())
        say(f"evaluate: {job.name}: {result.n_errors} of {result.n_total} calls failed: {listed}")
        say("evaluate: the same command asks only these again")
    if judged.n_failed:
        reasons = Counter(verdict.reason for verdict in judged.verdicts if verdict.failed)
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(10))
        say(f"judge: {job.name}: {judged.n_failed} verdicts are missing: {listed}")
        say("judge: the same command asks only for these again")
    if result.looks is not None:
        say(f"evaluate: {job.name}: {looks.words(result.looks)}")
    if len(result.served_models) > 1:
        say(f"evaluate: {job.name}: several models answered: {', '.join(result.served_models)}")
    return result


@dataclass(frozen=True)
class _Found:
    """What became of the items that a candidate was asked."""

    answers: Answers
    judged: Judged
    graded: list[Score]
    """The quality of every answer, where it was computed to be looked at; else empty."""
    looks: LooksResult | None


async def _ask(job: Job, journal: Journal) -> _Found:
    """Ask and judge all items, or those up to the look at which the candidate is stopped.

    Nothing of a part is asked before the one before it is answered whole and judged. Where the
    journal answers everything, no server is started; recorded answers are never asked for.
    """
    study, examples, request_of = job.study, job.work.examples, _request_maker(job)
    quality, margin = study.workload.quality, study.workload.requirements.max_quality_loss
    plan = None
    if looks.applies(study, job.name):
        plan = looks.schedule(examples, study.evaluate.looks, margin)
    ends = plan.ends if plan else (len(examples),)
    digests = [request_of(example).sha256 for example in examples]
    path = job.candidate.recorded if isinstance(job.candidate, Rent) else None
    if path and isinstance(job.candidate, Rent):
        recorded.fill(journal, examples, digests, path, job.candidate.model)
    judged, graded, taken = Judged({}, [], None, set()), list[Score](), list[looks.Look]()
    start = end = 0
    async with AsyncExitStack() as stack:
        respond: _Respond | None = None
        for end in ends:
            part = Answers(examples[start:end], digests[start:end], journal, job.name)
            if not path and not all(digest in journal for digest in part.digests):
                respond = respond or await stack.enter_async_context(_asking(job, journal, start))
                await respond(part)
            if end == ends[-1]:
                await stack.aclose()
            judged.add(await judge_answers(job, part))
            if plan is None or job.work.budget.reached:
                break
            if quality not in judged.scores:
                spec, how = study.workload.metrics[quality], study.evaluate.grading
                graded += grade(quality, spec, part.examples, part, how)
            ours = {s.example_id: s.value for s in judged.scores.get(quality, graded)}
            taken.append(looks.take(plan, len(taken) + 1, examples, ours, job.work.standard()))
            if taken[-1].stopped:
                break
            start = end
    return _Found(
        Answers(examples[:end], digests[:end], journal, job.name),
        judged,
        graded,
        looks.result(plan, taken, end) if plan else None,
    )


_Respond = Callable[[Answers], Awaitable[None]]


@asynccontextmanager
async def _asking(job: Job, journal: Journal, n_before: int) -> AsyncGenerator[_Respond]:
    """The candidate, ready to be asked part by part; `n_before` items are done already."""
    candidate, config, examples = job.candidate, job.study.evaluate, job.work.examples
    gate = gate_of(job.study.workload)
    paid = None if candidate.simulated else job.price
    terms = asked.terms_of(candidate).as_sent
    train = reader_of(job.work.prepared.run_id, TRAIN_FILE, TrainingRow)
    async with (
        candidate_server.serve(candidate, examples, train, job.work.vllm) as url,
        connected(gate, f"candidate {job.name}", candidate, url, config) as ask,
    ):
        label = f"evaluate: {job.name}{' (simulated)' if candidate.simulated else ''}"
        with progress(label, len(examples), "items") as advance:
            advance(n_before)

            async def respond(part: Answers) -> None:
                await runner.respond(
                    ask, part.examples, part.digests, _request_maker(job), journal,
                    concurrency=config.concurrency,
                    simulated=candidate.simulated,
                    advance=advance,
                    budget=job.work.budget if paid else Budget(None),
                    reserve_usd=lambda r: (
                        asked.estimated_usd(paid, r, terms) if paid else Decimal(0)
                    ),
                    usd_of=lambda r: usd_of_response(paid, r, terms) if paid else Decimal(0),
                )  # fmt: skip

            yield respond


def _request_maker(job: Job) -> Callable[[Example], ChatRequest]:
    tuned = isinstance(job.candidate, Own) and job.candidate.tuned
    system = job.stage.inputs["asked"]["instructions"]
    return asked.request_maker(job.study, job.name, system, TUNED if tuned else BASE)


def _grade(
    job: Job, run: StageRun, found: _Found, model_id: str
) -> tuple[EvaluateResult, dict[str, list[Score]]]:
    """Score the answers and write everything to the run.

    Returns:
        The result, and the scores of the items that become traces, by example id.
    """
    workload, answers, judged = job.study.workload, found.answers, found.judged
    book = ScoreBook(workload.metrics)
    traced: dict[str, list[Score]] = {each.id: [] for each in _traced(job)}

    def scores() -> Iterator[Score]:
        for name, spec in workload.metrics.items():
            if spec.judges:
                yield from judged.scores[name]
            elif name == workload.quality and found.graded:
                yield from found.graded
            else:
                yield from grade(name, spec, answers.examples, answers, job.study.evaluate.grading)

    def kept(rows: Iterator[Score]) -> Iterator[Score]:
        for row in rows:
            if row.example_id in traced:
                traced[row.example_id].append(row)
            yield row

    run.log_rows(RESPONSES, answers)
    run.log_rows(SCORES, kept(book.noting(scores())))
    if not book.is_plain_mean(workload.quality):
        raise no_quality(workload.quality)
    if judged.verdicts:
        run.log_rows(VERDICTS, judged.verdicts)
    result = summarise(
        job.study, job.name, answers, book, job.price,
        judge_usd=judged.usd, simulated_metrics=tuple(sorted(judged.simulated)),
        run_id=run.run_id, model_id=model_id, eval_sha256=job.work.prepared.eval_sha256,
        adapter_sha256=job.tuned.adapter_sha256 if job.tuned else None,
        load=job.work.loads.get(job.name), trained=job.tuned, looks=found.looks,
    )  # fmt: skip
    run.log_metrics(figures(result), model_id=model_id)
    cut = found.looks is not None and found.looks.stopped == "budget"
    run.set_tags(
        {
            "simulated": str(result.simulated).lower(),
            "reusable": str(not (result.n_errors or judged.n_failed or cut)).lower(),
        }
    )
    run.describe(describe(result))
    run.save_result(result)
    return result, traced


def _traced(job: Job) -> Sequence[Example]:
    """The items that become traces: the first ones, the same for every candidate."""
    return job.work.examples[: job.study.evaluate.n_traces]


def _sample(
    job: Job, answers: Answers, scores: Mapping[str, Sequence[Score]]
) -> Iterator[traces.TracedItem]:
    for example, response in zip(_traced(job), answers, strict=False):
        usd = None
        if job.price is not None and response.usage is not None:
            terms = asked.terms_of(job.candidate).as_sent
            usd = float(usd_of_response(job.price, response, terms))
        yield traces.TracedItem(
            messages=_request_maker(job)(example).messages,
            target=example.target,
            response=response,
            scores=tuple(scores[example.id]),
            usd=usd,
        )
