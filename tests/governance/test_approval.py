"""Approvals: whose signature counts for what, and every way in which one does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipelines.core.errors import ConfigError, Refused
from pipelines.core.results import ApprovalRequest
from pipelines.governance import approval, keys, model_signature, seal
from pipelines.governance.approval import Case, TierRule
from pipelines.governance.keys import PrivateKey, TrustedKey

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TODAY = NOW.date()
RULE = TierRule(approvals=("risk", "data-protection"), signed_model=True, because="test")
PEOPLE = {
    "ci": ("builder",),
    "ci2": ("builder", "risk"),
    "alice": ("risk", "data-protection"),
    "bob": ("data-protection",),
    "carol": ("risk",),
    "late": ("risk",),
    "mallory": (),
}


class Office:
    """People with keys, an adapter, and a request for approval that `ci` made."""

    def __init__(self, folder: Path) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.trusted: list[TrustedKey] = []
        for name, roles in PEOPLE.items():
            public = keys.create(folder / f"{name}.pem")
            self.keys[name] = keys.load(folder / f"{name}.pem")
            if roles:
                until = date(2026, 11, 21) if name == "late" else date(2027, 1, 1)
                self.trusted.append(
                    TrustedKey(
                        name=name, public_key=public.public_key, roles=roles,
                        valid_from=date(2026, 1, 1), valid_until=until,
                    )
                )  # fmt: skip
        self.adapter = folder / "adapter"
        self.adapter.mkdir()
        (self.adapter / "adapter_config.json").write_text('{"r": 8}')
        (self.adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
        self.folder = self.ask("3")

    def ask(self, version: str, name: str = "ci", **changed: object) -> Path:
        """The folder of a request for a version."""
        folder = self.adapter.with_name(f"request-{version}-{name}-{len(changed)}")
        folder.mkdir(exist_ok=True)
        key_id = keys.public_of(self.keys[name], name).key_id
        request = ApprovalRequest(
            model="claims", version=version, candidate="own-lora", kind="own", tier="restricted",
            roles=RULE.approvals, decision_run_id="d" * 32, decision_sha256="e" * 64,
            verdict="own", headline="Own it.", evaluate_run_id="a" * 32, finetune_run_id="f" * 32,
            adapter_sha256=None, base_sha256="b" * 64, builder=name, builder_key_id=key_id,
        ).model_copy(update=changed)  # fmt: skip
        approval.write_case(request, self.adapter, self.keys[name], folder)
        return folder

    def case(self, folder: Path | None = None) -> Case:
        return approval.open_case(folder or self.folder, self.trusted, TODAY)

    def sign(self, name: str, role: str, approved: bool = True) -> None:
        """As the command does, and put on file."""
        case = self.case()
        file, bundle = case.sign(role, approved, "", self.keys[name], self.trusted, NOW)
        seal.write(bundle, self.folder / file)

    def forge(self, name: str, role: str, /, **changed: object) -> None:
        """A signature that the command would not make."""
        said = approval.Approval(
            approved=True, model="claims", version="3", role=role, name=name, at=NOW
        ).model_copy(update=changed)
        content = {"request.json": (self.folder / "request.json").read_bytes()}
        bundle = seal.sign(
            content, approval.APPROVAL, said.model_dump(mode="json"), self.keys[name]
        )
        seal.write(bundle, self.folder / f"approval-{name}-{role}.sigstore.json")

    def load(self, version: str = "3", on: date = TODAY, rule: TierRule = RULE) -> None:
        """As `serve` does."""
        case = approval.open_case(self.folder, self.trusted, on)
        approval.check_promoted(
            case, self.adapter, model="claims", version=version, tier="restricted",
            rule=rule, trusted=self.trusted, on=on,
        )  # fmt: skip


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def refused(what: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        what()
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_two_people_with_the_two_roles_are_enough(office: Office) -> None:
    assert "nobody has approved it as risk and data-protection" in refused(office.load)
    office.sign("alice", "risk")
    assert refused(office.load).endswith("nobody has approved it as data-protection")
    office.sign("bob", "data-protection")
    office.load()
    standing = office.case().standing(RULE, office.trusted, TODAY)
    assert {role: each.name for role, each in standing.approved.items()} == {
        "risk": "alice",
        "data-protection": "bob",
    }


def test_the_request_names_the_digest_that_an_auditor_finds(office: Office) -> None:
    case = office.case()
    assert case.model_bundle is not None
    signed = model_signature.verify(office.adapter, case.model_bundle, [case.builder])
    assert list(signed.subjects.values()) == [case.request.adapter_sha256]
    assert case.builder.name == "ci"


@pytest.mark.parametrize(
    ("name", "role", "why"),
    [
        ("ci", "risk", "built this model, and nobody approves what he built"),
        ("bob", "risk", "has the roles data-protection, not risk"),
        ("alice", "engineering", "'engineering' is not a role that this request asks for (risk,"),
        ("late", "risk", "is valid from 2026-01-01 until 2026-11-21, not on 2026-11-22"),
        ("mallory", "risk", "is not among the trusted keys; have its entry added"),
    ],
)
def test_a_signature_that_would_not_count_is_not_made(
    office: Office, name: str, role: str, why: str
) -> None:
    assert why in refused(lambda: office.sign(name, role))


@pytest.mark.parametrize(
    ("name", "role", "why"),
    [
        ("ci", "risk", "ci (key {id}) built this model, and nobody approves what he built"),
        ("bob", "risk", "bob (key {id}) has the roles data-protection, not risk"),
        ("late", "risk", "what it signed has to be signed again with a valid one"),
        ("mallory", "risk", "signed with key '{id}', but only these count"),
    ],
)
def test_a_forged_signature_is_refused_at_loading(
    office: Office, name: str, role: str, why: str
) -> None:
    office.sign("bob", "data-protection")
    office.forge(name, role)
    key_id = keys.public_of(office.keys[name], name).key_id[:12]
    said = refused(office.load)
    assert "nobody has approved it as risk; does not count" in said
    assert why.format(id=key_id) in said


def test_another_key_of_the_builder_does_not_count_either(office: Office) -> None:
    renamed = [
        each.model_copy(update={"name": "CI"}) if each.name == "ci2" else each
        for each in office.trusted
    ]
    office.trusted = renamed
    office.forge("ci2", "risk", name="CI")
    said = refused(office.load)
    assert "CI (key" in said
    assert "built this model" in said


def test_one_person_fills_one_role(office: Office) -> None:
    office.sign("alice", "risk")
    said = refused(lambda: office.sign("alice", "data-protection"))
    assert said.startswith("alice has signed this request as risk: one person, one role")
    office.forge("alice", "data-protection")
    said = refused(office.load)
    assert "nobody has approved it as risk and data-protection" in said
    assert "alice signed for several roles: one person, one role" in said


def test_a_signature_says_whose_it_is(office: Office) -> None:
    office.forge("carol", "risk", name="alice")
    assert "it says it is alice's, and the key is carol (key" in refused(office.load)


def test_an_approval_counts_for_one_version_and_one_request(office: Office) -> None:
    office.sign("carol", "risk")
    office.sign("bob", "data-protection")
    said = refused(lambda: office.load(version="4"))
    assert "version 4 of claims carries the approvals of version 3 of claims" in said
    signatures = sorted(office.folder.glob("approval-*"))
    office.folder = office.ask("4")
    for each in signatures:
        (office.folder / each.name).write_bytes(each.read_bytes())
    assert "bob (key" in (said := refused(lambda: office.load(version="4")))
    assert "signed for version 3 of claims, not for version 4 of claims" in said
    office.folder = office.ask("3", decision_sha256="0" * 64)
    for each in signatures:
        (office.folder / each.name).write_bytes(each.read_bytes())
    assert "signed another request for this version" in refused(office.load)


def test_a_rejection_blocks_whoever_else_approves(office: Office) -> None:
    office.sign("bob", "data-protection")
    office.sign("carol", "risk", approved=False)
    office.sign("alice", "risk")
    said = refused(office.load)
    assert "carol rejected it as risk on 2026-11-22; a rejection is final" in said
    lapsed = office.case().standing(RULE, office.trusted, date(2027, 2, 1))
    assert [each.name for each in lapsed.rejected] == ["carol"]
    assert lapsed.approved == {}


def test_junk_among_the_signatures_is_told_and_does_not_block(office: Office) -> None:
    office.sign("carol", "risk")
    (office.folder / "approval-x.sigstore.json").write_text("[1]")
    assert "no signature bundle: expected a JSON object" in refused(office.load)
    office.sign("bob", "data-protection")
    office.load()


def approve(office: Office) -> None:
    office.sign("carol", "risk")
    office.sign("bob", "data-protection")
    office.load()


def flip(office: Office) -> None:
    path = office.adapter / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[1234] ^= 1
    path.write_bytes(content)


def link(office: Office) -> None:
    path = office.adapter / "adapter_config.json"
    path.rename(office.adapter.with_name("elsewhere.json"))
    path.symlink_to(office.adapter.with_name("elsewhere.json"))


ATTACKS: dict[str, tuple[Callable[[Office], object], str]] = {
    "flipped byte": (flip, "not the model that ci (key "),
    "added": (lambda o: (o.adapter / "x.json").write_text("{}"), "signed: added: 'x.json'; do not"),
    "missing": (
        lambda o: (o.adapter / "adapter_config.json").unlink(),
        "signed: missing: 'adapter_config.json'; do not",
    ),
    "renamed": (
        lambda o: (o.adapter / "adapter_config.json").rename(o.adapter / "config.json"),
        "signed: missing: 'adapter_config.json', added: 'config.json'; do not",
    ),
    "link": (link, "'adapter_config.json' is a link or a device"),
    "code": (
        lambda o: (o.adapter / "training_args.bin").write_bytes(b"x"),
        "'training_args.bin' may run code when it is loaded",
    ),
    "no signature": (
        lambda o: (o.folder / "model.sigstore.json").unlink(),
        "version 3 carries no signature of its adapter",
    ),
    "other request": (
        lambda o: (o.folder / "request.json").write_bytes(
            (o.folder / "request.json").read_bytes().replace(b'"own-lora"', b'"own-evil"')
        ),
        "'request.json': not what ci (key ",
    ),
    "no request": (
        lambda o: (o.folder / "request.json").unlink(),
        "no request for approval can be read there",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_was_approved_can_be_exchanged(office: Office, attack: str) -> None:
    approve(office)
    change, why = ATTACKS[attack]
    change(office)
    assert why in refused(office.load)


def test_another_signed_adapter_is_not_the_approved_one(office: Office) -> None:
    approve(office)
    flip(office)
    seal.write(
        model_signature.sign(office.adapter, office.keys["ci"]),
        office.folder / "model.sigstore.json",
    )
    said = refused(office.load)
    assert said.startswith("the signature is for adapter ")
    assert "promote this version anew" in said


def test_who_is_no_builder_cannot_ask(office: Office) -> None:
    office.folder = office.ask("3", name="carol")
    assert "has the roles risk, not builder" in refused(office.load)
    office.folder = office.ask("3", name="mallory")
    assert "but only these count" in refused(office.load)
    with pytest.raises(Refused, match="has the roles risk, not builder"):
        approval.builder_of(office.keys["carol"], office.trusted, TODAY)
    with pytest.raises(Refused, match="not among the trusted keys"):
        approval.builder_of(office.keys["mallory"], office.trusted, TODAY)


def test_keys_that_lapse_take_their_signatures_with_them(office: Office) -> None:
    approve(office)
    said = refused(lambda: office.load(on=date(2027, 1, 2)))
    assert "until 2027-01-01, not on 2027-01-02" in said


def test_a_rule_that_became_stricter_needs_a_new_request(office: Office) -> None:
    approve(office)
    more = TierRule(approvals=(*RULE.approvals, "legal"), signed_model=True, because="test")
    assert "put forward when nobody asked for legal" in refused(lambda: office.load(rule=more))
    office.folder = office.ask("3", tier="internal")
    assert "for internal data, and the study says restricted" in refused(office.load)


def test_the_shipped_table_is_as_strict_as_it_says() -> None:
    rules = approval.rules()
    assert [len(rules.of(tier).approvals) for tier in ("public", "internal")] == [0, 0]
    assert not rules.public.demands
    assert rules.confidential.approvals == ("risk",)
    assert rules.restricted.approvals == ("risk", "data-protection")
    assert rules.confidential.signed_model
    assert rules.restricted.signed_model


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{approvals: [builder], signed_model: true, because: x}", "nobody approves what he built"),
        ("{approvals: [risk, risk], signed_model: true, because: x}", "a role stands twice"),
        ("{approvals: [risk], signed_model: false, because: x}", "approvals need signed_model"),
        ("{approvals: [Risk!], signed_model: true, because: x}", "lower-case words"),
        ("{approvals: [], signed_model: true}", "public.because: Field required"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, row: str, why: str) -> None:
    path = tmp_path / "promotion.yaml"
    other = "{approvals: [], signed_model: false, because: x}"
    lines = [f"{tier}: {other}" for tier in ("internal", "confidential", "restricted")]
    path.write_text("\n".join([f"public: {row}", *lines]))
    with pytest.raises(ConfigError, match="1 problem") as caught:
        approval.rules(path)
    assert why in str(caught.value)


def test_a_base_may_be_made_of_links_into_the_hubs_cache_only(tmp_path: Path) -> None:
    blobs = tmp_path / "models--x" / "blobs"
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    approval.check_base(snapshot)
    with pytest.raises(Refused, match="is a link or a device"):
        model_signature.check_files(snapshot)
    (tmp_path / "outside.json").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(Refused, match="'tokenizer.json' is a link or a device"):
        approval.check_base(snapshot)
    (snapshot / "tokenizer.json").unlink()
    (blobs / "2").write_text('{"auto_map": {"AutoModel": "x.Evil"}}')
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../blobs/2")
    with pytest.raises(Refused, match="asks to run the model's own code: auto_map"):
        approval.check_base(snapshot)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").symlink_to(blobs / "1")
    with pytest.raises(Refused, match="is a link or a device"):
        approval.check_base(plain)
