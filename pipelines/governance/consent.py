"""Consent where the egress table says `require_approval`: one signed file for one kind of call.

A file counts for its workload, tier and zone, perhaps for named hosts only, and until its last day.
Whoever can write to the folder cannot make one that counts. Deleting a file takes the consent back
for every gate that is made afterwards; who kept a copy can put it back, so dates should be near.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from pipelines.core.errors import Refused, UserError
from pipelines.core.json_lines import MAX_SHOWN
from pipelines.core.paths import MLRUNS, shown
from pipelines.core.records import Record
from pipelines.core.workload import Name, Tier, Workload
from pipelines.governance import keys, seal
from pipelines.governance.keys import PrivateKey, TrustedKey
from pipelines.governance.policy import Policy
from pipelines.governance.seal import Bundle
from pipelines.governance.trail import Trail
from pipelines.governance.zones import Zone, origin_of

STATEMENT = seal.PREDICATE_PREFIX + "egress-consent/v1"
FOLDER = "FREEHOLD_CONSENTS"
"""Environment variable that names the folder of the files."""
FILES = "*.sigstore.json"
GIVEN = "consent.given"
"""Kind of the trail's entry."""
BUILDER = "builder"


class Consent(Record):
    """What one person allows."""

    workload: Name
    tier: Tier
    zone: Zone
    hosts: tuple[str, ...] = Field(default=(), max_length=50)
    """Empty = all of the zone."""
    why: str = Field(min_length=1, max_length=1_000)
    role: str
    name: str
    at: AwareDatetime
    """By the signer's clock."""
    until: date
    """Last day, in UTC."""

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            try:
                plain = origin_of(f"https://{host}").host == host
            except Refused:
                plain = False
            if not plain:
                raise ValueError(f"{host[:100]!r} is no host; write it like api.example.com")
        return hosts

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.until < self.at.astimezone(UTC).date():
            raise ValueError(f"the last day, {self.until}, is over")
        return self


@dataclass(frozen=True)
class Given:
    """A consent that counts."""

    consent: Consent
    sha256: str
    """Of its file."""
    until: date
    """Last day, in UTC: of the consent or of the key that signed it."""


@dataclass(frozen=True)
class OnFile:
    """What lies in the folder for one workload, tier and zone."""

    given: tuple[Given, ...]
    not_counted: tuple[str, ...]
    """Why the other files do not count."""

    def covering(self, host: str, on: date) -> Given | None:
        """The consent that covers a call to a host on a day; None = none does."""
        return next(
            (
                each
                for each in self.given
                if each.until >= on and (not each.consent.hosts or host in each.consent.hosts)
            ),
            None,
        )

    def why_not(self, host: str, on: date) -> str | None:
        """Why no consent covers a call; None = one does."""
        if self.covering(host, on) is not None:
            return None
        told = "; ".join(
            f"{', '.join(each.consent.hosts) or 'every host'} until {each.until}"
            for each in self.given
        )
        return f"no consent on file covers {host} on {on}, only: {told}"


def folder() -> Path:
    """Where consents lie: `$FREEHOLD_CONSENTS`, else mlruns/consents."""
    return Path(os.environ.get(FOLDER) or MLRUNS / "consents")


def on_file(workload: str, tier: str, zone: Zone, role: str) -> OnFile:
    """The consents that count today.

    Args:
        workload: whose data leaves.
        tier: of the data, as its study says now.
        zone: where it goes.
        role: whose signature the egress table demands.

    Raises:
        ConfigError: the list of trusted keys is wrong.
    """
    paths = sorted(folder().glob(FILES))
    known = keys.trusted(keys.TRUSTED_KEYS) if paths else ()
    today = datetime.now(UTC).date()
    given: list[Given] = []
    not_counted: list[str] = []
    for path in paths:
        try:
            said, signer = _opened(path, known)
            if said.workload != workload:
                raise Refused(f"it is for workload {said.workload}")
            if said.tier != tier:
                raise Refused(f"it is for {said.tier} data, and the study says {tier}")
            if said.zone != zone:
                raise Refused(f"it is for zone {said.zone}")
            if reason := _why_not(signer, said, role, today):
                raise Refused(reason)
            until = min(said.until, signer.valid_until)
            given.append(Given(consent=said, sha256=seal.sha256_of(path), until=until))
        except Refused as error:
            not_counted.append(f"{path.name}: {error}")
    more = len(not_counted) - MAX_SHOWN
    told = (*not_counted[:MAX_SHOWN], *([f"and {more} more files"] if more > 0 else []))
    return OnFile(tuple(given), told)


