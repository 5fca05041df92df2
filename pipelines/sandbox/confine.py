"""Runs inside the child process: give everything up, then become the program.

    python -P -s -S confine.py FOLDER MEMORY_BYTES CPU_S STATUS_FD NEWEST_ABI

FOLDER holds `program.py` and the empty `work/`, the only place the program may write to. Once
nothing is left to take, `confined` goes to STATUS_FD, otherwise the reason; only then does the
program start, so it cannot forge either. Imports the standard library alone: the child sees
nothing else. System call numbers: x86_64 from asm/unistd_64.h, aarch64 from asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys

MACHINES = ("x86_64", "aarch64")
Numbers = tuple[int | None, int | None]
"""Of one system call on each of MACHINES; None = the machine lacks it."""

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446  # on both
CAPSET: Numbers = (126, 91)

FORBIDDEN: list[dict[str, Numbers]] = [
    # Another program, or a process that outlives the time limit.
    {"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281)},
    # Signals to others; kill and tgkill are in the filter, for the program's own pid.
    {"tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)},
    {"pidfd_send_signal": (424, 424)},
    # Memory, files and priorities of others with the same user id.
    {"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    {"pidfd_getfd": (438, 438), "kcmp": (312, 272), "process_madvise": (440, 440)},
    {"move_pages": (279, 239), "migrate_pages": (256, 238), "ioprio_set": (251, 30)},
    {"setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119)},
    {"sched_setaffinity": (203, 122), "sched_setattr": (314, 274)},
    # Network. Landlock knows TCP only, and only since ABI 4.
    {"socket": (41, 198), "connect": (42, 203), "bind": (49, 200)},
    # Shared memory and queues: they reach others with the same user id.
    {"shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190)},
    {"semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186)},
    {"msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187)},
    {"mq_open": (240, 180), "mq_unlink": (241, 181)},
    # What Landlock leaves open: owner, mode, times and attributes of any file of the same user.
    {"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53)},
    {"chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54)},
    {"utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88)},
    {"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7)},
    {"removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16)},
    # Landlock guards truncate(path) only since ABI 3; ftruncate needs a writable file anyway.
    {"truncate": (76, 45), "open_by_handle_at": (304, 265)},
    # Names of the files that others touch.
    {"inotify_add_watch": (254, 27), "fanotify_init": (300, 262)},
    # Large and often broken parts of the kernel that a program under test has no use for.
    {"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    {"bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241)},
    {"keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218)},
    # Other views of the system.
    {"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "chroot": (161, 51)},
    {"kexec_load": (246, 104)},
]

# Allowed for some arguments only; see _rules.
OPEN, OPENAT, FCNTL, IOCTL = (2, None), (257, 56), (72, 25), (16, 29)
CLONE, KILL, TGKILL, PRLIMIT64 = (56, 220), (62, 129), (234, 131), (302, 261)
SOCKETPAIR, PRCTL = (53, 199), (157, 167)
# "Not implemented": the C library then takes the older call, whose arguments a filter can see.
CLONE3, OPENAT2 = 435, 437  # on both machines
NEWEST_KNOWN = 451  # cachestat, Linux 6.5; what comes later is not implemented, either

CLONE_THREAD = 0x10000
SOCK_STREAM, SOCK_TYPE_MASK = 1, 0xF
OWNER_AND_SIGNAL_OF_FILE = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal to anybody
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
OWNER_OF_SOCKET = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: the same

# Berkeley packet filter: operations, and what the kernel does with the call.
LOAD, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
NOT_PERMITTED, NOT_IMPLEMENTED = 0x00050000 | 1, 0x00050000 | 38  # errno EPERM, ENOSYS
ARCHITECTURE = (0xC000003E, 0xC00000B7)
X32 = 0x40000000  # system call numbers of the x32 ABI begin here
Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if false, operand

# Landlock's rights on files.
WRITE, READ, LIST, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
REMOVE_AND_MAKE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12  # files, folders, symbolic links
RENAME_ACROSS = 1 << 13
N_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Rights on files that an ABI knows; 16 from ABI 5 on. What is handled and not granted is gone."""
TCP_BIND_AND_CONNECT, ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3

