"""What a program in the sandbox may do, where its limits are, and what happens at them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.sandbox import Unavailable, confine, process, run

GOOD = {
    "print": ("print('hé')", "hé\n"),
    "threads": (
        "import threading, time\n"
        "ts = [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(60)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]; print(len(ts))",
        "60\n",
    ),
    "pool": (
        "from concurrent.futures import ThreadPoolExecutor as T\n"
        "print(list(T(4).map(abs, [-1, 2])))",
        "[1, 2]\n",
    ),
    "asyncio": ("import asyncio; print(asyncio.run(asyncio.sleep(0, 7)))", "7\n"),
    "alarm": (
        "import signal\nsignal.signal(14, lambda *a: print('rang'))\n"
        "signal.setitimer(0, 0.01); signal.pause()",
        "rang\n",
    ),
    "signal itself": (
        "import os, signal\nsignal.signal(10, lambda *a: print('got'))\nos.kill(os.getpid(), 10)",
        "got\n",
    ),
    "library": (
        "import ssl, sqlite3, hashlib, decimal, ctypes, lzma, xml.etree.ElementTree, zoneinfo\n"
        "print(hashlib.sha256(b'').hexdigest()[:6], sqlite3.connect(':memory:').execute("
        "'select 1+1').fetchone(), ssl.create_default_context().verify_mode.name)",
        "e3b0c4 (2,) CERT_REQUIRED\n",
    ),
    "own files": (
        "import os, tempfile, shutil\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    open(d + '/a', 'w').write('x'); os.rename(d + '/a', d + '/b')\n"
        "    shutil.copyfile(d + '/b', 'c'); os.remove('c'); print(os.listdir(d), os.listdir())\n"
        "open('/dev/null', 'w').write('x')",
        None,
    ),
    "dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int\nprint(A(1))",
        "A(x=1)\n",
    ),
    "pickle": (
        "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__module__)",
        "__main__\n",
    ),
}


@pytest.mark.usefixtures("landlock")
@pytest.mark.parametrize("name", GOOD)
def test_an_honest_program_runs(name: str) -> None:
    code, stdout = GOOD[name]
    finished = run(code)
    assert (finished.returncode, finished.limit) == (0, None), finished.stderr
    assert stdout is None or finished.stdout == stdout


def test_a_program_reads_its_input_also_when_it_is_longer_than_a_pipe() -> None:
    assert run("import sys; print(len(sys.stdin.read()))", "ä" * 100_000).stdout == "100000\n"
    assert run("pass", "x" * 1_000_000).returncode == 0  # nobody reads it


def test_sets_have_the_same_order_each_time() -> None:
    code = "print({'refund', 'delivery', 'login', 'price', 'invoice'})"
    assert len({run(code).stdout for _ in range(4)}) == 1


def test_an_exit_code_and_a_traceback_come_out() -> None:
    assert run("raise SystemExit(7)").returncode == 7
    assert "ZeroDivisionError" in run("1/0").stderr
    assert "SyntaxError" in run("def").stderr
    assert run("print('\ud800')").returncode == 1


@pytest.mark.alone
def test_cpu_time_is_limited_whatever_signals_are_ignored() -> None:
    assert run("while True: pass", timeout_s=1).limit == "cpu"
    stubborn = "import signal\nfor s in (15, 24): signal.signal(s, signal.SIG_IGN)\n"
    finished = run(stubborn + "while True: pass", timeout_s=1)
    assert finished.limit == "cpu"
    assert finished.returncode == -9


@pytest.mark.alone
def test_a_sleeper_meets_the_wall_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WALL_PER_CPU", 1)
    finished = run("import time; time.sleep(60)", timeout_s=1)
    assert finished.limit == "wall"
    assert 1 <= finished.wall_s < 3


@pytest.mark.alone
def test_floods_end() -> None:
    finished = run("while True: print('x' * 10_000)")
    assert finished.returncode != 0
    assert len(finished.stdout) <= confine.FILE_BYTES
    many_files = "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(1 << 20)); n += 1"
    assert run(many_files).limit == "disk"
    many_threads = (
        "import threading, time\nthreading.stack_size(1 << 15)\n"
        "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    assert run(many_threads).limit == "threads"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    deep = "import os\nfor _ in range(1000): os.mkdir('d'); os.chdir('d')\n"
    closed = "os.mkdir('x', 0o300); open('x/y', 'w'); os.mkdir('z', 0)"
    assert run(deep + closed).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.alone
def test_slow_programs_do_not_fail_because_eight_run_at_once() -> None:
    # 8 x 0.6 s of CPU on two cores take 2.4 s: each sees far more wall than its limit of 1 s.
    code = "import time\nwhile time.process_time() < 0.6: pass\nprint('done')"
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: run(code, timeout_s=1), range(8)))
    assert [r.stdout for r in results] == ["done\n"] * 8


def test_without_landlock_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "landlock_abi", lambda: -1)
    with pytest.raises(Unavailable, match=r"/sys/kernel/security/lsm") as raised:
        run("print()")
    assert raised.value.exit_code == 2


def test_a_child_that_does_not_confine_itself_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_interpreter", lambda: "/bin/true")
    with pytest.raises(Unavailable, match="attempt failed"):
        run("print()")
    monkeypatch.setattr(process, "_interpreter", lambda: "/nowhere/python")
    with pytest.raises(Unavailable, match="no process"):
        run("print()")


def test_a_program_cannot_claim_that_it_was_not_confined() -> None:
    code = (
        "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'no')\n    except OSError: pass"
    )
    assert run(code + "\nos._exit(1)").returncode == 1


def test_another_interpreter_that_everybody_can_reach_runs_as_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = Path("/usr/bin/python3")
    ids = [map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    has_nobody = any(first <= confine.NOBODY < first + n for first, _, n in ids)
    if os.getuid() != 0 or not has_nobody or not system.exists():
        pytest.skip("needs root, the user nobody, and a Python in /usr/bin")
    monkeypatch.setattr(process, "_interpreter", lambda: str(system))
    finished = run("import os, sqlite3; open('x', 'w'); print(os.getuid(), os.getgroups())")
    assert finished.stdout == "65534 []\n", finished.stderr
    assert run("import os; os.setuid(0)").returncode == 1


def test_a_copied_virtual_environment_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import venv

    venv.create(tmp_path / "env", symlinks=False, with_pip=False)
    monkeypatch.setattr(process, "_interpreter", lambda: str(tmp_path / "env/bin/python"))
    assert run("import json, sqlite3; print(json.dumps(1))").stdout == "1\n"
