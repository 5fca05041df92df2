"""Make a clean training split: validated, licensed, without duplicates, without the eval set.

    python -m pipelines.prepare configs/quickstart.yaml

Reads:  the study's training rows (JSON Lines, CSV, Parquet, a public format, a hub set, logged
        calls, MLflow traces or an MLflow data set) and its eval set
Writes: train.jsonl, validation.jsonl (if rows are kept back), eval.jsonl (with passages, if any),
        card.md, card.json, result.json in one MLflow run, tag stage=prepare
Next:   python -m pipelines.finetune configs/quickstart.yaml
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.errors import DataError, Refused
from pipelines.core.paths import ROOT
from pipelines.core.progress import say
from pipelines.core.records import Example, Passage, Record, TrainingRow
from pipelines.core.results import (
    CARD_DATA,
    CARD_FILE,
    EVAL_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
    Plan,
    PlannedStage,
    PrepareResult,
    RetrieverResult,
)
from pipelines.core.study import PrepareConfig, Study
from pipelines.core.workload import MLFLOW_DATASET, MLFLOW_TRACES, DataSource, LoggedCalls

if TYPE_CHECKING:
    from pipelines.data.card import Card, PersonalDataFound, SourceFile, Step
    from pipelines.data.licences import Survey
    from pipelines.data.partition import Partition
    from pipelines.data.personal_data import PersonalData
    from pipelines.usage_logs.traffic import Traffic

RANKINGS_FILE = "rankings.jsonl"


def prepare(study: Study, options: Options) -> Record:
    """Read, ask the licences, clean, split, describe, log."""
    from pipelines.core.row_file import lines
    from pipelines.data import card, licences, sources, splits
    from pipelines.governance.egress import gate_of
    from pipelines.tracking import store

    store.connect(options.tracking_uri, gate_of(study.workload))
    items = sources.load_eval(study.workload.eval_set)
    read = _read(study.prepare.train)
    survey = licences.survey(study, read.rows)
    refusals = licences.refusals(study, survey)
    if refusals and not options.dry_run:
        raise Refused("\n".join(refusals))
    train_sha256, eval_sha256 = sources.rows_sha256(read.rows), sources.rows_sha256(items)
    workload = study.workload
    inputs: dict[str, Any] = {
        "prepare": study.prepare.model_dump(mode="json"),
        "eval_set": workload.eval_set.model_dump(mode="json"),
        "train_sha256": train_sha256,
        "eval_sha256": eval_sha256,
        "licences_sha256": survey.of_rows().sha256,
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
        note = f"{len(read.rows)} training rows, {len(items)} eval items"
        if refusals:
            open_ = ", ".join(each.name for each in survey.standings if each.is_open)
            note += f"; will be refused: {open_ or 'rows without a known licence'}"
        return Plan(stages=(PlannedStage(stage="prepare", state=state, run_id=done, note=note),))
    if done:
        say(f"prepare: nothing changed, run {done}")
        return store.load_result(done, PrepareResult)
    with store.open_run(
        stage, data_sha256=train_sha256, inputs={}, description="Training split and eval set."
    ) as run:
        rows, noise = _without_noise(study, read.rows, items)
        split = splits.clean_split(
            rows,
            items,
            study.prepare.near_copy,
            near_duplicates=study.prepare.near_duplicates == "drop",
        )
        if not split.rows:
            raise DataError(
                f"{study.prepare.train.path}: no training row is left after removing "
                f"{split.n_duplicates} duplicates, {split.n_leaked} copies of eval items and "
                f"{len(read.rows) - len(rows)} rows with a wrong answer"
            )
        rows, personal = _personal_data(study, split.rows)
        parts, n_copies = _split(rows, study.prepare)
        retrievers: list[RetrieverResult] = []
        if workload.retrieval is not None:
            from pipelines.retrieval import retrieve

            say("prepare: finding passages")
            items, retrievers, rankings = retrieve(
                items, passages, workload.retrieval, store.work_root(), gate_of(workload)
            )
            run.log_rows(RANKINGS_FILE, rankings)
            run.log_metrics(_figures(retrievers))
        result = PrepareResult(
            run_id=run.run_id,
            train_sha256=sources.rows_sha256(parts.train),
            eval_sha256=sources.rows_sha256(items),
            n_read=len(read.rows),
            n_train=len(parts.train),
            n_eval=len(items),
            n_duplicates=split.n_duplicates,
            n_conflicts=split.n_conflicts,
            n_leaked=split.n_leaked,
            n_near_duplicates=split.n_near_duplicates,
            noise=noise,
            personal_data=None if personal is None else personal.n_values,
            n_personal_data=0 if personal is None else personal.n_rows,
            personal_data_masked=personal is not None and personal.masked,
            names_sought=personal is not None and personal.names_sought,
            n_validation=len(parts.validation),
            validation_sha256=(sources.rows_sha256(parts.validation) if parts.validation else None),
            n_validation_copies=n_copies,
            left_out=read.left_out,
            licences=survey.counts,
            n_without_licence=survey.n_without,
            retrievers=tuple(retrievers),
        )
        about = _card(study, read, survey, parts, items, result)
        source = study.prepare.train.path
        run.log_rows(TRAIN_FILE, lines(parts.train))
        run.log_rows(EVAL_FILE, items)
        run.log_text(card.markdown(about), CARD_FILE)
        run.log_text(about.model_dump_json(indent=2), CARD_DATA)
        run.log_dataset(source, result.train_sha256, result.n_train, "training")
        if digest := result.validation_sha256:
            run.log_rows(VALIDATION_FILE, lines(parts.validation))
            run.log_dataset(source, digest, result.n_validation, "validation")
        run.log_dataset(study.workload.eval_set.path, eval_sha256, result.n_eval, "evaluation")
        run.log_metrics(
            {
                "rows_read": result.n_read,
                "rows_left_out": sum(result.left_out.values()),
                "rows_without_licence": result.n_without_licence,
                "rows_train": result.n_train,
                "rows_validation": result.n_validation,
                "rows_validation_copies": result.n_validation_copies,
                "rows_eval": result.n_eval,
                "rows_duplicate": result.n_duplicates,
                "rows_near_duplicate": result.n_near_duplicates,
                "rows_noisy": sum(result.noise.values()),
                "rows_personal_data": (
                    None if result.personal_data is None else result.n_personal_data
                ),
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
        + _describe_sides(result)
        + "".join(f"\n{_describe(each)}" for each in result.retrievers)
    )


@dataclass(frozen=True)
class _Read:
    """Training rows as they were found."""

    rows: Sequence[TrainingRow]
    files: tuple[SourceFile, ...]
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    """Of logged calls: why one is no row -> count."""


def _read(source: DataSource) -> _Read:
    """Rows of a file, of logs, or of the tracking store.

    Raises:
        DataError: they are absent or bad; lists them.
        UserError: the tracking store has no such experiment or data set.
    """
    from pipelines.data import card, sources

    if source.path.startswith(MLFLOW_DATASET):
        from pipelines.tracking import datasets

        rows, digest = datasets.training_rows(source.path.removeprefix(MLFLOW_DATASET))
        stored = card.SourceFile(name=source.path, digest=digest, n_bytes=None)
        return _Read(sources.kept(rows, source), (stored,))
    if source.path.startswith(MLFLOW_TRACES):
        from pipelines.tracking import usage

        with tempfile.TemporaryDirectory(prefix="freehold-") as folder:
            exported = usage.export(source.path.removeprefix(MLFLOW_TRACES), Path(folder))
            logged = _logged(exported, source, name=source.path)
            [stored] = card.files([exported])
        files = (stored.model_copy(update={"name": source.path}),)
    elif source.calls is not None:
        logged = _logged(sources.resolve(source.path) or sources.existing(source.path), source)
        files = card.files(ROOT / name for name in logged.files)
    else:
        return _Read(sources.load_training(source), _files(source))
    return _Read(logged.rows, files, logged.left_out)


def _logged(path: Path, source: DataSource, name: str | None = None) -> Traffic:
    from pipelines.data import sources
    from pipelines.usage_logs import traffic

    return traffic.rows(
        [path],
        source.calls or LoggedCalls(),
        source=name,
        keep=lambda rows: sources.kept(rows, source),
    )


def _files(source: DataSource) -> tuple[SourceFile, ...]:
    """The file or folder of a source, or the data set of the hub that stands in for it."""
    from pipelines.data import card, sources

    if (path := sources.resolve(source.path)) is not None:
        return card.files([path])
    return (card.SourceFile(name=f"hub {source.hub}", digest=None, n_bytes=None),)


def _split(rows: Sequence[TrainingRow], config: PrepareConfig) -> tuple[Partition, int]:
    """Both sides, and how many rows to train on are copies of rows that are kept back.

    Raises:
        DataError: a side is empty, or the rule cannot be applied.
    """
    from pipelines.data import partition, splits

    parts = partition.partition(rows, config.split)
    if not parts.validation:
        return parts, 0
    train = splits.without_copies(parts.train, parts.validation, config.near_copy)
    if not train:
        raise DataError(
            f"{config.train.path}: all {len(parts.train)} training rows are copies of rows that "
            "are kept back for validation"
        )
    return parts._replace(train=train), len(parts.train) - len(train)


def _card(
    study: Study,
    read: _Read,
    survey: Survey,
    parts: Partition,
    items: Sequence[Example],
    result: PrepareResult,
) -> Card:
    """What the rows are, measured."""
    from pipelines.data import card, partition

    measured = [card.split_card("train", TRAIN_FILE, parts.train, result.train_sha256)]
    if digest := result.validation_sha256:
        measured.append(card.split_card("validation", VALIDATION_FILE, parts.validation, digest))
    answered_by, n_unknown = card.answered_by(read.rows)
    return card.Card(
        title=study.workload.title,
        workload=study.workload.name,
        run_id=result.run_id,
        sources=read.files,
        eval_sources=_files(study.workload.eval_set),
        steps=_steps(result),
        splits=(*measured, card.eval_card(EVAL_FILE, items, result.eval_sha256)),
        licences=survey.of_rows(),
        answered_by=answered_by,
        n_answered_by_unknown=n_unknown,
        personal_data=_found(result),
        split_rule=partition.describe(study.prepare.split),
        near_copy=study.prepare.near_copy,
    )


def _steps(result: PrepareResult) -> tuple[Step, ...]:
    """What each step did, for the card."""
    from pipelines.data.card import Step

    dropped = {
        reason.removesuffix(": drop"): n
        for reason, n in result.noise.items()
        if reason.endswith(": drop")
    }
    n_answers = result.n_read - sum(dropped.values())
    n_clean = n_answers - result.n_duplicates - result.n_conflicts - result.n_leaked
    n_clean -= result.n_near_duplicates
    answers = Step(name="answers", n_before=result.n_read, n_after=n_answers, left_out=dropped)
    return (
        Step(
            name="read",
            n_before=result.n_read + sum(result.left_out.values()),
            n_after=result.n_read,
            left_out=result.left_out,
        ),
        *([answers] if result.noise else []),
        Step(
            name="clean",
            n_before=n_answers,
            n_after=n_clean,
            left_out={
                "duplicates": result.n_duplicates,
                "repeated questions with another answer": result.n_conflicts,
                "near-copies with the same answer": result.n_near_duplicates,
                "copies of eval items": result.n_leaked,
            },
        ),
        Step(
            name="split",
            n_before=n_clean,
            n_after=result.n_train,
            left_out={
                "kept back for validation": result.n_validation,
                "copies of rows that are kept back": result.n_validation_copies,
            },
        ),
    )


def _without_noise(
    study: Study, rows: Sequence[TrainingRow], items: Sequence[Example]
) -> tuple[Sequence[TrainingRow], dict[str, int]]:
    """The rows without wrong answers, if the study asks for that, and what was done about them."""
    if study.prepare.noise == "off":
        return rows, {}
    from pipelines.data import noise

    say("prepare: looking for wrong answers")
    found = noise.find(rows, items, study.workload.metrics, study.prepare.near_copy)
    return noise.clean(rows, found, relabel=study.prepare.noise == "relabel")


def _personal_data(
    study: Study, rows: Sequence[TrainingRow]
) -> tuple[Sequence[TrainingRow], PersonalData | None]:
    """The rows, masked where the study or the workload's tier asks for it, and what was found."""
    from pipelines.data import personal_data

    action = study.prepare.personal_data
    if action is None:
        action = "mask" if study.workload.tier in ("confidential", "restricted") else "off"
    if action == "off":
        return rows, None
    say("prepare: looking for personal data")
    found = personal_data.find(rows, mask=action == "mask", model=study.prepare.name_model)
    return found.rows, found


