"""Make a clean training split: validated, without duplicates, without the eval set.

    python -m pipelines.prepare configs/quickstart.yaml

Reads:  the study's training rows and eval set (JSON Lines, CSV, a public format, or a hub set)
Writes: train.jsonl, eval.jsonl (with passages, if any), result.json in one MLflow run, tag
        stage=prepare
Next:   python -m pipelines.finetune configs/quickstart.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.errors import DataError
from pipelines.core.progress import say
from pipelines.core.records import Passage, Record
from pipelines.core.results import (
    EVAL_FILE,
    TRAIN_FILE,
    Plan,
    PlannedStage,
    PrepareResult,
    RetrieverResult,
)
from pipelines.core.study import Study

RANKINGS_FILE = "rankings.jsonl"


def prepare(study: Study, options: Options) -> Record:
    """Read, validate, clean, log."""
    from pipelines.data import sources, splits
    from pipelines.tracking import store

    store.connect(options.tracking_uri)
    items = sources.load_eval(study.workload.eval_set)
    read = sources.load_training(study.prepare.train)
    train_sha256, eval_sha256 = sources.rows_sha256(read), sources.rows_sha256(items)
    workload = study.workload
    inputs: dict[str, Any] = {
        "prepare": study.prepare.model_dump(mode="json"),
        "eval_set": workload.eval_set.model_dump(mode="json"),
        "train_sha256": train_sha256,
        "eval_sha256": eval_sha256,
    }
    passages: list[Passage] = []
    if (retrieval := workload.retrieval) is not None:
        from pipelines.data.passages import load
        from pipelines.retrieval import passages_sha256

        passages = load(retrieval)
        inputs["retrieval"] = retrieval.model_dump(mode="json")
        inputs["passages_sha256"] = passages_sha256(passages)
    stage = store.Stage("prepare", workload.name, inputs)
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
        retrievers: list[RetrieverResult] = []
        if workload.retrieval is not None:
            from pipelines.retrieval import retrieve

            say("prepare: finding passages")
            items, retrievers, rankings = retrieve(
                items, passages, workload.retrieval, store.work_root()
            )
            run.log_rows(RANKINGS_FILE, rankings)
            run.log_metrics(_figures(retrievers))
        run.log_rows(TRAIN_FILE, split.rows)
        run.log_rows(EVAL_FILE, items)
        result = PrepareResult(
            run_id=run.run_id,
            train_sha256=sources.rows_sha256(split.rows),
            eval_sha256=sources.rows_sha256(items),
            n_read=len(read),
            n_train=len(split.rows),
            n_eval=len(items),
            n_duplicates=split.n_duplicates,
            n_conflicts=split.n_conflicts,
            n_leaked=split.n_leaked,
            retrievers=tuple(retrievers),
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
        + "".join(f"\n{_describe(each)}" for each in result.retrievers)
    )


def _describe(retriever: RetrieverResult) -> str:
    """One retriever in one line."""
    measures = {
        f"recall@{retriever.k}": retriever.recall_at_k,
        "nDCG@10": retriever.ndcg_at_10,
        "MRR": retriever.reciprocal_rank,
    }
    figures = ", ".join(
        f"{name} {value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"
        for name, value in measures.items()
        if value is not None
    )
    use = " (in use)" if retriever.in_use else ""
    return f"{retriever.method}{use}: {figures}; {1000 * retriever.latency_p50_s:.1f} ms a query"


def _figures(retrievers: Sequence[RetrieverResult]) -> dict[str, float | None]:
    """MLflow metrics of the retrievers."""
    values: dict[str, float | None] = {}
    for each in retrievers:
        for name, value in (
            (f"recall_at_{each.k}", each.recall_at_k),
            ("ndcg_at_10", each.ndcg_at_10),
            ("mrr", each.reciprocal_rank),
        ):
            values[f"{each.method}/{name}"] = value.mean if value else None
            values[f"{each.method}/{name}_low"] = value.low if value else None
            values[f"{each.method}/{name}_high"] = value.high if value else None
        values[f"{each.method}/latency_p50_s"] = each.latency_p50_s
    return values


if __name__ == "__main__":
    sys.exit(command.main(__doc__, prepare, show))
