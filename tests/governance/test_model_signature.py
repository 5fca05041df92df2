"""Signed model folders: every way to change one is refused, and the stock tool agrees."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.core.errors import Refused
from pipelines.governance import keys, model_signature, seal


def write_model(folder: Path) -> None:
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "adapter_config.json").write_text('{"r": 8, "auto_mapping": null}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer" / "tokenizer.json").write_text('{"vocab": {"auto_map": 1}}')
    (folder / "tokenizer.txt").write_text("sorts after the folder: by parts, not by characters")
    (folder / "LICENSE").write_text("Apache-2.0")


class Setting:
    """A model, a builder's key and somebody else's."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "adapter"
        write_model(self.model)
        self.key_path = folder / "builder.pem"
        self.builder = keys.create(self.key_path)
        self.key = keys.load(self.key_path)
        self.mallory = keys.create(folder / "mallory.pem")
        self.mallorys_key = keys.load(folder / "mallory.pem")


@pytest.fixture
def at(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_the_root_digest_is_that_of_the_digests_in_order(at: Setting) -> None:
    signed = model_signature.verify(
        at.model, model_signature.sign(at.model, at.key), [at.mallory, at.builder]
    )
    names = ["LICENSE", "adapter_config.json", "adapter_model.safetensors"]
    names += ["chat_template.jinja", "tokenizer/tokenizer.json", "tokenizer.txt"]
    digests = [hashlib.sha256((at.model / name).read_bytes()) for name in names]
    assert [each["name"] for each in signed.predicate["resources"]] == names
    root = hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
    assert signed.subjects == {"adapter": root}
    assert signed.signer == at.builder


def _flip(model: Path) -> None:
    path = model / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[12_345] ^= 1
    path.write_bytes(content)


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (_flip, "signed: changed: 'adapter_model.safetensors'; do not"),
    "template": (
        lambda m: (m / "chat_template.jinja").write_text("{{ messages[0] }}"),
        "signed: changed: 'chat_template.jinja'; do not",
    ),
    "added": (lambda m: (m / "vocab.txt").write_text(""), "signed: added: 'vocab.txt'; do not"),
    "hidden": (lambda m: (m / ".x.json").write_text("{}"), "signed: added: '.x.json'; do not"),
    "missing": (
        lambda m: (m / "tokenizer" / "tokenizer.json").unlink(),
        "signed: missing: 'tokenizer/tokenizer.json'; do not",
    ),
    "renamed": (
        lambda m: (m / "LICENSE").rename(m / "NOTICE"),
        "missing: 'LICENSE', added: 'NOTICE'; do not",
    ),
    "moved": (
        lambda m: (m / "LICENSE").rename(m / "tokenizer" / "LICENSE"),
        "missing: 'LICENSE', added: 'tokenizer/LICENSE'; do not",
    ),
}


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_a_changed_model_is_refused(attack: str, at: Setting) -> None:
    bundle = model_signature.sign(at.model, at.key)
    change, message = ATTACKS[attack]
    change(at.model)
    with pytest.raises(Refused, match=f"adapter: not the model that builder .*{message}"):
        model_signature.verify(at.model, bundle, [at.builder])


def test_swapped_files_are_refused(at: Setting) -> None:
    bundle = model_signature.sign(at.model, at.key)
    license_text = (at.model / "LICENSE").read_text()
    (at.model / "LICENSE").write_text((at.model / "chat_template.jinja").read_text())
    (at.model / "chat_template.jinja").write_text(license_text)
    with pytest.raises(Refused, match="changed: 'LICENSE', changed: 'chat_template.jinja'"):
        model_signature.verify(at.model, bundle, [at.builder])


@pytest.mark.parametrize("way", ["sign", "verify"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: (m / "link.json").symlink_to(m / "LICENSE"), "'link.json' is a link"),
        (lambda m: (m / "up").symlink_to(m.parent), "'up' is a link"),
        (lambda m: os.mkfifo(m / "pipe.json"), "'pipe.json' is a link or a device"),
        (lambda m: (m / "adapter_model.bin").touch(), "'adapter_model.bin' may run code"),
        (lambda m: (m / "tokenizer" / "x.py").touch(), "'tokenizer/x.py' may run code"),
        (lambda m: (m / "model.pkl").touch(), "'model.pkl' may run code"),
        (lambda m: (m / "model.safetensors.pt").touch(), "may run code"),
        (lambda m: (m / "no_suffix").touch(), "'no_suffix' may run code"),
        (
            lambda m: (m / "config.json").write_text('{"auto_map": {"AutoModel": "e.M"}}'),
            "'config.json' asks to run the model's own code: auto_map",
        ),
        (
            lambda m: (m / "config.json").write_text('{"a": [{"trust_remote_code": true}]}'),
            "own code: trust_remote_code",
        ),
        (
            lambda m: (m / "preprocessor_config.json").write_text('{"auto_map": {"A": "e.M"}}'),
            "'preprocessor_config.json' asks",
        ),
        (lambda m: (m / "config.json").write_text("[" * 100_000), "'config.json' is not JSON"),
    ],
)
def test_what_could_run_code_is_refused(
    way: str, make: Callable[[Path], object], message: str, at: Setting
) -> None:
    bundle = model_signature.sign(at.model, at.key)
    make(at.model)
    with pytest.raises(Refused, match=message):
        if way == "sign":
            model_signature.sign(at.model, at.key)
        else:
            model_signature.verify(at.model, bundle, [at.builder])


