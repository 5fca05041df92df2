"""Several processes train what one trains, bit for bit, and survive the death of one of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipelines.core.errors import ConfigError, DataError, DivergedError, UserError
from pipelines.core.paths import ROOT
from pipelines.core.study import FinetuneConfig
from pipelines.finetune import _check_cluster
from pipelines.training import launch, lora, worker
from tests.training.test_lora import ROWS, base, config

assert base  # the fixture: an untrained Llama of 60,000 parameters

TWO_PASSES: dict[str, Any] = {"micro_batch_size": 3, "epochs": 6}
"""Batches of 6: two passes in one process, or one in each of two."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Generator[None]:
    """As in each of several processes: sums over two threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(
    base: Path, work: Path, log: lora.Log | None = None, **more: Any
) -> tuple[lora.Trained, list[tuple[int, dict[str, float]]]]:
    logged: list[tuple[int, dict[str, float]]] = []

    def both(figures: Mapping[str, float], step: int) -> None:
        logged.append((step, dict(figures)))
        if log is not None:
            log(figures, step)

    work.mkdir(exist_ok=True)
    settings = config(**{**TWO_PASSES, **more})
    return launch.train(base, ROWS[:30], settings, "Name it.", work, both, ROWS[30:]), logged


def losses(
    logged: list[tuple[int, dict[str, float]]], name: str = "train/loss"
) -> dict[int, float]:
    return {step: figures[name] for step, figures in logged if name in figures}


def kill_once(work: Path, step: int, killed: list[int]) -> lora.Log:
    """Kill the last process when the figures of `step` are here, whatever it is doing by then."""

    def log(_: Mapping[str, float], now: int) -> None:
        if now >= step and not killed:
            printed = (work / launch.LOG_FILE).read_text(encoding="utf-8")
            [pid] = re.findall(r"rank 1: process (\d+)", printed)
            os.kill(int(pid), signal.SIGKILL)
            killed.append(now)

    return log


def test_torchrun_trains_what_one_process_trains(base: Path, tmp_path: Path) -> None:
    alone, logged_alone = train(base, tmp_path / "alone")
    pair, logged_pair = train(base, tmp_path / "pair", launcher="torchrun", n_processes=2)
    assert pair.adapter_sha256 == alone.adapter_sha256
    assert pair.adapter_dir == tmp_path / "pair" / "adapter"
    assert (pair.n_steps, pair.n_scored_tokens) == (30, alone.n_scored_tokens)
    assert losses(logged_pair) == pytest.approx(losses(logged_alone), rel=1e-6)
    assert sorted(losses(logged_pair)) == list(range(1, 31))
    assert losses(logged_pair, "eval/loss").keys() == losses(logged_alone, "eval/loss").keys()
    assert pair.eval_loss == pytest.approx(alone.eval_loss, rel=1e-6)


@pytest.mark.slow
def test_a_killed_torchrun_process_is_started_again_and_nothing_changes(
    base: Path, tmp_path: Path
) -> None:
    longer: dict[str, Any] = {"epochs": 40}
    alone, _ = train(base, tmp_path / "alone", **longer)
    killed: list[int] = []
    work = tmp_path / "pair"
    pair, logged = train(
        base, work, kill_once(work, 60, killed), launcher="torchrun", n_processes=2, **longer
    )
    assert killed, "training was over before it could be killed"
    printed = (work / launch.LOG_FILE).read_text(encoding="utf-8")
    assert "finetune: going on from checkpoint-" in printed
    assert len(re.findall(r"rank 1: process", printed)) == 2
    assert pair.adapter_sha256 == alone.adapter_sha256
    steps = [step for step, figures in logged if "train/loss" in figures]
    assert steps == sorted(set(steps)), "steps that were done twice were logged twice"


@pytest.mark.slow
def test_ray_trains_the_same_although_a_worker_dies(base: Path, tmp_path: Path) -> None:
    longer: dict[str, Any] = {"epochs": 40}
    alone, _ = train(base, tmp_path / "alone", **longer)
    killed: list[int] = []
    work = tmp_path / "ray"
    pair, _ = train(
        base, work, kill_once(work, 60, killed), launcher="ray", n_processes=2, n_retries=1,
        **longer,
    )  # fmt: skip
    assert killed, "training was over before it could be killed"
    assert "going on from checkpoint-" in (work / launch.LOG_FILE).read_text(encoding="utf-8")
    assert pair.adapter_sha256 == alone.adapter_sha256


@pytest.mark.slow
def test_a_run_without_retries_says_where_to_look(base: Path, tmp_path: Path) -> None:
    work = tmp_path / "pair"
    with pytest.raises(UserError, match=r"2 training processes ended(.|\n)*workers\.log ends with"):
        train(
            base, work, kill_once(work, 20, []), launcher="torchrun", n_processes=2, n_retries=0,
            epochs=400,
        )  # fmt: skip


PARENT = """
import sys
from pathlib import Path
from tests.training.test_launch import train
train(Path(sys.argv[1]), Path(sys.argv[2]), launcher=sys.argv[3], n_processes=2, epochs=4000)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "ray"])
def test_processes_end_with_the_command_even_when_it_is_killed(
    base: Path, tmp_path: Path, launcher: str
) -> None:
    work = tmp_path / "work"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(base), str(work), launcher], cwd=ROOT
    )
    try:
        figures = work / worker.FIGURES
        deadline = time.monotonic() + 300
        while not (figures.exists() and figures.stat().st_size):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        printed = (work / launch.LOG_FILE).read_text(encoding="utf-8")
        pids = [int(pid) for pid in re.findall(r"rank \d: process (\d+)", printed)]
        assert len(pids) == 2
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "processes outlive the command"
        time.sleep(0.2)


