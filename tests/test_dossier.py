"""The dossier of a finished study: filled from its runs, signed, and obeying nothing it shows."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import pytest

from pipelines import dossier as command
from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Message, Score
from pipelines.core.results import FinetuneResult, PrepareResult, PromoteResult, TrainingEstimate
from pipelines.data.card import Card, SourceFile
from pipelines.data.licences import Survey
from pipelines.governance import bom, keys, seal, vex
from pipelines.governance.dossier import NOTICE, OWED, PREDICATE_TYPE, Dossier
from pipelines.governance.trail import Trail
from pipelines.tracking import audit, store
from pipelines.tracking.store import Stage, open_run
from tests.reports.made import HOSTILE, make

N = 400
STUDY = "configs/quickstart.yaml"
SLICED = "--set=workload.slice_by=[channel]"


class Finished:
    """A study whose runs are in the store; nothing is trained for it."""

    def __init__(self, uri: str, mail: str = "mail", title: str = "Support triage") -> None:
        made = make()
        self.uri, self.workload = uri, made.decision.workload
        items = [
            Example(
                id=f"item-{k}", messages=(Message(role="user", content="?"),), target="x",
                metadata={"channel": (mail, "chat")[k % 2]},
            )
            for k in range(N)
        ]  # fmt: skip
        with open_run(
            Stage("prepare", self.workload, {}), data_sha256="0", inputs={}, description=""
        ) as run:
            run.log_rows("eval.jsonl", items)
            about = Card(
                title=title, workload=self.workload, run_id=run.run_id,
                sources=(SourceFile(name=f"data/{mail}.jsonl", digest=None, n_bytes=None),),
                eval_sources=(SourceFile(name="data/eval.jsonl", digest=None, n_bytes=None),),
                steps=(), splits=(), licences=Survey(standings=(), n_rows=0, n_without=0),
                answered_by={}, n_answered_by_unknown=0, personal_data=None, split_rule="",
                near_copy=0.8,
            )  # fmt: skip
            run.log_text(about.model_dump_json(), "card.json")
            run.save_result(
                PrepareResult(
                    run_id=run.run_id, train_sha256="1" * 64, eval_sha256="2" * 64, n_read=1010,
                    n_train=1000, n_eval=N, n_duplicates=7, n_conflicts=2, n_leaked=1,
                    licences={"apache-2.0": 1000}, personal_data={"EMAIL": 3}, n_personal_data=2,
                    personal_data_masked=True,
                )
            )  # fmt: skip
        prepared = run.run_id
        settings = {
            "base": "toy-0123", "lora": {"rank": 64}, "learning_rate": 0.001, "epochs": 4.0,
            "seed": 0,
        }  # fmt: skip
        with open_run(
            Stage("finetune", self.workload, {"finetune": settings}),
            data_sha256="0", inputs={"prepare": prepared}, description="",
        ) as run:  # fmt: skip
            run.save_result(
                FinetuneResult(
                    run_id=run.run_id, base_name="tiny", base_sha256="b" * 64, base_is_toy=True,
                    adapter_sha256="a" * 64, instructions="", n_rows=1000, n_scored_tokens=5000,
                    n_steps=250, final_loss=0.05, tokens_per_s=1000.0, train_s=60.0,
                    machine="2 cores", peak_memory_gib=1.0,
                    estimate=TrainingEstimate(
                        hardware=None, parameters=2_000_000, adapter_parameters=500_000, rank=64,
                        n_tokens=50_000,
                    ),
                )
            )  # fmt: skip
        self.tuned = run.run_id
        runs: dict[str, str] = {}
        for name, result in made.evaluated.results.items():
            inputs = {"prepare": prepared}
            if name == "tiny-lora":
                inputs["finetune"] = self.tuned
            with open_run(
                Stage("evaluate", self.workload, {}, name),
                data_sha256="0", inputs=inputs, description="",
            ) as run:  # fmt: skip
                # Right on every mail, and on every second chat.
                run.log_rows(
                    "scores.jsonl",
                    [
                        Score(
                            example_id=item.id, metric=result.quality_metric,
                            value=float(k % 4 != 1),
                        )
                        for k, item in enumerate(items)
                    ],
                )  # fmt: skip
                run.log_rows("responses.jsonl", [])
                changes: dict[str, object] = {"run_id": run.run_id, "n_unparseable": 3}
                if name == "tiny-lora":
                    changes["adapter_sha256"] = "a" * 64
                run.save_result(result.model_copy(update=changes))
            runs[name] = run.run_id
        self.runs = runs
        with open_run(
            Stage("decide", self.workload, {}), data_sha256="0", inputs={}, description=""
        ) as run:
            self.decision = made.decision.model_copy(
                update={
                    "run_id": run.run_id,
                    "title": title,
                    "simulated": ("frontier-standin",),
                    "candidates": {
                        name: row.model_copy(update={"evaluate_run_id": runs[name]})
                        for name, row in made.decision.candidates.items()
                    },
                }
            )
            run.save_result(self.decision)
        audit.note("decision", workload=self.workload)

    def promoted(self, key: keys.PrivateKey) -> str:
        """What a promotion with a key leaves in the store; the id of its run."""
        with open_run(
            Stage("promote", self.workload, {}), data_sha256="0", inputs={}, description=""
        ) as run:
            run.log_text(json.dumps(audit.trail().anchor(key)), "trail-anchor.sigstore.json")
            run.save_result(
                PromoteResult(
                    run_id=run.run_id, registered_model=self.workload, version="1",
                    alias="champion", candidate="tiny-lora", decision_run_id=self.decision.run_id,
                    anchor="trail-anchor.sigstore.json",
                )
            )  # fmt: skip
        return run.run_id

    def write(self, *flags: str) -> int:
        return command.main([STUDY, "--tracking-uri", self.uri, SLICED, *flags])

    def file(self, name: str) -> str:
        run_id = store.find_newest("dossier", self.workload)
        assert run_id is not None
        return store.artifact(run_id, name).read_text(encoding="utf-8")

    @property
    def written(self) -> Dossier:
        return Dossier.model_validate_json(self.file("dossier.json"))

    def field(self, name: str) -> str | None:
        [found] = [each.value for each in self.written.fields if each.name == name]
        return found


@pytest.fixture
def finished(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Finished]:
    monkeypatch.setenv("FREEHOLD_TRAIL", str(tmp_path / "trail.jsonl"))
    monkeypatch.delenv("FREEHOLD_ADVISORIES", raising=False)
    return lambda **about: Finished(store_uri, **about)


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., keys.PrivateKey]:
    """Makes a key pair and trusts it."""
    today = datetime.now(UTC).date()
    trusted = tmp_path / "trusted.yaml"
    trusted.write_text("keys:\n")
    monkeypatch.setattr(keys, "TRUSTED_KEYS", trusted)

    def hire(name: str, *roles: str) -> keys.PrivateKey:
        pem = keys.create(tmp_path / f"{name}.pem").public_key
        entry = keys.TrustedKey(
            name=name, public_key=pem, roles=roles, valid_from=today,
            valid_until=today + timedelta(days=9),
        )  # fmt: skip
        trusted.write_text(trusted.read_text() + keys.as_entry(entry))
        return keys.load(tmp_path / f"{name}.pem")

    return hire


class Page(HTMLParser):
    """Tags and text as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_dossier_of_a_tuned_model_is_filled_from_its_runs(
    finished: Callable[..., Finished],
    people: Callable[..., keys.PrivateKey],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    study = finished()
    key = people("ci", "builder")
    public = keys.public_of(key, "ci")
    study.promoted(key)
    audit.note("decision", workload=study.workload)
    out = tmp_path / "out"
    flags = ("--candidate", "tiny-lora", "--key", str(tmp_path / "ci.pem"), "--out", str(out))
    assert study.write(*flags) == 0
    said = capfd.readouterr().out
    it = study.written
    assert [point.number for point in it.points] == [*"123456789"]
    assert f"{it.n_owed} of {len(it.fields)} fields owed by a person" in said
    assert study.field("intended purpose") is None
    assert study.field("provider") is None
    assert study.field("copy of the declaration") is None
    methods = study.field("2a methods") or ""
    assert "rank 64, learning rate 0.001, 4.0 epochs, seed 0, 1,000 rows, 250 steps" in methods
    assert study.field("2a third-party model") == (
        "toy-0123, a toy built on the spot; licence apache-2.0"
    )
    cleaning = "1,010 rows read; removed: duplicates 7, near-copies 0, rows also in the eval set 1"
    assert (study.field("2d cleaning") or "").startswith(cleaning)
    assert study.field("2d personal data") == (
        "2 rows with findings, masked: EMAIL 3; names and places were not looked for"
    )
    accuracy = study.decision.quality_metric
    assert (study.field(f"2g {accuracy}, channel=mail") or "").startswith("1.000 (95 % interval")
    assert (study.field(f"2g {accuracy}, channel=chat") or "").startswith("0.500 (95 % interval")
    assert f"evaluate run {study.runs['tiny-lora']}" in {each.source for each in it.fields}
    # 60,000 tokens x (4 x 2,000,000 + 6 x 500,000) = 6.6e11, over a third of 1e23.
    assert it.compute is not None
    assert it.compute.training_flop == 6.6e11
    assert it.compute.ratio == pytest.approx(1.98e-11)
    assert "2e-11 of the provider limit" in said
    assert it.stamps[0].startswith("TOY")
    assert any("frontier-standin" in each for each in it.stamps)
    assert it.log is not None
    assert it.log.kinds["decision"] == 2
    assert study.field("2h integrity of the audit trail") == (
        "entries 1 to 2 are as 1 signed anchors say; the 1 later ones rest on the chain alone"
    )

    bill = json.loads(study.file("bom.cdx.json"))
    assert bill["metadata"]["component"]["hashes"][0]["content"] == "a" * 64
    bundle = json.loads(study.file("bom.cdx.sigstore.json"))
    content = study.file("bom.cdx.json").encode()
    assert seal.verify({"bom.cdx.json": content}, bundle, [public], bom.PREDICATE_TYPE) == bill
    whole = json.loads(study.file("dossier.sigstore.json"))
    signed = seal.opened(whole, [public], PREDICATE_TYPE)
    bills = {"bom.cdx.json", "bom-1.7.cdx.json", "sbom.cdx.json"}
    assert set(signed.subjects) == {"dossier.html", "dossier.md", "dossier.json"} | bills
    for name, digest in signed.subjects.items():
        assert seal.sha256_of(out / name) == digest == seal.sha256_of(study.file(name).encode())
    run = mlflow.MlflowClient().get_run(store.find_newest("dossier", study.workload) or "")
    assert run.data.tags["stage"] == "dossier"
    assert run.data.tags["input.finetune"] == study.tuned
    assert run.data.metrics["fields_owed"] == it.n_owed

    # Every form says the same, and starts with the notice.
    page, text = Page(study.file("dossier.html")), study.file("dossier.md")
    for words in (page.words, text.replace("\\", "")):
        assert f"{NOTICE} {it.n_owed} of {len(it.fields)} fields owed by a person." in words[:4500]
        assert "TOY: the base exists to show the workflow" in words
        for each in it.fields:
            assert each.name in words
            assert each.value is None or each.value in words
    n_duties = sum(each.by == "person" for each in it.act.duties)
    assert page.words.count(OWED) == 1 + it.n_owed + n_duties  # 1: the notice
    assert study.field("2h known vulnerabilities") is None


def test_a_rented_stand_in_a_cut_trail_and_vulnerabilities_are_told(
    finished: Callable[..., Finished],
    people: Callable[..., keys.PrivateKey],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    study = finished()
    study.promoted(people("ci", "builder"))
    path = audit.trail().path
    assert path.is_relative_to(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    path.write_text(lines[0])
    osv = tmp_path / "osv.json"
    record = {"id": "PYSEC-1", "modified": "2026-11-01", "affected": [
        {"package": {"ecosystem": "PyPI", "name": "Jinja2"}, "ranges": [
            {"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]}  # fmt: skip
    osv.write_text(json.dumps([record]))
    assert study.write("--candidate", "frontier-standin", "--advisories", str(osv)) == 0
    assert (study.field("2h known vulnerabilities") or "").startswith(
        "advisories compared: 1, up to 2026-11-01; PYSEC-1 in jinja2 "
    )
    assert study.field("2g signed report") is None
    [finding] = json.loads(study.file("vex.cdx.json"))["vulnerabilities"]
    assert finding["analysis"]["state"] == "in_triage"
    assert finding["analysis"]["detail"].startswith("imported by our code: pipelines/reports/")
    bom.check(json.loads(study.file("vex.cdx.json")))
    it = study.written
    assert it.stamps[0].startswith("SIMULATED: a stand-in gave these answers")
    assert it.compute is None
    assert (
        study.field("2c share of the provider limit")
        == "no base model was fine-tuned for this candidate"
    )
    assert study.field("2h integrity of the model") is None
    assert study.field("2e means to stop") is None
    bill = json.loads(study.file("bom.cdx.json"))
    assert "hashes" not in bill["metadata"]["component"]
    assert [each["name"] for each in bill["components"] if each["type"] == "data"] == ["eval.jsonl"]
    assert it.log is not None
    [problem] = it.log.problems
    # The finding was noted behind the cut, in the place of the anchor.
    assert problem.endswith("after entry 1: entry 2 differs from its anchor")
    warning = f"TRAIL: the audit trail does NOT hold: {problem}; it was cut or changed, or is not"
    assert it.stamps[-1].startswith(warning)
    assert f"! {warning}" in capfd.readouterr().out
    assert study.field("2h integrity of the audit trail") == (
        "does NOT hold beside 1 signed anchors"
    )
    assert "does NOT hold" in Page(study.file("dossier.html")).words
    assert "does NOT hold" in study.file("dossier.md")


def test_anchors_that_are_gone_or_not_a_builders_are_told_and_a_missing_trail_too(
    finished: Callable[..., Finished], people: Callable[..., keys.PrivateKey]
) -> None:
    study = finished()
    first = study.promoted(people("ci", "builder"))
    path = audit.trail().path
    whole = path.read_text()
    held = command._log(study.workload)
    assert held is not None
    assert (held.n_anchors, held.anchored, held.problems) == (1, 2, ())
    path.unlink()
    gone = command._log(study.workload)
    assert gone is not None
    assert gone.problems == (
        f"{path}: there is no trail", f"{path}: an anchor covers entry 2, which is not there",
    )  # fmt: skip
    path.write_text(whole.splitlines(keepends=True)[0])
    cut = command._log(study.workload)
    assert cut is not None
    assert cut.problems == (f"{path}: an anchor covers entry 2, which is not there",)
    path.write_text(whole)
    (store.artifact(first, "trail-anchor.sigstore.json")).unlink()
    second = study.promoted(people("eve", "risk"))
    odd = command._log(study.workload)
    assert odd is not None
    assert (odd.n_anchors, odd.problems) == (0, ())
    assert odd.anchors.startswith("covered by no signed anchor")
    assert f"the anchor of promote run {first} does not count: run {first} has no" in odd.anchors
    assert f"the anchor of promote run {second} does not count: signed with" in odd.anchors
    assert "2 of the 2 anchors that the trail lists were not given" in odd.anchors


def test_a_finding_waits_for_a_person_whose_ruling_the_next_dossier_carries(
    finished: Callable[..., Finished],
    people: Callable[..., keys.PrivateKey],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole way through the command line: draft, gate, ruling, gate, dossier."""
    # One library: to look at all of them, and to validate their bills, takes seconds.
    version = importlib.metadata.version("jinja2")
    few = (bom.Library(name="jinja2", version=version, licence=None, requires=()),)
    monkeypatch.setattr(bom, "installed", lambda: few)
    monkeypatch.setattr(
        importlib.metadata, "packages_distributions", lambda: {"jinja2": ["Jinja2"]}
    )
    study, out, osv = finished(), tmp_path / "out", tmp_path / "osv.json"
    builder, _ = people("ci", "builder", "risk"), people("alice", "risk")
    package = f"jinja2@{version}"
    record = {"id": "PYSEC-1", "modified": "2026-11-01", "affected": [
        {"package": {"ecosystem": "PyPI", "name": "Jinja2"}, "ranges": [
            {"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]}  # fmt: skip
    osv.write_text(json.dumps(record))
    now = datetime.now(UTC)
    seen = now - timedelta(days=vex.policy().triage_days + 1)
    Trail(audit.trail().path, now=lambda: seen).append(vex.FOUND, finding=f"PYSEC-1/{package}")

    def write() -> str:
        flags = ("--candidate", "tiny-lora", "--advisories", str(osv), "--out", str(out))
        assert study.write(*flags) == 0
        return capfd.readouterr().out

    def script(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [str(ROOT / "scripts" / "advisories"), name, str(out), *arguments]
        command += ["--keys", str(keys.TRUSTED_KEYS)]
        return subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    overdue = f"PYSEC-1/{package}: nobody has ruled on it since {seen.date()}; 14 days are allowed"
    assert f"! VULNERABILITY: {overdue}" in write()
    bill = (out / "bom.cdx.json").read_bytes()
    assert json.loads((out / "vex.cdx.json").read_text())["vulnerabilities"][0]["analysis"][
        "firstIssued"
    ] == bom.stamp(seen)

    # Nobody but a person who did not build it; the gate gives every reason.
    said = vex.Ruling(
        advisory="PYSEC-1", package="jinja2", version=version,
        state="false_positive", detail="trust me", role="risk", name="ci", at=now,
        review_by=now.date(),
    )  # fmt: skip
    forged = out / vex.ruling_file(said)
    seal.write(
        seal.sign({vex.BOM_NAME: bill}, vex.RULING, said.model_dump(mode="json"), builder), forged
    )
    gate = script("gate")
    told = gate.communicate()[0]
    assert gate.returncode == 4
    assert "advisories: 2 vulnerability problem(s)" in told
    assert "is a builder's key" in told
    assert overdue in told
    forged.unlink()

    ruling = script(
        "rule", "PYSEC-1", package, "--state", "not_affected", "--justification",
        "code_not_reachable", "--detail", "only our own templates", "--role", "risk",
        "--review-by", str(now.date() + timedelta(days=5)), "--key", str(tmp_path / "alice.pem"),
    )  # fmt: skip
    assert f"PYSEC-1/{package}: not_affected, signed by alice as risk" in ruling.communicate()[0]
    assert ruling.returncode == 0
    gate = script("gate", "--out", str(tmp_path / "ruled.json"))
    assert "VULNERABILITY" not in write()
    assert "nothing stands in the way" in gate.communicate()[0]
    assert (out / "bom.cdx.json").read_bytes() == bill, "only the time has changed"
    assert (study.field("2h known vulnerabilities") or "").endswith(
        "(severity unknown, not_affected, code_not_reachable, ruled by alice as risk, to be "
        f"reviewed by {now.date() + timedelta(days=5)})"
    )
    for text in (study.file("vex.cdx.json"), (tmp_path / "ruled.json").read_text()):
        [found] = json.loads(text)["vulnerabilities"]
        assert found["analysis"]["detail"] == "only our own templates"
    [name] = [each.name for each in out.glob(vex.RULING_FILES)]
    assert json.loads(study.file(name)) == json.loads((out / name).read_text())
    assert audit.trail().path.read_text().count('"kind":"vulnerability.ruled"') == 1


def test_hostile_names_are_text_in_every_form(finished: Callable[..., Finished]) -> None:
    study = finished(mail=HOSTILE, title=HOSTILE)
    assert study.write("--candidate", "tiny-lora") == 0
    source = study.file("dossier.html")
    page = Page(source)
    assert not {"script", "img", "iframe", "link", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>window.hacked=1</script>" in page.words, "shown, as text"
    assert "\x1b" not in source
    text = study.file("dossier.md")
    assert "<script" not in text.replace("\\<", "")
    assert "\x1b" not in text
    bom.check(json.loads(study.file("bom.cdx.json")))


def test_errors_say_what_to_do(
    finished: Callable[..., Finished],
    store_uri: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    flags = [STUDY, "--tracking-uri", store_uri]
    assert command.main(flags) == 2
    assert "python -m pipelines.decide configs/quickstart.yaml" in capfd.readouterr().err
    study = finished()
    assert study.write("--candidate", "nobody") == 2
    assert "has only frontier-standin, tiny-base" in capfd.readouterr().err
    assert study.write("--key", str(tmp_path / "none.pem")) == 2
    assert "no private key can be read there" in capfd.readouterr().err
    assert store.find_newest("dossier", study.workload) is None
    assert study.write("--dry-run") == 0
    assert store.find_newest("dossier", study.workload) is None
