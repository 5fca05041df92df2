"""The audit trail: one line per decision, each chained to the one before, anchored by signatures.

A line is JSON; its `digest` is the SHA-256 of the line before that key, which includes the digest
of the previous line. So an edited, removed or re-ordered line breaks the chain. Who can write the
file could still cut its end or chain it anew: that is what anchors are for, signatures over the
newest line. Keep them in another store, and make one at each promotion and once a day.

The chain is our own because the one of the Agent Governance Toolkit authenticates lines with an
HMAC, so that whoever can verify can forge, leaves fields out of its hash, and breaks when two
processes write. Checking ours takes public keys only.

The file must be on a local disk (locks). `rotate` starts a new file that goes on with the chain;
the full ones stay beside it as `NAME.1-5000.jsonl`, and must be there when the trail is verified.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import JsonValue

from pipelines.core.errors import Refused, UserError
from pipelines.core.json_lines import MAX_SHOWN
from pipelines.core.paths import shown
from pipelines.core.records import Record
from pipelines.governance import seal
from pipelines.governance.keys import PrivateKey, PublicKey, public_of
from pipelines.governance.seal import Bundle

ANCHOR = seal.PREDICATE_PREFIX + "trail-anchor/v1"
MAX_LINE_BYTES = 16_384
GENESIS = "0" * 64
"""What stands for the digest before the first line."""
END_OF_LINE = len(',"digest":""}\n') + len(GENESIS)
KIND = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*")

ANCHORED = "trail.anchored"
DAMAGED = "trail.damaged"
"""Follows bytes that are no line, such as half of one that a kill cut off."""
REWOUND = "trail.rewound"
"""The trail had become shorter since this process last wrote to it."""
ROTATED = "trail.rotated"


@dataclass(frozen=True)
class Entry:
    """One line."""

    seq: int
    """1 for the first line of the trail, and so on through all its files."""
    at: str
    """UTC, ISO 8601, by the clock of the machine that wrote it."""
    kind: str
    fields: dict[str, Any]
    previous: str
    """Digest of the line before."""
    digest: str


class TrailReport(Record):
    """What a check of a trail found."""

    files: tuple[str, ...]
    entries: int
    anchored: int
    """Lines 1 to this one are as they were signed; 0 = none. Later ones rest on the chain alone."""
    first_at: str | None
    last_at: str | None
    problems: tuple[str, ...]
    """Signs that the trail was changed; none if it holds."""
    notes: tuple[str, ...]
    """What is odd and explained, such as a line that a kill cut off."""

    @property
    def ok(self) -> bool:
        """True when nothing speaks against the trail."""
        return not self.problems


class Trail:
    """An append-only file that several processes and threads may write to at once."""

    def __init__(
        self,
        path: Path,
        durable: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Nothing is written until the first entry.

        Args:
            path: such as `audit/trail.jsonl`.
            durable: force every line to the disk, for milliseconds each. Otherwise `anchor` does,
                and a power cut, but no kill, may lose the lines since.
            now: the clock.
        """
        self.path = path
        self._durable = durable
        self._now = now
        self._last: Entry | None = None

    def append(self, kind: str, /, **fields: JsonValue) -> Entry:
        """Add one line; it survives a kill when this returns.

        Args:
            kind: what happened, such as `promotion`; `trail.` is for the trail itself.
            fields: digests, names and figures; never content or secrets.

        Raises:
            ValueError: not a kind, no JSON, or a line above 16 KiB.
            UserError: the file cannot be written.
        """
        if not KIND.fullmatch(kind) or kind.startswith("trail."):
            raise ValueError(f"not a kind of entry: {kind!r}")
        with self._locked() as file:
            return self._add(file, kind, fields)

    def anchor(self, key: PrivateKey) -> Bundle:
        """Add a line and sign it, and with it all lines before.

        Args:
            key: a builder's.

        Returns:
            A bundle to keep in another store than the trail's.

        Raises:
            UserError: the file cannot be written.
        """
        with self._locked() as file:
            entry = self._add(file, ANCHORED, {"key": public_of(key, "signer").key_id})
            os.fsync(file.fileno())
        predicate: dict[str, JsonValue] = {"entries": entry.seq, "at": entry.at}
        return seal.sign_digests({self.path.name: entry.digest}, ANCHOR, predicate, key)

    def rotate(self) -> Path:
        """Set the file aside and go on in a new one, with the same chain.

        Returns:
            Where the lines so far are now; move it only together with the trail.

        Raises:
            UserError: there is no line yet, or a file cannot be written.
        """
        with self._locked() as file:
            last, lines = self._mended(file)
            if last is None:
                raise UserError(f"{shown(self.path)}: there is no line to set aside")
            self._write(file, lines)
            with self.path.open("rb") as start:
                first = next(entry for _, entry in _pieces(start, _size(start)) if entry)
            aside = self.path.with_name(
                f"{self.path.stem}.{first.seq}-{last.seq}{self.path.suffix}"
            )
            fresh = self.path.with_name(f".{self.path.name}.new")
            # The path never stands empty between the two: another process would start anew there.
            fresh.unlink(missing_ok=True)
            with _opened(fresh) as new:
                self._write(new, _line(last, self._now(), ROTATED, {"from": aside.name}))
                os.fsync(new.fileno())
            os.link(self.path, aside)
            fresh.rename(self.path)
        return aside

    @contextmanager
    def _locked(self) -> Generator[IO[bytes]]:
        """The file, while no one else may write to it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                with _opened(self.path) as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    # Another process may have rotated it while we waited.
                    if not _is_at(file, self.path):
                        continue
                    yield file
                    return
        except OSError as error:
            raise UserError(
                f"{shown(self.path)}: the audit trail cannot be written: {error.strerror}; nothing "
                "goes on without it"
            ) from error

    def _newest(self, file: IO[bytes]) -> tuple[Entry | None, bytes, bytes]:
        """The last whole line, the bytes after it that are none, the newline that is missing."""
        size = _size(file)
        start = max(0, size - 2 * MAX_LINE_BYTES)
        while True:
            tail = os.pread(file.fileno(), size - start, start)
            newline = b"\n" if tail and not tail.endswith(b"\n") else b""
            end = len(tail + newline)
            while end > 0:
                begin = tail.rfind(b"\n", 0, end - 1) + 1
                if entry := _entry((tail + newline)[begin:end]):
                    return entry, tail[end:], newline
                end = begin
            if start == 0:
                return None, tail, newline
            start = 0

    def _mended(self, file: IO[bytes]) -> tuple[Entry | None, bytes]:
        """The line to go on from, and lines to write before: evidence of what is wrong."""
        last, rest, lines = self._newest(file)
        evidence: list[tuple[str, dict[str, JsonValue]]] = []
        if rest:
            evidence.append((DAMAGED, {"bytes": len(rest), "sha256": seal.sha256_of(rest)}))
        if self._last and (last is None or last.seq < self._last.seq):
            evidence.append((REWOUND, {"seq": self._last.seq, "digest": self._last.digest}))
        for kind, fields in evidence:
            line = _line(last, self._now(), kind, fields)
            lines += line
            last = _entry(line)
        return last, lines

    def _add(self, file: IO[bytes], kind: str, fields: Mapping[str, JsonValue]) -> Entry:
        last, lines = self._mended(file)
        line = _line(last, self._now(), kind, fields)
        self._write(file, lines + line)
        entry = self._last = _entry(line)
        assert entry is not None
        return entry

    def _write(self, file: IO[bytes], lines: bytes) -> None:
        while lines:
            lines = lines[file.write(lines) :]
        if self._durable:
            os.fsync(file.fileno())


def verify(
    path: Path, anchors: Iterable[Mapping[str, Any]], public_keys: Iterable[PublicKey]
) -> TrailReport:
    """Check a trail; others may go on writing to it.

    Args:
        path: the newest file; those that were set aside are found beside it.
        anchors: bundles from `Trail.anchor`; not trusted.
        public_keys: those whose anchors count.

    Returns:
        What was found; nothing is raised for a trail that does not hold.
    """
    problems: list[str] = []
    notes: list[str] = []
    keys = tuple(public_keys)
    wanted = _wanted(anchors, keys, problems)
    given, n_unread = set(wanted), len(problems)
    listed: set[int] = set()
    files = _files(path)
    anchored = 0
    last: Entry | None = None
    first_at = None
    if not files:
        problems.append(f"{shown(path)}: there is no trail")
    for each in files:
        with each.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            size = _size(file)
            fcntl.flock(file, fcntl.LOCK_UN)
            rest = b""
            for piece, entry in _pieces(file, size):
                where = f"{shown(each)}, after entry {last.seq if last else 0}"
                if entry is None:
                    rest += piece
                    continue
                if rest:
                    _explain(rest, entry, where, problems, notes)
                    rest = b""
                if (entry.seq, entry.previous) != _link(last):
                    problems.append(f"{where}: entry {entry.seq} does not follow")
                if entry.kind == REWOUND:
                    problems.append(
                        f"{where}: entries up to {entry.fields.get('seq')} were cut off"
                    )
                if last and entry.at < last.at:
                    notes.append(f"{where}: the clock went back from {last.at} to {entry.at}")
                if entry.kind == ANCHORED:
                    listed.add(entry.seq)
                for digest in wanted.pop(entry.seq, ()):
                    if digest != entry.digest:
                        problems.append(f"{where}: entry {entry.seq} differs from its anchor")
                    elif len(problems) == n_unread:
                        anchored = entry.seq
                first_at = first_at or entry.at
                last = entry
            if rest:
                problems.append(
                    f"{shown(each)}: ends with {len(rest)} bytes that are no line; if a kill cut "
                    "it off, the next entry will say so"
                )
    for seq in sorted(wanted):
        problems.append(f"{shown(path)}: an anchor covers entry {seq}, which is not there")
    if absent := len(listed - given):
        notes.append(f"{absent} of the {len(listed)} anchors that the trail lists were not given")
    return TrailReport(
        files=tuple(each.name for each in files),
        entries=last.seq if last else 0,
        anchored=anchored,
        first_at=first_at,
        last_at=last.at if last else None,
        problems=_first(problems),
        notes=_first(notes),
    )


def read(path: Path) -> Iterator[Entry]:
    """The lines of a trail and of the files that were set aside, in order; nothing is checked."""
    for each in _files(path):
        with each.open("rb") as file:
            yield from (entry for _, entry in _pieces(file, _size(file)) if entry)


def _line(last: Entry | None, now: datetime, kind: str, fields: Mapping[str, JsonValue]) -> bytes:
    seq, previous = _link(last)
    at = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    body = {"seq": seq, "at": at, "kind": kind, "fields": fields, "previous": previous}
    line = _closed(json.dumps(body, separators=(",", ":"), allow_nan=False).encode()[:-1])
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"an entry of {len(line)} bytes: the trail takes digests, not content")
    return line


def _link(last: Entry | None) -> tuple[int, str]:
    """Number of the line after `last` and the digest it must name."""
    return (last.seq + 1, last.digest) if last else (1, GENESIS)


def _entry(line: bytes) -> Entry | None:
    """The entry in a line, newline included; None when it is none, or its digest does not fit."""
    body = line[:-END_OF_LINE]
    if line != _closed(body):
        return None
    try:
        entry = Entry(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (entry.at, entry.kind, entry.previous, entry.digest)
    typed = type(entry.seq) is int and isinstance(entry.fields, dict)
    return entry if typed and all(isinstance(text, str) for text in texts) else None


def _closed(body: bytes) -> bytes:
    """The whole line, given all of it that goes into its digest."""
    return b'%s,"digest":"%s"}\n' % (body, hashlib.sha256(body).hexdigest().encode())


def _pieces(file: IO[bytes], size: int) -> Iterator[tuple[bytes, Entry | None]]:
    """Each line up to `size` bytes, and the entry in it; long garbage comes in parts."""
    left = size
    while left > 0 and (line := file.readline(min(left, 2 * MAX_LINE_BYTES))):
        left -= len(line)
        yield line, _entry(line)


def _explain(rest: bytes, entry: Entry, where: str, problems: list[str], notes: list[str]) -> None:
    """Tell what a kill cut off from what was changed."""
    lost = {"bytes": len(rest), "sha256": seal.sha256_of(rest)}
    cut = {"bytes": len(rest) - 1, "sha256": seal.sha256_of(rest[:-1])}
    if entry.kind == DAMAGED and entry.fields == cut:
        notes.append(f"{where}: a line was cut off ({len(rest) - 1} bytes), and the next says so")
    elif entry.kind == DAMAGED and entry.fields == lost:
        problems.append(f"{where}: {len(rest)} bytes are no line; found when the next was written")
    else:
        problems.append(f"{where}: {len(rest)} bytes were changed or put in")


def _wanted(
    anchors: Iterable[Mapping[str, Any]], keys: tuple[PublicKey, ...], problems: list[str]
) -> dict[int, set[str]]:
    """Number of an entry -> digests that good anchors say it has."""
    wanted: dict[int, set[str]] = {}
    for number, bundle in enumerate(anchors, start=1):
        try:
            signed = seal.opened(bundle, keys, ANCHOR)
            wanted.setdefault(int(signed.predicate["entries"]), set()).update(
                signed.subjects.values()
            )
        except Refused as error:
            problems.append(f"anchor {number}: {error}")
        except (KeyError, TypeError, ValueError):
            problems.append(f"anchor {number}: says nothing about a trail")
    return wanted


def _files(path: Path) -> list[Path]:
    """The files of a trail, oldest first."""
    form = re.compile(re.escape(path.stem) + r"\.([0-9]+)-([0-9]+)" + re.escape(path.suffix))
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    aside = [(int(match[1]), each) for each in beside if (match := form.fullmatch(each.name))]
    files = [*(each for _, each in sorted(aside)), *([path] if path.is_file() else [])]
    # A kill in the midst of `rotate` leaves one file under two names.
    return list({(each.stat().st_dev, each.stat().st_ino): each for each in files}.values())


def _first(lines: list[str]) -> tuple[str, ...]:
    more = [f"... and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return (*lines[:MAX_SHOWN], *more)


def _opened(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size
