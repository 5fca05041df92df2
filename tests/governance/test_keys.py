"""Key pairs, where they are loaded from, whose signatures count; and no secret in any message."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
import traceback
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from pipelines.core.errors import ConfigError, Refused, UserError
from pipelines.governance import keys

PASSPHRASE = "canary-passphrase-4711"
openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def trusted_key(path: Path, name: str, *roles: str, until: str = "2027-01-31") -> keys.TrustedKey:
    return keys.TrustedKey(
        name=name,
        public_key=keys.create(path / f"{name}.pem").public_key,
        roles=roles,
        valid_from=date(2026, 2, 1),
        valid_until=date.fromisoformat(until),
    )


def listing(*entries: keys.TrustedKey) -> str:
    return "keys:\n" + "".join(keys.as_entry(entry) for entry in entries)


def unencrypted(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def test_a_pair_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "alice.pem"
    public = keys.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public.name == "alice"
    assert keys.public_of(keys.load(path), "alice") == public
    assert keys.read_public(tmp_path / "keys" / "alice.pub.pem") == public
    before = path.read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        keys.create(path)
    path.unlink()
    with pytest.raises(UserError, match=r"alice\.pub\.pem exists"):
        keys.create(path)
    assert not path.exists()
    assert before


@pytest.mark.parametrize("name", ["alice", "a b.pem", ".pem", "-x.pem", "a\n.pem"])
def test_a_key_file_is_named_after_its_holder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named after its holder"):
        keys.create(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_through_a_link_that_somebody_laid(tmp_path: Path) -> None:
    (tmp_path / "alice.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="never overwritten"):
        keys.create(tmp_path / "alice.pem")
    assert not (tmp_path / "elsewhere").exists()


def test_the_key_id_is_the_digest_of_the_public_file(tmp_path: Path) -> None:
    public = keys.create(tmp_path / "alice.pem")
    content = (tmp_path / "alice.pub.pem").read_bytes()
    assert public.key_id == hashlib.sha256(content).hexdigest()


@openssl
def test_openssl_reads_our_keys_and_we_read_its(tmp_path: Path) -> None:
    path, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
    public = keys.create(path)
    derived = subprocess.run(
        ["openssl", "pkey", "-in", path, "-pubout"], check=True, capture_output=True, text=True
    )
    assert derived.stdout == public.public_key
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*command, "-out", theirs], check=True)
    assert keys.load(theirs).curve.name == "secp256r1"


def test_a_passphrase_encrypts_and_never_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "alice.pem"
    monkeypatch.setenv(keys.PASSPHRASE_ENV, PASSPHRASE)
    public = keys.create(path)
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert keys.public_of(keys.load(path), "alice") == public

    monkeypatch.setenv(keys.PASSPHRASE_ENV, PASSPHRASE + "x")
    with pytest.raises(UserError, match="or \\$FREEHOLD_KEY_PASSPHRASE is not its") as wrong:
        keys.load(path)
    monkeypatch.delenv(keys.PASSPHRASE_ENV)
    with pytest.raises(UserError, match="is encrypted: set") as missing:
        keys.load(path)
    for caught in (wrong, missing):
        shown = "".join(traceback.format_exception(caught.value))
        assert PASSPHRASE not in shown
        assert not any(line in shown for line in path.read_text().splitlines()[1:-1])


def test_a_passphrase_for_another_key_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = keys.create(tmp_path / "alice.pem")
    monkeypatch.setenv(keys.PASSPHRASE_ENV, PASSPHRASE)
    assert keys.public_of(keys.load(tmp_path / "alice.pem"), "alice") == public


def test_a_key_in_an_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = keys.create(tmp_path / "alice.pem")
    monkeypatch.setenv("BUILDER_KEY", (tmp_path / "alice.pem").read_text())
    assert keys.public_of(keys.load("env:BUILDER_KEY"), "alice") == public
    with pytest.raises(UserError, match=r"\$OTHER_KEY is not set"):
        keys.load("env:OTHER_KEY")
    monkeypatch.setenv("BUILDER_KEY", "canary-no-pem")
    with pytest.raises(UserError, match=r"\$BUILDER_KEY holds no private key") as caught:
        keys.load("env:BUILDER_KEY")
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("prefix", ["", "env:"])
def test_a_key_given_in_place_of_its_path_is_not_repeated(prefix: str) -> None:
    pem = unencrypted(ec.generate_private_key(ec.SECP256R1())).decode()
    with pytest.raises(UserError, match="not the key itself") as caught:
        keys.load(prefix + pem)
    assert pem.splitlines()[1] not in str(caught.value)


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.create(tmp_path / "alice.pem")
    (tmp_path / "alice.pem").chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        keys.load(tmp_path / "alice.pem")


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()], ids=lambda c: c.name)
def test_other_curves_are_refused(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    key, path = ec.generate_private_key(curve), tmp_path / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(unencrypted(key))
    with pytest.raises(UserError, match="no EC P-256 key"):
        keys.load(path)
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    with pytest.raises(UserError, match="not an EC P-256 key"):
        keys.read_public(path)


def test_absent_files_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no private key can be read there: No such file"):
        keys.load(tmp_path / "none.pem")
    with pytest.raises(UserError, match="no such file"):
        keys.read_public(tmp_path / "none.pub.pem")


def test_trusted_keys_have_roles_and_dates(tmp_path: Path) -> None:
    alice = trusted_key(tmp_path, "alice", "risk", "data-protection")
    build = trusted_key(tmp_path, "build", "builder")
    path = tmp_path / "trusted_keys.yaml"
    path.write_text(listing(alice, build))
    found = keys.trusted(path)
    assert found == (alice, build)
    assert keys.with_role(found, "risk", date(2026, 2, 1)) == (alice,)
    assert keys.with_role(found, "builder", date(2027, 1, 31)) == (build,)
    for day in (date(2026, 1, 31), date(2027, 2, 1)):
        with pytest.raises(Refused, match=r"alice \(key .*from 2026-02-01 until 2027-01-31"):
            keys.with_role(found, "risk", day)
    with pytest.raises(Refused, match="nobody ever had it"):
        keys.with_role(found, "engineering", date(2026, 3, 1))


def test_a_key_is_replaced_under_the_same_name(tmp_path: Path) -> None:
    old = trusted_key(tmp_path, "alice", "risk", until="2026-06-30")
    (tmp_path / "new").mkdir()
    new = trusted_key(tmp_path / "new", "alice", "risk")
    path = tmp_path / "trusted_keys.yaml"
    path.write_text(listing(old, new))
    assert keys.with_role(keys.trusted(path), "risk", date(2026, 7, 1)) == (new,)
    assert keys.with_role(keys.trusted(path), "risk", date(2026, 6, 30)) == (old, new)


def test_the_list_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "trusted_keys.yaml").write_text("keys:\n")
    assert keys.trusted(tmp_path / "trusted_keys.yaml") == ()


def test_the_shipped_list_is_read() -> None:
    assert keys.trusted() == ()


def test_one_key_cannot_be_two_people(tmp_path: Path) -> None:
    alice = trusted_key(tmp_path, "alice", "risk")
    bob = alice.model_copy(update={"name": "bob", "roles": ("engineering",)})
    path = tmp_path / "trusted_keys.yaml"
    path.write_text(listing(alice, bob))
    with pytest.raises(ConfigError, match="the same key is listed twice: alice, bob"):
        keys.trusted(path)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("roles: [risk]", "roles: []", r"keys\.0\.roles: .*at least 1 item"),
        ("roles: [risk]", "roles: [Risk]", "roles are lower-case words"),
        ("until: 2027-01-31", "until: 2025-01-31", "valid_until is before valid_from"),
        ("name: alice", 'name: "a\\tb"', r"keys\.0\.name"),
        ("    valid_until: 2027-01-31\n", "", r"keys\.0\.valid_until: Field required"),
        ("valid_from", "from", r"keys\.0\.from: Extra inputs"),
        ("BEGIN PUBLIC", "BEGIN MADE-UP", "not a public key in PEM form"),
        ("keys:", "people:", "keys: Field required"),
    ],
)
def test_wrong_entries_are_said(old: str, new: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "trusted_keys.yaml"
    text = listing(trusted_key(tmp_path, "alice", "risk"))
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=problem):
        keys.trusted(path)


def test_a_private_key_in_the_list_is_refused_and_not_repeated(tmp_path: Path) -> None:
    alice = trusted_key(tmp_path, "alice", "risk")
    private = (tmp_path / "alice.pem").read_text()
    path = tmp_path / "trusted_keys.yaml"
    path.write_text(keys.as_entry(alice.model_copy(update={"public_key": private})))
    path.write_text("keys:\n" + path.read_text())
    with pytest.raises(ConfigError, match="this is a private key") as caught:
        keys.trusted(path)
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(line in shown for line in private.splitlines()[1:-1])
