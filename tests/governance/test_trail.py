"""The audit trail: changes are noticed, several processes write it, a kill spoils nothing."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.core.errors import UserError
from pipelines.governance import keys, trail
from pipelines.governance.trail import Trail

KEY = ec.generate_private_key(ec.SECP256R1())
BUILDER = keys.public_of(KEY, "builder")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
WRITER = """
import sys
import time
from pathlib import Path
from pipelines.governance.trail import Trail
trail = Trail(Path(sys.argv[1]))
trail.append("ready")
while not Path(sys.argv[1]).with_name("go").exists():
    time.sleep(0.001)
for number in range(int(sys.argv[2])):
    trail.append("call", writer=sys.argv[3], number=number)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trail.jsonl"


def filled(path: Path, n: int = 5) -> Trail:
    written = Trail(path)
    for number in range(1, n + 1):
        written.append("call", number=number)
    return written


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def check(path: Path, *anchors: dict[str, object]) -> trail.TrailReport:
    return trail.verify(path, anchors, [BUILDER])


@contextmanager
def writers(path: Path, n: int, *names: str) -> Generator[list[subprocess.Popen[bytes]]]:
    """Other processes that each add `n` lines, once all of them are there."""
    others = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(n), name]) for name in names
    ]
    deadline = time.monotonic() + 60
    while len(list(trail.read(path))) < len(others) and time.monotonic() < deadline:
        time.sleep(0.01)
    path.with_name("go").touch()
    yield others
    for other in others:
        other.wait()


def test_a_line_is_hand_computed(path: Path) -> None:
    clock = iter([NOON, NOON + timedelta(seconds=1.5)])
    written = Trail(path, now=lambda: next(clock))
    written.append("promotion", model="support", version=3)
    written.append("refusal")
    body = (
        '{"seq":1,"at":"2026-11-22T12:00:00.000000Z","kind":"promotion",'
        f'"fields":{{"model":"support","version":3}},"previous":"{"0" * 64}"'
    )
    digest = hashlib.sha256(body.encode()).hexdigest()
    first = f'{body},"digest":"{digest}"}}\n'
    body = (
        '{"seq":2,"at":"2026-11-22T12:00:01.500000Z","kind":"refusal",'
        f'"fields":{{}},"previous":"{digest}"'
    )
    second = f'{body},"digest":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n'
    assert path.read_text() == first + second
    assert [entry.fields for entry in trail.read(path)] == [{"model": "support", "version": 3}, {}]
    report = check(path)
    assert report.ok
    assert (report.entries, report.anchored) == (2, 0)
    assert report.first_at == "2026-11-22T12:00:00.000000Z"
    assert report.last_at == "2026-11-22T12:00:01.500000Z"


def test_an_anchor_covers_the_lines_before_it_and_the_trail_may_grow(path: Path) -> None:
    written = filled(path)
    anchor = written.anchor(KEY)
    written.append("call", number=6)
    report = check(path, anchor)
    assert (report.ok, report.entries, report.anchored, report.notes) == (True, 7, 6, ())
    assert path.stat().st_mode & 0o777 == 0o600


def _rechained(old: list[bytes], start: int, renumber: bool = True) -> list[bytes]:
    """All lines from `start` (0-based) on with new digests: what a careful forger does."""
    new = old[:start]
    previous = json.loads(old[start - 1])["digest"]
    for seq, line in enumerate(old[start:], start=start + 1):
        body = json.loads(line) | {"previous": previous}
        body["seq"] = seq if renumber else body["seq"]
        del body["digest"]
        text = json.dumps(body, separators=(",", ":")).encode()[:-1]
        previous = hashlib.sha256(text).hexdigest()
        new.append(text + f',"digest":"{previous}"}}\n'.encode())
    return new


def _edited(old: list[bytes], index: int) -> list[bytes]:
    new = list(old)
    new[index] = old[index].replace(b'"number":', b'"number":9')
    assert new != old
    return new


