"""Bundles: what is refused, and that other tools read them."""

from __future__ import annotations

import base64
import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.core.errors import Refused
from pipelines.core.paths import ROOT
from pipelines.governance import keys, model_signature, seal
from pipelines.governance.trail import Trail

KIND = seal.PREDICATE_PREFIX + "approval/v1"
PREDICATE = {"model": "support", "version": 3, "at": "2026-11-22T09:30:00Z", "note": "naïve"}
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
ALICE = keys.public_of(KEY, "alice")
BOB = keys.public_of(OTHER, "bob")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_bytes(b'{"accuracy": 0.91}')
    return path


def resealed(bundle: seal.Bundle, change: Callable[[dict[str, Any]], Any]) -> seal.Bundle:
    """The bundle with another statement under the old signature."""
    forged = copy.deepcopy(bundle)
    statement = json.loads(base64.b64decode(forged["dsseEnvelope"]["payload"]))
    change(statement)
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    forged["dsseEnvelope"]["payload"] = payload
    return forged


def signed_as(statement: object) -> seal.Bundle:
    """A bundle whose signature is alice's and good, on any payload."""
    bundle = seal.sign(b"", KIND, {}, KEY)
    payload = json.dumps(statement).encode()
    signature = KEY.sign(seal.signed_bytes(payload), seal.ALGORITHM)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return bundle


def test_the_statement_is_in_toto_v1(report: Path) -> None:
    bundle = seal.sign(report, KIND, PREDICATE, KEY)
    assert json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": "report.json",
                # printf '{"accuracy": 0.91}' | sha256sum
                "digest": {
                    "sha256": "8fb89e717ebe50c605f9a943b5494ea30b4fd6f7bafc457a397727322e423b24"
                },
            }
        ],
        "predicateType": KIND,
        "predicate": PREDICATE,
    }


def test_the_signed_bytes_are_those_of_dsse() -> None:
    # The example of the DSSE specification, with our payload type: 28 and 11 bytes.
    expected = b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    assert seal.signed_bytes(b"hello world") == expected


def test_what_was_signed_comes_back(report: Path, tmp_path: Path) -> None:
    seal.write(seal.sign(report, KIND, PREDICATE, KEY), tmp_path / "report.sigstore.json")
    bundle = seal.read(tmp_path / "report.sigstore.json")
    assert seal.verify(report, bundle, [BOB, ALICE], KIND) == PREDICATE
    assert seal.verify(report.read_bytes(), bundle, [ALICE], KIND) == PREDICATE
    assert seal.opened(bundle, [BOB, ALICE], KIND).signer == ALICE
    moved = report.rename(tmp_path / "renamed.json")
    assert seal.verify(moved, bundle, [ALICE], KIND) == PREDICATE


def test_a_changed_file_is_refused(report: Path) -> None:
    bundle = seal.sign(report, KIND, PREDICATE, KEY)
    report.write_bytes(b'{"accuracy": 0.92}')
    with pytest.raises(Refused, match=r"'report\.json': not what alice \(key .* signed"):
        seal.verify(report, bundle, [ALICE], KIND)
    report.unlink()
    with pytest.raises(Refused, match=r"report\.json: cannot be read: No such file"):
        seal.verify(report, bundle, [ALICE], KIND)


def test_several_files_are_verified_together_and_by_name(report: Path, tmp_path: Path) -> None:
    other = tmp_path / "bom.json"
    other.write_text("{}")
    bundle = seal.sign({"report": report, "bom": other}, KIND, PREDICATE, KEY)
    assert seal.verify({"bom": other, "report": report}, bundle, [ALICE], KIND) == PREDICATE
    wrong: dict[str, dict[str, Path | bytes]] = {
        "'bom'": {"report": report},
        "'extra'": {"report": report, "bom": other, "extra": b""},
        "'bom', 'report'": {"report": other, "bom": report},
        "'bill', 'bom'": {"report": report, "bill": other},
    }
    for names, subject in wrong.items():
        with pytest.raises(Refused, match=f"^{names}: not what alice"):
            seal.verify(subject, bundle, [ALICE], KIND)
    with pytest.raises(Refused, match="not what alice"):
        seal.verify(report, bundle, [ALICE], KIND)
    one = seal.sign(report, KIND, PREDICATE, KEY)
    with pytest.raises(Refused, match="^'bom', 'report.json': not what alice"):
        seal.verify({"bom": report}, one, [ALICE], KIND)


