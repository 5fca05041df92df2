"""Human approval: what a model needs before it serves a tier, who has signed, and what counts.

A request says what is to be approved, down to the digests; its builder signs it, and the adapter.
People then sign the request's digest, each for one role. Where these files come from does not
matter: whoever can write to the store cannot make a signature that counts. What is checked when a
model is promoted is checked again when it is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, Field, JsonValue, ValidationError, model_validator

from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError, Refused
from pipelines.core.paths import shown
from pipelines.core.records import Record
from pipelines.core.results import ApprovalRequest
from pipelines.core.workload import Tier
from pipelines.governance import keys, model_signature, seal
from pipelines.governance.keys import PrivateKey, TrustedKey
from pipelines.governance.seal import Bundle, Signed

PATH = CONFIGS / "policies" / "promotion.yaml"
REQUEST = seal.PREDICATE_PREFIX + "promotion-request/v1"
APPROVAL = seal.PREDICATE_PREFIX + "promotion-approval/v1"
BUILDER = "builder"

REQUEST_FILE, REQUEST_BUNDLE = "request.json", "request.sigstore.json"
MODEL_BUNDLE = "model.sigstore.json"
APPROVAL_FILES = "approval-*.sigstore.json"
"""What lies in the folder of a request."""
MAX_REQUEST_BYTES = 2**20
MAX_COMMENT = 1_000


class TierRule(Record):
    """What one tier demands of a model."""

    approvals: tuple[str, ...]
    """Roles that must have signed, each another person."""
    signed_model: bool
    because: str = Field(min_length=1)

    @property
    def demands(self) -> bool:
        """Whether anything has to be signed."""
        return self.signed_model or bool(self.approvals)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if bad := [role for role in self.approvals if not keys.ROLE.fullmatch(role)]:
            raise ValueError(f"roles are lower-case words with hyphens, not {bad}")
        if BUILDER in self.approvals:
            raise ValueError("a builder signs models; nobody approves what he built")
        if len(set(self.approvals)) < len(self.approvals):
            raise ValueError("a role stands twice")
        if self.approvals and not self.signed_model:
            raise ValueError("approvals need signed_model: true, else the model can be exchanged")
        return self


class Rules(Record):
    """The table of configs/policies/promotion.yaml."""

    public: TierRule
    internal: TierRule
    confidential: TierRule
    restricted: TierRule

    def of(self, tier: Tier) -> TierRule:
        """The row of a tier."""
        return getattr(self, tier)


class Approval(Record):
    """What one person says of one request."""

    approved: bool
    """False = rejected; that is final for this request."""
    model: str
    version: str
    role: str
    name: str
    at: AwareDatetime
    """By the signer's clock."""
    comment: str = Field(default="", max_length=MAX_COMMENT)


@dataclass(frozen=True)
class Standing:
    """Who has signed for a request."""

    approved: Mapping[str, Approval]
    """By role."""
    rejected: tuple[Approval, ...]
    missing: tuple[str, ...]
    """Demanded roles without an approval that counts."""
    not_counted: tuple[str, ...]
    """Why the other signatures do not count."""

    def why_not(self) -> str | None:
        """What stands against the model; None = nothing, everybody has signed."""
        reasons: list[str] = []
        for each in self.rejected:
            said = f": {each.comment!r}" if each.comment else ""
            reasons.append(
                f"{each.name} rejected it as {each.role} on {each.at:%Y-%m-%d}{said}; a rejection "
                "is final, so train or decide anew"
            )
        if self.missing:
            roles = " and ".join(self.missing)
            others = "".join(f"; does not count: {why}" for why in self.not_counted)
            reasons.append(f"nobody has approved it as {roles}{others}")
        return "; ".join(reasons) or None