# Lines: 1 to 5 are calls, 6 is the anchor, 7 a call after it.
SEEN_WITHOUT_ANCHOR: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    **{f"edit_{n + 1}": lambda old, n=n: _edited(old, n) for n in (0, 2, 4, 6)},
    "remove_first": lambda old: old[1:],
    "remove_inner": lambda old: [*old[:2], *old[3:]],
    "swap": lambda old: [*old[:1], old[2], old[1], *old[3:]],
    "repeat": lambda old: [*old[:3], old[2], *old[3:]],
    "insert": lambda old: [*old[:3], b'{"kind":"approval"}\n', *old[3:]],
    "blank": lambda old: [*old[:3], b"\n", *old[3:]],
    "spaces": lambda old: [*old[:3], old[3].replace(b",", b", "), *old[4:]],
    "remove_and_chain_but_not_renumber": lambda old: _rechained([*old[:2], *old[3:]], 2, False),
    "cut_in_line": lambda old: [*old[:-1], old[-1][:-9]],
    "garbage_end": lambda old: [*old, b"x" * 200_000],
    "edit_and_chain_one": lambda old: [*_rechained(_edited(old, 2)[:3], 2), *old[3:]],
}
SEEN_WITH_ANCHOR: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "cut_tail": lambda old: old[:4],
    "cut_to_before_anchor": lambda old: old[:5],
    "empty": lambda _: [],
    "edit_and_chain": lambda old: _rechained(_edited(old, 2), 2),
    "remove_and_chain": lambda old: _rechained([*old[:2], *old[3:]], 2),
}


@pytest.mark.parametrize("attack", list(SEEN_WITHOUT_ANCHOR))
def test_the_chain_alone_shows_what_was_changed(attack: str, path: Path) -> None:
    written = filled(path)
    written.anchor(KEY)
    written.append("call", number=7)
    assert check(path).ok
    path.write_bytes(b"".join(SEEN_WITHOUT_ANCHOR[attack](lines(path))))
    assert not check(path).ok


def test_an_anchor_does_not_vouch_for_a_broken_chain(path: Path) -> None:
    anchor = filled(path).anchor(KEY)
    path.write_bytes(b"".join(_edited(lines(path), 2)))
    report = check(path, anchor)
    assert not report.ok
    assert report.anchored == 0


@pytest.mark.parametrize("attack", list(SEEN_WITH_ANCHOR))
def test_an_anchor_shows_what_the_chain_cannot(attack: str, path: Path) -> None:
    written = filled(path)
    anchor = written.anchor(KEY)
    written.append("call", number=7)
    assert check(path, anchor).ok
    path.write_bytes(b"".join(SEEN_WITH_ANCHOR[attack](lines(path))))
    report = check(path, anchor)
    assert any("anchor" in problem for problem in report.problems)
    assert report.anchored == 0


def test_a_forger_who_chains_anew_is_stopped_by_the_anchor_only(path: Path) -> None:
    written = filled(path)
    anchor = written.anchor(KEY)
    path.write_bytes(b"".join(_rechained(_edited(lines(path), 2), 2)))
    assert check(path).ok
    report = check(path, anchor)
    assert "after entry 5: entry 6 differs from its anchor" in report.problems[0]
    assert report.anchored == 0


def test_a_deleted_trail_is_noticed(path: Path) -> None:
    anchor = filled(path).anchor(KEY)
    path.unlink()
    problems = check(path, anchor).problems
    assert "there is no trail" in problems[0]
    assert "an anchor covers entry 6, which is not there" in problems[1]


def test_anchors_count_only_with_a_known_key_and_for_this_trail(path: Path) -> None:
    written = filled(path)
    mallory = ec.generate_private_key(ec.SECP256R1())
    assert "anchor 1: signed with key" in check(path, written.anchor(mallory)).problems[0]
    forged = copy.deepcopy(written.anchor(KEY))
    forged["dsseEnvelope"]["payload"] = written.anchor(mallory)["dsseEnvelope"]["payload"]
    assert "anchor 1: the signature is not builder" in check(path, forged).problems[0]
    other = filled(path.with_name("other.jsonl")).anchor(KEY)
    assert "entry 6 differs from its anchor" in check(path, other).problems[0]


def test_anchors_that_were_not_given_are_noted(path: Path) -> None:
    written = filled(path)
    written.anchor(KEY)
    report = check(path, written.anchor(KEY))
    assert report.ok
    assert report.notes == ("1 of the 2 anchors that the trail lists were not given",)


@pytest.mark.parametrize("cut", [2, 3, 40, 130, 200])
def test_half_a_line_is_noticed_kept_and_survived(cut: int, path: Path) -> None:
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert "bytes that are no line" in check(path).problems[0]
    Trail(path).append("call", number=6)
    assert path.read_bytes().startswith(whole[:-cut] + b"\n")
    report = check(path)
    assert report.ok
    assert len(report.notes) == 1
    assert "a line was cut off" in report.notes[0]
    assert [e.kind for e in trail.read(path)] == ["call"] * 4 + ["trail.damaged", "call"]


