"""The gate asks each served model once, keeps what came out, and lets no wrong one through."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipelines.core.candidate import Serving
from pipelines.core.config import load_study
from pipelines.core.errors import MissingRunError, Refused
from pipelines.core.paths import ROOT
from pipelines.core.records import Message
from pipelines.core.results import (
    TRAIN_FILE,
    FinetuneResult,
    ParityResult,
    PrepareResult,
    ReferenceAnswer,
)
from pipelines.core.study import Study
from pipelines.evaluation import parity_gate
from pipelines.evaluation.parity_gate import ParityGate
from pipelines.serving.parity import compare
from pipelines.tracking import store
from pipelines.training import reference_answers
from tests.serving.scripted_vllm import scripted

OURS = ReferenceAnswer(
    messages=(Message(role="user", content="hello"),),
    prompt_ids=(1, 2),
    token_ids=(7,),
    text="a",
    likeliest=({7: -0.1, 8: -3.0},),
    base_logprobs=(-6.0,),
)
AS_BASE = OURS.model_copy(update={"token_ids": (9,), "likeliest": ({9: -0.1, 7: -6.0},)})
TUNED = FinetuneResult(
    run_id="0" * 32, base_name="tiny", base_sha256="b" * 64, base_is_toy=True,
    adapter_sha256="a" * 64, instructions="Be kind.", n_rows=1, n_scored_tokens=1, n_steps=1,
    final_loss=0.1, tokens_per_s=1.0, train_s=1.0, peak_memory_gib=0.1,
)  # fmt: skip


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[reference_answers.Job]:
    """What was asked in-process; the answer is always `OURS`."""
    asked: list[reference_answers.Job] = []

    def answers(job: reference_answers.Job) -> tuple[ReferenceAnswer, ...]:
        asked.append(job)
        return (OURS,)

    monkeypatch.setattr(reference_answers, "reference_answers", answers)
    return asked


@pytest.fixture
def study(store_uri: str, tmp_path: Path) -> Study:
    """With a prepare run, and the folders of a base and an adapter."""
    study = load_study(ROOT / "configs" / "quickstart.yaml")
    stage = store.Stage("prepare", study.workload.name, {})
    with store.open_run(stage, data_sha256="d", inputs={}, description="") as run:
        run.log_text('{"messages": []}\n', TRAIN_FILE)
        run.save_result(
            PrepareResult(
                run_id=run.run_id, train_sha256="t", eval_sha256="e", n_read=1, n_train=1,
                n_eval=1, n_duplicates=0, n_conflicts=0, n_leaked=0,
            )
        )  # fmt: skip
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16}))
    return study


def gate(study: Study, tmp_path: Path, **serving: Any) -> ParityGate | None:
    folders = tmp_path / "base", tmp_path / "adapter"
    return parity_gate.before_start(study, TUNED, Serving(**serving), *folders)


def runs() -> list[Any]:
    return mlflow.search_runs(  # pyright: ignore[reportReturnType]
        search_all_experiments=True, filter_string="tags.stage = 'parity'", output_format="list"
    )


def test_what_was_shown_once_is_not_asked_again(
    study: Study, tmp_path: Path, jobs: list[reference_answers.Job]
) -> None:
    first = gate(study, tmp_path)
    assert first is not None
    with scripted([OURS]) as url:
        shown = first.check(url)
    assert (shown.failure, shown.agreement, shown.model) == (None, 1.0, "tuned")
    (run,) = runs()
    assert run.data.metrics["parity/agreement"] == 1.0
    assert run.data.tags["input.finetune"] == TUNED.run_id
    assert store.load_result(run.info.run_id, ParityResult) == shown
    assert gate(study, tmp_path) is None
    assert len(jobs) == 1
    assert jobs[0].max_prompt_tokens == 1024 - 16
    assert jobs[0].instructions == "Be kind."
    assert gate(study, tmp_path, weights="merged") is not None
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"lora_alpha": 32}))
    assert gate(study, tmp_path) is not None, "another scale is another adapter"


def test_a_wrong_model_is_refused_its_figures_are_kept_and_it_is_asked_again(
    study: Study, tmp_path: Path, jobs: list[reference_answers.Job]
) -> None:
    for _ in range(2):
        wrong = gate(study, tmp_path)
        assert wrong is not None
        with scripted([AS_BASE]) as url, pytest.raises(Refused, match="adapter is not in it"):
            wrong.check(url)
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["parity"] == "failed"
    assert store.load_result(run.info.run_id, ParityResult).adapter_seen is False
    right = gate(study, tmp_path)
    assert right is not None
    with scripted([OURS]) as url:
        right.check(url)
    (run,) = runs()
    assert (run.info.status, run.data.tags["parity"]) == ("FINISHED", "passed")


def test_a_quantised_model_may_say_other_tokens(
    study: Study, tmp_path: Path, jobs: list[reference_answers.Job], capsys: Any
) -> None:
    other = OURS.model_copy(update={"token_ids": (8,), "likeliest": ({8: -0.7, 7: -0.9},)})
    quantised = gate(study, tmp_path, quantization="int8")
    assert quantised is not None
    with scripted([other]) as url:
        shown = quantised.check(url)
    assert (shown.failure, shown.strict, shown.agreement) == (None, False, 0.0)
    assert shown.shift_nats == pytest.approx(0.8)
    assert "0% of 1 tokens" in capsys.readouterr().err


def test_fp32_demands_more_unless_the_merge_rounded_to_the_bases_bf16(
    study: Study, tmp_path: Path, jobs: list[reference_answers.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_gate, "has_cuda", lambda: False)
    kinds = [{}, {"weights": "merged"}, {"quantization": "int8"}]
    gates = [gate(study, tmp_path, **kind) for kind in kinds]
    assert [each.fp32 for each in gates if each] == [True, False, False]
    assert jobs[-1].dtype == "float32"
    monkeypatch.setattr(parity_gate, "has_cuda", lambda: True)
    on_a_gpu = gate(study, tmp_path)
    assert on_a_gpu is not None
    assert not on_a_gpu.fp32
    assert jobs[-1].dtype == "bfloat16"


def test_without_an_adapter_the_bases_prompts_are_those_of_the_workload(
    study: Study, tmp_path: Path, jobs: list[reference_answers.Job]
) -> None:
    only_base = parity_gate.before_start(study, None, Serving(), tmp_path / "base", None)
    assert only_base is not None
    assert jobs[0].adapter_dir is None
    assert jobs[0].instructions == study.workload.instructions
    prompt = OURS.model_copy(update={"token_ids": (), "likeliest": (), "base_logprobs": ()})
    with scripted([OURS]) as url:
        found = compare(url, "base", [prompt], study.serve.parity, fp32=True, strict=True)
    assert (found.agreement, found.failure) == (None, None)


def test_without_prepared_rows_it_says_what_to_run(store_uri: str, tmp_path: Path) -> None:
    study = load_study(ROOT / "configs" / "quickstart.yaml")
    with pytest.raises(MissingRunError, match="pipelines.prepare"):
        gate(study, tmp_path)


def test_another_template_or_another_day_in_it_is_asked_again(
    study: Study, tmp_path: Path, jobs: list[reference_answers.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return date(2099, 1, 2)

    template = tmp_path / "base" / "chat_template.jinja"
    for text in ("{{ messages }}", "{{ strftime_now('%d') }}"):
        template.write_text(text)
        gate(study, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(parity_gate, "date", Tomorrow)
            gate(study, tmp_path)
    digests = [job.digest for job in jobs]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