@dataclass(frozen=True)
class Case:
    """A request and all that was signed about it; only the builder's signature is checked yet."""

    request: ApprovalRequest
    content: bytes
    """Of the request's file: what the signatures are for."""
    builder: TrustedKey
    model_bundle: Bundle | None
    approvals: Mapping[str, Bundle | Refused]
    """By file name; Refused = it is no bundle."""

    @property
    def digests(self) -> dict[str, JsonValue]:
        """What the audit trail says of it."""
        request = self.request
        return {
            "model": request.model,
            "version": request.version,
            "tier": request.tier,
            "request_sha256": seal.sha256_of(self.content),
            "adapter_sha256": request.adapter_sha256,
            "decision_sha256": request.decision_sha256,
            "builder_key_id": request.builder_key_id,
        }

    def check_adapter(self, folder: Path) -> None:
        """Whether a folder is byte for byte the adapter that was built and approved.

        Raises:
            Refused: no, and what differs.
        """
        if self.model_bundle is None:
            raise Refused(f"version {self.request.version} carries no signature of its adapter")
        signed = model_signature.verify(folder, self.model_bundle, [self.builder])
        if _digest(signed) != self.request.adapter_sha256:
            raise Refused(
                f"the signature is for adapter {_digest(signed)[:12]}, and the approvals for "
                f"{str(self.request.adapter_sha256)[:12]}: promote this version anew"
            )

    def standing(self, rule: TierRule, trusted: Iterable[TrustedKey], on: date) -> Standing:
        """Who has signed, and what that is worth on a day.

        Args:
            rule: of the tier, as it is now.
            trusted: all trusted keys.
            on: a day in UTC.
        """
        known = tuple(trusted)
        counted: list[Approval] = []
        not_counted: list[str] = []
        for name, bundle in sorted(self.approvals.items()):
            try:
                if isinstance(bundle, Refused):
                    raise bundle
                counted.append(self._approval(bundle, known, on))
            except Refused as error:
                not_counted.append(f"{name}: {error}")
        rejected = tuple(each for each in counted if not each.approved)
        given = {(each.name.casefold(), each.role): each for each in counted if each.approved}
        roles_of = Counter(person for person, _ in given)
        found: dict[str, Approval] = {}
        for (person, role), each in given.items():
            if roles_of[person] > 1:
                not_counted.append(f"{each.name} signed for several roles: one person, one role")
            else:
                found.setdefault(role, each)
        approved = {role: found[role] for role in self.request.roles if role in found}
        missing = tuple(role for role in rule.approvals if role not in approved)
        return Standing(approved, rejected, missing, tuple(dict.fromkeys(not_counted)))

    def sign(
        self,
        role: str,
        approved: bool,
        comment: str,
        key: PrivateKey,
        trusted: Iterable[TrustedKey],
        at: datetime,
    ) -> tuple[str, Bundle]:
        """Approve or reject.

        Args:
            role: in which the person signs.
            approved: False = reject.
            comment: for the file; at most 1,000 characters.
            key: of the person.
            trusted: all trusted keys.
            at: now.

        Returns:
            Name of the file, and what to write to it.

        Raises:
            Refused: this signature would not count, and why.
        """
        known = tuple(trusted)
        pem = keys.public_of(key, "signer").public_key
        signer = next((each for each in known if each.public_key == pem), None)
        if signer is None:
            raise Refused(
                f"your key {keys.public_of(key, 'signer').key_id[:12]} is not among the trusted "
                "keys; have its entry added to configs/policies/trusted_keys.yaml"
            )
        if reason := self._why_not(signer, role, at.astimezone(UTC).date()):
            raise Refused(reason)
        for bundle in self.approvals.values():
            if isinstance(bundle, Refused):
                continue
            try:
                earlier = self._approval(bundle, known, at.astimezone(UTC).date())
            except Refused:
                continue
            if earlier.name.casefold() == signer.name.casefold() and earlier.role != role:
                raise Refused(
                    f"{signer.name} has signed this request as {earlier.role}: one person, one "
                    f"role; somebody else has to sign as {role}"
                )
        if len(comment) > MAX_COMMENT:
            raise Refused(f"a comment of {len(comment)} characters: {MAX_COMMENT:,} at most")
        said = Approval(
            approved=approved, model=self.request.model, version=self.request.version,
            role=role, name=signer.name, at=at, comment=comment,
        )  # fmt: skip
        bundle = seal.sign(
            {REQUEST_FILE: self.content}, APPROVAL, said.model_dump(mode="json"), key
        )
        word = "yes" if approved else "no"
        return f"approval-{role}-{signer.key_id[:12]}-{word}.sigstore.json", bundle

    def _approval(self, bundle: Bundle, known: tuple[TrustedKey, ...], on: date) -> Approval:
        """What a bundle says, if it counts."""
        signed = seal.opened(bundle, known, APPROVAL)
        try:
            said = Approval.model_validate(signed.predicate)
        except ValidationError:
            raise Refused(f"what {signed.signer} signed is no approval") from None
        if (said.model, said.version) != (self.request.model, self.request.version):
            raise Refused(
                f"{signed.signer} signed for version {said.version} of {said.model}, not for "
                f"version {self.request.version} of {self.request.model}"
            )
        if signed.subjects != {REQUEST_FILE: seal.sha256_of(self.content)}:
            raise Refused(f"{signed.signer} signed another request for this version")
        assert isinstance(signed.signer, TrustedKey)
        if said.name != signed.signer.name:
            raise Refused(f"it says it is {said.name}'s, and the key is {signed.signer}'s")
        # A rejection does not lapse with the key that it was signed with.
        day = on if said.approved else said.at.astimezone(UTC).date()
        if reason := self._why_not(signed.signer, said.role, day):
            raise Refused(reason)
        return said

    def _why_not(self, signer: TrustedKey, role: str, on: date) -> str | None:
        """Why a person may not sign for a role."""
        # No two names share a key: `keys.trusted` sees to that.
        if signer.name.casefold() == self.builder.name.casefold():
            return (
                f"{signer} built this model, and nobody approves what he built: somebody else has "
                "to sign"
            )
        if role not in self.request.roles:
            asked = ", ".join(self.request.roles) or "none"
            return f"{role!r} is not a role that this request asks for ({asked})"
        if role not in signer.roles:
            return f"{signer} has the roles {', '.join(signer.roles)}, not {role}"
        return _invalid(signer, on)