def test_only_the_given_keys_count(report: Path) -> None:
    bundle = seal.sign(report, KIND, PREDICATE, OTHER)
    with pytest.raises(Refused, match=rf"signed with key '{BOB.key_id[:12]}', .*: alice \(key"):
        seal.verify(report, bundle, [ALICE], KIND)
    with pytest.raises(Refused, match="only these count: nobody"):
        seal.verify(report, bundle, [], KIND)


def test_a_bundle_that_claims_another_key_is_refused(report: Path) -> None:
    bundle = seal.sign(report, KIND, PREDICATE, OTHER)
    bundle["verificationMaterial"]["publicKey"]["hint"] = ALICE.key_id
    with pytest.raises(Refused, match=r"the signature is not alice \(key .*was changed"):
        seal.verify(report, bundle, [ALICE], KIND)


def test_a_signature_for_another_purpose_does_not_count(report: Path) -> None:
    bundle = seal.sign(report, KIND, PREDICATE, KEY)
    with pytest.raises(Refused, match=r"alice \(key .* signed a '.*approval/v1', not a '.*bom/v1'"):
        seal.verify(report, bundle, [ALICE], seal.PREDICATE_PREFIX + "bom/v1")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["predicate"].update(version=4),
        lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
        lambda s: s.update(predicateType=seal.PREDICATE_PREFIX + "bom/v1"),
        lambda s: s.update(extra=1),
    ],
)
def test_a_forged_statement_is_refused(change: Callable[[Any], Any], report: Path) -> None:
    bundle = resealed(seal.sign(report, KIND, PREDICATE, KEY), change)
    with pytest.raises(Refused, match="it or what it covers was changed"):
        seal.verify(report, bundle, [ALICE], KIND)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (("mediaType",), "application/vnd.dev.sigstore.bundle.v0.2+json"),
        (("verificationMaterial",), None),
        (("verificationMaterial",), []),
        (("dsseEnvelope", "payloadType"), "text/plain"),
        (("dsseEnvelope", "payload"), "%%%"),
        (("dsseEnvelope", "payload"), 7),
        (("dsseEnvelope", "signatures"), []),
        (("dsseEnvelope", "signatures"), [{}]),
        (("dsseEnvelope", "signatures"), [{"sig": "AAAA"}, {"sig": "AAAA"}]),
        (("dsseEnvelope", "signatures"), "s"),
        (("dsseEnvelope",), None),
    ],
)
def test_what_is_no_bundle_is_refused(change: tuple[str, ...], value: Any, report: Path) -> None:
    bundle = seal.sign(report, KIND, PREDICATE, KEY)
    node = bundle
    for key in change[:-1]:
        node = node[key]
    node[change[-1]] = value
    with pytest.raises(Refused, match="no signature bundle: expected Sigstore v0.3"):
        seal.verify(report, bundle, [ALICE], KIND)


@pytest.mark.parametrize(
    "statement",
    [
        [],
        {},
        {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": KIND,
            "predicate": {},
            "subject": [],
        },
        {"_type": seal.STATEMENT_TYPE, "predicateType": KIND, "predicate": {}, "subject": [1]},
        {"_type": seal.STATEMENT_TYPE, "predicateType": KIND, "predicate": 1, "subject": []},
        {
            "_type": seal.STATEMENT_TYPE,
            "predicateType": KIND,
            "predicate": {},
            "subject": [{"name": "a", "digest": {"sha256": d}} for d in ("1", "2")],
        },
    ],
)
def test_a_good_signature_on_no_statement_is_refused(statement: object) -> None:
    with pytest.raises(Refused, match="signed is no in-toto statement"):
        seal.opened(signed_as(statement), [ALICE], KIND)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b"[" * 100_000],
    ids=["empty", "list", "cut", "bytes", "deep"],
)
def test_what_is_no_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.sigstore.json"
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"x\.sigstore\.json: no signature bundle"):
        seal.read(path)


