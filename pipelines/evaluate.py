"""Evaluate the study's candidates on its eval set, all on the same items.

    python -m pipelines.evaluate configs/quickstart.yaml --set 'candidates=[frontier-standin]'
    python -m pipelines.evaluate configs/support.yaml --calibrate-judge

Reads:  the split of `prepare`, the adapter of `finetune` (both made now if needed), price book
Writes: responses.jsonl, scores.jsonl, verdicts.jsonl of judges, result.json in one MLflow run per
        candidate, tag stage=evaluate
Next:   python -m pipelines.decide configs/quickstart.yaml
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import cache, partial
from typing import TYPE_CHECKING

from pipelines.benchmark import load_tests
from pipelines.core import command
from pipelines.core.candidate import Candidate, Own, Rent, Serving
from pipelines.core.command import Options
from pipelines.core.errors import BudgetReached, ConfigError
from pipelines.core.progress import say
from pipelines.core.records import Example, Record, Response, Score
from pipelines.core.results import (
    EVAL_FILE,
    RESPONSES,
    SCORES,
    EvaluateResult,
    EvaluateResults,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.finetune import finetune
from pipelines.prepare import prepare
from pipelines.serve import Servers

if TYPE_CHECKING:
    from pipelines.core.prices import PriceBook
    from pipelines.data.labels import Label
    from pipelines.evaluation.budget import Budget
    from pipelines.tracking.store import Stage


def evaluate(study: Study, options: Options) -> Record:
    """Ask and grade every candidate that is not done yet."""
    prices = check(study)
    _name_old(prices)
    models = (*study.candidates.values(), *study.judges.values())
    prepared = prepare(study, options)
    upstream = prepared
    if any(isinstance(model, Own) and model.tuned for model in models):
        upstream = finetune(study, options, prepared)
    if isinstance(upstream, Plan):
        from pipelines.data import sources
        from pipelines.evaluation import forecast

        examples = sources.load_eval(study.workload.eval_set)
        loads_of = partial(load_tests, study)
        return forecast.plan(study, prices, upstream, _labels(study, examples), loads_of)
    tuned = upstream if isinstance(upstream, FinetuneResult) else None
    assert isinstance(prepared, PrepareResult)

    from pipelines.evaluation import asked, judge_figures, looks
    from pipelines.evaluation.candidate import evaluate_candidate
    from pipelines.evaluation.job import Job, Work, calibration_stage, rows_of, stage_of
    from pipelines.tracking import store

    results: dict[str, EvaluateResult] = {}
    items = rows_of(prepared.run_id, EVAL_FILE, Example)
    labels = _labels(study, items)
    loads = load_tests(study, prepared, tuned)
    stages = {
        name: stage_of(study, name, prepared, tuned, prices, labels, loads.get(name))
        for name in _order(study)
    }
    measured = calibration_stage(study, tuned, labels, "labels")
    budget = _budget(study, stages, measured, prices)
    with Servers(study, tuned) as servers:

        @cache
        def rivals() -> Mapping[str, str | None]:
            run_id = results[study.incumbent].run_id
            return {r.example_id: r.text for r in rows_of(run_id, RESPONSES, Response)}

        @cache
        def standard() -> Mapping[str, float | None]:
            rows = rows_of(results[study.incumbent].run_id, SCORES, Score)
            return {s.example_id: s.value for s in rows if s.metric == study.workload.quality}

        examples = asked.repeated(items, study.evaluate.n_samples)
        if study.evaluate.looks > 1:
            examples = looks.ordered(examples)
        work = Work(
            study, prices, prepared, tuned, examples, labels, budget, _vllm(servers), rivals,
            standard, loads,
        )  # fmt: skip
        for name, stage in stages.items():
            if done := store.find_finished(stage):
                say(f"evaluate: {name}: nothing changed, run {done}")
                results[name] = store.load_result(done, EvaluateResult)
            else:
                its_work = replace(work, vllm=_vllm(servers, study.candidates[name]))
                results[name] = evaluate_candidate(Job(its_work, name, stage))
    if budget.reached:
        raise BudgetReached(
            f"evaluate.budget_usd is reached: ${budget.spent_usd:.4f} of ${budget.limit_usd} are "
            "spent. What was answered is kept and in MLflow; go on with "
            "--set evaluate.budget_usd=MORE"
        )
    done = store.find_finished(measured)
    figures = store.load_result(done, judge_figures.Calibration).figures if done else None
    return EvaluateResults(
        results={name: results[name] for name in study.candidates},
        prepare_run_id=prepared.run_id,
        calibration_run_id=done,
        judge_doubt=judge_figures.doubt(study, figures),
        judge_kinship=judge_figures.kinship(study),
    )


def calibrate(study: Study, options: Options, against: str) -> Record:
    """Measure the study's judges against human labels."""
    check(study)
    if not any(spec.judges for spec in study.workload.metrics.values()):
        raise ConfigError(
            f"no metric of {study.workload.name} is judged: there is nothing to measure"
        )
    prices = _prices(study)
    prepared = prepare(study, options)
    upstream = prepared
    if any(isinstance(judge, Own) and judge.tuned for judge in study.judges.values()):
        upstream = finetune(study, options, prepared)
    if isinstance(upstream, Plan):
        line = PlannedStage(stage="calibrate-judge", state="depends", note=f"against {against}")
        return Plan(stages=(*upstream.stages, line))
    tuned = upstream if isinstance(upstream, FinetuneResult) else None
    assert isinstance(prepared, PrepareResult)

    from pipelines.evaluation import calibration, judge_figures
    from pipelines.evaluation.job import Work, calibration_stage, rows_of
    from pipelines.tracking import store

    items = rows_of(prepared.run_id, EVAL_FILE, Example)
    labels = _labels(study, items) if against == "labels" else []
    stage = calibration_stage(study, tuned, labels, against)
    if done := store.find_finished(stage):
        say(f"calibrate-judge: nothing changed, run {done}")
        return store.load_result(done, judge_figures.Calibration)
    with (
        Servers(study, tuned) as servers,
        store.open_run(
            stage,
            data_sha256=prepared.eval_sha256,
            inputs={"prepare": prepared.run_id},
            description=f"Judges measured against {against}.",
        ) as run,
    ):
        work = Work(
            study, prices, prepared, tuned, items, labels, _budget(study, {}, stage, prices),
            _vllm(servers), dict, dict,
        )  # fmt: skip
        figures = calibration.measure(work, stage, against)
        result = judge_figures.Calibration(run_id=run.run_id, figures=tuple(figures))
        run.log_metrics(judge_figures.numbers(result))
        run.describe(judge_figures.markdown(result))
        run.save_result(result)
    return result


