"""Measure how much load each candidate carries within the latency limits.

    python -m pipelines.benchmark configs/quickstart.yaml --set benchmark.step_s=60

Reads:  the items of `prepare`, the adapter of `finetune` (both made now if needed)
Writes: requests.jsonl, result.json, capacity and latencies in one MLflow run per candidate, tag
        stage=benchmark
Next:   python -m pipelines.decide configs/quickstart.yaml
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from pipelines.core import command
from pipelines.core.candidate import Own, Rent, Serving
from pipelines.core.command import Options
from pipelines.core.errors import ConfigError
from pipelines.core.progress import say
from pipelines.core.records import Record
from pipelines.core.results import (
    BenchmarkResult,
    BenchmarkResults,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.finetune import finetune
from pipelines.prepare import prepare
from pipelines.serve import Servers
from pipelines.serving.vllm_server import check_installed

PLANNED_STEPS = (5, 2)
"""Guess for a dry run: steps of the first search, and of each further one."""
PLANNED_START_S = 40.0
"""Guess for a dry run: until a server is up."""


def benchmark(study: Study, options: Options) -> Record:
    """Measure every candidate that is not done yet."""
    from pipelines.evaluation.connect import check_allowed

    names = _chosen(study)
    check_allowed(study, names)
    prepared = prepare(study, options)
    upstream = prepared
    if _need_adapter(study, names):
        upstream = finetune(study, options, prepared)
    if isinstance(upstream, Plan):
        return _plan(study, names, upstream)
    tuned = upstream if isinstance(upstream, FinetuneResult) else None
    assert isinstance(prepared, PrepareResult)

    from pipelines.evaluation.load_test import LoadJob, load_candidate, stage_of
    from pipelines.tracking import store

    results: dict[str, BenchmarkResult] = {}
    left_usd = _left_usd(study)
    with Servers(study, tuned) as servers:
        for name in names:
            stage = stage_of(study, name, prepared, tuned)
            if done := store.find_finished(stage):
                say(f"benchmark: {name}: nothing changed, run {done}")
                results[name] = store.load_result(done, BenchmarkResult)
            else:
                job = LoadJob(study, name, stage, prepared, tuned, servers.url, left_usd)
                results[name] = load_candidate(job)
                if left_usd is not None:
                    left_usd -= results[name].spent_usd or Decimal(0)
    return BenchmarkResults(results=results)


def load_tests(
    study: Study, prepared: PrepareResult, tuned: FinetuneResult | None
) -> dict[str, BenchmarkResult]:
    """The study's load tests that are done, by candidate; starts none."""
    from pipelines.evaluation.load_test import stage_of
    from pipelines.tracking import store

    names = _chosen(study)
    # Without one of those that need it, no adapter was beside the base under load.
    beside = tuned if _need_adapter(study, names) else None
    runs = {name: store.find_finished(stage_of(study, name, prepared, beside)) for name in names}
    return {name: store.load_result(run, BenchmarkResult) for name, run in runs.items() if run}


def show(record: Record) -> str:
    """The capacities as a table."""
    from pipelines.reports import load

    assert isinstance(record, BenchmarkResults)
    return load.table(record)


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


def _left_usd(study: Study) -> Decimal | None:
    """What of the budget earlier load tests of the workload have left; None = no limit."""
    from pipelines.tracking.spent import spent_usd

    most = study.benchmark.budget_usd
    if most is None or not (spent := spent_usd("benchmark", study.workload.name)):
        return most
    left = max(Decimal(0), most - spent)
    more = "" if left else "; raise it to send more load to rented candidates"
    say(f"benchmark: ${spent:.4f} of benchmark.budget_usd {most} is spent by earlier runs{more}")
    return left


def _need_adapter(study: Study, names: Sequence[str]) -> bool:
    chosen = (study.candidates[name] for name in names)
    return any(isinstance(model, Own) and model.tuned for model in chosen)


def _able(study: Study, names: list[str]) -> list[str]:
    if any(isinstance(study.candidates[name], Own) for name in names):
        check_installed()
    return names


def _plan(study: Study, names: Sequence[str], upstream: Plan) -> Plan:
    """One line for each candidate; a search takes more steps or fewer, and finds its own rates."""
    from pipelines.evaluation.load_test import N_ALONE, N_BURSTS, limits_of, stage_of
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
    left_usd = _left_usd(study)
    for name in names:
        candidate = study.candidates[name]
        waits = prepared is None or (isinstance(candidate, Own) and candidate.tuned and not tuned)
        done = None
        if prepared is not None and not waits:
            done = store.find_finished(stage_of(study, name, prepared, tuned))
        hours = n_steps * max(config.step_s, *limits_of(study).values()) / 3600
        note = f"{candidate.title}; {n_steps} steps or so, calls at least"
        usd: dict[str, Any] = {}
        if isinstance(candidate, Own) and candidate.serving not in started and not done:
            started.add(candidate.serving)
            hours += PLANNED_START_S / 3600
        if isinstance(candidate, Rent) and candidate.simulated:
            note += "; SIMULATED, costs nothing"
        elif isinstance(candidate, Rent) and not done:
            assert left_usd is not None
            usd = _planned_usd(study, name, candidate, tuned, n_calls, left_usd)
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


def _planned_usd(
    study: Study,
    name: str,
    candidate: Rent,
    tuned: FinetuneResult | None,
    n_calls: int,
    most: Decimal,
) -> dict[str, Any]:
    """Fields of the candidate's line: the mean of all items, as often as it is asked."""
    from pipelines.data import sources
    from pipelines.economics.price_book import load_prices
    from pipelines.evaluation import asked, forecast

    examples = sources.load_eval(study.workload.eval_set)
    system = asked.instructions(study, candidate, tuned)
    request_of = asked.request_maker(study, name, system, name)
    each = forecast.usd_of_answers(
        load_prices({candidate.price}).token_price(candidate.price),
        ((request_of(e).messages, e.target) for e in examples),
        study.workload.max_output_tokens,
        candidate.terms.as_sent,
    )
    share = Decimal(n_calls) / len(examples)
    return {
        "tokens": int(each.tokens * share),
        "usd_low": min(most, each.low * share),
        "usd": min(most, each.likely * share),
        "usd_high": most,
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, benchmark, show))