def _found(result: PrepareResult) -> PersonalDataFound | None:
    """For the card."""
    from pipelines.data.card import PersonalDataFound

    if result.personal_data is None:
        return None
    return PersonalDataFound(
        n_rows=result.n_personal_data,
        n_values=result.personal_data,
        masked=result.personal_data_masked,
        names_sought=result.names_sought,
    )


def _describe_sides(result: PrepareResult) -> str:
    """What was kept back, left out, or has no licence, in words."""
    words = ""
    if result.n_near_duplicates:
        words += f" {result.n_near_duplicates} near-copies with the same answer removed."
    if result.noise:
        words += " Wrong answers: " + ", ".join(f"{n} {why}" for why, n in result.noise.items())
        words += "."
    if result.personal_data is not None:
        kinds = ", ".join(f"{n} {kind}" for kind, n in result.personal_data.items()) or "none"
        done = "masked" if result.personal_data_masked else "left as it is"
        names = "" if result.names_sought else "; names and places were not looked for"
        words += f" Personal data, {done}, in {result.n_personal_data} rows: {kinds}{names}."
    if result.n_validation:
        words += (
            f" {result.n_validation} rows kept back for validation, and "
            f"{result.n_validation_copies} copies of them removed."
        )
    if result.left_out:
        reasons = ", ".join(f"{n} {reason}" for reason, n in result.left_out.items())
        words += f" {sum(result.left_out.values())} logged calls left out: {reasons}."
    if result.n_without_licence:
        words += f" {result.n_without_licence} rows read state no licence."
    return words


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
