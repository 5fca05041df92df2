"""Promote the candidate that the newest decision names: `champion` in the MLflow registry.

    python -m pipelines.promote configs/quickstart.yaml

Reads:  the newest `decide` run of the workload
Writes: a version of the workload's registered model, its alias `champion`, and one MLflow run,
        tag stage=promote
Next:   serve models:/<workload>@champion
"""

from __future__ import annotations

import sys

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.decision import Decision
from pipelines.core.errors import MissingRunError, Refused
from pipelines.core.records import Record
from pipelines.core.results import Plan, PlannedStage, PromoteResult
from pipelines.core.study import Study


def promote(study: Study, options: Options) -> Record:
    """Check the decision, register, move the alias."""
    from pipelines.tracking import registry, store

    store.connect(options.tracking_uri)
    workload = study.workload.name
    decide_run = store.find_newest("decide", workload)
    if decide_run is None:
        raise MissingRunError(
            f"no finished decide run for {workload}; make one with\n"
            f"  python -m pipelines.decide {options.study_path}"
        )
    decision = store.load_result(decide_run, Decision)
    chosen = gate(decision)
    row = decision.candidates[chosen]
    stage = store.Stage(
        "promote", workload, {"decision": decision.sha256, "champion": registry.champion(workload)}
    )
    if options.dry_run:
        note = f"{chosen} becomes {workload}@{registry.CHAMPION}"
        return Plan(stages=(PlannedStage(stage="promote", state="to do", note=note),))
    with store.open_run(
        stage,
        data_sha256=decision.eval_sha256,
        inputs={"decide": decide_run, f"evaluate.{chosen}": row.evaluate_run_id},
        description=f"{chosen} becomes champion.",
    ) as run:
        version = registry.promote(
            workload,
            row.model_id,
            {
                "decision_run_id": decide_run,
                "evaluate_run_id": row.evaluate_run_id,
                "candidate": chosen,
                "kind": row.kind or "",
                "verdict": decision.verdict,
                "toy": str(row.toy).lower(),
            },
            decision.headline,
        )
        result = PromoteResult(
            run_id=run.run_id,
            registered_model=workload,
            version=version,
            alias=registry.CHAMPION,
            candidate=chosen,
            decision_run_id=decide_run,
        )
        run.set_tags({"candidate": chosen, "model_version": version})
        run.save_result(result)
    return result


def gate(decision: Decision) -> str:
    """The candidate that may be promoted.

    Raises:
        Refused: the decision names none, or rests on simulated answers.
    """
    if decision.chosen is None:
        raise Refused(
            f"decision {decision.run_id} names no candidate ({decision.verdict}): "
            f"{decision.headline}"
        )
    if decision.simulated:
        raise Refused(
            f"decision {decision.run_id} rests on simulated answers of "
            f"{', '.join(decision.simulated)}; give the real candidate its API key, or leave it "
            "out of the study, and decide again"
        )
    return decision.chosen


def show(record: Record) -> str:
    """The result in words."""
    assert isinstance(record, PromoteResult)
    return (
        f"{record.candidate} is version {record.version} of {record.registered_model}, "
        f"alias {record.alias} (decision {record.decision_run_id})"
    )


if __name__ == "__main__":
    sys.exit(command.main(__doc__, promote, show))
