"""Known vulnerabilities: evidence is computed, the verdict is a person's, signed (VEX).

Nothing here ever writes `not_affected`, or any other ruling, by itself. The way: advisories of a
local OSV export are compared with what is installed (`match`), the finding gets evidence and stands
`in_triage` (`draft`), a person signs a ruling (`sign_ruling`), `ruled` enters those that count, and
`gate` refuses what is open too long, exploitable, or ruled by somebody who may not.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError, DataError, Refused
from pipelines.core.paths import ROOT, shown
from pipelines.core.records import Record
from pipelines.governance import bom, keys, seal
from pipelines.governance.bom import Bom, Library, normalised
from pipelines.governance.keys import PrivateKey, TrustedKey
from pipelines.governance.seal import Bundle

PATH = CONFIGS / "policies" / "vex.yaml"
RULING = seal.PREDICATE_PREFIX + "vex-ruling/v1"
BOM_NAME, VEX_NAME = "bom.cdx.json", "vex.cdx.json"
RULING_FILES = "ruling-*.sigstore.json"
"""They lie beside the two files above."""
FOUND, RULED = "vulnerability.found", "vulnerability.ruled"
"""Kinds of entries of the audit trail: the first sight of a finding, and a person's ruling."""
BUILDER = "builder"
Severity = Literal["none", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("none", "low", "medium", "high", "critical")
FLOORS: dict[Severity, float] = {"critical": 9.0, "high": 7.0, "medium": 4.0, "low": 0.1, "none": 0}
"""CVSS score from which a severity begins."""
WORDS: dict[str, Severity] = {
    "low": "low", "moderate": "medium", "medium": "medium", "high": "high", "critical": "critical",
}  # fmt: skip
"""What databases write beside the scores."""
MAX_SUMMARY = 300

State = Literal[
    "resolved", "resolved_with_pedigree", "exploitable", "false_positive", "not_affected"
]
Justification = Literal[
    "code_not_present",
    "code_not_reachable",
    "requires_configuration",
    "requires_dependency",
    "requires_environment",
    "protected_by_compiler",
    "protected_at_runtime",
    "protected_at_perimeter",
    "protected_by_mitigating_control",
]


class Policy(Record):
    """The content of configs/policies/vex.yaml."""

    fail_on: Severity
    unknown_severity: Severity
    triage_days: int = Field(gt=0)
    roles: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_builder(self) -> Self:
        if BUILDER in self.roles:
            raise ValueError("a builder does not rule on what he built")
        return self

    def fails(self, severity: Severity | None) -> bool:
        """Whether a finding of this severity stands in the way; None = not known."""
        level = SEVERITIES.index(severity or self.unknown_severity)
        return level >= SEVERITIES.index(self.fail_on)


class Range(Record):
    """Versions from one event on, up to another: (kind, version), as the advisory lists them."""

    events: tuple[tuple[str, str], ...]


class Advisory(Record):
    """One advisory about one package of the Python index."""

    id: str
    aliases: tuple[str, ...]
    package: str
    """Normalised."""
    summary: str
    severity: Severity | None
    """The worst that it states; None = it states none that can be read."""
    ranges: tuple[Range, ...]
    versions: tuple[str, ...]
    modified: str

    @property
    def fixed_in(self) -> tuple[str, ...]:
        """Versions that mend it."""
        events = [event for each in self.ranges for event in each.events]
        return tuple(dict.fromkeys(version for kind, version in events if kind == "fixed"))


class Evidence(Record):
    """What a look at our source says of a component; never a verdict."""

    reachable: Literal["yes", "no", "unknown"]
    """yes: our code imports it · unknown: something that we import needs it, or its name stands in
    a string of ours, such as a command · no: neither, as far as imports and requirements tell."""
    path: tuple[str, ...]
    """From our file to the component; empty = there is none."""

    @property
    def words(self) -> str:
        """In one line."""
        said = {
            "yes": "imported by our code",
            "no": "neither imported by our code nor needed by what it imports",
            "unknown": "not imported by our code, but may be used",
        }
        return said[self.reachable] + (f": {' -> '.join(self.path)}" if self.path else "")


class Finding(Record):
    """An advisory that is about something installed."""

    advisory: Advisory
    version: str
    """That is installed."""

    @property
    def ref(self) -> str:
        """What tells it from others."""
        return f"{self.advisory.id}/{self.advisory.package}@{self.version}"

    @property
    def words(self) -> str:
        """In one line."""
        it = self.advisory
        also = f" ({', '.join(it.aliases)})" if it.aliases else ""
        mended = f"; fixed in {', '.join(it.fixed_in)}" if it.fixed_in else "; no fixed version"
        return (
            f"{it.package} {self.version}: {it.severity or 'severity unknown'}: {it.id}{also}: "
            f"{it.summary or 'no summary'}{mended}"
        )


class Ruling(Record):
    """What one person says of one finding."""

    advisory: str
    package: str
    version: str
    state: State
    justification: Justification | None = None
    """Of `not_affected`."""
    detail: str = Field(min_length=1, max_length=1_000)
    """Why, in the person's words."""
    role: str
    name: str
    at: AwareDatetime
    review_by: date
    """Last day on which it counts."""

    @property
    def ref(self) -> str:
        """Of the finding."""
        return f"{self.advisory}/{self.package}@{self.version}"

    @model_validator(mode="after")
    def _justified(self) -> Self:
        if (self.state == "not_affected") != (self.justification is not None):
            raise ValueError("`not_affected` needs a justification, and only it takes one")
        return self


def policy(path: Path = PATH) -> Policy:
    """Read the thresholds.

    Raises:
        ConfigError: no such file, or it is wrong; lists what is.
    """
    try:
        return Policy.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'policy'}: {each['msg']}"
            for each in error.errors(include_url=False)
        ]
    raise ConfigError(f"{shown(path)}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))


def read_osv(path: Path) -> tuple[Advisory, ...]:
    """Advisories of the Python index from an OSV export.

    Args:
        path: a folder of JSON records, or a file with one or a list of them. Withdrawn ones and
            those of other ecosystems are left out.

    Raises:
        DataError: it cannot be read, a record is none, or there is none for the index: no
            advisories must not look like no vulnerabilities.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    found: list[Advisory] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            for record in content if isinstance(content, list) else [content]:
                found += _advisories(record)
        except OSError as error:
            raise DataError(f"{shown(file)}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{shown(file)}: no OSV record ({type(error).__name__}: {str(error)[:100]}); "
                "export the advisories again"
            ) from None
    if not found:
        raise DataError(
            f"{shown(path)}: no advisory about a package of PyPI in {len(files)} file(s); nothing "
            "was checked, and that is not the same as nothing found"
        )
    return tuple(found)


def match(advisories: Iterable[Advisory], installed: Mapping[str, str]) -> tuple[Finding, ...]:
    """The advisories that are about an installed version, the worst first.

    Args:
        advisories: from `read_osv`.
        installed: normalised name -> version.
    """
    found = [
        Finding(advisory=each, version=version)
        for each in advisories
        if (version := installed.get(each.package)) is not None and is_affected(each, version)
    ]
    worst = {severity: -k for k, severity in enumerate(SEVERITIES)}
    return tuple(
        sorted(
            found,
            key=lambda f: (
                worst.get(f.advisory.severity or "high", 0), f.advisory.package, f.advisory.id,
            ),
        )
    )  # fmt: skip


def is_affected(advisory: Advisory, version: str) -> bool:
    """Whether a version is; one that cannot be compared is, so that a person looks at it."""
    from packaging.version import InvalidVersion, Version

    try:
        mine = Version(Version(version).public)  # 2.13.0+cpu is 2.13.0
        if any(Version(each) == mine for each in advisory.versions):
            return True
        return any(_within(each, mine) for each in advisory.ranges)
    except InvalidVersion:
        return True


def cvss_score(vector: str) -> float | None:
    """Base score of a CVSS 3.0 or 3.1 vector; None = of another version, or incomplete."""
    if not vector.startswith(("CVSS:3.0/", "CVSS:3.1/")):
        return None
    parts = dict(each.split(":", 1) for each in vector.split("/")[1:] if ":" in each)
    changed = parts.get("S") == "C"
    rights = {"N": 0.85, "L": 0.68, "H": 0.5} if changed else {"N": 0.85, "L": 0.62, "H": 0.27}
    effect = {"H": 0.56, "L": 0.22, "N": 0.0}
    try:
        exploit = (
            8.22
            * {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2}[parts["AV"]]
            * {"L": 0.77, "H": 0.44}[parts["AC"]]
            * rights[parts["PR"]]
            * {"N": 0.85, "R": 0.62}[parts["UI"]]
        )
        lost = 1 - math.prod(1 - effect[parts[each]] for each in ("C", "I", "A"))
    except KeyError:
        return None
    impact = 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15 if changed else 6.42 * lost
    if impact <= 0:
        return 0.0
    score = min((1.08 if changed else 1.0) * (impact + exploit), 10.0)
    # Up to one decimal; the standard counts in hundred-thousandths, against rounding errors.
    return math.ceil(round(score * 100_000) / 10_000) / 10


def evidence(
    packages: Iterable[str],
    libraries: Sequence[Library],
    modules: Mapping[str, Sequence[str]],
    root: Path = ROOT / "pipelines",
) -> dict[str, Evidence]:
    """How our code comes to packages, by imports and by what packages require.

    Args:
        packages: normalised names.
        libraries: from `bom.installed`.
        modules: top-level module -> its distributions, as
            `importlib.metadata.packages_distributions` gives them.
        root: folder of our source.
    """
    owners = {module: [normalised(each) for each in names] for module, names in modules.items()}
    imported: dict[str, str] = {}
    named: dict[str, str] = {}
    known = {each.name for each in libraries}
    for file in sorted(root.rglob("*.py")):
        for line, module, is_import in _mentions(ast.parse(file.read_bytes())):
            place = f"{shown(file)}:{line}"
            for owner in owners.get(module, ()) or ([normalised(module)] if not is_import else ()):
                if owner in known:
                    (imported if is_import else named).setdefault(owner, place)

    def seen(package: str) -> Evidence:
        if package in imported:
            return Evidence(reachable="yes", path=(imported[package], package))
        for roots in (imported, named):
            if path := _chain(package, roots, libraries):
                return Evidence(reachable="unknown", path=(roots[path[0]], *path))
        return Evidence(reachable="no", path=())

    return {each: seen(each) for each in packages}


def draft(
    findings: Iterable[Finding],
    of: Bom,
    evidences: Mapping[str, Evidence],
    at: datetime,
    first_seen: Mapping[str, datetime] | None = None,
) -> Bom:
    """A VEX in which every finding waits for a person.

    Args:
        findings: from `match`.
        of: the bill of materials that they are about.
        evidences: package -> what was seen.
        at: now.
        first_seen: when each was seen for the first time, by `Finding.ref`; None = now.
    """
    rows: list[dict[str, Any]] = []
    for each in findings:
        it, ref = each.advisory, each.ref
        about = evidences.get(it.package)
        rows.append(
            {
                "bom-ref": ref,
                "id": it.id,
                "source": {"name": "OSV", "url": f"https://osv.dev/vulnerability/{quote(it.id)}"},
                "ratings": [{"severity": it.severity or "unknown"}],
                "description": each.words,
                "affects": [{"ref": _link(of, it.package, each.version)}],
                "analysis": {
                    "state": "in_triage",
                    "detail": about.words if about else "no evidence was gathered",
                    "firstIssued": bom.stamp(min((first_seen or {}).get(ref, at), at)),
                    "lastUpdated": bom.stamp(at),
                },
            }
        )
    return bom.numbered(
        {
            "$schema": f"http://cyclonedx.org/schema/bom-{of['specVersion']}.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": of["specVersion"],
            "version": 1,
            "metadata": {"timestamp": bom.stamp(at)},
            "vulnerabilities": rows,
        }
    )


def sign_ruling(
    ruling: Ruling, of: Bom, key: PrivateKey, trusted: Iterable[TrustedKey], rules: Policy
) -> Bundle:
    """Sign what one says of a finding in one bill of materials.

    Raises:
        Refused: the signature would not count, and why.
    """
    pem = keys.public_of(key, "signer").public_key
    signer = next((each for each in trusted if each.public_key == pem), None)
    if signer is None:
        raise Refused("your key is not in configs/policies/trusted_keys.yaml; have it added")
    if reason := _why_not(signer, ruling, rules, ruling.at.date()):
        raise Refused(reason)
    content = {BOM_NAME: bom.text(of).encode()}
    return seal.sign(content, RULING, ruling.model_dump(mode="json"), key)


def ruled(
    vex: Bom,
    of: Bom,
    bundles: Mapping[str, Bundle | Refused],
    trusted: Iterable[TrustedKey],
    rules: Policy,
    on: date,
) -> tuple[Bom, tuple[str, ...]]:
    """Enter the rulings that count; the newest of a finding wins.

    Args:
        vex: from `draft`; what it says of states is not trusted.
        of: the bill of materials.
        bundles: from `rulings`; not trusted.
        trusted: all trusted keys.
        rules: the policy.
        on: today, in UTC.

    Returns:
        The VEX, and why other rulings do not count.
    """
    known = tuple(trusted)
    counted: dict[str, tuple[Ruling, TrustedKey]] = {}
    refused: list[str] = []
    for name, bundle in bundles.items():
        try:
            if isinstance(bundle, Refused):
                raise bundle
            ruling, signer = _opened(bundle, of, known, rules, on)
        except Refused as error:
            refused.append(f"{name}: {error}")
            continue
        if ruling.ref not in counted or counted[ruling.ref][0].at < ruling.at:
            counted[ruling.ref] = ruling, signer
    rows = [_entered(each, counted.get(each["bom-ref"])) for each in vex["vulnerabilities"]]
    return bom.numbered({**vex, "vulnerabilities": rows}), tuple(refused)


def gate(
    vex: Bom,
    of: Bom,
    bundles: Mapping[str, Bundle | Refused],
    trusted: Iterable[TrustedKey],
    rules: Policy,
    on: date,
) -> Bom:
    """The VEX with all rulings, if nothing in it stands in the way.

    Args:
        vex: as for `ruled`; so the rest.
        of: see there.
        bundles: see there.
        trusted: see there.
        rules: see there.
        on: see there.

    Raises:
        Refused: a finding waits too long or is exploitable, or a ruling does not count; lists all.
    """
    found, not_counted = ruled(vex, of, bundles, trusted, rules, on)
    if wrong := (*not_counted, *problems(found, of, rules, on)):
        raise Refused(f"{len(wrong)} vulnerability problem(s)\n  " + "\n  ".join(wrong))
    return found


def problems(vex: Bom, of: Bom, rules: Policy, on: date) -> tuple[str, ...]:
    """What stands in the way of a release: findings that wait too long or are exploitable.

    Args:
        vex: from `ruled`.
        of: the bill of materials.
        rules: the policy.
        on: today, in UTC.
    """
    wrong: list[str] = []
    serial = str(of["serialNumber"]).removeprefix("urn:uuid:")
    for each in vex["vulnerabilities"]:
        name, analysis = _harmless(each["bom-ref"]), each["analysis"]
        if any(f"urn:cdx:{serial}/" not in target["ref"] for target in each["affects"]):
            wrong.append(f"{name}: is about another bill of materials")
        if analysis["state"] == "in_triage":
            first = datetime.fromisoformat(analysis["firstIssued"]).date()
            if on - first > timedelta(days=rules.triage_days):
                wrong.append(
                    f"{name}: nobody has ruled on it since {first}; {rules.triage_days} days are "
                    "allowed"
                )
        elif analysis["state"] == "exploitable" and rules.fails(_severity_of(each)):
            wrong.append(f"{name}: exploitable; update or leave the component out")
    return tuple(wrong)


def words(row: Mapping[str, Any]) -> str:
    """A finding of a VEX with its ruling, in one line."""
    package, _, version = row["bom-ref"].rpartition("/")[2].rpartition("@")
    severity, analysis = row["ratings"][0]["severity"], row["analysis"]
    about = {each["name"]: each["value"] for each in row.get("properties", ())}
    if analysis["state"] == "in_triage":
        said = f"in triage since {analysis['firstIssued'][:10]}"
    else:
        why = f", {each}" if (each := analysis.get("justification")) else ""
        said = (
            f"{analysis['state']}{why}, ruled by {about['freehold:ruled-by']} as "
            f"{about['freehold:role']}, to be reviewed by {about['freehold:review-by']}"
        )
    known = "severity unknown" if severity == "unknown" else severity
    return _harmless(f"{row['id']} in {package} {version} ({known}, {said})")


def read_draft(folder: Path) -> tuple[Bom, Bom]:
    """A VEX and its bill of materials, as the dossier wrote them; neither is signed.

    Raises:
        DataError: one of them is absent, or was not written by us.
    """
    vex, of = (read_json(folder / name) for name in (VEX_NAME, BOM_NAME))
    try:
        for each in vex["vulnerabilities"]:
            words(_entered(each, None))
            [target["ref"] for target in each["affects"]]
            datetime.fromisoformat(each["analysis"]["firstIssued"])
        _ = vex["metadata"]["timestamp"], of["serialNumber"], of["metadata"]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{shown(folder)}: {VEX_NAME} or {BOM_NAME} is not as the dossier writes it; write "
            "both again with python -m pipelines.dossier STUDY --advisories OSV --out FOLDER"
        ) from None
    return vex, of


def read_json(path: Path) -> Bom:
    """A document from its file; nothing in it is checked.

    Raises:
        DataError: it cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{shown(path)}: no CycloneDX document: expected a JSON object")
    return found


def rulings(folder: Path) -> dict[str, Bundle | Refused]:
    """The signed rulings in a folder, by file name; Refused = one is no bundle."""
    found: dict[str, Bundle | Refused] = {}
    for path in sorted(folder.glob(RULING_FILES)):
        try:
            found[path.name] = seal.read(path)
        except Refused as error:
            found[path.name] = error
    return found


def ruling_file(ruling: Ruling) -> str:
    """Name of the file for a ruling."""
    about = re.sub(r"[^A-Za-z0-9.]+", "-", f"{ruling.ref} {ruling.name}")
    return RULING_FILES.replace("*", f"{about}-{ruling.at:%Y%m%dT%H%M%S}")


def locked(path: Path) -> dict[str, str]:
    """Normalised name -> version of a file of `name==version` lines, with or without digests.

    Raises:
        DataError: it cannot be read, or a line pins nothing.
    """
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        pin = line.partition("#")[0].partition(";")[0].strip().removesuffix("\\").strip()
        if not pin or pin.startswith("--hash="):
            continue
        name, _, version = pin.partition("==")
        if not version:
            raise DataError(f"{shown(path)}:{number}: {pin!r} pins no version; write name==version")
        found[normalised(name.partition("[")[0].strip())] = version.strip()
    return found


def _advisories(record: dict[str, Any]) -> list[Advisory]:
    if record.get("withdrawn"):
        return []
    found: list[Advisory] = []
    for affected in record.get("affected") or ():
        package = affected.get("package") or {}
        if package.get("ecosystem") != "PyPI":
            continue
        found.append(
            Advisory(
                id=_harmless(record["id"]),
                aliases=tuple(map(_harmless, record.get("aliases") or ())),
                package=normalised(package["name"]),
                summary=_harmless(record.get("summary") or ""),
                severity=_severity(record, affected),
                ranges=tuple(
                    Range(events=tuple((k, str(v)) for e in each["events"] for k, v in e.items()))
                    for each in affected.get("ranges") or ()
                    if each["type"] != "GIT"
                ),
                versions=tuple(affected.get("versions") or ()),
                modified=str(record.get("modified") or ""),
            )
        )  # fmt: skip
    return found


def _harmless(text: object) -> str:
    """On one line, without what a terminal obeys."""
    line = " ".join(str(text).split())[:MAX_SUMMARY]
    return "".join(each if each.isprintable() else "?" for each in line)


def _severity(record: dict[str, Any], affected: dict[str, Any]) -> Severity | None:
    found: list[Severity] = []
    for rating in (*(record.get("severity") or ()), *(affected.get("severity") or ())):
        score = cvss_score(str(rating.get("score")))
        if score is not None:
            found.append(next(name for name in FLOORS if score >= FLOORS[name]))
    for place in (record, affected):
        word = str((place.get("database_specific") or {}).get("severity") or "").lower()
        if (stated := WORDS.get(word)) is not None:
            found.append(stated)
    return max(found, key=SEVERITIES.index, default=None)


def _within(it: Range, mine: Any) -> bool:
    """Whether a version lies in a range: the events are played back in the order of versions."""
    from packaging.version import Version

    def place(event: tuple[str, str]) -> Any:
        return Version("0.dev0") if event[1] == "0" else Version(event[1])

    limits = [place(event) for event in it.events if event[0] == "limit"]
    if limits and all(mine >= limit for limit in limits):
        return False
    inside = False
    for event in sorted((e for e in it.events if e[0] != "limit"), key=place):
        kind, at = event[0], place(event)
        if kind == "introduced" and mine >= at:
            inside = True
        elif (kind == "fixed" and mine >= at) or (kind == "last_affected" and mine > at):
            inside = False
    return inside


def _mentions(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line, top-level module, and whether it is imported or only named in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name.partition(".")[0], True) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0], True
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            word = node.value.partition(".")[0]
            if word.replace("-", "_").isidentifier():
                yield node.lineno, word, False


