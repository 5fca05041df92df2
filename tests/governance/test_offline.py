"""One switch: every library's own variable, and no external endpoint for anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipelines.core import offline
from pipelines.core.errors import Refused
from pipelines.core.paths import ROOT
from pipelines.core.workload import TIERS
from pipelines.governance import egress
from pipelines.governance.consent import Consent, Given, OnFile
from pipelines.governance.egress import Gate
from pipelines.governance.zones import Zone

WANTED = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "RAGAS_DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ALWAYS = {
    name: value
    for name, value in WANTED.items()
    if name not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
}
COMMAND = """
import json, os, subprocess, sys
from pipelines.core import command
from pipelines.core.records import Message

def work(args):
    heavy = {"mlflow", "huggingface_hub", "transformers", "datasets", "vllm", "ray"}
    early = sorted(heavy & set(sys.modules))
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(subprocess.check_output([sys.executable, "-c", show]))
    return Message(role="user", content=json.dumps([early, seen]))

sys.exit(command.without_study("x", lambda parser: None, work, lambda r: r.content, sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _own_trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(egress.TRAIL, str(tmp_path / "trail.jsonl"))


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what the switch sets."""
    kept = {k: v for k, v in os.environ.items() if k not in (*WANTED, offline.SWITCH)}
    return {**kept, **changes}


def child(*flags: str, **changes: str) -> dict[str, str]:
    """What a child of a command sees."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *flags],
        capture_output=True, text=True, cwd=ROOT, check=True, env=environment(**changes),
    )  # fmt: skip
    early, seen = json.loads(done.stdout)
    assert early == []  # a library that is imported before reads nothing any more
    return seen


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_children_of_an_offline_command_see_every_variable(how: str) -> None:
    contrary = {"HF_HUB_OFFLINE": "0", "MLFLOW_MODEL_CATALOG_URI": "https://x.test"}
    if how == "flag":
        seen = child("--offline", **contrary)
    else:
        seen = child(FREEHOLD_OFFLINE="1", **contrary)
    assert {name: seen.get(name) for name in WANTED} == WANTED
    assert offline.SWITCH in seen
    assert "DO_NOT_TRACK" not in seen  # vLLM and MLflow want other values there


@pytest.mark.parametrize("value", ["", "0", "no"])
def test_without_the_switch_only_usage_statistics_are_off(value: str) -> None:
    seen = child(FREEHOLD_OFFLINE=value, MLFLOW_MODEL_CATALOG_URI="https://x.test")
    wanted = {**ALWAYS, "MLFLOW_MODEL_CATALOG_URI": "https://x.test"}
    assert {name: seen.get(name) for name in WANTED if name in seen} == wanted


@pytest.mark.slow
def test_the_libraries_read_the_variables_so() -> None:
    code = (
        "from pipelines.core import offline; offline.apply()\n"
        "import huggingface_hub.constants as hub, datasets.config, ragas._analytics as ragas\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from ray._common.usage import usage_lib\n"
        "import vllm.envs as vllm\n"
        "print(hub.HF_HUB_OFFLINE, hub.HF_HUB_DISABLE_TELEMETRY, datasets.config.HF_HUB_OFFLINE,\n"
        "    ragas.do_not_track(), is_telemetry_disabled(), not usage_lib.usage_stats_enabled(),\n"
        "    vllm.VLLM_DO_NOT_TRACK, vllm.VLLM_NO_USAGE_STATS)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False,
        env=environment(FREEHOLD_OFFLINE="1"),
    )  # fmt: skip
    assert done.stdout.split() == ["True"] * 8, done.stderr


def everything(workload: str, tier: str, zone: Zone, role: str) -> OnFile:
    """A consent to every call."""
    now = datetime.now(UTC)
    said = Consent.model_validate(
        {
            "workload": workload, "tier": tier, "zone": zone, "why": "test", "role": role,
            "name": "dpo", "at": now, "until": now.date(),
        }
    )  # fmt: skip
    return OnFile((Given(said, "0" * 64, date.max),), ())


def test_the_switch_denies_external_endpoints_whatever_the_tier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(offline.SWITCH, "1")
    for tier in TIERS:
        gate = Gate("w", tier, consents=everything)
        with pytest.raises(Refused, match=r"--offline \(FREEHOLD_OFFLINE\) forbids"):
            egress.check(gate, "candidate x", "https://8.8.8.8/v1")
        egress.check(gate, "candidate x", "http://127.0.0.1/v1")
        egress.check(gate, "candidate x", "http://10.1.2.3/v1")
    with pytest.raises(Refused, match="the tracking server"):
        egress.check_tracking("https://8.8.8.8", None)
    monkeypatch.setenv(offline.SWITCH, "0")
    egress.check_tracking("https://8.8.8.8", None)


def test_an_offline_evaluation_with_an_external_candidate_ends_with_exit_4(
    small_study: Path, store_uri: str
) -> None:
    closed = "kind: rent, provider: anthropic, price: openai/gpt-6-luna, title: X, model: x"
    done = subprocess.run(
        [
            sys.executable, "-m", "pipelines.evaluate", str(small_study), "--offline",
            "--tracking-uri", store_uri, "--set", "workload.tier=public",
            "--set", f"candidates.claude={{{closed}}}",
        ],
        capture_output=True, text=True, cwd=ROOT, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "candidate claude: api.anthropic.com is external" in done.stderr
    assert "--offline (FREEHOLD_OFFLINE) forbids every external endpoint" in done.stderr