def test_a_link_in_place_of_a_signed_file_is_refused(at: Setting) -> None:
    bundle = model_signature.sign(at.model, at.key)
    moved = at.model.parent / "weights"
    (at.model / "adapter_model.safetensors").rename(moved)
    (at.model / "adapter_model.safetensors").symlink_to(moved)
    with pytest.raises(Refused, match="is a link"):
        model_signature.verify(at.model, bundle, [at.builder])


def test_an_empty_or_absent_folder_is_no_model(at: Setting, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="there is no model"):
        model_signature.sign(tmp_path / "empty", at.key)
    with pytest.raises(Refused, match="none: cannot be read: No such file"):
        model_signature.sign(tmp_path / "none", at.key)


def test_another_key_is_refused(at: Setting) -> None:
    bundle = model_signature.sign(at.model, at.mallorys_key)
    with pytest.raises(Refused, match="only these count: builder"):
        model_signature.verify(at.model, bundle, [at.builder])
    bundle["verificationMaterial"]["publicKey"]["hint"] = at.builder.key_id
    with pytest.raises(Refused, match="the signature is not builder"):
        model_signature.verify(at.model, bundle, [at.builder])


def test_a_forged_list_of_files_is_refused(at: Setting) -> None:
    bundle = model_signature.sign(at.model, at.key)
    _flip(at.model)
    forged = model_signature.sign(at.model, at.mallorys_key)
    bundle["dsseEnvelope"]["payload"] = forged["dsseEnvelope"]["payload"]
    with pytest.raises(Refused, match="it or what it covers was changed"):
        model_signature.verify(at.model, bundle, [at.builder])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"method":"files"', '"method":"shards"'),
        ('"hash_type":"sha256"', '"hash_type":"blake2b"'),
        ('"algorithm":"sha256"', '"algorithm":"md5"'),
        ('"name":"LICENSE"', '"name":"chat_template.jinja"'),
        ('"resources"', '"rest"'),
        ('"subject":[{"digest":{"sha256":"', '"subject":[{"digest":{"sha256":"0'),
    ],
)
def test_lists_in_other_forms_are_refused(old: str, new: str, at: Setting) -> None:
    bundle = model_signature.sign(at.model, at.key)
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).decode()
    assert old in payload
    other = payload.replace(old, new).encode()
    signature = at.key.sign(seal.signed_bytes(other), seal.ALGORITHM)
    bundle["dsseEnvelope"] |= {
        "payload": base64.b64encode(other).decode(),
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    with pytest.raises(Refused, match="no list of files with one SHA-256 each"):
        model_signature.verify(at.model, bundle, [at.builder])


def test_a_signature_on_anything_else_is_none_on_a_model(at: Setting) -> None:
    bundle = seal.sign(at.model / "LICENSE", seal.PREDICATE_PREFIX + "bom/v1", {}, at.key)
    with pytest.raises(Refused, match="not a 'https://model_signing"):
        model_signature.verify(at.model, bundle, [at.builder])


def test_the_stock_tool_verifies_what_we_sign(at: Setting, tmp_path: Path) -> None:
    from model_signing import verifying

    signature, public_key = tmp_path / "model.sig", tmp_path / "builder.pub.pem"
    seal.write(model_signature.sign(at.model, at.key), signature)
    command = [sys.executable, "-m", "model_signing", "verify", "key", at.model]
    command += ["--signature", signature, "--public_key", public_key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Verification succeeded" in done.stdout) == (0, True), done
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    verifier.verify(at.model, signature)
    _flip(at.model)
    with pytest.raises(ValueError, match="Hash mismatch for .*adapter_model.safetensors"):
        verifier.verify(at.model, signature)


def test_we_verify_what_the_stock_library_signs(at: Setting, tmp_path: Path) -> None:
    from model_signing import signing

    signature = tmp_path / "model.sig"
    signer = signing.Config().use_elliptic_key_signer(private_key=at.key_path)
    signer.sign(at.model, signature)
    bundle = seal.read(signature)
    signed = model_signature.verify(at.model, bundle, [at.builder])
    assert signed.signer == at.builder
    ours = model_signature.sign(at.model, at.key)
    theirs = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    same = json.loads(base64.b64decode(ours["dsseEnvelope"]["payload"]))
    assert theirs["subject"] == same["subject"]
    assert theirs["predicate"]["resources"] == same["predicate"]["resources"]
    assert bundle["verificationMaterial"]["publicKey"] == {"hint": at.builder.key_id}
    _flip(at.model)
    with pytest.raises(Refused, match="changed: 'adapter_model.safetensors'"):
        model_signature.verify(at.model, bundle, [at.builder])