def test_a_line_that_lacks_only_its_end_is_whole(path: Path) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size - 1)
    Trail(path).append("call", number=6)
    report = check(path)
    assert (report.problems, report.notes, report.entries) == ((), (), 6)


@pytest.mark.parametrize("left", [1, 2, 60, -2, -1])
def test_a_kill_while_the_cut_is_written_down_is_survived(left: int, path: Path) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size - 20)
    before = path.stat().st_size
    Trail(path).append("call", number=6)
    evidence = lines(path)[5]
    assert b"trail.damaged" in evidence
    # `left` bytes of what was to be written: the newline, then the evidence.
    os.truncate(path, before + (left if left > 0 else 1 + len(evidence) + left))
    Trail(path).append("call", number=6)
    report = check(path)
    assert (report.entries, [e.kind for e in trail.read(path)][-2:]) == (
        6,
        ["trail.damaged", "call"],
    )
    # After the newline alone, it looks like a line that somebody changed.
    assert report.ok == (left != 1)


def test_zeros_after_a_power_cut_are_survived(path: Path) -> None:
    filled(path)
    with path.open("ab") as file:
        file.write(bytes(100_000))
    Trail(path).append("call", number=6)
    report = check(path)
    assert (report.ok, report.entries) == (True, 7)
    assert "(100000 bytes)" in report.notes[0]


def test_a_changed_last_line_stays_a_problem_when_writing_goes_on(path: Path) -> None:
    filled(path)
    path.write_bytes(b"".join(_edited(lines(path), 4)))
    Trail(path).append("call", number=6)
    assert "are no line; found when the next was written" in check(path).problems[0]


def test_what_was_cut_off_cannot_be_passed_off_as_a_kill(path: Path) -> None:
    filled(path)
    Trail(path).append("call", number=6)
    os.truncate(path, path.stat().st_size - 20)
    Trail(path).append("call", number=7)
    path.write_bytes(path.read_bytes().replace(b'"number":6', b'"number":5'))
    assert "were changed or put in" in check(path).problems[0]


def test_a_running_process_remembers_what_others_cut_off(path: Path) -> None:
    written = filled(path)
    path.write_bytes(b"".join(lines(path)[:3]))
    assert check(path).ok
    written.append("call", number=6)
    assert "entries up to 5 were cut off" in check(path).problems[0]
    path.unlink()
    written.append("call", number=7)
    assert "entries up to 5 were cut off" in check(path).problems[0]


def test_entries_of_another_shape_are_no_entries(path: Path) -> None:
    filled(path, 1)
    for body in (
        b'{"seq":"2"',
        b'{"seq":2,"at":3,"kind":"call","fields":{},"previous":""',
        b'{"seq":2,"at":"","kind":"trail.rewound","fields":[],"previous":""',
        b'{"seq":2,"at":"","kind":"call","fields":{},"previous":"","more":1',
    ):
        line = b'%s,"digest":"%s"}\n' % (body, hashlib.sha256(body).hexdigest().encode())
        content = path.read_bytes()
        path.write_bytes(content + line)
        assert "bytes that are no line" in check(path).problems[0]
        path.write_bytes(content)


def test_a_clock_that_goes_back_is_noted(path: Path) -> None:
    clock = iter([NOON, NOON - timedelta(hours=1)])
    written = Trail(path, now=lambda: next(clock))
    written.append("call")
    written.append("call")
    report = check(path)
    assert report.ok
    assert "the clock went back from 2026-11-22T12:00" in report.notes[0]


def test_several_processes_and_threads_write_one_chain(path: Path) -> None:
    own = Trail(path)
    threads = [
        threading.Thread(target=lambda: [own.append("call", writer="t") for _ in range(150)])
        for _ in range(2)
    ]
    with writers(path, 150, "a", "b") as others:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [other.returncode for other in others] == [0, 0]
    report = check(path)
    assert (report.problems, report.entries) == ((), 2 * 151 + 2 * 150)


def test_a_forked_process_does_not_share_the_lock(path: Path) -> None:
    written = filled(path, 1)
    child = os.fork()
    for number in range(100):
        written.append("call", number=number)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    report = check(path)
    assert (report.problems, report.entries) == ((), 201)


