"""Make a clean training split: validated, without duplicates, without the eval set.

    python -m pipelines.prepare configs/quickstart.yaml

Reads:  the study's training rows and eval set (JSON Lines, CSV, or a hub data set)
Writes: train.jsonl, eval.jsonl, result.json in one MLflow run, tag stage=prepare
Next:   python -m pipelines.finetune configs/quickstart.yaml
"""

from __future__ import annotations

import sys

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.errors import DataError
from pipelines.core.progress import say
from pipelines.core.records import Record
from pipelines.core.results import Plan, PlannedStage, PrepareResult
from pipelines.core.study import Study

TRAIN_FILE, EVAL_FILE = "train.jsonl", "eval.jsonl"


def prepare(study: Study, options: Options) -> Record:
    """Read, validate, clean, log."""
    from pipelines.data import sources, splits
    from pipelines.tracking import store

    store.connect(options.tracking_uri)
    items = sources.load_eval(study.workload.eval_set)
    read = sources.load_training(study.prepare.train)
    train_sha256, eval_sha256 = sources.rows_sha256(read), sources.rows_sha256(items)
    stage = store.Stage(
        "prepare",
        study.workload.name,
        {
            "prepare": study.prepare.model_dump(mode="json"),
            "eval_set": study.workload.eval_set.model_dump(mode="json"),
            "train_sha256": train_sha256,
            "eval_sha256": eval_sha256,
        },
    )
    done = store.find_finished(stage)
    if options.dry_run:
        state = "done" if done else "to do"
        note = f"{len(read)} training rows, {len(items)} eval items"
        return Plan(stages=(PlannedStage(stage="prepare", state=state, run_id=done, note=note),))
    if done:
        say(f"prepare: nothing changed, run {done}")
        return store.load_result(done, PrepareResult)
    with store.open_run(
        stage, data_sha256=train_sha256, inputs={}, description="Training split and eval set."
    ) as run:
        split = splits.clean_split(read, items, study.prepare.near_copy)
        if not split.rows:
            raise DataError(
                f"{study.prepare.train.path}: no training row is left after removing "
                f"{split.n_duplicates} duplicates and {split.n_leaked} copies of eval items"
            )
        run.log_rows(TRAIN_FILE, split.rows)
        run.log_rows(EVAL_FILE, items)
        result = PrepareResult(
            run_id=run.run_id,
            train_sha256=sources.rows_sha256(split.rows),
            eval_sha256=eval_sha256,
            n_read=len(read),
            n_train=len(split.rows),
            n_eval=len(items),
            n_duplicates=split.n_duplicates,
            n_conflicts=split.n_conflicts,
            n_leaked=split.n_leaked,
        )
        run.log_dataset(study.prepare.train.path, result.train_sha256, result.n_train, "training")
        run.log_dataset(study.workload.eval_set.path, eval_sha256, result.n_eval, "evaluation")
        run.log_metrics(
            {
                "rows_read": result.n_read,
                "rows_train": result.n_train,
                "rows_eval": result.n_eval,
                "rows_duplicate": result.n_duplicates,
                "rows_conflicting": result.n_conflicts,
                "rows_leaked": result.n_leaked,
            }
        )
        run.describe(show(result))
        run.save_result(result)
    return result


def show(result: Record) -> str:
    """The result in words."""
    assert isinstance(result, PrepareResult)
    return (
        f"{result.n_train} of {result.n_read} training rows kept: {result.n_duplicates} "
        f"duplicates, {result.n_conflicts} repeated questions with another answer and "
        f"{result.n_leaked} copies of eval items removed. {result.n_eval} eval items."
    )


if __name__ == "__main__":
    sys.exit(command.main(__doc__, prepare, show))
