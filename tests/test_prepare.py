"""`prepare` from end to end: sources, the licence gate, the splits, the card, what MLflow knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import DataError, Refused
from pipelines.core.records import TrainingRow
from pipelines.core.results import (
    CARD_DATA,
    CARD_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
    Plan,
    PrepareResult,
)
from pipelines.data.splits import without_copies
from pipelines.prepare import prepare, show
from pipelines.tracking import store
from tests.conftest import write_jsonl

CLAIMS = ("glass broken by hail", "bicycle stolen from the yard", "water under the sink",
          "dog bit the postman", "laptop fell into the bath", "tree fell on the garage",
          "luggage lost at the airport", "fire in the kitchen")  # fmt: skip
ANSWERED_FOR = (
    'prepare.acknowledge=[{licence: openai-terms, by: "A. Doe, legal", why: "a classifier"}]'
)


@pytest.fixture
def run(small_study: Path, store_uri: str) -> Any:
    def prepared(*overrides: str, dry_run: bool = False) -> Any:
        options = Options(small_study, dry_run=dry_run, json=False, tracking_uri=store_uri)
        return prepare(load_study(small_study, overrides), options)

    return prepared


def rows(result: PrepareResult, name: str) -> list[TrainingRow]:
    lines = store.artifact(result.run_id, name).read_text(encoding="utf-8").splitlines()
    return [TrainingRow.model_validate_json(line) for line in lines]


def log_of(tmp_path: Path, model: str = "gpt-6-luna") -> Path:
    def call(k: int, claim: str) -> dict[str, Any]:
        return {
            "timestamp": f"2026-11-{k + 1:02d}T10:00:00Z",
            "request": {"model": model, "messages": [{"role": "user", "content": claim}]},
            "response": {
                "id": f"r{k}", "model": model, "usage": {"prompt_tokens": 9},
                "choices": [{"message": {"content": claim.split()[0]}}],
            },
        }  # fmt: skip

    failed = {**call(9, "x"), "error": "server error"}
    return write_jsonl(
        tmp_path / "log.jsonl", [*(call(k, each) for k, each in enumerate(CLAIMS)), failed]
    )


def test_rows_are_kept_back_described_and_logged(run: Any, tmp_path: Path) -> None:
    split = "prepare.split={validation: 0.25, stratify: answer}"
    result = run(split, "prepare.near_copy=1.0")
    train, validation = rows(result, TRAIN_FILE), rows(result, VALIDATION_FILE)
    assert (result.n_train, result.n_validation) == (len(train), len(validation)) == (45, 15)
    assert not {r.messages[0].content for r in train} & {r.messages[0].content for r in validation}
    about = json.loads(store.artifact(result.run_id, CARD_DATA).read_text())
    assert [each["n_after"] for each in about["steps"]] == [60, 60, 45]
    assert about["steps"][2]["left_out"]["kept back for validation"] == 15
    text = store.artifact(result.run_id, CARD_FILE).read_text()
    assert f"| validation | validation.jsonl | 15 | {result.validation_sha256} |" in text
    inputs = MlflowClient().get_run(result.run_id).inputs
    assert inputs is not None
    digests = {each.tags[0].value: each.dataset.digest for each in inputs.dataset_inputs}
    assert digests == {
        "training": result.train_sha256[:36],
        "validation": str(result.validation_sha256)[:36],
        "evaluation": result.eval_sha256[:36],
    }
    assert run(split, "prepare.near_copy=1.0") == result  # found, not made again


def test_nothing_is_kept_back_unless_asked_for(run: Any) -> None:
    result = run()
    assert (result.n_validation, result.validation_sha256) == (0, None)
    names = {each.path for each in MlflowClient().list_artifacts(result.run_id)}
    assert {TRAIN_FILE, CARD_FILE, CARD_DATA} <= names
    assert VALIDATION_FILE not in names
    assert result.n_without_licence == 60


def test_training_rows_that_are_nearly_kept_back_are_removed(run: Any) -> None:
    split = "prepare.split={validation: 0.1, seed: 2}"
    assert run(split, "prepare.near_copy=1.0").n_validation_copies == 0
    result = run(split, "prepare.near_copy=0.7")
    train, kept_back = rows(result, TRAIN_FILE), rows(result, VALIDATION_FILE)
    assert without_copies(train, kept_back, 0.7) == train
    assert result.n_train + result.n_validation + result.n_validation_copies == 60
    assert result.n_validation_copies > 0


def test_rows_that_are_all_alike_cannot_be_split(run: Any, tmp_path: Path) -> None:
    alike = [f"the enamel of the blue kettle came off after wash number {k}" for k in range(9)]
    asked = [{"role": "user", "content": each} for each in alike]
    answer = {"role": "assistant", "content": "damaged"}
    path = write_jsonl(tmp_path / "alike.jsonl", [{"messages": [each, answer]} for each in asked])
    with pytest.raises(
        DataError, match=r"alike\.jsonl: all . training rows are copies of rows that"
    ):
        run(f"prepare.train.path={path}", "prepare.split={validation: 0.3, stratify: answer}")


def test_logged_calls_are_trained_on_when_somebody_answers_for_it(run: Any, tmp_path: Path) -> None:
    source = f"prepare.train={{path: {log_of(tmp_path)}, calls: {{}}}}"
    with pytest.raises(Refused, match="openai-terms: 8 of 8 training rows, answered by gpt-6-luna"):
        run(source)
    plan = run(source, dry_run=True)
    assert isinstance(plan, Plan)
    assert plan.stages[0].note.endswith("will be refused: openai-terms")
    result = run(source, ANSWERED_FOR, "prepare.split={validation: 0.25, by: time}")
    assert result.left_out == {"the call failed": 1}
    assert result.licences == {"openai-terms": 8}
    assert {row.request_id for row in rows(result, VALIDATION_FILE)} == {"r6", "r7"}
    assert {row.answered_by for row in rows(result, TRAIN_FILE)} == {"gpt-6-luna"}
    text = store.artifact(result.run_id, CARD_FILE).read_text()
    assert "A. Doe, legal: a classifier" in text
    assert "| read | 9 | 8 | 1 the call failed |" in text
    assert "2026-11-01 to 2026-11-06" in text


def test_traces_and_data_sets_of_the_tracking_store(run: Any, tmp_path: Path) -> None:
    experiment_id = mlflow.create_experiment("claims")
    for claim in CLAIMS[:4]:
        asked = {"messages": [{"role": "user", "content": claim}]}
        span = mlflow.start_span_no_context("ask", inputs=asked, experiment_id=experiment_id)
        span.end(outputs=claim.split()[0])
    mlflow.flush_trace_async_logging()
    result = run("prepare.train={path: 'mlflow:claims', answered_by: a person, licence: CC0-1.0}")
    assert {row.messages[-1].content for row in rows(result, TRAIN_FILE)} == {
        "glass", "bicycle", "water", "dog",
    }  # fmt: skip
    assert {row.source for row in rows(result, TRAIN_FILE)} == {"mlflow:claims"}
    assert result.licences == {"cc0-1.0": 4}
    MlflowClient().create_dataset("claims").merge_records(
        [{"inputs": {"q": "hail"}, "expectations": {"answer": "glass"}}]
    )
    result = run("prepare.train={path: 'mlflow-dataset:claims'}")
    assert [row.messages[-1].content for row in rows(result, TRAIN_FILE)] == ["glass"]


def test_wrong_answers_near_copies_and_personal_data_are_dealt_with_as_asked(
    run: Any, tmp_path: Path
) -> None:
    def row(text: str, answer: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return {"messages": turns}

    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [
            row("Where is the form for jane@example.com?", "web"),
            row("where is the form for jane@example.com", "web"),
            row("Where is the form for jane@example.com", "post"),
            row("Where is the from for jane@example.com", "web"),
            row("How long does a claim take?", "I cannot help with that."),
        ],
    )
    train = f"prepare.train={{path: {path}}}"
    plain = run(train)
    assert (plain.n_train, plain.n_duplicates, plain.n_conflicts) == (3, 1, 1)
    assert (plain.noise, plain.personal_data) == ({}, None)
    cleaned = run(
        train,
        "prepare.noise=drop",
        "prepare.near_duplicates=drop",
        "prepare.near_copy=0.7",
        "workload.tier=confidential",
    )
    [kept] = rows(cleaned, TRAIN_FILE)
    assert kept.messages[0].content == "Where is the form for <EMAIL_1>?"
    assert cleaned.noise == {"outvoted: drop": 1, "refusal: drop": 1}
    assert (cleaned.n_duplicates, cleaned.n_near_duplicates) == (1, 1)
    assert (cleaned.personal_data, cleaned.personal_data_masked) == ({"EMAIL": 1}, True)
    about = json.loads(store.artifact(cleaned.run_id, CARD_DATA).read_text())
    assert [each["n_after"] for each in about["steps"]] == [5, 3, 1, 1]
    assert about["personal_data"]["n_values"] == {"EMAIL": 1}
    assert "names and places were not looked for" in show(cleaned)
    reported = run(train, "prepare.personal_data=report")
    assert (reported.personal_data, reported.personal_data_masked) == ({"EMAIL": 2}, False)
    assert rows(reported, TRAIN_FILE) == rows(plain, TRAIN_FILE)