def run_job(folder: Path, base: Path, settings: FinetuneConfig) -> None:
    """What a worker does, in this process."""
    folder.mkdir()
    job = worker.Job(base_dir=base, config=settings, instructions="Name it.")
    (folder / worker.JOB).write_text(job.model_dump_json())
    for name in (worker.ROWS, worker.VALIDATION):
        (folder / name).write_text("".join(row.model_dump_json() + "\n" for row in ROWS[:6]))
    worker.run(folder)


def test_what_only_the_user_can_mend_is_told_once_and_not_tried_again(
    base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    with pytest.raises(DataError, match="longer than 3 tokens"):
        run_job(folder, base, config(max_tokens_per_row=3))
    failure = json.loads((folder / worker.FAILURE).read_text())
    assert failure["kind"] == "DataError"
    worker.run(folder)  # the launcher starts it again: it ends at once
    assert not (folder / worker.RESULT).exists()


def test_a_failure_of_the_processes_is_the_commands_own(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys, pathlib; from pipelines.training import worker; "
        "worker._write(pathlib.Path(sys.argv[1]) / worker.FAILURE, "
        """'{"kind": "DivergedError", "text": "training diverged at step 3"}'); sys.exit(1)"""
    )
    monkeypatch.setattr(
        launch, "_command", lambda _, folder: [sys.executable, "-c", code, str(folder)]
    )
    with pytest.raises(DivergedError, match="^training diverged at step 3$"):
        train(base, tmp_path / "work", launcher="torchrun", n_processes=2)


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"finetune\.shared_dir"):
        worker.run(tmp_path / "not-here")


def test_rows_and_checkpoints_go_to_the_shared_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.exit(3)"
    monkeypatch.setattr(launch, "_command", lambda *_: [sys.executable, "-c", code])
    shared = tmp_path / "shared"
    with pytest.raises(UserError, match="exit code 3, 2 retries"):
        train(base, tmp_path / "stage-1", launcher="ray", n_processes=2, shared_dir=shared)
    assert len((shared / "stage-1" / worker.ROWS).read_text().splitlines()) == 30
    assert list((tmp_path / "stage-1").iterdir()) == []


def test_figures_are_passed_on_whole_lines_at_a_time_and_once_each(tmp_path: Path) -> None:
    path = tmp_path / worker.FIGURES
    logged: list[tuple[int, dict[str, float]]] = []
    figures = launch._Figures(path, lambda values, step: logged.append((step, dict(values))))
    figures.pass_on()
    path.write_text('{"step": 1, "figures": {"a": 2.0}}\n{"step": 2, "figu')
    figures.pass_on()
    assert logged == [(1, {"a": 2.0})]
    with path.open("a") as file:
        # step 2 again, as after a death; of step 2 only `b` is new
        file.write('res": {"a": 3.0}}\n{"step": 2, "figures": {"a": 3.0, "b": 4.0}}\n')
    figures.pass_on()
    assert logged[1:] == [(2, {"a": 3.0}), (2, {"b": 4.0})]


def test_settings_that_cannot_work_are_refused() -> None:
    given = config().model_dump()
    with pytest.raises(ValidationError, match="n_processes 2 needs launcher: torchrun or ray"):
        FinetuneConfig.model_validate({**given, "n_processes": 2})
    with pytest.raises(ValidationError, match="some would have no row"):
        FinetuneConfig.model_validate(
            {**given, "launcher": "ray", "n_processes": 3, "batch_size": 2}
        )


def test_a_cluster_wants_a_tracking_server(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    _check_cluster(config(launcher="ray"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    _check_cluster(config(launcher="torchrun"))
    with pytest.raises(ConfigError, match=r"needs an MLflow server(.|\n)*--tracking-uri"):
        _check_cluster(config(launcher="ray"))
