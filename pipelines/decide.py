"""Decide for one workload: own, rent, hybrid, or not enough evidence.

    python -m pipelines.decide configs/quickstart.yaml --set workload.traffic.tasks_per_month=90000
    python -m pipelines.decide --scores results.csv --incumbent gpt --margin 0.02 --error-cost 0.5
    python -m pipelines.decide configs/quickstart.yaml --plan

The second form needs no study: it decides on anybody's results per item (columns example_id,
candidate, score; and, where known, usd, latency_s, group, slice, confidence, kind), writes
nothing, and lists its flags with --scores --help.

Reads:  the `benchmark` and `evaluate` runs of every candidate (made now if needed)
Writes: result.json (a Decision) and report.html in one MLflow run, tag stage=decide
Next:   python -m pipelines.promote configs/quickstart.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pipelines.benchmark import benchmark, load_tests
from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.decision import Decision
from pipelines.core.errors import ConfigError
from pipelines.core.item_plan import ItemPlan
from pipelines.core.progress import say
from pipelines.core.records import Difference, Example, Record
from pipelines.core.results import (
    EvaluateResults,
    FinetuneResult,
    Kind,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.ruling import Ruling
from pipelines.core.study import Study
from pipelines.evaluate import check, evaluate
from pipelines.evaluation.asked import repeated
from pipelines.finetune import finetune

if TYPE_CHECKING:
    from pipelines.evaluation.evidence import Answered

REPORT = "report.html"
POWERS = ("80", "90")
PLAN_HELP = "instead: the items and dollars that a proof takes, at 80 or 90 per cent power"
RULE_VERSION = 3
"""Counts up when the same evidence may give another decision."""


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
            "slice_by": workload.slice_by,
            "own_costs": workload.own_costs.model_dump(mode="json"),
            "evaluate_runs": {name: result.run_id for name, result in results.items()},
            "prepare_run": evaluated.prepare_run_id,
            "calibration_run": evaluated.calibration_run_id,
            "judge_doubt": evaluated.judge_doubt,
            "judge_kinship": evaluated.judge_kinship,
            "rule": RULE_VERSION,
        },
    )
    if done := store.find_finished(stage):
        say(f"decide: nothing changed, run {done}")
        return store.load_result(done, Decision)

    from pipelines.data import sources
    from pipelines.economics import verdict
    from pipelines.evaluation.evidence import answered, confidence_from, evidence
    from pipelines.evaluation.judge_figures import Calibration
    from pipelines.reports import answers, html, terminal
    from pipelines.tracking import audit

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
        items = repeated(sources.load_eval(workload.eval_set), study.evaluate.n_samples)
        rows = {name: answered(result) for name, result in results.items()}
        decision = verdict.decide(
            study,
            evidence(study, results, rows, items),
            results,
            run.run_id,
            controls=_controls(study, rows, items),
            confidence_from={name: confidence_from(study, found) for name, found in rows.items()},
            judge_doubt=evaluated.judge_doubt,
            judge_kinship=evaluated.judge_kinship,
        )
        latencies = {
            name: [
                r.latency_s
                for r in found.responses.values()
                if r.latency_s is not None and r.error is None
            ]
            for name, found in rows.items()
        }
        shown = answers.gather(
            study,
            decision,
            items,
            {name: found.responses for name, found in rows.items()},
            {name: found.values.get(workload.quality, {}) for name, found in rows.items()},
        )
        report = html.render(study, decision, evaluated, prepared, judges, latencies, shown)
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
        audit.note(
            "decision",
            workload=workload.name,
            tier=workload.tier,
            decide_run=run.run_id,
            decision_sha256=decision.sha256,
            verdict=decision.verdict,
            chosen=decision.chosen,
        )
    return decision


def plan(study: Study, options: Options, power: str) -> Record:
    """What it takes to settle the question; asks nobody and writes nothing."""
    from pipelines.evaluation import plan_inputs
    from pipelines.tracking import store

    prepared = tuned = loads = None
    if plan_inputs.has_store(options.tracking_uri):
        upstream = finetune(study, replace(options, dry_run=True))
        assert isinstance(upstream, Plan)
        runs = {line.stage: line.run_id for line in upstream.stages}
        if run_id := runs["prepare"]:
            prepared = store.load_result(run_id, PrepareResult)
            if run_id := runs["finetune"]:
                tuned = store.load_result(run_id, FinetuneResult)
            loads = load_tests(study, prepared, tuned)
    return plan_inputs.plan(study, int(power) / 100, prepared, tuned, loads)


def show(record: Record) -> str:
    """The decision table, or the plan's."""
    from pipelines.reports import plan, terminal

    if isinstance(record, ItemPlan):
        return plan.table(record)
    assert isinstance(record, Decision)
    return terminal.table(record)