def rules(path: Path = PATH) -> Rules:
    """Read the table.

    Raises:
        ConfigError: a tier is missing or unknown, or a row makes no sense; lists them all.
    """
    try:
        return Rules.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_url=False)
        ]
    raise ConfigError(f"{shown(path)}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))


def builder_of(key: PrivateKey, trusted: Iterable[TrustedKey], on: date) -> TrustedKey:
    """The entry of a builder's key.

    Raises:
        Refused: it is not trusted with the role `builder` on that day.
    """
    pem = keys.public_of(key, "builder").public_key
    for each in trusted:
        if each.public_key == pem:
            _check_builder(each, on)
            return each
    raise Refused(
        f"the builder's key {keys.public_of(key, 'builder').key_id[:12]} is not among the trusted "
        "keys; have its entry added to configs/policies/trusted_keys.yaml"
    )


def write_case(
    request: ApprovalRequest, adapter: Path | None, key: PrivateKey, folder: Path
) -> None:
    """Sign an adapter and the request for it.

    Args:
        request: `adapter_sha256` is filled in here.
        adapter: folder; None = there are no weights of ours.
        key: the builder's.
        folder: exists; gets the request and both signatures.

    Raises:
        Refused: a file of the adapter can bring code with it.
    """
    if adapter is not None:
        bundle = model_signature.sign(adapter, key)
        builder = keys.public_of(key, request.builder)
        digest = _digest(seal.opened(bundle, [builder], model_signature.PREDICATE_TYPE))
        request = request.model_copy(update={"adapter_sha256": digest})
        seal.write(bundle, folder / MODEL_BUNDLE)
    (folder / REQUEST_FILE).write_text(request.model_dump_json(indent=2) + "\n", encoding="utf-8")
    signed = seal.sign(folder / REQUEST_FILE, REQUEST, {"builder": request.builder}, key)
    seal.write(signed, folder / REQUEST_BUNDLE)


def open_case(folder: Path, trusted: Iterable[TrustedKey], on: date) -> Case:
    """Read a request and what was signed about it; nothing there is trusted.

    Args:
        folder: of the request.
        trusted: all trusted keys.
        on: a day in UTC; the builder's key must be valid.

    Raises:
        Refused: no request, or not as a trusted builder signed it.
    """
    known = tuple(trusted)
    try:
        with (folder / REQUEST_FILE).open("rb") as file:
            content = file.read(MAX_REQUEST_BYTES)
    except OSError as error:
        raise Refused(
            f"{shown(folder / REQUEST_FILE)}: no request for approval can be read there: "
            f"{error.strerror}"
        ) from None
    bundle = seal.read(folder / REQUEST_BUNDLE)
    builder = seal.opened(bundle, known, REQUEST).signer
    assert isinstance(builder, TrustedKey)
    _check_builder(builder, on)
    seal.verify({REQUEST_FILE: content}, bundle, [builder], REQUEST)
    try:
        request = ApprovalRequest.model_validate_json(content)
    except ValidationError:
        raise Refused(f"what {builder} signed is no request for approval") from None
    model = folder / MODEL_BUNDLE
    return Case(
        request=request,
        content=content,
        builder=builder,
        model_bundle=seal.read(model) if model.exists() else None,
        approvals={path.name: _read(path) for path in sorted(folder.glob(APPROVAL_FILES))},
    )


def check_promoted(
    case: Case,
    adapter: Path | None,
    *,
    model: str,
    version: str,
    tier: Tier,
    rule: TierRule,
    trusted: Iterable[TrustedKey],
    on: date,
) -> Standing:
    """Whether a model may serve: the right version, the signed adapter, everybody's approval.

    Args:
        case: from `open_case`.
        adapter: folder that will be loaded, which nobody else can write to; None = none will be.
        model: registered model.
        version: that is to serve.
        tier: of the workload, as its study says now.
        rule: of that tier.
        trusted: all trusted keys.
        on: today, in UTC.

    Raises:
        Refused: no, and why.
    """
    check_case(case, model=model, version=version, tier=tier, rule=rule)
    if adapter is not None or case.request.adapter_sha256 is not None:
        if adapter is None:
            raise Refused(f"the approvals for version {version} of {model} are for an adapter")
        case.check_adapter(adapter)
    standing = case.standing(rule, trusted, on)
    if reason := standing.why_not():
        raise Refused(f"version {version} of {model} may not serve {tier} data: {reason}")
    return standing


def check_case(case: Case, *, model: str, version: str, tier: Tier, rule: TierRule) -> None:
    """Whether a request is for this version and asks for what the tier demands.

    Raises:
        Refused: no, and why.
    """
    request = case.request
    if (request.model, request.version) != (model, version):
        raise Refused(
            f"version {version} of {model} carries the approvals of version {request.version} of "
            f"{request.model}, and they count for that one alone; promote the one you mean"
        )
    if request.tier != tier:
        raise Refused(
            f"version {version} of {model} was put forward for {request.tier} data, and the study "
            f"says {tier}; promote it anew"
        )
    if more := [role for role in rule.approvals if role not in request.roles]:
        raise Refused(
            f"version {version} of {model} was put forward when nobody asked for "
            f"{' and '.join(more)}; promote it anew"
        )


def check_base(folder: Path) -> None:
    """Whether no file of a base model can bring code with it, signed or not.

    A snapshot in the hub's cache is made of links into the blobs beside it; those are followed.

    Raises:
        Refused: as `model_signature.check_files`.
    """
    root = folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    model_signature.check_files(folder, links_into=blobs)


def _read(path: Path) -> Bundle | Refused:
    try:
        return seal.read(path)
    except Refused as error:
        return error


def _digest(signed: Signed) -> str:
    (digest,) = signed.subjects.values()
    return digest


def _check_builder(key: TrustedKey, on: date) -> None:
    if BUILDER not in key.roles:
        raise Refused(f"{key} has the roles {', '.join(key.roles)}, not {BUILDER}")
    if reason := _invalid(key, on):
        raise Refused(reason)


def _invalid(key: TrustedKey, on: date) -> str | None:
    if key.is_valid(on):
        return None
    return (
        f"the key of {key} is valid from {key.valid_from} until {key.valid_until}, not on {on}: "
        "what it signed has to be signed again with a valid one"
    )
