"""Signatures on model folders in the format of OpenSSF Model Signing, for weights without code.

The stock `model_signing` verifies what is signed here, and the reverse. Keep the bundle beside the
folder, not in it. Load only a folder that nobody else can write to: what changes between `verify`
and loading is not seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import JsonValue

from pipelines.core.errors import Refused
from pipelines.core.json_lines import MAX_SHOWN
from pipelines.core.paths import shown
from pipelines.governance import seal
from pipelines.governance.keys import PrivateKey, PublicKey
from pipelines.governance.seal import Bundle, Signed

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SERIALIZATION: dict[str, JsonValue] = {
    "method": "files", "hash_type": "sha256", "allow_symlinks": False,
}  # fmt: skip

DATA_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".md", ".model", ".jinja", ".tiktoken"})
DATA_NAMES = frozenset({"LICENSE", "NOTICE"})
CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "custom_generate", "trust_remote_code"})
"""Keys of configs that make a loader run code which comes with the model."""


def sign(folder: Path, key: PrivateKey) -> Bundle:
    """Sign every file of a model.

    Args:
        folder: weights, configs and tokenizer.
        key: the builder's.

    Raises:
        Refused: as `check_files`.
    """
    digests = _digests(check_files(folder))
    resources: list[JsonValue] = [
        {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
    ]
    predicate: dict[str, JsonValue] = {"resources": resources, "serialization": SERIALIZATION}
    name = folder.resolve().name
    return seal.sign_digests({name: _root(digests)}, PREDICATE_TYPE, predicate, key)


def verify(folder: Path, bundle: Mapping[str, Any], public_keys: Iterable[PublicKey]) -> Signed:
    """Say who signed a model, if it is byte for byte what was signed.

    Args:
        folder: the model.
        bundle: from `sign`, or from the stock tool; not trusted.
        public_keys: the builders'.

    Returns:
        The signer, the model's name with its root digest, and the list of files.

    Raises:
        Refused: another key, a changed, added, renamed or missing file, or as `check_files`.
    """
    signed = seal.opened(bundle, public_keys, PREDICATE_TYPE)
    expected = _expected(signed)
    found = _digests(check_files(folder))
    problems = [
        *(f"changed: {n!r}" for n in expected if n in found and expected[n] != found[n]),
        *(f"missing: {n!r}" for n in expected if n not in found),
        *(f"added: {n!r}" for n in found if n not in expected),
    ]
    if problems:
        more = f" and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise Refused(
            f"{shown(folder)}: not the model that {signed.signer} signed: "
            f"{', '.join(problems[:MAX_SHOWN])}{more}; do not load it"
        )
    return signed


def check_files(folder: Path, links_into: Path | None = None) -> dict[str, Path]:
    """The files of a model by name, if none of them can bring code with it.

    Args:
        folder: the model.
        links_into: folder of files that links may lead to, such as the blobs of the hub's cache;
            None = there may be no links.

    Raises:
        Refused: no files, a link or device, a file type that is not plain data, or a config that
            asks for code of its own.
    """
    root = folder.resolve()
    files: dict[str, Path] = {}
    for parent, folders, names in os.walk(root, onerror=_unreadable):
        for path in (Path(parent, name) for name in [*folders, *names]):
            where = f"{shown(folder)}: {path.relative_to(root).as_posix()!r}"
            if not _is_plain(path, links_into):
                raise Refused(f"{where} is a link or a device; a model must be plain files")
            if path.is_dir():
                continue
            if path.suffix not in DATA_SUFFIXES and path.name not in DATA_NAMES:
                allowed = ", ".join(sorted(DATA_SUFFIXES))
                raise Refused(f"{where} may run code when it is loaded; only {allowed} are data")
            if path.suffix == ".json" and "config" in path.name:
                _check_config(path, where)
            files[path.relative_to(root).as_posix()] = path
    if not files:
        raise Refused(f"{shown(folder)}: there is no model: the folder is absent or empty")
    return dict(sorted(files.items(), key=lambda item: PurePosixPath(item[0])))


def _is_plain(path: Path, links_into: Path | None) -> bool:
    if path.is_symlink():
        inside = links_into is not None and path.resolve().is_relative_to(links_into.resolve())
        return inside and path.is_file()
    return path.is_file() or path.is_dir()


def _unreadable(error: OSError) -> None:
    raise Refused(f"{error.filename}: cannot be read: {error.strerror}")


def _check_config(path: Path, where: str) -> None:
    try:
        nodes = [json.loads(path.read_bytes())]
    except (OSError, ValueError, RecursionError):
        raise Refused(f"{where} is not JSON") from None
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            if asked := sorted(key for key in CODE_KEYS if node.get(key)):
                raise Refused(f"{where} asks to run the model's own code: {', '.join(asked)}")
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file; hashing releases the interpreter, so threads share the cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(files, pool.map(seal.sha256_of, files.values()), strict=True))


def _root(digests: Mapping[str, str]) -> str:
    """The digest that stands for the whole model."""
    return hashlib.sha256(b"".join(bytes.fromhex(d) for d in digests.values())).hexdigest()


def _expected(signed: Signed) -> dict[str, str]:
    try:
        serialization = signed.predicate["serialization"]
        resources = signed.predicate["resources"]
        digests = {each["name"]: each["digest"] for each in resources}
        if (
            {each["algorithm"] for each in resources} != {"sha256"}
            or (serialization["method"], serialization["hash_type"]) != ("files", "sha256")
            or list(signed.subjects.values()) != [_root(digests)]
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise Refused(
            f"what {signed.signer} signed is no list of files with one SHA-256 each; sign the "
            "model again with the method `files`"
        ) from None
    return digests
