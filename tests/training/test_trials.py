"""The search: what is tried, what is held out, what wins, and what a second start repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError, DataError
from pipelines.core.paths import ROOT
from pipelines.core.records import Message, TrainingRow
from pipelines.core.results import ADAPTER, FinetuneResult, Plan, SearchResult, TrialResult
from pipelines.core.study import BaseModelRef, SearchConfig, Study
from pipelines.finetune import SEARCH_FILE, finetune
from pipelines.tracking import store
from pipelines.training import launch, lora, search
from tests.training.test_launch import one_thread
from tests.training.test_lora import base, config

assert base  # the fixtures: an untrained Llama of 60,000 parameters; one thread for each process
assert one_thread


def searching(**grid: Any) -> search.FinetuneConfig:
    return config(search=SearchConfig(**grid))


def tried(loss: float | None, *, rate: float = 0.1, seed: int = 0, train_s: float = 2.0) -> Any:
    return TrialResult(
        run_id=f"run-{rate}-{seed}", learning_rate=rate, rank=8, epochs=2, seed=seed,
        validation_loss=loss, n_steps=None if loss is None else 5, train_s=train_s,
    )  # fmt: skip


def row(question: str, answer: str = "yes", group: str | None = None) -> TrainingRow:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return TrainingRow(messages=turns, group=group)


def test_all_combinations_are_tried_with_the_presets_value_where_none_is_named() -> None:
    trials = search.trials(searching(learning_rate=[0.1, 0.2], rank=[8, 16], seeds=2))
    assert [(t.learning_rate, t.lora.rank, t.epochs, t.seed) for t in trials] == [
        (0.1, 8, 4, 0), (0.1, 8, 4, 1), (0.1, 16, 4, 0), (0.1, 16, 4, 1),
        (0.2, 8, 4, 0), (0.2, 8, 4, 1), (0.2, 16, 4, 0), (0.2, 16, 4, 1),
    ]  # fmt: skip
    assert all(t.search is None for t in trials)
    assert {t.patience for t in trials} == {search.PATIENCE}
    assert search.trials(config()) == []
    assert [t.epochs for t in search.trials(searching(epochs=[1, 3]))] == [1, 3]


def test_a_rank_that_is_searched_is_no_longer_automatic() -> None:
    auto = config().lora.model_copy(update={"auto": True})
    by_rows = searching(seeds=1).model_copy(update={"lora": auto})
    assert [t.lora.auto for t in search.trials(by_rows)] == [True]
    named = searching(rank=[8]).model_copy(update={"lora": auto})
    assert [(t.lora.rank, t.lora.auto) for t in search.trials(named)] == [(8, False)]


@pytest.mark.parametrize(
    "wrong", [{"rank": [7]}, {"learning_rate": [0]}, {"seeds": 0}, {"validation_share": 0.6}]
)
def test_a_search_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SearchConfig.model_validate(wrong)


def test_groups_and_equal_questions_are_held_out_together_and_more_rows_move_none() -> None:
    rows = [row(f"question {k}", str(copy)) for k in range(300) for copy in range(2)]
    rows += [row(f"other {k}", group="ticket 7") for k in range(40)]
    learned, held_out = search.hold_out(rows, 0.2)
    assert len(learned) + len(held_out) == len(rows)
    questions = [{r.messages[0].content for r in part} for part in (learned, held_out)]
    assert questions[0].isdisjoint(questions[1])
    assert 0.12 < len([r for r in held_out if r.group is None]) / 600 < 0.28
    assert sum(r.group is not None for r in held_out) in (0, 40)
    fewer = search.hold_out(rows[:100], 0.2)[1]
    assert fewer == [r for r in held_out if r in rows[:100]]


def test_nothing_to_hold_out_is_an_error() -> None:
    with pytest.raises(DataError, match=r"of 1 training rows . would be held out"):
        search.hold_out([row("only one")], 0.2)


def test_settings_are_compared_by_their_mean_and_the_lucky_seed_is_not_picked() -> None:
    found = search.result(
        [
            tried(1.0, rate=0.1, seed=0), tried(2.0, rate=0.1, seed=1),
            tried(1.6, rate=0.2, seed=0), tried(1.2, rate=0.2, seed=1),
        ],
        n_rows=90, n_validation=10,
    )  # fmt: skip
    assert [(s.mean, s.low, s.high) for s in found.settings] == [
        (1.5, 1.0, 2.0), (pytest.approx(1.4), 1.2, 1.6),
    ]  # fmt: skip
    assert found.chosen.run_id == "run-0.2-0"
    assert found.train_s == 8.0
    text = search.table(found)
    assert "| 0.2 | 8 | 2 | **1.4000** (chosen) | 1.2000 to 1.6000 | 5 | 4 |" in text
    assert "| 0.1 | 8 | 2 | 1.5000 | 1.0000 to 2.0000 | 5 | 4 |" in text


def test_a_setting_that_diverged_cannot_win() -> None:
    found = search.result(
        [tried(0.1, rate=9.0, seed=0), tried(None, rate=9.0, seed=1), tried(3.0)], 9, 1
    )
    assert found.chosen.validation_loss == 3.0
    assert "| 9 | 8 | 2 | diverged | - | 5 | 4 |" in search.table(found)
    with pytest.raises(ConfigError, match="all 1 settings diverged"):
        search.result([tried(None)], 9, 1)


@pytest.fixture
def study(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("FREEHOLD_CACHE", str(tmp_path / "cache"))
    rows = "".join(
        row(f"{word} number {k}", word).model_dump_json(exclude_defaults=True) + "\n"
        for k in range(12)
        for word in ("refund", "parcel", "login")
    )
    (tmp_path / "train.jsonl").write_text(rows)
    study = load_study(
        ROOT / "configs" / "quickstart.yaml",
        [
            f"prepare.train={{path: {tmp_path / 'train.jsonl'}}}",
            "prepare.near_copy=1.0",
            "finetune.epochs=2",
            "finetune.batch_size=6",
            "finetune.lora.rank=8",
            "finetune.search={learning_rate: [1.0e-3, 2.0e-2, 1.0e+30], validation_share: 0.3}",
        ],
    )
    own_base = study.finetune.model_copy(update={"base": BaseModelRef(path=base)})
    return study.model_copy(update={"finetune": own_base})


def options(uri: str, *, dry_run: bool = False) -> Options:
    return Options(ROOT / "configs" / "quickstart.yaml", uri, dry_run, False)


def test_a_search_that_is_cut_goes_on_and_its_winner_is_the_adapter(
    study: Study, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[float] = []
    train = launch.train

    def counted(base_dir: Any, rows: Any, config: Any, *args: Any) -> lora.Trained:
        if len(trained) == 1:
            trained.append(0.0)
            raise KeyboardInterrupt
        trained.append(config.learning_rate)
        return train(base_dir, rows, config, *args)

    monkeypatch.setattr(launch, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        finetune(study, options(store_uri))
    result = finetune(study, options(store_uri))
    assert isinstance(result, FinetuneResult)
    assert trained == [1e-3, 0.0, 2e-2, 1e30], "a finished trial was repeated"

    found = result.search
    assert found is not None
    slow, fast, wild = (each.trials[0] for each in found.settings)
    assert slow.validation_loss is not None
    assert fast.validation_loss is not None
    assert fast.validation_loss < slow.validation_loss
    assert wild.validation_loss is None
    assert "diverged" in wild.reason
    assert found.chosen == fast
    assert result.validation_loss == fast.validation_loss
    assert (result.n_rows, result.n_validation) == (found.n_rows, found.n_validation)
    assert found.n_rows + found.n_validation == 36
    assert result.train_s == pytest.approx(slow.train_s + fast.train_s)

    adapters = [
        lora.file_sha256(store.artifact(run, ADAPTER) / "adapter_model.safetensors")
        for run in (result.run_id, fast.run_id, slow.run_id)
    ]
    assert adapters[0] == adapters[1] == result.adapter_sha256 != adapters[2]
    saved = store.artifact(result.run_id, SEARCH_FILE).read_text()
    assert SearchResult.model_validate_json(saved) == found

    client = MlflowClient()
    runs = [client.get_run(each.run_id) for each in (slow, fast, wild)]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {result.run_id}
    assert [run.data.tags["stage"] for run in runs] == ["trial"] * 3
    parent = client.get_run(result.run_id)
    assert parent.data.params["learning_rate"] == "0.02"
    assert "| 0.02 | 8 | 2 | **" in parent.data.tags["mlflow.note.content"]
    assert store.find_newest("finetune", study.workload.name) == result.run_id


def test_a_dry_run_says_how_many_trials_and_processes(study: Study, store_uri: str) -> None:
    many = study.finetune.model_copy(update={"launcher": "torchrun", "n_processes": 2})
    plan = finetune(study.model_copy(update={"finetune": many}), options(store_uri, dry_run=True))
    assert isinstance(plan, Plan)
    assert "2 processes (torchrun), 3 trials" in plan.stages[-1].note
