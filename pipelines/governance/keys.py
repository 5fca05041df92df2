"""Keys of people and machines: made, loaded, and the list of those whose signatures count."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import textwrap
from collections import Counter
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError, field_validator, model_validator

from pipelines.core.config import read_yaml
from pipelines.core.errors import ConfigError, Refused, UserError
from pipelines.core.paths import ROOT, shown
from pipelines.core.records import Record

PrivateKey = ec.EllipticCurvePrivateKey

TRUSTED_KEYS = ROOT / "configs" / "policies" / "trusted_keys.yaml"
PASSPHRASE_ENV = "FREEHOLD_KEY_PASSPHRASE"  # noqa: S105 the name of a variable
"""Environment variable that encrypts and decrypts private keys, where it is set."""
MAX_PEM_BYTES = 16_384
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"
ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class PublicKey(Record):
    """One key that signatures can be checked with."""

    name: str = Field(pattern=NAME)
    """The person or machine that holds the private half."""
    public_key: str
    """PEM of an EC P-256 key."""

    @field_validator("public_key")
    @classmethod
    def _is_p256(cls, pem: str) -> str:
        if "PRIVATE KEY" in pem:
            raise ValueError("this is a private key: it has been seen, so make another one")
        try:
            key = serialization.load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("not a public key in PEM form") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError("not an EC P-256 key; scripts/keys makes one")
        return _pem(key)

    @property
    def key_id(self) -> str:
        """SHA-256 of the PEM, in hex: what `sha256sum` prints for the file of the public key."""
        return hashlib.sha256(self.public_key.encode()).hexdigest()

    @property
    def ec_key(self) -> ec.EllipticCurvePublicKey:
        """The key to verify with."""
        key = serialization.load_pem_public_key(self.public_key.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    def __str__(self) -> str:
        return f"{self.name} (key {self.key_id[:12]})"


class TrustedKey(PublicKey):
    """A key whose signatures count, for what and when."""

    roles: tuple[str, ...] = Field(min_length=1)
    """`builder` signs models and trails; any other role (`risk`, `data-protection`) approves."""
    valid_from: date
    valid_until: date
    """Last day, in UTC. Later, what the key signed has to be signed again with the next one."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if bad := [r for r in self.roles if not ROLE.fullmatch(r)]:
            raise ValueError(f"roles are lower-case words with hyphens, not {bad}")
        if self.valid_until < self.valid_from:
            raise ValueError("valid_until is before valid_from")
        return self

    def is_valid(self, on: date) -> bool:
        """Whether its signatures count on a day, in UTC."""
        return self.valid_from <= on <= self.valid_until


class _TrustedKeys(Record):
    keys: tuple[TrustedKey, ...]

    @field_validator("keys", mode="before")
    @classmethod
    def _none_yet(cls, value: object) -> object:
        return () if value is None else value

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        # A key under two names would be two people's consent in one hand.
        counts = Counter(key.public_key for key in self.keys)
        if twice := sorted({key.name for key in self.keys if counts[key.public_key] > 1}):
            raise ValueError(f"the same key is listed twice: {', '.join(twice)}")
        return self