def show(record: Record) -> str:
    """The results as a table."""
    from pipelines.evaluation.looks import words

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
    stops = {name: result.looks for name, result in record.results.items() if result.looks}
    lines += [f"{name}: {words(looks)}" for name, looks in stops.items()]
    return "\n".join(lines)


def check(study: Study) -> PriceBook:
    """Everything that can be wrong is said before anything is trained or paid; gives the prices.

    Raises:
        ConfigError: an unknown metric or provider, a metric whose parameters do not fit or that
            cannot be the quality, a missing key or price.
        DataError: the eval set is absent or wrong.
        Refused: the study's data must not go to one of its models.
    """
    from pipelines import judging, metrics, providers
    from pipelines.data import sources
    from pipelines.evaluation import asked, connect, grading, recorded
    from pipelines.serving.vllm_server import check_installed

    connect.check_allowed(study)
    for spec in study.workload.metrics.values():
        if spec.judges:
            judging.load(spec.metric)
        else:
            metrics.load(spec.metric)
    models: dict[str, Candidate] = {f"judge {name}": j for name, j in study.judges.items()}
    models |= {f"candidate {name}": each for name, each in study.candidates.items()}
    for name, model in models.items():
        if isinstance(model, Rent) and model.recorded:
            if name.startswith("judge "):
                raise ConfigError(f"{name}: recorded answers cannot judge; leave `recorded` out")
            recorded.load(model.recorded)
        elif isinstance(model, Rent) and not model.simulated:
            providers.load(model.provider)
            asked.fields_of(model)
            if model.api_key_env and not os.environ.get(model.api_key_env):
                raise ConfigError(
                    f"{name} needs an API key: set {model.api_key_env}, or leave it out, with "
                    "--set 'candidates=[...]' for a candidate"
                )
    if any(isinstance(model, Own) for model in models.values()):
        check_installed()
    own_judges = [judge for judge in study.judges.values() if isinstance(judge, Own)]
    if own_judges and any(isinstance(m, Own) and m.serving != Serving() for m in models.values()):
        raise ConfigError(
            "a study with an own judge has one vLLM server for all: leave `serving` of the own "
            "candidates and judges out, or judge with a rented model"
        )
    items = sources.load_eval(study.workload.eval_set)
    for name, spec in study.workload.metrics.items():
        if not spec.judges:
            samples = (asked.repeated([item], study.evaluate.n_samples) for item in items)
            is_plain_mean = grading.trial(name, spec, samples)
            if name == study.workload.quality and not is_plain_mean:
                raise grading.no_quality(name)
    return _prices(study)


