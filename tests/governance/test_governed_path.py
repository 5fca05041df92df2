"""One restricted study, by the commands that people type: from training to an answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipelines.core.paths import ROOT

STUDY = "configs/quickstart.yaml"
OWN = {
    "workload.tier": "restricted",
    "incumbent": "own-base",
    "candidates": "[own-base, own-lora]",
    "candidates.own-base.hardware": "vm-2cpu",
    "candidates.own-lora.hardware": "vm-2cpu",
    "benchmark.candidates": "[]",
}
"""Without the stand-in for a closed model: nobody can promote what rests on simulated answers."""
CLOSED = (
    "{kind: rent, title: Closed, provider: openai_compatible, model: gpt-6.1-sol, "
    "price: openai/gpt-6.1-sol}"
)


def show(text: str) -> None:
    """With `pytest -s`, what a person sees."""
    sys.stdout.write(f"\n{text}\n")


class Company:
    """A copy of the project with keys of its own, so that nothing of it is patched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        no_caches = shutil.ignore_patterns("__pycache__")
        for part in ("pipelines", "configs", "eval_sets", "scripts"):
            shutil.copytree(ROOT / part, folder / part, ignore=no_caches)
        (folder / ".venv").symlink_to(Path(sys.prefix))
        self.env = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "FREEHOLD_TRAIL": str(folder / "trail.jsonl"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlruns/mlflow.db",
        }

    def script(self, *words: str) -> tuple[int, str]:
        """Exit code, and all that a person sees."""
        done = subprocess.run(
            words, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        show(f"$ {' '.join(words)}\n{said[-3000:]}\nexit code {done.returncode}")
        return done.returncode, said

    def words(self, command: str, *more: str) -> list[str]:
        overrides = [word for key, value in OWN.items() for word in ("--set", f"{key}={value}")]
        return [sys.executable, "-m", f"pipelines.{command}", STUDY, *overrides, *more]

    def run(self, command: str, *more: str) -> tuple[int, str]:
        return self.script(*self.words(command, *more))

    def key(self, name: str) -> str:
        return str(self.folder / "keys" / f"{name}.pem")

    def hire(self, name: str, *roles: str) -> None:
        asked = [word for role in roles for word in ("--role", role)]
        folder = str(self.folder / "keys")
        code, said = self.script("scripts/keys", name, *asked, "--folder", folder)
        assert code == 0
        with (self.folder / "configs/policies/trusted_keys.yaml").open("a") as file:
            file.write(said[re.search(r"^ *- ", said, re.M).start() :])  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_restricted_from_training_to_an_answer(tmp_path: Path) -> None:
    company = Company(tmp_path / "company")
    company.hire("ci", "builder")
    company.hire("alice", "risk")
    company.hire("bob", "data-protection")

    # A closed API named in a restricted study.
    code, said = company.run("evaluate", "--set", f"candidates.closed={CLOSED}")
    assert code == 4
    assert re.search(r"closed.*is external, and the data of workload support is restricted", said)

    code, said = company.run("run")
    assert code == 0
    assert "Verdict: OWN (own-lora)" in said
    code, said = company.run("promote", "--key", company.key("ci"))
    assert code == 5
    assert "WAITING for approval: version 1 of support (restricted data)" in said
    code, said = company.run("promote", "--approve", "--role", "risk", "--key", company.key("ci"))
    assert code == 4
    assert "nobody approves what he built" in said
    for name, role in (("alice", "risk"), ("bob", "data-protection")):
        signed = ("--approve", "--role", role, "--key", company.key(name))
        assert company.run("promote", *signed)[0] == 0
    code, said = company.run("promote", "--key", company.key("ci"))
    assert code == 0
    assert "approved by alice as risk, bob as data-protection" in said

    answer = served(company)
    assert json.loads(answer)["intent"]

    # A flipped byte in the registry's files.
    [weights] = company.folder.glob("mlruns/artifacts/*/models/*/artifacts/*.safetensors")
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    code, said = company.run("serve", "--champion")
    assert code == 4
    assert "changed: 'adapter_model.safetensors'; do not load it" in said
    weights.write_bytes(good)

    # An alias moved by hand to a version that nobody approved.
    mlflow.set_tracking_uri(company.env["MLFLOW_TRACKING_URI"])
    client = mlflow.MlflowClient()
    approved = client.get_model_version("support", "1")
    client.create_model_version("support", approved.source or "", model_id=approved.model_id)
    client.set_registered_model_alias("support", "champion", "2")
    code, said = company.run("serve", "--champion")
    assert code == 4
    assert "never put forward for approval" in said
    assert "the alias was moved by hand" in said
    client.set_registered_model_alias("support", "champion", "1")

    # The audit trail, whole and shortened.
    anchors = [str(path) for path in company.folder.glob("mlruns/**/trail-anchor.sigstore.json")]
    assert anchors
    trail = company.folder / "trail.jsonl"
    assert company.script("scripts/verify", "trail", str(trail), *anchors)[0] == 0
    whole = trail.read_text().splitlines(keepends=True)
    shortened = company.folder / "shortened.jsonl"
    shortened.write_text("".join(whole[:3]))
    code, said = company.script("scripts/verify", "trail", str(shortened), *anchors)
    assert code == 4
    assert "REFUSED: the audit trail does not hold" in said
    code, said = company.run("dossier")
    assert code == 0


def served(company: Company) -> str:
    """What the champion answers to the call that `serve --champion` prints."""
    process = subprocess.Popen(
        company.words("serve", "--champion"), cwd=company.folder, env=company.env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    seen = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            seen += line
            if "serve: up" in line:
                break
        show(f"$ python -m pipelines.serve {STUDY} --champion\n{seen}")
        assert "serve: version 1 of support may serve" in seen
        call = re.search(r"curl .*?(?=\n\n)", seen, re.S)
        assert call is not None, seen
        code, said = company.script("bash", "-c", f"{call[0]} --silent --noproxy '*'")
        assert code == 0
        return str(json.loads(said)["choices"][0]["message"]["content"])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) is not None
