"""Signatures on anything: DSSE envelopes in Sigstore bundles, made and checked with local keys.

A bundle says that the holder of a key states something (the predicate) about files (the subjects,
by their SHA-256), as an in-toto Statement. Nothing is asked over a network, and other tools that
know these formats can check it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import JsonValue

from pipelines.core.errors import Refused
from pipelines.core.paths import shown
from pipelines.governance.keys import PrivateKey, PublicKey, public_of

Bundle = dict[str, Any]
"""A Sigstore bundle v0.3 as JSON."""
Subject = Path | bytes
"""A file, or what would stand in it."""

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_PREFIX = "https://freehold.example/"
"""Our own types of predicates begin with it: names, not addresses."""
ALGORITHM = ec.ECDSA(hashes.SHA256())
MAX_BUNDLE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Signed:
    """What a bundle states, once its signature was found good."""

    signer: PublicKey
    predicate_type: str
    subjects: dict[str, str]
    """Name -> SHA-256 in hex."""
    predicate: dict[str, Any]


def sign(
    subject: Subject | Mapping[str, Subject],
    predicate_type: str,
    predicate: Mapping[str, JsonValue],
    key: PrivateKey,
) -> Bundle:
    """State something about one file, or about several at once.

    Args:
        subject: a file (its name is kept), bytes (named `-`), or several of either by name.
        predicate_type: URI that says how the predicate is to be read.
        predicate: the statement. Times in it are the caller's, in UTC.
        key: from `keys.load`.

    Raises:
        Refused: a file cannot be read.
    """
    return sign_digests(_digests(subject), predicate_type, predicate, key)


def sign_digests(
    subjects: Mapping[str, str],
    predicate_type: str,
    predicate: Mapping[str, JsonValue],
    key: PrivateKey,
) -> Bundle:
    """`sign`, where the SHA-256 of each subject (name -> hex) is known."""
    if not subjects:
        raise ValueError("a signature needs at least one subject")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": n, "digest": {"sha256": sha256}} for n, sha256 in subjects.items()],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    signature = key.sign(signed_bytes(payload), ALGORITHM)
    key_id = public_of(key, "signer").key_id
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": key_id}],
        },
    }


def verify(
    subject: Subject | Mapping[str, Subject],
    bundle: Mapping[str, Any],
    public_keys: Iterable[PublicKey],
    predicate_type: str,
) -> dict[str, Any]:
    """What a bundle states about exactly these files.

    Args:
        subject: as it was given to `sign`. One file may have another name by now; of several, the
            names must be the signed ones, and none may be left out.
        bundle: from `sign` or `read`; not trusted.
        public_keys: those whose signatures count for this, such as `keys.with_role` gives.
        predicate_type: what is expected; a signature made for another purpose does not count.

    Returns:
        The predicate. `opened` also says who signed.

    Raises:
        Refused: no, and why: the form, the key, the purpose, or which file differs.
    """
    signed = opened(bundle, public_keys, predicate_type)
    found = _digests(subject)
    expected = signed.subjects
    if not isinstance(subject, Mapping) and len(expected) == 1:
        expected = dict(zip(found, expected.values(), strict=True))
    if different := sorted(n for n in found | expected if found.get(n) != expected.get(n)):
        names = ", ".join(repr(name) for name in different)
        raise Refused(f"{names}: not what {signed.signer} signed ({predicate_type}); do not use it")
    return signed.predicate


def opened(
    bundle: Mapping[str, Any], public_keys: Iterable[PublicKey], predicate_type: str | None
) -> Signed:
    """What a bundle states and who signed it; the subjects are not looked at.

    Args:
        bundle: not trusted.
        public_keys: those whose signatures count for this.
        predicate_type: what is expected; None = anything, and the caller looks.

    Raises:
        Refused: not a bundle of ours, signed by nobody of `public_keys`, or for another purpose.
    """
    payload, signature, key_id = _parts(bundle)
    signer = _signer(signed_bytes(payload), signature, key_id, tuple(public_keys))
    try:
        statement = json.loads(payload)
        if statement["_type"] != STATEMENT_TYPE:
            raise ValueError
        found_type = statement["predicateType"]
        subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
        predicate = statement["predicate"]
        if not isinstance(predicate, dict) or len(subjects) != len(statement["subject"]):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(f"what {signer} signed is no in-toto statement") from None
    if predicate_type is not None and found_type != predicate_type:
        raise Refused(f"{signer} signed a {found_type!r}, not a {predicate_type!r}")
    return Signed(signer, found_type, subjects, cast(dict[str, Any], predicate))


def write(bundle: Mapping[str, Any], path: Path) -> None:
    """Save a bundle as JSON, by custom as `NAME.sigstore.json`."""
    path.write_text(json.dumps(bundle) + "\n", encoding="utf-8")


def read(path: Path) -> Bundle:
    """A bundle from its file.

    Raises:
        Refused: it is absent, too large, or no JSON object.
    """
    try:
        with path.open("rb") as file:
            bundle = json.loads(file.read(MAX_BUNDLE_BYTES))
    except OSError as error:
        raise Refused(f"{shown(path)}: no signature can be read there: {error.strerror}") from None
    except (ValueError, RecursionError):
        bundle = None
    if not isinstance(bundle, dict):
        raise Refused(f"{shown(path)}: no signature bundle: expected a JSON object")
    return cast(Bundle, bundle)


def sha256_of(subject: Subject) -> str:
    """SHA-256 in hex of a file, read as a stream, or of bytes.

    Raises:
        Refused: the file cannot be read.
    """
    if isinstance(subject, bytes):
        return hashlib.sha256(subject).hexdigest()
    try:
        with subject.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(f"{shown(subject)}: cannot be read: {error.strerror}") from None


def signed_bytes(payload: bytes) -> bytes:
    """The bytes under the signature: DSSE's encoding of a payload and its type.

    With them and the raw signature, `openssl dgst -sha256 -verify` checks a bundle, too.
    """
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
    )  # fmt: skip


def _digests(subject: Subject | Mapping[str, Subject]) -> dict[str, str]:
    if isinstance(subject, Path):
        subject = {subject.name: subject}
    elif isinstance(subject, bytes):
        subject = {"-": subject}
    return {name: sha256_of(each) for name, each in subject.items()}


def _parts(bundle: Mapping[str, Any]) -> tuple[bytes, bytes, str | None]:
    """Payload, signature and the key's id as the bundle claims it."""
    try:
        if bundle["mediaType"] != BUNDLE_TYPE:
            raise ValueError
        hint = bundle["verificationMaterial"].get("publicKey", {}).get("hint")
        envelope = bundle["dsseEnvelope"]
        (signature,) = envelope["signatures"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError
        payload = base64.b64decode(envelope["payload"], validate=True)
        return payload, base64.b64decode(signature["sig"], validate=True), hint
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        raise Refused(
            "no signature bundle: expected Sigstore v0.3 with one DSSE signature on in-toto"
        ) from None


def _signer(
    content: bytes, signature: bytes, key_id: str | None, public_keys: tuple[PublicKey, ...]
) -> PublicKey:
    for key in public_keys:
        try:
            key.ec_key.verify(signature, content, ALGORITHM)
        except InvalidSignature:
            continue
        return key
    if claimed := next((key for key in public_keys if key.key_id == key_id), None):
        raise Refused(f"the signature is not {claimed}'s: it or what it covers was changed")
    accepted = ", ".join(str(key) for key in public_keys) or "nobody"
    raise Refused(f"signed with key {str(key_id)[:12]!r}, but only these count: {accepted}")