NOBODY = 65534
FILE_BYTES = 4 << 20
N_FILES = 64
NOT_STANDARD = {"site-packages", "dist-packages"}

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """Version of Landlock in this kernel; negative where there is none."""
    return _libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)


def main(folder: str, memory_bytes: int, cpu_s: int, status: int, newest_abi: int) -> None:
    """Confine this process, then run `program.py`; never returns to the caller unconfined."""
    try:
        with open(f"{folder}/program.py", "rb") as file:
            source = file.read()
        os.chdir(f"{folder}/work")
        _allow_files(os.getcwd(), newest_abi)
        _drop_privileges(os.getcwd())
        _limit(memory_bytes, cpu_s)
        _filter_system_calls()
    except OSError as error:
        os.write(status, str(error).encode())
        os._exit(1)
    os.write(status, b"confined")
    os.close(status)
    os.environ.clear()
    sys.argv = ["program.py"]
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    exec(compile(source, "program.py", "exec"), module.__dict__)  # noqa: S102 - this is the purpose


def _call(what: str, *arguments: object) -> int:
    result: int = _libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(what: str, *arguments: object) -> None:
    if _libc.prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mine(numbers: Numbers) -> int | None:
    return numbers[MACHINES.index(os.uname().machine)]


def _allow_files(work: str, newest_abi: int) -> None:
    """Landlock: read the standard library, write in `work`, and nothing else."""
    abi = min(landlock_abi(), newest_abi)
    handled = (1 << N_RIGHTS.get(abi, 16)) - 1
    attributes = struct.pack("Q", handled)
    if abi >= 4:
        attributes += struct.pack("Q", TCP_BIND_AND_CONNECT)
    if abi >= 6:
        attributes += struct.pack("Q", ABSTRACT_SOCKETS_AND_SIGNALS)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _call("landlock_create_ruleset", LANDLOCK_CREATE_RULESET, attributes, size, 0)
    write = READ | WRITE | LIST | TRUNCATE | REMOVE_AND_MAKE | RENAME_ACROSS
    for path, rights in [*_standard_library(), (work, write), ("/dev/null", READ | WRITE)]:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):
            rights &= READ | WRITE
        rule = struct.pack("=Qi", rights & handled, beneath)
        _call(f"landlock_add_rule {path}", LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
        os.close(beneath)
    _prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("landlock_restrict_self", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _standard_library() -> list[tuple[str, int]]:
    """What imports need.

    The folder of the library is opened entry by entry: site-packages lies in it, and where Python
    was installed under $HOME, everything else lies beside it.
    """
    paths: list[tuple[str, int]] = []
    for folder in sys.path:  # with -S -P: the library, its C extensions, a zip file
        if os.path.isdir(folder):
            paths.append((folder, LIST))
            children = [e.path for e in os.scandir(folder) if e.name not in NOT_STANDARD]
            paths += [(child, READ | LIST) for child in children]
        else:
            paths.append((folder, READ))
    triple = getattr(sys.implementation, "_multiarch", "")
    libraries = ["/lib64", "/usr/lib64"]
    if triple and os.path.isdir(f"/usr/lib/{triple}"):
        libraries += [f"/lib/{triple}", f"/usr/lib/{triple}"]
    else:
        libraries += ["/lib", "/usr/lib"]
    beside = os.path.join(sys.base_prefix, "lib")  # where conda keeps libssl and libsqlite3
    if os.path.isdir(beside):
        libraries += [e.path for e in os.scandir(beside) if ".so" in e.name]
    others = ["/etc/ld.so.cache", "/usr/share/zoneinfo"]
    return paths + [(path, READ | LIST) for path in [*libraries, *others]]


def _drop_privileges(work: str) -> None:
    """Root becomes nobody; where nobody cannot reach the interpreter, root without capabilities."""
    if os.getuid() == 0 and all(_passable(path) for path in [*sys.path, work]):
        try:
            os.chown(work, NOBODY, NOBODY)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError:  # a user namespace without this id; what follows holds all the same
            os.chown(work, 0, 0)
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)  # capabilities, version 3
    _call("capset", _mine(CAPSET), header, nothing)
    # Whoever kills the grader ends this, too; a change of user clears it, hence here.
    _prctl("pdeathsig", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _passable(path: str) -> bool:
    """Everybody may go through all folders above `path`."""
    while path != "/":
        path = os.path.dirname(path)
        if not os.path.isdir(path) or not os.stat(path).st_mode & 1:
            return False
    return True


def _limit(memory_bytes: int, cpu_s: int) -> None:
    for limit, value in [
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, N_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]:
        resource.setrlimit(limit, (value, value))
    # SIGXCPU tells the parent what happened; who ignores it meets SIGKILL a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))


def _filter_system_calls() -> None:
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _rules())
    buffer = ctypes.create_string_buffer(program, len(program))
    length = len(program) // 8
    filter_mode, header = 2, struct.pack("HxxxxxxP", length, ctypes.addressof(buffer))
    _prctl("seccomp", PR_SET_SECCOMP, filter_mode, header, 0, 0)


def _rules() -> list[Instruction]:
    architecture = ARCHITECTURE[MACHINES.index(os.uname().machine)]
    rules: list[Instruction] = [
        (LOAD, 0, 0, 4),  # offset of the architecture: a 32-bit call has other numbers
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, 0),  # offset of the number
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL_PROCESS),
        (AT_LEAST, 0, 1, NEWEST_KNOWN + 1),
        (RETURN, 0, 0, NOT_IMPLEMENTED),
    ]
    for number in (CLONE3, OPENAT2):
        rules += [(EQUAL, 0, 1, number), (RETURN, 0, 0, NOT_IMPLEMENTED)]
    for numbers in (pair for group in FORBIDDEN for pair in group.values()):
        if (number := _mine(numbers)) is not None:
            rules += [(EQUAL, 0, 1, number), (RETURN, 0, 0, NOT_PERMITTED)]
    me, every_bit = os.getpid(), 0xFFFFFFFF
    rules += _when(CLONE, 0, CLONE_THREAD, (CLONE_THREAD,), ALLOW)
    rules += _when(KILL, 0, every_bit, (me,), ALLOW)
    rules += _when(TGKILL, 0, every_bit, (me,), ALLOW)
    rules += _when(PRLIMIT64, 0, every_bit, (0,), ALLOW)
    # A datagram pair could send to any socket in the file system.
    rules += _when(SOCKETPAIR, 1, SOCK_TYPE_MASK, (SOCK_STREAM,), ALLOW)
    rules += _when(FCNTL, 1, every_bit, OWNER_AND_SIGNAL_OF_FILE, NOT_PERMITTED)
    rules += _when(PRCTL, 0, every_bit, (PR_SET_PDEATHSIG,), NOT_PERMITTED)
    rules += _when(IOCTL, 1, every_bit, OWNER_OF_SOCKET, NOT_PERMITTED)
    # Landlock before ABI 3 lets "read only, and truncate" and access mode 3 empty a file.
    emptied = (os.O_TRUNC, os.O_ACCMODE, os.O_TRUNC | os.O_ACCMODE)
    rules += _when(OPEN, 1, os.O_TRUNC | os.O_ACCMODE, emptied, NOT_PERMITTED)
    rules += _when(OPENAT, 2, os.O_TRUNC | os.O_ACCMODE, emptied, NOT_PERMITTED)
    return [*rules, (RETURN, 0, 0, ALLOW)]


def _when(
    numbers: Numbers, argument: int, mask: int, values: tuple[int, ...], action: int
) -> list[Instruction]:
    """`action` where `argument & mask` is one of `values`, its opposite elsewhere."""
    number = _mine(numbers)
    if number is None:
        return []
    rules: list[Instruction] = [
        (EQUAL, 0, 3 + 2 * len(values), number),
        (LOAD, 0, 0, 16 + 8 * argument),  # the low half: all of these are 32-bit values
        (AND, 0, 0, mask),
    ]
    for value in values:
        rules += [(EQUAL, 0, 1, value), (RETURN, 0, 0, action)]
    return [*rules, (RETURN, 0, 0, NOT_PERMITTED if action == ALLOW else ALLOW)]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]))