def trusted(path: Path = TRUSTED_KEYS) -> tuple[TrustedKey, ...]:
    """The keys whose signatures count.

    A name may stand there several times with other keys: that is how a key is replaced.

    Args:
        path: YAML with a list `keys`; `scripts/keys` prints its entries.

    Raises:
        ConfigError: no such file, or entries are wrong; lists them all.
    """
    try:
        return _TrustedKeys.model_validate(read_yaml(path)).keys
    except ValidationError as error:
        # The input is left out: somebody may have pasted a private key.
        problems = [
            f"{'.'.join(str(part) for part in each['loc']) or 'keys'}: "
            f"{each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_input=False, include_url=False)
        ]
    raise ConfigError(f"{shown(path)}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))


def with_role(keys: Iterable[TrustedKey], role: str, on: date) -> tuple[TrustedKey, ...]:
    """Those of `keys` that have a role and are valid on a day.

    Args:
        keys: from `trusted`.
        role: such as `builder`.
        on: a day in UTC; today, unless an old signature is looked into.

    Raises:
        Refused: there is none; says who has the role, and when.
    """
    having = [key for key in keys if role in key.roles]
    if valid := tuple(key for key in having if key.is_valid(on)):
        return valid
    spans = "; ".join(f"{key} from {key.valid_from} until {key.valid_until}" for key in having)
    raise Refused(
        f"no trusted key has the role {role!r} on {on}: {spans or 'nobody ever had it'}; make one "
        "with scripts/keys and list it among the trusted keys"
    )


def create(path: Path, passphrase_env: str = PASSPHRASE_ENV) -> PublicKey:
    """Make a key pair: the private half at `path`, the public one beside it as `NAME.pub.pem`.

    Args:
        path: such as `alice.pem`; created with mode 0600, never overwritten.
        passphrase_env: environment variable whose value encrypts the private key, if it is set.

    Raises:
        UserError: not such a name, one of the files exists, or it cannot be written.
    """
    public_path = path.with_suffix(".pub.pem")
    if path.suffix != ".pem" or not re.fullmatch(NAME, path.stem):
        raise UserError(f"{path.name!r}: a key file is named after its holder: alice.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    passphrase = os.environ.get(passphrase_env, "").encode()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )
    public = public_of(key, path.stem)
    try:
        if public_path.exists():
            raise FileExistsError
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(path, private, 0o600)
        _write_new(public_path, public.public_key.encode(), 0o644)
    except FileExistsError:
        raise UserError(
            f"{path} or {public_path.name} exists: keys are never overwritten; take another name"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return public


def load(source: str | Path, passphrase_env: str = PASSPHRASE_ENV) -> PrivateKey:
    """A private key to sign with.

    Args:
        source: path of a PEM file that only its owner can read, or `env:NAME` for an environment
            variable that holds the PEM.
        passphrase_env: environment variable with the passphrase of an encrypted key.

    Raises:
        UserError: it is absent, readable by others, encrypted otherwise, or no EC P-256 key. No
            part of the key or of the passphrase is ever in the message.
    """
    where = str(source)
    if "-----" in where or "\n" in where:
        raise UserError("give the path of a private key or env:NAME, not the key itself")
    if where.startswith("env:"):
        name = where.removeprefix("env:")
        if not ENV_NAME.fullmatch(name):
            raise UserError("env: must be followed by the name of an environment variable")
        pem = os.environ.get(name, "").encode()
        where = f"${name}"
        if not pem.strip():
            raise UserError(f"{where} is not set: it must hold a private key in PEM form")
    else:
        pem = _read_private(Path(source))
    passphrase = None
    if b"BEGIN ENCRYPTED" in pem:
        passphrase = os.environ.get(passphrase_env, "").encode()
        if not passphrase:
            raise UserError(f"{where} is encrypted: set ${passphrase_env} to its passphrase")
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = f", or ${passphrase_env} is not its passphrase" if passphrase else ""
        raise UserError(f"{where} holds no private key in PEM form{why}") from None
    if not isinstance(key, PrivateKey) or key.curve.name != "secp256r1":
        raise UserError(f"{where} is no EC P-256 key; scripts/keys makes one")
    return key


def public_of(key: PrivateKey, name: str) -> PublicKey:
    """The public half of a private key, under a name."""
    return PublicKey(name=name, public_key=_pem(key.public_key()))


def read_public(path: Path) -> PublicKey:
    """A public key from its PEM file, named like the file.

    Raises:
        UserError: no such file, or no EC P-256 public key.
    """
    try:
        pem = path.read_text(encoding="utf-8")
        return PublicKey(name=path.name.partition(".")[0], public_key=pem)
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{shown(path)}: no such file, or it cannot be read") from None
    except ValidationError as error:
        message = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise UserError(f"{shown(path)}: {message.removeprefix('Value error, ')}") from None


def as_entry(key: TrustedKey) -> str:
    """The key as an entry of the list in the file of trusted keys, in YAML."""
    return (
        f"  - name: {key.name}\n"
        f"    roles: [{', '.join(key.roles)}]\n"
        f"    valid_from: {key.valid_from}\n"
        f"    valid_until: {key.valid_until}\n"
        f"    public_key: |\n{textwrap.indent(key.public_key, ' ' * 6)}"
    )


def _pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            pem = file.read(MAX_PEM_BYTES)
    except OSError as error:
        raise UserError(f"{path}: no private key can be read there: {error.strerror}") from None
    if mode & 0o077:
        raise UserError(f"{path}: others can read this private key; chmod 600 it")
    return pem
