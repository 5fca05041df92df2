"""A finished stage is found, a cut one is taken up again, two processes do not collide."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.decision import Decision
from pipelines.core.errors import MissingRunError, UserError
from pipelines.core.results import PrepareResult
from pipelines.decide import REPORT, decide
from pipelines.prepare import prepare
from pipelines.tracking import store


def options(uri: str) -> Options:
    return Options(Path("study.yaml"), uri, dry_run=False, json=False)


def stage(**inputs: object) -> store.Stage:
    return store.Stage("prepare", "small", inputs)


def run(which: store.Stage) -> str:
    with store.open_run(which, data_sha256="d", inputs={"x": "1"}, description="") as handle:
        handle.log_metrics({"a": 1.0, "missing": None})
        return handle.run_id


def test_equal_inputs_find_the_finished_run_and_others_do_not(store_uri: str) -> None:
    run_id = run(stage(a=1))
    assert store.find_finished(stage(a=1)) == run_id
    assert store.find_finished(stage(a=2)) is None


def test_a_failed_run_is_taken_up_again_under_its_own_id(store_uri: str) -> None:
    def fail() -> None:
        with store.open_run(stage(a=1), data_sha256="d", inputs={}, description=""):
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert store.find_finished(stage(a=1)) is None
    again = run(stage(a=1))
    assert store.find_finished(stage(a=1)) == again
    import mlflow

    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == 1


def test_a_run_with_failed_calls_is_not_reused(store_uri: str) -> None:
    with store.open_run(stage(a=1), data_sha256="d", inputs={}, description="") as handle:
        handle.set_tags({"reusable": "false"})
    assert store.find_finished(stage(a=1)) is None


def test_a_metric_that_was_not_measured_is_absent_not_zero(store_uri: str) -> None:
    import mlflow

    metrics = mlflow.get_run(run(stage(a=1))).data.metrics
    assert metrics == {"a": 1.0}


def test_the_same_stage_twice_at_once_is_refused(store_uri: str) -> None:
    with store.open_run(stage(a=1), data_sha256="d", inputs={}, description=""):
        with pytest.raises(UserError, match="another process is running this stage"):
            run(stage(a=1))


def test_a_deleted_result_says_what_to_do(store_uri: str) -> None:
    with pytest.raises(MissingRunError, match=r"no artifact result\.json any more"):
        store.load_result(run(stage(a=1)), PrepareResult)


def test_an_unreachable_server_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as caught:
        store.connect("http://me:geheim@127.0.0.1:9")
    assert "cannot be used" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_lineage_and_config_are_on_the_run(small_study: Path, store_uri: str) -> None:
    import mlflow

    result = prepare(load_study(small_study), options(store_uri))
    assert isinstance(result, PrepareResult)
    found = mlflow.get_run(result.run_id)
    assert found.data.tags["stage"] == "prepare"
    assert len(found.data.tags["config_sha256"]) == 64
    assert found.data.tags["git_commit"]
    assert found.inputs is not None
    assert {d.dataset.name.split()[0] for d in found.inputs.dataset_inputs} == {
        "train.jsonl",
        "eval.jsonl",
    }
    assert store.artifact(result.run_id, "config.json").exists()


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Generator[str]:
    """A real `mlflow server` with proxied artifacts."""
    import shutil

    shutil.copy(empty_store, tmp_path / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination", str(tmp_path / "remote"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(
        command, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail("mlflow server did not come up in a minute")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_remote_server_works_the_same(small_study: Path, server: str) -> None:
    import mlflow

    store.connect(server)
    study = load_study(small_study)
    first = decide(study, options(server))
    again = decide(study, options(server))
    assert isinstance(first, Decision)
    assert first == again
    report = store.artifact(first.run_id, REPORT).read_text(encoding="utf-8")
    assert "SIMULATED" in report
    names = [
        str(r.info.run_name)
        for r in mlflow.search_runs(search_all_experiments=True, output_format="list")
    ]
    assert sorted(names) == ["decide", "evaluate frontier", "evaluate tfidf-logreg", "prepare"]
