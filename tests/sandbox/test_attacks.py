"""What a program in the sandbox cannot do: every attack is really tried.

Each of them succeeds in a plain Python process of root's.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from pipelines.sandbox import confine, run

SECRET = "SECRET-6071"


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    path = tmp_path / "secret"
    path.write_text(SECRET)
    return path


SYSCALL = "import ctypes; call = ctypes.CDLL(None, use_errno=True).syscall\n"
ATTACKS = {
    # files
    "read a file": "open(FILE).read()",
    "read the accounts": "open('/etc/passwd').read()",
    "list a folder": "import os; os.listdir(os.path.dirname(FILE))",
    "list the home": "import os; os.listdir('/root')",
    "read own environment": "import os; os.environ['OPENAI_API_KEY']",
    "read an environment": "import os; open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "read the harness": "import os; open(os.path.dirname(os.getcwd()) + '/program.py').read()",
    "write a file": "open(FILE, 'a').write('x')",
    "write to /tmp": "open('/tmp/freehold-breach', 'w')",
    "write to the library": "import os; open(os.path.dirname(os.__file__) + '/breach.py', 'w')",
    "delete": "import os; os.unlink(FILE)",
    "rename": "open('x', 'w'); import os; os.rename('x', FILE)",
    "link": "import os; os.link(FILE, 'x'); open('x').read()",
    "symbolic link": "import os; os.symlink(FILE, 'x'); open('x').read()",
    "truncate": "import os; os.truncate(FILE, 0)",
    "truncate through a read-only file": (
        "import os; open('x', 'w').write('xyz'); os.open('x', os.O_RDONLY | os.O_TRUNC)"
    ),
    "access mode 3": "import os; open('x', 'w'); os.open('x', 3)",
    "chmod": "import os; os.chmod(FILE, 0o777)",
    "chown": "import os; os.chown(FILE, os.getuid(), os.getgid())",
    "utime": "import os; os.utime(FILE, (0, 0))",
    "setxattr": "import os; os.setxattr(FILE, 'user.x', b'x')",
    "watch a folder": SYSCALL + "assert call(254, call(294, 0), FILE.encode(), 0xfff) >= 0",
    "device": "import os; os.mknod('n', 0o20666, os.makedev(1, 1))",
    "chroot": "import os; os.chroot('.')",
    # network
    "TCP": "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
    "UDP": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "Unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "datagram pair": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    # processes
    "fork": "import os; os.fork()",
    "vfork": SYSCALL + "assert call(58) >= 0",
    "clone3": SYSCALL + "assert call(435, bytes(88), 88) >= 0",
    "subprocess": "import subprocess; subprocess.run(['/bin/true'])",
    "system": "import os; assert os.system('true') == 0",
    "posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "exec": "import os; print('BREACH', flush=True); os.execv('/bin/echo', ['echo', 'BREACH2'])",
    "exec own file": (
        "import os; open('x', 'w').write('#!/bin/sh\\necho BREACH2'); os.chmod('x', 0o700)\n"
        "os.execv('./x', ['x'])"
    ),
    "multiprocessing": "import multiprocessing as m; m.get_context('fork').Process().start()",
    # signals and limits of others
    "signal the parent": "import os; os.kill(os.getppid(), 0)",
    "signal the group": "import os; os.kill(0, 0)",
    "tgkill": SYSCALL + "import os; p = os.getppid(); assert call(234, p, p, 0) == 0",
    "sigqueue": (
        SYSCALL + "import os, struct; info = struct.pack('iii', 0, 0, -1) + bytes(116)\n"
        "assert call(129, os.getppid(), 0, info) == 0"
    ),
    "pidfd signal": ("import os, signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)"),
    "signal by file": "import os, fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "signal by socket": (
        "import os, fcntl, socket, struct; s = socket.socketpair()[0]\n"
        "fcntl.ioctl(s, 0x8901, struct.pack('i', os.getppid()))"
    ),
    "outlive the parent": "import ctypes; assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
    "limits of the parent": (
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU)"
    ),
    "raise own limit": (
        "import resource as r; r.setrlimit(r.RLIMIT_CPU, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
    ),
    "priority": "import os; os.setpriority(os.PRIO_PROCESS, 0, 5)",
    "processor of the parent": "import os; os.sched_setaffinity(os.getppid(), {0})",
    # the kernel
    "ptrace": "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "user namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "io_uring": SYSCALL + "assert call(425, 1, bytes(120)) >= 0",
    "bpf": (
        SYSCALL + "import struct; attributes = struct.pack('IIII', 2, 4, 4, 1) + bytes(112)\n"
        "assert call(321, 0, attributes, 128) >= 0"
    ),
    "keyring": SYSCALL + "assert call(248, b'user', b'x', b'x', 1, -3) >= 0",
    "shared memory": SYSCALL + "assert call(29, 77, 4096, 0o1666) >= 0",
    "newer than we know": SYSCALL + "assert call(452, -100, FILE.encode(), 0o777, 0) == 0",
    "become root": "import os; os.setgroups([]); os.setuid(0); open('/etc/shadow')",
    "set the clock": "import time; time.clock_settime(0, time.time())",
    "host name": "import socket; socket.sethostname('x')",
    # resources
    "memory": "b = bytearray(4 << 30)",
    "one large file": "open('b', 'wb').write(bytes(64 << 20))",
}


@pytest.mark.usefixtures("landlock")
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails(name: str, secret: Path) -> None:
    if os.uname().machine != "x86_64" and SYSCALL in ATTACKS[name]:
        pytest.skip("the attack uses a system call number of x86_64")
    before = (secret.read_bytes(), secret.stat())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        code = ATTACKS[name].replace("PORT", port).replace("FILE", repr(str(secret)))
        finished = run(code + "\nprint('BREACH2')")
    assert "BREACH2" not in finished.stdout
    assert SECRET not in finished.stdout + finished.stderr
    assert finished.returncode != 0
    assert (secret.read_bytes(), secret.stat()) == before


def test_other_packages_are_neither_on_the_path_nor_readable() -> None:
    attempt = "try:\n    import pytest\nexcept ModuleNotFoundError: print('not found')\n"
    finished = run(f"{attempt}open({pytest.__file__!r})")
    assert finished.stdout == "not found\n"
    assert "PermissionError" in finished.stderr


def test_the_table_agrees_with_the_headers_of_the_kernel() -> None:
    headers = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
               Path("/usr/include/asm-generic/unistd.h")]  # fmt: skip
    if not all(path.exists() for path in headers):
        pytest.skip("needs linux-libc-dev for x86_64")
    define = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")
    x86_64, aarch64 = ({n: int(k) for n, k in define.findall(p.read_text())} for p in headers)
    table = {name: pair for group in confine.FORBIDDEN for name, pair in group.items()}
    for name in ("OPEN", "OPENAT", "CLONE", "KILL", "TGKILL", "PRLIMIT64", "SOCKETPAIR", "FCNTL",
                 "IOCTL", "PRCTL", "CAPSET"):  # fmt: skip
        table[name.lower()] = getattr(confine, name)
    for name in ("CLONE3", "OPENAT2"):
        table[name.lower()] = (getattr(confine, name),) * 2
    wrong = {n: p for n, p in table.items() if p != (x86_64.get(n), aarch64.get(n))}
    assert wrong == {}
