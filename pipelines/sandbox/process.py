"""Start one program in the sandbox, watch it, and say how it ended."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.core.errors import UserError
from pipelines.sandbox import confine

WALL_PER_CPU = 10
"""Wall seconds allowed per CPU second: eight programs on two cores each get a quarter of a core,
and must not fail for it. Only a program that sleeps or waits ever meets this limit."""
MAX_DISK_BYTES = 64 << 20
MAX_THREADS = 256
WATCH_S = 0.1
"""Between two looks at the limits that the kernel does not keep for us: wall, disk, threads."""
NEWEST_LANDLOCK = 99
"""Landlock ABI to use at most; the tests lower it to what Linux 5.13 has."""
NEEDS = "generated code is run only where the kernel can confine it: Linux 5.13 with Landlock"

Limit = Literal["cpu", "wall", "disk", "threads"]


class Unavailable(UserError):
    """The kernel cannot confine generated code, so none was run."""


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    returncode: int
    """Negative = killed by that signal."""
    stdout: str
    stderr: str
    limit: Limit | None
    """The limit that ended it; None = it ended by itself, a MemoryError included."""
    wall_s: float


def run(
    code: str, stdin: str = "", *, timeout_s: float = 5.0, memory_bytes: int = 1 << 30
) -> Finished:
    """Run `code` as the main program of a confined interpreter that has only the standard library.

    Args:
        code: source of the program.
        stdin: what the program reads from standard input.
        timeout_s: CPU seconds of all its threads, rounded up; ten times as much by the wall clock.
        memory_bytes: address space; a program that wants more gets a MemoryError.

    Raises:
        Unavailable: the kernel cannot confine; nothing was run.
    """
    if sys.platform != "linux" or os.uname().machine not in confine.MACHINES:
        raise Unavailable(f"{NEEDS}, on {' or '.join(confine.MACHINES)}")
    if confine.landlock_abi() < 1:
        raise Unavailable(f"{NEEDS}; here it is missing, see /sys/kernel/security/lsm")
    # Not TemporaryDirectory: up to 3.11.7 its clean-up follows symbolic links (CVE-2023-6597).
    folder = Path(tempfile.mkdtemp(prefix="freehold-"))
    try:
        return _run(folder, code, stdin, max(1, math.ceil(timeout_s)), memory_bytes)
    finally:
        _remove(folder)


def _run(folder: Path, code: str, stdin: str, cpu_s: int, memory_bytes: int) -> Finished:
    (folder / "work").mkdir()
    # surrogatepass: half a character is a syntax error in there, not a crash out here.
    (folder / "program.py").write_bytes(code.encode("utf-8", "surrogatepass"))
    folder.chmod(0o711)  # the program may be another user and must get through to work/
    status_read, status_write = os.pipe()
    limits = [str(memory_bytes), str(cpu_s), str(status_write), str(NEWEST_LANDLOCK)]
    start = time.perf_counter()
    with os.fdopen(status_read, "rb") as status_pipe:
        # Append only: what was written cannot be read back through this descriptor.
        with open(folder / "stdout", "ab") as out, open(folder / "stderr", "ab") as err:
            try:
                process = subprocess.Popen(
                    # -P -s -S: no site-packages. Not -I, which would ignore the hash seed below.
                    [_interpreter(), "-PsSB", "-X", "utf8", confine.__file__, str(folder), *limits],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                    # Sets have one order, so that the same answer gets the same score; threads
                    # share one heap, since each other one takes 64 MiB of address space.
                    env={"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"},
                    cwd=folder,
                    pass_fds=[status_write],
                    start_new_session=True,
                )
            except OSError as error:
                raise Unavailable(f"{NEEDS}; no process could be started: {error}") from error
            finally:
                os.close(status_write)
        with process:
            try:
                limit = _watch(process, folder / "work", stdin, start + cpu_s * WALL_PER_CPU)
            finally:
                process.kill()  # it has no children; nothing happens when it has ended
        wall_s = time.perf_counter() - start
        status = status_pipe.read().decode(errors="replace")
    stdout, stderr = (
        (folder / name).read_bytes().decode(errors="replace") for name in ("stdout", "stderr")
    )
    if status != "confined":
        raise Unavailable(f"{NEEDS}; the attempt failed: {status or stderr[-500:]}")
    # SIGKILL follows where SIGXCPU was ignored. (It also comes when the machine has no memory.)
    if limit is None and process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        limit = "cpu"
    return Finished(process.returncode, stdout, stderr, limit, wall_s)


def _interpreter() -> str:
    """The interpreter that a virtual environment was made from: it knows no other packages."""
    return getattr(sys, "_base_executable", None) or os.path.realpath(sys.executable)


def _watch(process: subprocess.Popen[bytes], work: Path, stdin: str, until: float) -> Limit | None:
    """Wait until the program ends, or until it has met a limit and must be ended."""
    pending: bytes | None = stdin.encode("utf-8", "surrogatepass")
    while True:
        try:
            process.communicate(pending, timeout=WATCH_S)
            return None
        except subprocess.TimeoutExpired:
            pending = None  # it goes on with what it was given
        if time.perf_counter() > until:
            return "wall"
        if _n_threads(process.pid) > MAX_THREADS:
            return "threads"
        if _is_full(work):
            return "disk"


def _n_threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:  # it has just ended
        return 0


def _is_full(work: Path) -> bool:
    """Every entry counts as one block at least, so that empty files are not free."""
    folders, n_bytes = [str(work)], 0
    while folders and n_bytes <= MAX_DISK_BYTES:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    n_bytes += max(4096, entry.stat(follow_symlinks=False).st_size)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError:  # the program has just removed it
            continue
    return n_bytes > MAX_DISK_BYTES


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        # Folders that are closed to us, or nested deeper than Python can follow.
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, str(folder)], check=False, capture_output=True)