def _controls(
    study: Study, rows: Mapping[str, Answered], items: Sequence[Example]
) -> dict[str, Difference | None]:
    """Control -> its difference to the candidate that it controls, on the same items."""
    from pipelines.statistics.intervals import difference
    from pipelines.statistics.judge_correction import corrected_difference

    groups = {item.id: item.group for item in items if item.group is not None}
    quality, found = study.workload.quality, dict[str, Difference | None]()
    for name, ours in rows.items():
        if (other := study.candidates[name].control_of) is None:
            continue
        theirs = rows[other]
        values = (ours.values[quality], theirs.values[quality])
        corrected = corrected_difference(values, (ours.human, theirs.human), groups).corrected
        found[name] = corrected or difference(*values, groups)
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
        "usd_per_task": row.usd_per_task,
        "usd_saved_per_month": saved,
    }


def add_score_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a decision without a study."""
    add = parser.add_argument
    add(
        "--scores",
        type=Path,
        required=True,
        metavar="FILE",
        help="CSV, JSON Lines or Parquet, also .gz and .zst; one row per item and candidate",
    )
    add("--incumbent", required=True, metavar="NAME", help="the candidate that is used today")
    add(
        "--margin",
        type=_share,
        required=True,
        help="the loss of quality that is still good enough, such as 0.02; fix it beforehand",
    )
    add(
        "--error-cost",
        type=_usd,
        metavar="USD",
        help="what a wrong answer costs that nobody notices",
    )
    add(
        "--value-per-task",
        type=_usd,
        metavar="USD",
        help="what a right answer is worth: a wrong one misses it, beside --error-cost",
    )
    add(
        "--requests-per-month",
        type=_count,
        metavar="N",
        help="for dollars a month, and whether more items are worth their price",
    )
    add(
        "--kind",
        type=_kind,
        action="append",
        default=[],
        metavar="NAME=own|rent|baseline",
        help="what a candidate is, where the file has no column `kind`; may be repeated",
    )
    add(
        "--max-latency-p95",
        type=_usd,
        metavar="SECONDS",
        help="candidates not shown to be this fast are out",
    )
    add(
        "--min-coverage",
        type=_share,
        default=0.98,
        metavar="SHARE",
        help="share of the items that must have a score (default 0.98)",
    )
    add(
        "--slice-margin",
        type=_share,
        metavar="SHARE",
        help="the loss in one slice that is not worth an alarm (default: the margin)",
    )
    add(
        "--usd-per-label",
        type=_usd,
        metavar="USD",
        help="what the score of one more item costs, beside the answers",
    )
    add("--plan", nargs="?", const=POWERS[0], choices=POWERS, help=PLAN_HELP)
    add("--alpha", type=_share, default=0.05, help="one-sided, of every test (default 0.05)")


def decide_scores(args: argparse.Namespace) -> Ruling | ItemPlan:
    """Decide on a table of scores, or take it as the pilot of a plan."""
    from pipelines.data import score_table
    from pipelines.economics import study_plan
    from pipelines.economics.rule import rule

    if not 0 < args.alpha < 0.5:
        raise ConfigError(f"--alpha {args.alpha:g}: choose one above 0 and below 0.5")
    table = score_table.read(args.scores, args.incumbent, dict(args.kind))
    for note in table.notes:
        say(f"decide: {note}")
    stakes = [each for each in (args.error_cost, args.value_per_task) if each is not None]
    ruling = rule(
        table,
        incumbent=args.incumbent,
        margin=args.margin,
        alpha=args.alpha,
        usd_per_error=sum(stakes) if stakes else None,
        requests_per_month=args.requests_per_month,
        min_coverage=args.min_coverage,
        max_latency_p95_s=args.max_latency_p95,
        usd_per_label=args.usd_per_label,
        slice_margin=args.slice_margin,
    )
    if args.plan is None:
        return ruling
    name, power = args.scores.name, int(args.plan) / 100
    return study_plan.after(name, table, ruling, power, args.usd_per_label)


def show_ruling(record: Record) -> str:
    """The table of a decision without a study, or the plan's."""
    from pipelines.reports import ruling

    if isinstance(record, ItemPlan):
        return show(record)
    assert isinstance(record, Ruling)
    return ruling.table(record)


def _share(text: str) -> float:
    if 0 <= (value := _number(text)) < 1:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1, such as 0.02")


def _usd(text: str) -> float:
    if 0 <= (value := _number(text)) < float("inf"):
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _count(text: str) -> int:
    if text.replace("_", "").isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of requests such as 100000")


def _kind(text: str) -> tuple[str, Kind]:
    name, _, value = text.rpartition("=")
    for kind in get_args(Kind):
        if name and kind == value:
            return name, kind
    raise argparse.ArgumentTypeError(f"{text!r} is not NAME=own, NAME=rent or NAME=baseline")


def main(argv: Sequence[str] | None = None) -> int:
    """Decide on a study, or with `--scores` on a table."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] == "--scores" for word in words):
        return command.without_study(__doc__, add_score_flags, decide_scores, show_ruling, argv)
    mode = command.Mode("plan", POWERS, PLAN_HELP, plan, show)
    return command.main(__doc__, decide, show, argv, mode)


if __name__ == "__main__":
    sys.exit(main())