def _chain(
    package: str, roots: Iterable[str], libraries: Sequence[Library]
) -> tuple[str, ...] | None:
    """The shortest way from one of the roots to a package, by requirements."""
    requires = {each.name: each.requires for each in libraries}
    paths: dict[str, tuple[str, ...]] = {each: (each,) for each in sorted(roots)}
    queue = deque(paths)
    while queue:
        here = queue.popleft()
        if here == package:
            return paths[here]
        for following in requires.get(here, ()):
            if following not in paths:
                paths[following] = (*paths[here], following)
                queue.append(following)
    return None


def _link(of: Bom, package: str, version: str) -> str:
    """BOM-Link of a component."""
    serial = str(of["serialNumber"]).removeprefix("urn:uuid:")
    purl = Library(name=package, version=version, licence=None, requires=()).purl
    return f"urn:cdx:{serial}/{of['version']}#{quote(purl, safe='')}"


def _opened(
    bundle: Mapping[str, Any], of: Bom, known: tuple[TrustedKey, ...], rules: Policy, on: date
) -> tuple[Ruling, TrustedKey]:
    signed = seal.opened(bundle, known, RULING)
    signer = signed.signer
    assert isinstance(signer, TrustedKey)
    if signed.subjects != {BOM_NAME: bom.sha256_of(of)}:
        raise Refused(f"{signer} signed it for another bill of materials: rule anew, and remove it")
    try:
        ruling = Ruling.model_validate(signed.predicate)
    except ValidationError:
        raise Refused(f"what {signer} signed is no ruling") from None
    if reason := _why_not(signer, ruling, rules, on):
        raise Refused(reason)
    return ruling, signer


