"""The way of a model into production: asked for, approved, promoted, loaded, and all detours."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from pipelines import promote as command
from pipelines.core.config import load_study
from pipelines.core.decision import CandidateDecision, Decision
from pipelines.core.errors import ConfigError, MissingRunError, Refused
from pipelines.core.records import Message, TrainingRow
from pipelines.core.results import TRAIN_FILE, Cost, EvaluateResult, FinetuneResult
from pipelines.core.study import Study
from pipelines.evaluation import champion
from pipelines.governance import keys, seal
from pipelines.governance import trail as audit_trail
from pipelines.tracking import registry, store
from pipelines.tracking.store import Stage, open_run
from pipelines.training.base_model import weights_sha256

PEOPLE = {
    "ci": ("builder",),
    "alice": ("risk",),
    "bob": ("data-protection",),
    "eve": ("risk", "data-protection"),
}


def candidate_row(kind: str, evaluate_run: str, model_id: str) -> CandidateDecision:
    return CandidateDecision.model_validate(
        {
            "kind": kind, "n": 60, "n_paired": 60, "coverage": 1.0, "quality": None,
            "comparison": "incumbent", "usd_per_task": None, "latency_p95_s": None,
            "latency_p95_high_s": None, "title": "Ours", "simulated": False, "toy": True,
            "latency_p50_s": None, "usd_per_month": None, "n_replicas": None,
            "break_even_tasks_per_month": None, "evaluate_run_id": evaluate_run,
            "model_id": model_id,
        }
    )  # fmt: skip


class Company:
    """A workload with a trained, measured and chosen adapter, and people with keys."""

    def __init__(self, folder: Path, uri: str, study_file: Path, name: str, tier: str) -> None:
        self.folder, self.uri, self.name, self.tier = folder, uri, name, tier
        self.study_file = study_file
        self.base = folder / "base"
        self.base.mkdir(exist_ok=True)
        (self.base / "config.json").write_text('{"model_type": "llama"}')
        (self.base / "model.safetensors").write_bytes(b"w" * 1000)
        self.keys = folder / "keys"
        self.n = 0
        self.more: list[str] = []
        self.rows: list[TrainingRow] = []

    def hire(self) -> Path:
        """Keys for everybody; returns the file of trusted ones."""
        today = datetime.now(UTC).date()
        entries = ""
        for name, roles in PEOPLE.items():
            public = keys.create(self.keys / f"{name}.pem")
            entries += keys.as_entry(
                keys.TrustedKey(
                    name=name, public_key=public.public_key, roles=roles,
                    valid_from=today, valid_until=today + timedelta(days=2),
                )
            )  # fmt: skip
        keys.create(self.keys / "mallory.pem")
        path = self.folder / "trusted_keys.yaml"
        path.write_text(f"keys:\n{entries}")
        return path

    @property
    def flags(self) -> list[str]:
        """Of every command."""
        overrides = [
            f"workload.name={self.name}",
            f"workload.tier={self.tier}",
            f"finetune.base={{build: null, path: {self.base}}}",
            "candidates.own-lora={kind: own, title: Ours, tuned: true, hardware: vm-2cpu}",
        ]
        overrides += self.more
        return ["--tracking-uri", self.uri, *(f"--set={each}" for each in overrides)]

    @property
    def study(self) -> Study:
        return load_study(self.study_file, [each[6:] for each in self.flags[2:]])

    def decide(self, kind: str = "own", **changed: object) -> Decision:
        """Train, measure and decide; each time another adapter."""
        self.n += 1
        adapter, tuned = None, None
        if kind == "own":
            adapter = self.folder / f"{self.name}-adapter-{self.n}"
            adapter.mkdir()
            (adapter / "adapter_config.json").write_text('{"r": 8}')
            (adapter / "adapter_model.safetensors").write_bytes(bytes([self.n]) * 5000)
            tuned = self._finetuned(adapter)
        inputs = {"finetune": tuned.run_id} if tuned else {}
        with open_run(
            Stage("evaluate", self.name, {"n": self.n}, "own-lora"),
            data_sha256="0", inputs=inputs, description="",
        ) as run:  # fmt: skip
            model_id = run.log_candidate("own-lora", {}, adapter)
            run.save_result(
                EvaluateResult(
                    run_id=run.run_id, candidate="own-lora", title="Ours", kind="own", tuned=True,
                    model_id=model_id, simulated=False, toy=True, eval_sha256="0",
                    quality_metric="accuracy", metrics={}, n_total=60, n_errors=0, errors={},
                    outcomes={}, n_unparseable=0, latency_p50_s=None, latency_p95_s=None,
                    ttft_p50_s=None, tasks_per_s=None,
                    cost=Cost(usd_per_month=None, usd_per_task=None), spent_usd=None,
                    n_broken_off=0, token_price=None, hardware=None,
                    adapter_sha256=tuned.adapter_sha256 if tuned else None,
                )
            )  # fmt: skip
        evaluated = run.run_id
        row = candidate_row(kind, evaluated, model_id)
        with open_run(
            Stage("decide", self.name, {"n": self.n}),
            data_sha256="0", inputs={}, description="",
        ) as run:  # fmt: skip
            decision = Decision.model_validate(
                {
                    "verdict": "own", "chosen": "own-lora", "incumbent": "own-lora",
                    "alpha": 0.05, "margin": 0.1, "headline": "Own it: it is as good.",
                    "reasons": (), "flips_when": (), "open_questions": (), "required_n": {},
                    "n_items": 60, "n_drawn": None, "usd_per_error": None,
                    "requests_per_month": 1000, "correction": "none", "plug_in_choice": None,
                    "plug_in_regret_usd_per_1000": None, "regret_usd_per_1000": None,
                    "v_star": None, "acceptability": (), "cascade": None,
                    "candidates": {"own-lora": row}, "run_id": run.run_id, "workload": self.name,
                    "title": "Claims", "quality_metric": "accuracy", "tasks_per_month": 1000,
                    "simulated": (), "eval_sha256": "0", "prices": {}, "hardware": {}, **changed,
                }
            )  # fmt: skip
            run.save_result(decision)
        return decision

    def _finetuned(self, adapter: Path) -> FinetuneResult:
        with open_run(
            Stage("prepare", self.name, {"n": self.n}), data_sha256="0", inputs={}, description=""
        ) as prepared:
            prepared.log_rows(TRAIN_FILE, self.rows)
        with open_run(
            Stage("finetune", self.name, {"n": self.n}),
            data_sha256="0", inputs={"prepare": prepared.run_id}, description="",
        ) as run:  # fmt: skip
            run.log_folder(adapter, "adapter")
            result = FinetuneResult(
                run_id=run.run_id, base_name="tiny", base_sha256=weights_sha256(self.base),
                base_is_toy=True,
                adapter_sha256=seal.sha256_of(adapter / "adapter_model.safetensors"),
                instructions="", n_rows=1, n_scored_tokens=1, n_steps=1, final_loss=0.1,
                tokens_per_s=1.0, train_s=1.0, peak_memory_gib=0.1,
            )  # fmt: skip
            run.save_result(result)
        return result

    def promote(self, *more: str) -> int:
        """Exit code of the command."""
        return command.main([str(self.study_file), *self.flags, *more])

    def build(self) -> int:
        return self.promote("--key", str(self.keys / "ci.pem"))

    def sign(self, name: str, role: str, how: str = "--approve") -> int:
        key = str(self.keys / f"{name}.pem")
        return self.promote(how, "--role", role, "--key", key, "--comment", f"by {name}")

    def load(self) -> champion.Champion:
        """What `serve --champion` does before vLLM starts."""
        into = self.folder / "loaded"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        return champion.verified(self.study, into)

    @property
    def alias(self) -> str | None:
        found = registry.champion(self.name)
        return found.number if found else None

    def trail(self) -> list[dict[str, object]]:
        path = self.folder / "trail.jsonl"
        return [{"kind": each.kind, **each.fields} for each in audit_trail.read(path)]


@pytest.fixture
def company(
    tmp_path: Path, store_uri: str, small_study: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Company]:
    monkeypatch.delenv(command.BUILDER_KEY, raising=False)

    def found(name: str, tier: str) -> Company:
        made = Company(tmp_path, store_uri, small_study, name, tier)
        monkeypatch.setattr(keys, "TRUSTED_KEYS", made.hire())
        return made

    return found


def refused(what: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        what()
    return str(caught.value)


def test_restricted_from_the_request_to_the_load_and_every_attack_on_it(
    company: Callable[..., Company], capfd: pytest.CaptureFixture[str]
) -> None:
    claims = company("claims", "restricted")
    decision = claims.decide()

    def said() -> str:
        out, err = capfd.readouterr()
        return out + err

    # Refused before anything is signed.
    with pytest.raises(MissingRunError, match="claims has no champion yet"):
        claims.load()
    assert claims.promote() == 2
    assert "models for this tier are signed by their builder: give the key with --key" in said()
    assert claims.promote("--key", str(claims.keys / "alice.pem")) == 4
    assert "has the roles risk, not builder" in said()
    assert claims.sign("alice", "risk") == 2
    assert "nobody has asked for approval of claims yet" in said()

    # Waiting.
    assert claims.build() == 5
    text = said()
    assert "WAITING for approval: version 1 of claims (restricted data)" in text
    assert f"sha256 {decision.sha256}" in text
    assert "--approve --role data-protection --key YOUR_KEY.pem" in text
    assert claims.alias is None
    assert claims.sign("ci", "risk") == 4
    assert "built this model, and nobody approves what he built" in said()
    assert claims.sign("mallory", "risk") == 4
    assert claims.promote("--approve") == 2
    said()
    assert claims.sign("alice", "risk") == 0
    text = said()
    assert "promote: approve: version 1 of claims (restricted data)" in text
    assert "verdict    own: Own it: it is as good." in text
    assert "approved so far: alice as risk" in text
    assert claims.promote("--key", str(claims.keys / "ci.pem"), "--json") == 5
    out = json.loads(capfd.readouterr().out)
    assert (out["state"], out["alias"], out["missing"]) == ("waiting", None, ["data-protection"])
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("claims", "champion", "1")
    assert "nobody has approved it as data-protection" in refused(claims.load)
    client.delete_registered_model_alias("claims", "champion")

    # Promoted.
    assert claims.sign("bob", "data-protection") == 0
    assert claims.build() == 0
    text = said()
    assert "own-lora is version 1 of claims, alias champion" in text
    assert "approved by alice as risk, bob as data-protection" in text
    assert claims.alias == "1"
    loaded = claims.load()
    assert loaded.version == "1"
    assert {path.name for path in loaded.adapter_dir.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert client.get_model_version("claims", "1").tags["approved.risk"].startswith("alice 2")

    # The trail holds, and its anchor lies in the store.
    run_id = store.find_newest("promote", "claims")
    assert run_id is not None
    anchor = seal.read(store.artifact(run_id, command.ANCHOR))
    builders = [keys.read_public(claims.keys / "ci.pub.pem")]
    path = claims.folder / "trail.jsonl"
    report = audit_trail.verify(path, [anchor], builders)
    assert report.ok
    kinds = [str(each["kind"]) for each in claims.trail()]
    assert kinds.count("promotion.approved") == 2
    assert kinds[-3:] == ["promotion", "trail.anchored", "model.loaded"]
    assert report.anchored == len(kinds) - 1
    lines = path.read_bytes().splitlines(keepends=True)
    shortened = path.with_name("shortened.jsonl")
    shortened.write_bytes(b"".join(lines[:-3]))
    problems = audit_trail.verify(shortened, [anchor], builders).problems
    assert f"an anchor covers entry {len(lines) - 1}, which is not there" in problems[-1]

    # Another version: the alias moved by hand, with and without the first one's approvals.
    newer = claims.decide()
    number = registry.register("claims", newer.candidates["own-lora"].model_id, {}, "by hand")
    client.set_registered_model_alias("claims", "champion", number)
    assert refused(claims.load) == (
        "claims@champion is version 2, which was never put forward for approval, and restricted "
        "data demands it: the alias was moved by hand. Move it back, or promote the version: "
        "python -m pipelines.promote STUDY"
    )
    tags = client.get_model_version("claims", "1").tags
    client.set_model_version_tag("claims", "2", "approval_run_id", tags["approval_run_id"])
    assert "version 2 of claims carries the approvals of version 1" in refused(claims.load)
    refusal = claims.trail()[-1]
    assert (refusal["kind"], refusal["version"]) == ("model.refused", "2")
    assert "carries the approvals of version 1" in str(refusal["reason"])
    client.set_registered_model_alias("claims", "champion", "1")
    claims.load()

    # What is loaded differs from what was approved.
    model_id = decision.candidates["own-lora"].model_id
    files = claims.folder / "mlruns" / "artifacts" / "claims" / "models" / model_id / "artifacts"
    weights = files / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(b"\x00" + good[1:])
    assert "changed: 'adapter_model.safetensors'; do not load it" in refused(claims.load)
    weights.rename(claims.folder / "elsewhere.safetensors")
    weights.symlink_to(claims.folder / "elsewhere.safetensors")
    assert "'adapter_model.safetensors' is a link or a device" in refused(claims.load)
    weights.unlink()
    assert "missing: 'adapter_model.safetensors'; do not load it" in refused(claims.load)
    weights.write_bytes(good)
    (files / "evil.py").write_text("print(1)")
    assert "'evil.py' may run code when it is loaded" in refused(claims.load)
    (files / "evil.py").unlink()
    claims.load()
    (claims.base / "model.safetensors").write_bytes(b"v" * 1000)
    assert "version 1 was approved on base " in refused(claims.load)
    (claims.base / "model.safetensors").write_bytes(b"w" * 1000)
    claims.tier = "confidential"
    assert "put forward for restricted data, and the study says confidential" in refused(
        claims.load
    )


def test_a_rejection_blocks_and_stays(
    company: Callable[..., Company], capfd: pytest.CaptureFixture[str]
) -> None:
    loans = company("loans", "confidential")
    loans.decide()
    assert loans.build() == 5
    assert loans.sign("alice", "risk", "--reject") == 0
    assert "rejected: version 1 of loans" in capfd.readouterr().out
    assert loans.sign("eve", "risk") == 0
    assert loans.build() == 4
    said = capfd.readouterr().err
    assert "alice rejected it as risk on " in said
    assert "'by alice'; a rejection is final, so train or decide anew" in said
    assert loans.alias is None
    kinds = [each["kind"] for each in loans.trail()]
    assert kinds[-3:] == ["promotion.rejected", "promotion.approved", "promotion.refused"]


def test_weights_that_nobody_measured_are_not_signed(
    company: Callable[..., Company], capfd: pytest.CaptureFixture[str]
) -> None:
    fraud = company("fraud", "confidential")
    decision = fraud.decide()
    model_id = decision.candidates["own-lora"].model_id
    files = fraud.folder / "mlruns" / "artifacts" / "fraud" / "models" / model_id / "artifacts"
    (files / "adapter_model.safetensors").write_bytes(b"other")
    assert fraud.build() == 4
    assert "the adapter in the store is not the one that run" in capfd.readouterr().err
    assert store.find_newest("approval", "fraud") is None


def test_an_unverified_decision_is_not_put_to_people(
    company: Callable[..., Company], capfd: pytest.CaptureFixture[str]
) -> None:
    chat = company("chat", "confidential")
    chat.decide(unverified="its judges were never measured")
    assert chat.build() == 4
    assert "is unverified, and people are asked to approve only" in capfd.readouterr().err
    chat.tier = "internal"
    assert chat.promote() == 0


def test_a_rented_model_needs_approval_and_has_no_weights_to_sign(
    company: Callable[..., Company],
) -> None:
    mail = company("mail", "confidential")
    mail.decide("rent")
    assert mail.build() == 5
    run_id = store.find_newest("approval", "mail")
    assert run_id is not None
    files = {path.name for path in store.artifact(run_id, "approval").iterdir()}
    assert files == {"request.json", "request.sigstore.json"}
    assert mail.sign("alice", "risk") == 0
    assert mail.build() == 0
    assert mail.alias == "1"
    with pytest.raises(ConfigError, match="has no adapter of ours: there is nothing to serve"):
        mail.load()


def test_public_data_needs_no_keys_but_still_no_code(company: Callable[..., Company]) -> None:
    faq = company("faq", "public")
    decision = faq.decide()
    assert faq.promote() == 0
    assert faq.load().version == "1"
    assert [each["kind"] for each in faq.trail()] == ["promotion", "model.loaded"]
    model_id = decision.candidates["own-lora"].model_id
    files = faq.folder / "mlruns" / "artifacts" / "faq" / "models" / model_id / "artifacts"
    (files / "pytorch_model.bin").write_bytes(b"x")
    assert "'pytorch_model.bin' may run code when it is loaded" in refused(faq.load)


def test_rows_whose_terms_nobody_answers_for_are_not_promoted(
    company: Callable[..., Company], capsys: pytest.CaptureFixture[str]
) -> None:
    faq = company("terms", "public")
    question = (Message(role="user", content="When?"), Message(role="assistant", content="Now."))
    faq.rows = [TrainingRow(messages=question, answered_by="gpt-4o-mini")]
    faq.decide()
    assert faq.promote() == 4
    said = capsys.readouterr().err
    assert "openai-terms: " in said
    assert "3.3(e), use of output for competing models" in said
    assert faq.alias is None
    faq.more = ["prepare.acknowledge=[{licence: openai-terms, by: Ada Roe, why: classifier}]"]
    assert faq.promote() == 0
    assert faq.alias == "1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def guarded_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """A real MLflow server where nobody may do anything but the administrator."""
    config = tmp_path / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{tmp_path}/auth.db\n"
        "admin_username = admin\nadmin_password = admin-password-1\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1",
            "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
            "--artifacts-destination", str(tmp_path / "served"),
        ],
        env={
            **os.environ,
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None
                time.sleep(0.3)
        monkeypatch.setattr(store, "MLRUNS", tmp_path / "mlruns")
        monkeypatch.setenv("FREEHOLD_TRAIL", str(tmp_path / "trail.jsonl"))
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.mark.slow
def test_a_server_that_asks_who_is_there(
    guarded_server: str,
    tmp_path: Path,
    small_study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from mlflow.server import get_app_client

    def log_in(name: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{name}-password-1")

    log_in("admin")
    store.connect(guarded_server)
    claims = Company(tmp_path, guarded_server, small_study, "claims", "restricted")
    monkeypatch.setattr(keys, "TRUSTED_KEYS", claims.hire())
    claims.decide()
    assert claims.build() == 5
    users = get_app_client("basic-auth", tracking_uri=guarded_server)
    experiment = mlflow.get_experiment_by_name("claims")
    assert experiment is not None
    for name, level in (("reader", "READ"), ("editor", "EDIT"), ("stranger", None)):
        users.create_user(name, f"{name}-password-1")
        if level is not None:
            for what, which in (
                ("experiment", experiment.experiment_id),
                ("registered_model", "claims"),
            ):
                users.grant_user_permission(name, what, which, level)
    capfd.readouterr()
    refusal = "is not allowed to change claims on the tracking server. Set MLFLOW_TRACKING_USERNAME"
    for name in ("reader", "stranger"):
        log_in(name)
        assert claims.sign("alice", "risk") == 4
        assert f"MLflow user {name} {refusal}" in capfd.readouterr().err
    log_in("editor")
    assert claims.sign("alice", "risk") == 0
    assert claims.sign("bob", "data-protection") == 0
    assert claims.build() == 0
    assert claims.load().version == "1"