def test_a_killed_writer_leaves_a_trail_that_goes_on(path: Path) -> None:
    deadline = time.monotonic() + 60
    with writers(path, 10**9, "a") as (process,):
        while path.stat().st_size < 50_000 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    Trail(path).append("call", number=1)
    report = check(path)
    assert report.ok
    assert report.entries > 100


def test_a_full_file_is_set_aside_and_the_chain_goes_on(path: Path) -> None:
    written = filled(path)
    first = written.anchor(KEY)
    aside = written.rotate()
    assert aside.name == "trail.1-6.jsonl"
    assert len(lines(path)) == 1
    written.append("call", number=6)
    second = written.anchor(KEY)
    assert written.rotate().name == "trail.7-9.jsonl"
    Trail(path).append("call", number=7)
    report = check(path, first, second)
    assert report.files == ("trail.1-6.jsonl", "trail.7-9.jsonl", "trail.jsonl")
    assert (report.problems, report.notes, report.entries) == ((), (), 11)
    assert [entry.seq for entry in trail.read(path)] == list(range(1, 12))
    aside.unlink()
    assert "trail.7-9.jsonl, after entry 0: entry 7 does not follow" in check(path).problems[0]


def test_half_a_line_is_written_down_before_a_file_is_set_aside(path: Path) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size - 20)
    assert Trail(path).rotate().name == "trail.1-5.jsonl"
    report = check(path)
    assert (report.problems, len(report.notes), report.entries) == ((), 1, 6)


def test_a_kill_in_the_midst_of_setting_aside_is_survived(path: Path) -> None:
    written = filled(path)
    os.link(path, path.with_name("trail.1-5.jsonl"))
    path.with_name(".trail.jsonl.new").write_bytes(b"half")
    written.append("call", number=6)
    assert check(path).ok
    assert written.rotate().name == "trail.1-6.jsonl"
    report = check(path)
    assert (report.problems, report.entries) == ((), 7)


def test_nothing_is_lost_when_a_file_is_set_aside_while_others_write(path: Path) -> None:
    own = Trail(path)
    with writers(path, 300, "a") as (process,):
        for number in range(300):
            own.append("call", number=number)
            if number % 30 == 29:
                own.rotate()
    assert process.returncode == 0
    report = check(path)
    assert (report.problems, report.entries) == ((), 301 + 300 + 10)
    assert len(report.files) == 11


def test_who_waited_while_the_file_was_set_aside_writes_to_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = filled(path)
    flock = fcntl.flock

    def set_aside_before(file: IO[bytes], how: int) -> None:
        monkeypatch.setattr(trail.fcntl, "flock", flock)
        written.rotate()
        flock(file, how)

    monkeypatch.setattr(trail.fcntl, "flock", set_aside_before)
    assert Trail(path).append("call", number=6).seq == 7
    assert [json.loads(line)["seq"] for line in lines(path)] == [6, 7]
    assert check(path).ok


def test_a_trail_without_lines_cannot_be_set_aside(path: Path) -> None:
    with pytest.raises(UserError, match="no line to set aside"):
        Trail(path).rotate()


def test_a_trail_that_cannot_be_written_stops_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: Is a directory; nothing goes on"):
        Trail(tmp_path).append("call")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot be written"):
        Trail(tmp_path / "link.jsonl").append("call")


@pytest.mark.parametrize("kind", ["", "Call", "a b", "trail.anchored", "a.", "x\n"])
def test_kinds_are_words_and_not_the_trails_own(kind: str, path: Path) -> None:
    with pytest.raises(ValueError, match="not a kind"):
        Trail(path).append(kind)


def test_content_and_what_is_no_json_stay_out(path: Path) -> None:
    written = filled(path, 1)
    with pytest.raises(ValueError, match="digests, not content"):
        written.append("call", text="x" * trail.MAX_LINE_BYTES)
    with pytest.raises(ValueError, match="JSON compliant"):
        written.append("call", loss=float("inf"))
    assert len(lines(path)) == 1
    written.append("call", text="\n\u2028\ud800", kind="any")
    assert check(path).ok


def test_a_line_of_the_largest_size_is_found_again(path: Path) -> None:
    written = filled(path, 1)
    size = len(lines(path)[0]) - len('"number":1') + len('"text":""')
    entry = written.append("call", text="x" * (trail.MAX_LINE_BYTES - size))
    assert len(lines(path)[1]) == trail.MAX_LINE_BYTES
    Trail(path).append("call")
    assert [each.seq for each in trail.read(path)] == [1, entry.seq, 3]
    assert check(path).ok