def _why_not(signer: TrustedKey, ruling: Ruling, rules: Policy, on: date) -> str | None:
    """Why a ruling does not count on a day."""
    if BUILDER in signer.roles:
        return f"{signer} is a builder's key, and rulings are a person's who did not build it"
    if ruling.role not in rules.roles:
        return f"{ruling.role!r} may not rule; configs/policies/vex.yaml names {rules.roles}"
    if ruling.role not in signer.roles:
        return f"{signer} has the roles {', '.join(signer.roles)}, not {ruling.role}"
    if ruling.name != signer.name:
        return f"it says it is {ruling.name}'s, and the key is {signer.name}'s"
    if not signer.is_valid(on):
        return f"the key of {signer} is not valid on {on}"
    if ruling.review_by < on:
        return f"{ruling.advisory}: {signer.name}'s ruling was to be reviewed by {ruling.review_by}"
    return None


def _entered(row: dict[str, Any], by: tuple[Ruling, TrustedKey] | None) -> dict[str, Any]:
    """A finding with its ruling; back in triage where there is none."""
    plain = {each: row["analysis"][each] for each in ("detail", "firstIssued", "lastUpdated")}
    if by is None:
        bare = {name: value for name, value in row.items() if name != "properties"}
        return {**bare, "analysis": {"state": "in_triage", **plain}}
    ruling, signer = by
    analysis = {
        "state": ruling.state,
        **({"justification": ruling.justification} if ruling.justification else {}),
        **plain,
        "detail": ruling.detail,
        "lastUpdated": bom.stamp(ruling.at),
    }
    about = bom.properties(
        ruled_by=signer.name,
        role=ruling.role,
        key_id=signer.key_id,
        review_by=ruling.review_by,
    )
    return {**row, "analysis": analysis, "properties": about}


def _severity_of(row: dict[str, Any]) -> Severity | None:
    stated = row["ratings"][0]["severity"]
    return next((each for each in SEVERITIES if each == stated), None)