def test_an_absent_signature_is_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no signature can be read there: No such file"):
        seal.read(tmp_path / "none.json")


def test_a_huge_bundle_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "MAX_BUNDLE_BYTES", 10)
    (tmp_path / "x.json").write_text('{"a": "123456789"}')
    with pytest.raises(Refused, match="no signature bundle"):
        seal.read(tmp_path / "x.json")


def test_what_cannot_be_said_in_json_is_not_signed() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        seal.sign(b"", KIND, {"loss": float("nan")}, KEY)
    with pytest.raises(ValueError, match="at least one subject"):
        seal.sign({}, KIND, {}, KEY)


def test_auditors_verify_with_public_keys_alone(report: Path, tmp_path: Path) -> None:
    def script(name: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ROOT / "scripts" / name, *arguments],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    made, error = script("keys", "build", "--role", "builder", "--folder", "keys").communicate()
    assert not error
    (tmp_path / "trusted.yaml").write_text("keys:\n" + made.partition("that:\n\n")[2])
    key = keys.load(tmp_path / "keys" / "build.pem")
    model, log = tmp_path / "model", Trail(tmp_path / "trail.jsonl")
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    seal.write(model_signature.sign(model, key), tmp_path / "model.sigstore.json")
    seal.write(seal.sign(report, KIND, PREDICATE, key), tmp_path / "report.sigstore.json")
    seal.write(log.anchor(key), tmp_path / "anchor.sigstore.json")
    (tmp_path / "other.json").write_text("{}")
    trusted = ("--keys", "trusted.yaml")
    anchored, sealed = ("trail.jsonl", "anchor.sigstore.json"), "report.sigstore.json"
    checks = [
        (0, "1 files as build", ("model", "model", "model.sigstore.json")),
        (0, '"version": 3', ("bundle", sealed, "report.json")),
        (0, "signed by build (key", ("bundle", sealed)),
        (0, "covered by 1 anchors: entries 1 to 1", ("trail", *anchored)),
        (4, "REFUSED: 'other.json': not what build", ("bundle", sealed, "other.json")),
        (4, "REFUSED: no trusted key has the role 'risk'",
         ("model", "model", "model.sigstore.json", "--role", "risk")),
    ]  # fmt: skip
    running = [script("verify", *arguments, *trusted) for *_, arguments in checks]
    for process, (code, words, _) in zip(running, checks, strict=True):
        said = "".join(process.communicate())
        assert (process.returncode, words in said) == (code, True), said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_raw_signature(report: Path, tmp_path: Path) -> None:
    envelope = seal.sign(report, KIND, PREDICATE, KEY)["dsseEnvelope"]
    (tmp_path / "alice.pub.pem").write_text(ALICE.public_key)
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    content = tmp_path / "content"
    content.write_bytes(seal.signed_bytes(base64.b64decode(envelope["payload"])))
    command = ["openssl", "dgst", "-sha256", "-verify", "alice.pub.pem"]
    command += ["-signature", "signature", "content"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Verified OK\n")
    content.write_bytes(content.read_bytes() + b" ")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_securesystemslib_verifies_our_envelopes(report: Path) -> None:
    from securesystemslib import exceptions
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer._key import SSlibKey

    bundle = seal.sign(report, KIND, PREDICATE, KEY)
    theirs = {
        key.name: SSlibKey.from_crypto(key.ec_key, keyid=ALICE.key_id) for key in (ALICE, BOB)
    }
    envelope = Envelope.from_dict(copy.deepcopy(bundle["dsseEnvelope"]))
    assert envelope.verify([theirs["alice"]], threshold=1)
    with pytest.raises(exceptions.VerificationError):
        envelope.verify([theirs["bob"]], threshold=1)


def test_sigstore_reads_our_bundles(report: Path) -> None:
    from sigstore_models.bundle.v1 import Bundle

    ours = seal.sign(report, KIND, PREDICATE, KEY)
    theirs = Bundle.from_dict(ours)
    material = theirs.verification_material.public_key
    assert material is not None
    assert material.hint == ALICE.key_id
    assert json.loads(theirs.to_json())["dsseEnvelope"] == ours["dsseEnvelope"]
