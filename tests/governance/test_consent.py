"""Where the table wants a consent: who can give it, what it covers, and that nothing else does."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError, Refused, UserError
from pipelines.core.paths import ROOT
from pipelines.core.workload import Workload
from pipelines.governance import consent, egress, keys, policy, seal, trail, zones
from pipelines.governance.egress import Gate, open_client
from pipelines.governance.keys import PrivateKey, TrustedKey
from tests.conftest import scripted_server

NOW = datetime.now(UTC)
TODAY = NOW.date()
OPENAI, OTHER = "https://8.8.8.8/v1", "https://8.8.4.4/v1"
ROLE = "data-protection"


class Office:
    """A workload, people with keys, and a folder of consents."""

    def __init__(self, folder: Path, study: Path) -> None:
        self.folder, self.study_file = folder, study
        self.keys: dict[str, PrivateKey] = {}
        self.trusted: list[TrustedKey] = []
        for name, roles, days in (
            ("dpo", (ROLE,), 20),
            ("ci", ("builder", ROLE), 20),
            ("rita", ("risk",), 20),
            ("old", (ROLE,), -1),
            ("mallory", (), 20),
        ):
            public = keys.create(folder / f"{name}.pem")
            self.keys[name] = keys.load(folder / f"{name}.pem")
            if roles:
                self.trusted.append(
                    TrustedKey(
                        name=name, public_key=public.public_key, roles=roles,
                        valid_from=date(2026, 1, 1), valid_until=TODAY + timedelta(days=days),
                    )
                )  # fmt: skip
        self.trusted_file = folder / "trusted.yaml"
        self.trusted_file.write_text("keys:\n" + "".join(map(keys.as_entry, self.trusted)))

    def workload(self, tier: str = "confidential") -> Workload:
        return load_study(self.study_file, [f"workload.tier={tier}"]).workload

    def put(self, who: str = "dpo", **changed: object) -> Path:
        """Also what `consent.sign` would not make."""
        said = {
            "workload": "small", "tier": "confidential", "zone": "external", "hosts": [],
            "why": "contract", "role": ROLE, "name": who, "at": NOW.isoformat(),
            "until": str(TODAY + timedelta(days=9)), **changed,
        }  # fmt: skip
        path = consent.folder() / "a.sigstore.json"
        path.parent.mkdir(exist_ok=True)
        seal.write(seal.sign(b"", consent.STATEMENT, said, self.keys[who]), path)
        return path

    def why_not(self, url: str = OPENAI, tier: str = "confidential") -> str | None:
        """What the gate of a study says."""
        try:
            egress.check(egress.gate_of(self.workload(tier)), "candidate sol", url)
        except Refused as error:
            return str(error)
        return None

    def lines(self) -> list[trail.Entry]:
        return list(trail.read(egress.trail_path()))


@pytest.fixture
def office(tmp_path: Path, small_study: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setenv(egress.TRAIL, str(tmp_path / "trail.jsonl"))
    monkeypatch.setenv(consent.FOLDER, str(tmp_path / "consents"))
    made = Office(tmp_path, small_study)
    monkeypatch.setattr(keys, "TRUSTED_KEYS", made.trusted_file)
    return made


def script(office: Office, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(ROOT / "scripts" / "consent"), str(office.study_file), "--keys",
        str(office.trusted_file), "--why", "contract of 3 May", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_person_consents_and_the_study_may_call_until_the_file_is_deleted(office: Office) -> None:
    assert office.why_not() == (
        "candidate sol: 8.8.8.8 is external, and the data of workload small is confidential: "
        "configs/policies/egress.yaml, confidential x external: require_approval. It needs the "
        "consent of data-protection for workload small, tier confidential, zone external, and none "
        "is on file: have it signed (scripts/consent), or take another endpoint"
    )
    flags = ("--set", "workload.tier=confidential", "--zone", "external", "--role", ROLE)
    until = ("--until", str(TODAY + timedelta(days=5)))
    done = script(office, *flags, *until, "--key", str(office.folder / "dpo.pem"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "confidential data of small may go to every host (external) until" in done.stdout
    assert office.why_not() is None
    [file] = consent.folder().iterdir()
    assert str(file) in done.stdout
    noted = office.lines()[-1]
    assert noted.kind == "consent.given"
    assert noted.fields["consent_sha256"] == seal.sha256_of(file)
    assert (noted.fields["name"], noted.fields["tier"]) == ("dpo", "confidential")
    assert "contract" not in json.dumps(noted.fields)
    file.unlink()
    assert "none is on file" in (office.why_not() or "")


def test_a_call_notes_the_consent_that_it_rests_on(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = office.put(tier="restricted", zone="private", hosts=["127.0.0.1"])
    for module in (zones, egress):
        monkeypatch.setattr(module, "zone_of", lambda _: "private")

    async def ok(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response()

    async def go() -> None:
        async with scripted_server("/v1", ok) as url:
            gate = egress.gate_of(office.workload("restricted"))
            async with open_client(gate, "candidate x", url) as client:
                async with client.post(f"{url}/v1", {}, {}, 5) as answer:
                    assert answer.status == 200

    asyncio.run(go())
    [line] = office.lines()
    assert (line.kind, line.fields["allowed"]) == ("egress", True)
    assert line.fields["consent_sha256"] == seal.sha256_of(file)


def edited(path: Path) -> None:
    """Change what a signed consent is about, by hand."""
    bundle = json.loads(path.read_text())
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).replace(b'"small"', b'"other"')
    envelope["payload"] = base64.b64encode(payload).decode()
    path.write_text(json.dumps(bundle))


@pytest.mark.parametrize(
    ("who", "changed", "why"),
    [
        ("dpo", {"workload": "other"}, "it is for workload other"),
        ("dpo", {"tier": "internal"}, "for internal data, and the study says confidential"),
        ("dpo", {"zone": "private"}, "it is for zone private"),
        ("dpo", {"at": "2026-01-02T00:00:00Z", "until": "2026-01-03"}, "it ended on 2026-01-03"),
        ("dpo", {"role": "risk"}, "'risk' may not consent; configs/policies/egress.yaml names"),
        ("dpo", {"name": "boss"}, "it says it is boss's, and the key is dpo"),
        ("dpo", {"hosts": ["https://x"]}, "what dpo (key"),
        ("rita", {}, "has the roles risk, not data-protection"),
        ("ci", {}, "is a builder's key, and who builds does not consent"),
        ("old", {}, "is not valid on"),
        ("mallory", {}, "only these count: dpo"),
    ],
)
def test_consents_that_do_not_count(
    office: Office, who: str, changed: dict[str, object], why: str
) -> None:
    office.put(who, **changed)
    said = office.why_not() or ""
    assert "none is on file" in said
    assert "does not count: a.sigstore.json: " in said
    assert why in said


def test_a_forged_or_edited_file_does_not_count(office: Office) -> None:
    path = office.put()
    assert office.why_not() is None
    edited(path)
    assert "the signature is not dpo" in (office.why_not() or "")
    path.write_text("[]")
    assert "no signature bundle" in (office.why_not() or "")
    office.put()
    path.with_name("b.sigstore.json").write_text("{}")
    assert office.why_not() is None, "one good consent is enough"


def test_what_the_table_denies_no_consent_allows(office: Office) -> None:
    office.put(tier="restricted")
    said = office.why_not(tier="restricted") or ""
    assert "restricted x external: deny" in said
    assert "on file" not in said


def test_named_hosts_alone_are_covered(office: Office) -> None:
    office.put(hosts=["8.8.8.8"])
    assert office.why_not(OPENAI) is None
    until = TODAY + timedelta(days=9)
    assert f"no consent on file covers 8.8.4.4 on {TODAY}, only: 8.8.8.8 until {until}" in (
        office.why_not(OTHER) or ""
    )
    assert "needs https" in (office.why_not("http://8.8.8.8/v1") or "")


def test_a_consent_ends_with_its_key_and_in_the_midst_of_a_run(office: Office) -> None:
    office.put(until="2099-01-01")
    found = consent.on_file("small", "confidential", "external", ROLE)
    [given] = found.given
    assert given.until == TODAY + timedelta(days=20)
    assert found.covering("x", given.until) is given
    assert found.covering("x", given.until + timedelta(days=1)) is None
    ended = consent.Given(given.consent, given.sha256, TODAY - timedelta(days=1))
    gate = Gate("small", "confidential", consents=lambda *_: consent.OnFile((ended,), ()))
    with pytest.raises(Refused, match="no consent on file covers 8.8.8.8"):
        egress.check(gate, "x", OPENAI)


def test_a_signature_that_would_not_count_is_not_made(office: Office) -> None:
    def signed(who: str = "dpo", zone: zones.Zone = "external", **changed: Any) -> seal.Bundle:
        values: dict[str, Any] = {
            "table": policy.shipped(), "role": ROLE, "until": TODAY, "why": "x", "at": NOW,
            "tier": "confidential", **changed,
        }  # fmt: skip
        workload = office.workload(values.pop("tier"))
        return consent.sign(workload, zone, key=office.keys[who], trusted=office.trusted, **values)

    def why(what: Callable[[], object], kind: type[Exception] = Refused) -> str:
        with pytest.raises(kind) as caught:
            what()
        return str(caught.value)

    signed()
    deny = why(lambda: signed(tier="restricted"))
    assert "restricted x external: deny. No consent changes that" in deny
    assert "allow. It needs nobody's consent" in why(lambda: signed(tier="public"))
    assert "who builds does not consent" in why(lambda: signed("ci"))
    assert "your key is not in" in why(lambda: signed("mallory"))
    assert "not data-protection" in why(lambda: signed("rita"))
    assert "'risk' may not consent" in why(lambda: signed("rita", role="risk"))
    over = why(lambda: signed(until=TODAY - timedelta(days=1)), UserError)
    assert "is over" in over
    assert "is no host" in why(lambda: signed(hosts=["https://x.test/v1"]), UserError)
    assert "why: " in why(lambda: signed(why=""), UserError)
    assert not consent.folder().exists()


def test_the_table_names_who_consents_and_never_a_builder(tmp_path: Path, office: Office) -> None:
    shipped = policy.PATH.read_text(encoding="utf-8")
    path = tmp_path / "egress.yaml"
    path.write_text(shipped.replace("consent: data-protection", ""))
    office.put()
    gate = Gate("small", "confidential", table=policy.load(path), consents=consent.on_file)
    with pytest.raises(Refused, match="but nobody may consent: name a role"):
        egress.check(gate, "x", OPENAI)
    path.write_text(shipped.replace("consent: data-protection", "consent: builder"))
    with pytest.raises(ConfigError, match="consent: .*who builds does not consent"):
        policy.load(path)


def test_nothing_is_on_file_when_the_trail_cannot_be_written(office: Office) -> None:
    bundle = json.loads(office.put().read_text())
    (consent.folder() / "a.sigstore.json").unlink()
    (office.folder / "trail.jsonl").mkdir()
    with pytest.raises(UserError, match="the audit trail cannot be written"):
        consent.put_on_file(bundle, office.trusted, trail.Trail(egress.trail_path()))
    assert list(consent.folder().iterdir()) == []
