"""The README's study for real: toy base, LoRA, vLLM, killed on the way and taken up again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from pipelines.core.decision import Decision
from pipelines.core.paths import ROOT

STUDY = "configs/quickstart.yaml"
QUIET = ("--set", "benchmark.candidates=[]")
"""How much load the toys carry, scripts/bench says: it takes minutes."""


def heed_ctrl_c() -> None:
    """What a shell runs in the background ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(uri: str, *more: str, command: str = "run") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"pipelines.{command}", STUDY, "--tracking-uri", uri, *QUIET, *more],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip


def kill_at(process: subprocess.Popen[str], pattern: str, number: signal.Signals) -> str:
    """Read stderr until a line matches, then send the signal to this one process."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if re.search(pattern, line):
            process.send_signal(number)
            rest = process.stderr.read()
            process.wait()
            return "".join(seen) + rest
    pytest.fail(f"no line matched {pattern!r}:\n{''.join(seen)}")


def runs() -> list[mlflow.entities.Run]:  # pyright: ignore[reportAttributeAccessIssue]
    return mlflow.search_runs(search_all_experiments=True, output_format="list")  # pyright: ignore[reportReturnType]


def vllm_processes(uri: str) -> list[str]:
    """Processes that serve an adapter of this test's store."""
    folder = uri.removeprefix("sqlite:///").removesuffix("/mlflow.db")
    listed = subprocess.run(["ps", "-o", "args=", "-A"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if folder in line and "api_server" in line]


def wait_until_gone(uri: str) -> bool:
    deadline = time.monotonic() + 30
    while vllm_processes(uri) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not vllm_processes(uri)


@pytest.fixture(scope="module")
def finished(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Decision, list[str]]:
    """The study, interrupted three times: in training, with Ctrl-C, and while vLLM answers."""
    import shutil

    folder = tmp_path_factory.mktemp("quickstart") / "mlruns"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    said = [kill_at(start(uri), r"finetune: training: \d+ of", signal.SIGKILL)]
    interrupted = start(uri)
    said.append(kill_at(interrupted, r"serve: vLLM is up", signal.SIGINT))
    assert interrupted.returncode == 130
    assert "the same command goes on where it stopped" in said[-1]
    assert wait_until_gone(uri), "vLLM survived Ctrl-C"
    said.append(kill_at(start(uri), r"evaluate: tiny-lora: \d+ of", signal.SIGKILL))
    assert wait_until_gone(uri), "vLLM survived the kill -9 of its parent"
    last = start(uri, "--json")
    out, err = last.communicate(timeout=600)
    assert last.returncode == 0, err
    said.append(err)
    return uri, Decision.model_validate_json(out), said


def test_a_killed_study_goes_on_and_does_no_stage_twice(
    finished: tuple[str, Decision, list[str]],
) -> None:
    _, decision, said = finished
    assert "going on with run" in said[1], "the cut training was started as another run"
    assert "nothing changed" in said[2], "the finished training was done again"
    names = sorted(r.info.run_name for r in runs())
    assert names == sorted(
        [
            "prepare",
            "finetune",
            "parity",
            "decide",
            *(f"evaluate {name}" for name in decision.candidates),
        ]
    )
    assert {r.info.status for r in runs()} == {"FINISHED"}


def test_no_answered_request_was_sent_again(finished: tuple[str, Decision, list[str]]) -> None:
    uri, _, _ = finished
    folder = Path(uri.removeprefix("sqlite:///")).parent / "work" / "journal"
    journals = list(folder.glob("*.jsonl"))
    assert len(journals) == 4
    for path in journals:
        asked = [json.loads(line)["request_sha256"] for line in path.read_text().splitlines()]
        assert len(asked) == len(set(asked)) == 309


def test_vllm_said_how_likely_the_tokens_of_each_answer_were(
    finished: tuple[str, Decision, list[str]],
) -> None:
    uri, _, _ = finished
    folder = Path(uri.removeprefix("sqlite:///")).parent / "work" / "journal"
    for path in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        said = [row["mean_logprob"] for row in rows]
        if "tiny-" in path.name:
            assert all(each is not None and each <= 0 for each in said)
            assert len(set(said)) > 1
        else:
            assert said == [None] * len(said)


def test_the_tuned_toy_beats_its_base_by_thirty_points(
    finished: tuple[str, Decision, list[str]],
) -> None:
    _, decision, _ = finished
    base, tuned = (decision.candidates[name].quality for name in ("tiny-base", "tiny-lora"))
    assert base is not None
    assert tuned is not None
    assert tuned.mean - base.mean >= 0.30


def test_the_verdict_is_stamped_and_cannot_be_promoted(
    finished: tuple[str, Decision, list[str]],
) -> None:
    uri, decision, _ = finished
    assert decision.simulated == ("frontier-standin",)
    refused = start(uri, command="promote")
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 4
    assert "rests on simulated answers" in err


def test_without_the_stand_in_the_tuned_model_can_be_promoted(
    finished: tuple[str, Decision, list[str]],
) -> None:
    uri, _, _ = finished
    only = ("--set", "candidates=[tiny-lora, tiny-base]", "--set", "incumbent=tiny-lora")
    # How fast a busy machine answers is not what is tested here.
    only += ("--set", "workload.requirements.max_latency_p95_s=600")
    decided = start(uri, *only, "--json", command="decide")
    out, err = decided.communicate(timeout=300)
    assert decided.returncode == 0, err
    assert "vLLM" not in err, "the answers were there; no server was needed"
    decision = Decision.model_validate_json(out)
    assert (decision.verdict, decision.chosen, decision.simulated) == ("own", "tiny-lora", ())
    promoted = start(uri, *only, command="promote")
    out, err = promoted.communicate(timeout=120)
    assert promoted.returncode == 0, err
    version = mlflow.MlflowClient().get_model_version_by_alias("support", "champion")
    files = mlflow.artifacts.list_artifacts(f"models:/support/{version.version}")  # pyright: ignore[reportPrivateImportUsage]
    assert "adapter_model.safetensors" in {Path(f.path).name for f in files}


def test_the_readmes_table_is_that_of_this_study(
    finished: tuple[str, Decision, list[str]],
) -> None:
    _, decision, _ = finished
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- decision table -->")[1].split("<!-- end -->")[0]
    assert f"Verdict: {decision.verdict.upper()}" in table
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(decision.candidates)
    for row, (name, candidate) in zip(rows, decision.candidates.items(), strict=True):
        assert row.startswith(f"| {name}")
        assert ("simulated" in row) == candidate.simulated
        stated = float(row.split("|")[2].split()[0])
        assert (quality := candidate.quality) is not None
        assert quality.low is not None
        assert quality.high is not None
        # Another processor may round another way; the table must stay within the interval.
        assert quality.low - 0.01 <= stated <= quality.high + 0.01


@pytest.mark.slow
def test_serve_prints_a_working_curl_and_stops_on_ctrl_c(
    finished: tuple[str, Decision, list[str]],
) -> None:
    uri, _, _ = finished
    process = start(uri, command="serve")
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if "serve: up" in line:
            break
    curl = "".join(lines).split("\n\n")[1]
    assert curl.startswith("curl http://127.0.0.1:")
    answered = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
    message = json.loads(answered.stdout)["choices"][0]["message"]["content"]
    assert '"intent"' in message
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert wait_until_gone(uri)