def sign(
    workload: Workload,
    zone: Zone,
    *,
    table: Policy,
    role: str,
    until: date,
    why: str,
    key: PrivateKey,
    trusted: Iterable[TrustedKey],
    at: datetime,
    hosts: Iterable[str] = (),
) -> Bundle:
    """Consent to calls with a workload's data.

    Args:
        workload: whose data leaves.
        zone: where it may go.
        table: of the tiers and zones.
        role: in which the person signs.
        until: last day, in UTC.
        why: in the person's words, at most 1,000 characters.
        key: of the person.
        trusted: all trusted keys.
        at: now.
        hosts: the only ones that may be called; none = all of the zone.

    Raises:
        Refused: the table does not ask for it, or the signature would not count; says why.
        UserError: a host, the reason or the last day makes no sense.
    """
    cell = table.table.cell(workload.tier, zone)
    place = f"configs/policies/egress.yaml, {workload.tier} x {zone}: {cell}"
    if cell == "deny":
        raise Refused(f"{place}. No consent changes that; take another endpoint")
    if cell == "allow":
        raise Refused(f"{place}. It needs nobody's consent")
    if table.table.consent is None:
        raise Refused(f"{place}, but the table names no role for `consent`; add it there")
    pem = keys.public_of(key, "signer").public_key
    signer = next((each for each in trusted if each.public_key == pem), None)
    if signer is None:
        raise Refused("your key is not in configs/policies/trusted_keys.yaml; have it added")
    try:
        said = Consent(
            workload=workload.name, tier=workload.tier, zone=zone, hosts=tuple(hosts), why=why,
            role=role, name=signer.name, at=at, until=until,
        )  # fmt: skip
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'until'}: "
            f"{each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False)
        )
        raise UserError(f"that is no consent: {wrong}") from None
    if reason := _why_not(signer, said, table.table.consent, at.astimezone(UTC).date()):
        raise Refused(reason)
    about = {f"{said.workload}/{said.tier}/{zone}": said.model_dump_json().encode()}
    return seal.sign(about, STATEMENT, said.model_dump(mode="json"), key)


def put_on_file(bundle: Bundle, trusted: Iterable[TrustedKey], log: Trail) -> Path:
    """Note a consent in the audit trail and put it into the folder.

    Args:
        bundle: from `sign`.
        trusted: all trusted keys.
        log: the audit trail.

    Returns:
        Its file.

    Raises:
        UserError: the folder or the trail cannot be written; then nothing is on file.
    """
    signed = seal.opened(bundle, trusted, STATEMENT)
    said = Consent.model_validate(signed.predicate)
    name = f"{said.workload}-{said.zone}-{said.at:%Y%m%dT%H%M%S}-{signed.signer.key_id[:12]}"
    path = folder() / FILES.replace("*", name)
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        seal.write(bundle, fresh)
        log.append(
            GIVEN,
            consent_sha256=seal.sha256_of(fresh),
            key_id=signed.signer.key_id,
            **said.model_dump(mode="json", exclude={"why", "at"}),
        )
        fresh.rename(path)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror}") from None
    finally:
        fresh.unlink(missing_ok=True)
    return path


def _opened(path: Path, known: tuple[TrustedKey, ...]) -> tuple[Consent, TrustedKey]:
    signed = seal.opened(seal.read(path), known, STATEMENT)
    assert isinstance(signed.signer, TrustedKey)
    try:
        return Consent.model_validate(signed.predicate), signed.signer
    except ValidationError:
        raise Refused(f"what {signed.signer} signed is no consent") from None


def _why_not(signer: TrustedKey, said: Consent, role: str, on: date) -> str | None:
    """Why a person's word does not count on a day."""
    if BUILDER in signer.roles:
        return f"{signer} is a builder's key, and who builds does not consent"
    if said.role != role:
        return f"{said.role!r} may not consent; configs/policies/egress.yaml names {role!r}"
    if role not in signer.roles:
        return f"{signer} has the roles {', '.join(signer.roles)}, not {role}"
    if said.name != signer.name:
        return f"it says it is {said.name}'s, and the key is {signer.name}'s"
    if not signer.is_valid(on):
        return f"the key of {signer} is not valid on {on}"
    if said.until < on:
        return f"it ended on {said.until}; {role} has to sign a new one"
    return None
