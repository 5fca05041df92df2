"""Decide for one workload: own, rent, hybrid, or not enough evidence.

    python -m pipelines.decide configs/quickstart.yaml --set workload.traffic.tasks_per_month=90000

Reads:  the `benchmark` and `evaluate` runs of every candidate (made now if needed)
Writes: result.json (a Decision) and report.html in one MLflow run, tag stage=decide
Next:   python -m pipelines.promote configs/quickstart.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pipelines.benchmark import benchmark
from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.progress import say
from pipelines.core.records import Difference, Record, Score
from pipelines.core.results import (
    RESPONSES,
    SCORES,
    CandidateDecision,
    Decision,
    EvaluateResult,
    EvaluateResults,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.evaluate import check, evaluate
from pipelines.evaluation.asked import repeated

REPORT = "report.html"


def decide(study: Study, options: Options) -> Record:
    """Measure capacity and quality if needed, compare, choose, report."""
    check(study)
    loaded = benchmark(study, options)
    evaluated = evaluate(study, options)
    if isinstance(evaluated, Plan):
        assert isinstance(loaded, Plan)
        loads = [stage for stage in loaded.stages if stage.stage.startswith("benchmark ")]
        last = PlannedStage(stage="decide", state="depends")
        return Plan(stages=(*evaluated.stages, *loads, last))
    assert isinstance(evaluated, EvaluateResults)

    from pipelines.tracking import store

    results = evaluated.results
    workload = study.workload
    stage = store.Stage(
        "decide",
        workload.name,
        {
            "incumbent": study.incumbent,
            "title": workload.title,
            "requirements": workload.requirements.model_dump(mode="json"),
            "traffic": workload.traffic.model_dump(mode="json"),
            "own_costs": workload.own_costs.model_dump(mode="json"),
            "evaluate_runs": {name: result.run_id for name, result in results.items()},
            "prepare_run": evaluated.prepare_run_id,
            "calibration_run": evaluated.calibration_run_id,
            "judge_doubt": evaluated.judge_doubt,
            "judge_kinship": evaluated.judge_kinship,
        },
    )
    if done := store.find_finished(stage):
        say(f"decide: nothing changed, run {done}")
        return store.load_result(done, Decision)

    from pipelines.economics import verdict
    from pipelines.evaluation.judge_figures import Calibration
    from pipelines.reports import html, terminal

    prepared = store.load_result(evaluated.prepare_run_id, PrepareResult)
    calibrated = evaluated.calibration_run_id
    judges = store.load_result(calibrated, Calibration).figures if calibrated else ()
    with store.open_run(
        stage,
        data_sha256=results[study.incumbent].eval_sha256,
        inputs={f"evaluate.{name}": result.run_id for name, result in results.items()}
        | ({"calibrate-judge": calibrated} if calibrated else {}),
        description="Verdict.",
    ) as run:
        rows = _rows(study, results)
        decision = verdict.decide(
            study,
            rows,
            results,
            run.run_id,
            judge_doubt=evaluated.judge_doubt,
            judge_kinship=evaluated.judge_kinship,
        )
        report = html.render(study, decision, evaluated, prepared, judges, _latencies(results))
        run.log_text(report, REPORT)
        run.log_metrics(_figures(decision))
        run.set_tags(
            {
                "verdict": decision.verdict,
                "chosen": decision.chosen or "none",
                "simulated": str(bool(decision.simulated)).lower(),
            }
        )
        note = terminal.markdown(decision)
        run.describe(note)
        store.set_experiment_note(workload.name, note)
        run.save_result(decision)
    return decision


def show(record: Record) -> str:
    """The decision table."""
    from pipelines.reports import terminal

    assert isinstance(record, Decision)
    return terminal.table(record)


def _rows(study: Study, results: Mapping[str, EvaluateResult]) -> dict[str, CandidateDecision]:
    """Every candidate beside the incumbent, on the same items."""
    from pipelines.data import sources
    from pipelines.economics import verdict

    need = study.workload.requirements
    items = repeated(sources.load_eval(study.workload.eval_set), study.evaluate.n_samples)
    groups = {item.id: item.group for item in items if item.group is not None}
    scores = {name: _scores(result) for name, result in results.items()}
    incumbent = results[study.incumbent]
    return {
        name: verdict.candidate_row(
            study,
            result,
            incumbent,
            None
            if name == study.incumbent
            else _difference(scores[name], scores[study.incumbent], groups),
            need,
            None
            if (other := study.candidates[name].control_of) is None
            else _difference(scores[name], scores[other], groups),
        )
        for name, result in results.items()
    }


def _difference(
    ours: Sequence[Score], theirs: Sequence[Score], groups: Mapping[str, str]
) -> Difference | None:
    """Candidate - incumbent, corrected by human labels where both have some."""
    from pipelines.statistics.intervals import difference
    from pipelines.statistics.judge_correction import corrected_difference

    values = ({s.example_id: s.value for s in ours}, {s.example_id: s.value for s in theirs})
    human = ({s.example_id: s.human for s in ours}, {s.example_id: s.human for s in theirs})
    corrected = None
    if any(label is not None for side in human for label in side.values()):
        corrected = corrected_difference(values, human, groups).corrected
    return corrected or difference(*values, groups)


def _scores(result: EvaluateResult) -> list[Score]:
    """Of the quality metric."""
    from pipelines.tracking import store

    text = store.artifact(result.run_id, SCORES).read_text(encoding="utf-8")
    rows = (Score.model_validate_json(line) for line in text.splitlines())
    return [score for score in rows if score.metric == result.quality_metric]


def _latencies(results: Mapping[str, EvaluateResult]) -> dict[str, list[float]]:
    """Candidate -> seconds of every answered item."""
    import json

    from pipelines.tracking import store

    found: dict[str, list[float]] = {}
    for name, result in results.items():
        lines = store.artifact(result.run_id, RESPONSES).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        found[name] = [
            row["latency_s"]
            for row in rows
            if row["latency_s"] is not None and row["error"] is None
        ]
    return found


def _figures(decision: Decision) -> dict[str, float | None]:
    """Metrics of the decision's run: those of the chosen candidate."""
    if decision.chosen is None:
        return {}
    row = decision.candidates[decision.chosen]
    now = decision.candidates[decision.incumbent].usd_per_month
    saved = None
    if now is not None and row.usd_per_month is not None:
        saved = float(now - row.usd_per_month)
    return {
        "quality": row.quality.mean if row.quality else None,
        "quality_low": row.quality.low if row.quality else None,
        "quality_high": row.quality.high if row.quality else None,
        "coverage": row.coverage,
        "latency_p50_s": row.latency_p50_s,
        "latency_p95_s": row.latency_p95_s,
        "usd_per_month": None if row.usd_per_month is None else float(row.usd_per_month),
        "usd_per_task": None if row.usd_per_task is None else float(row.usd_per_task),
        "usd_saved_per_month": saved,
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, decide, show))