def _vllm(servers: Servers, candidate: Candidate | None = None) -> Callable[[], str]:
    """Starts the server of an own candidate, or finds it running; None = that of the judges."""
    serving = candidate.serving if isinstance(candidate, Own) else Serving()
    return lambda: servers.url(serving)


def _prices(study: Study) -> PriceBook:
    """Of the rented models; a missing one, or a missing tier, is an error before any call."""
    from pipelines.economics.price_book import load_prices
    from pipelines.economics.token_cost import rates_of

    models = (*study.candidates.values(), *study.judges.values())
    rented = [model for model in models if isinstance(model, Rent)]
    prices = load_prices({model.price for model in rented})
    for model in rented:
        try:
            rates_of(prices.token_price(model.price), model.terms.service_tier, 0)
        except ConfigError as error:
            raise ConfigError(f"{model.title}: {error}") from None
    return prices


def _name_old(prices: PriceBook) -> None:
    """Say which prices were looked up long ago."""
    from pipelines.economics.price_book import stale

    for name, price in prices.tokens.items():
        if doubt := stale(price, date.today()):
            say(f"prices: {name}: {doubt}")


def _labels(study: Study, items: Sequence[Example]) -> list[Label]:
    """Human labels of the workload's judged metrics, from its file and from the MLflow UI."""
    from pipelines.data import labels
    from pipelines.tracking import traces

    judged = [name for name, spec in study.workload.metrics.items() if spec.judges]
    if not judged:
        return []
    path = study.workload.labels
    found = labels.load(path, {item.id: item for item in items}, judged) if path else []
    return found + [labels.Label(**row) for row in traces.human_labels(study.workload.name, judged)]


def _order(study: Study) -> list[str]:
    """The incumbent first: others may be compared with its answers."""
    return sorted(study.candidates, key=lambda name: name != study.incumbent)


def _budget(
    study: Study, stages: Mapping[str, Stage], calibration: Stage | None, prices: PriceBook
) -> Budget:
    """The study's budget with what all paid models have cost so far."""
    from pipelines.economics.token_cost import usd_of_response
    from pipelines.evaluation.budget import Budget
    from pipelines.evaluation.job import journal_path, judge_journal_path, used
    from pipelines.evaluation.journal import Journal

    spent = Decimal(0)
    if study.evaluate.budget_usd is not None:
        files = {journal_path(stage): study.candidates[name] for name, stage in stages.items()}
        for stage in (*stages.values(), *([calibration] if calibration else [])):
            files |= {judge_journal_path(stage, j): study.judges[j] for j in used(study)}
        for path, model in files.items():
            if path.exists() and isinstance(model, Rent) and not model.simulated:
                price = prices.token_price(model.price)
                with Journal(path) as journal:
                    terms = model.terms.as_sent
                    paid = (usd_of_response(price, r, terms) for r in journal.rows())
                    spent += sum(paid, Decimal(0))
    return Budget(study.evaluate.budget_usd, spent)


def show_calibration(record: Record) -> str:
    """The judges as a table."""
    from pipelines.evaluation.judge_figures import Calibration, table

    assert isinstance(record, Calibration)
    return table(record)


CALIBRATE = command.Mode(
    "calibrate-judge",
    ("labels", "llmbar", "evouna"),
    "instead: measure the judges against the workload's human labels, or on a public set",
    calibrate,
    show_calibration,
)


if __name__ == "__main__":
    sys.exit(command.main(__doc__, evaluate, show, mode=CALIBRATE))
