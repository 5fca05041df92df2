"""The process around vLLM: it never outlives its parent, and its failures are said."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.core.errors import ServerError
from pipelines.core.study import ServeConfig
from pipelines.serving.guard import BEHIND
from pipelines.serving.vllm_server import GUARD, vllm_server

SLEEPER = (
    "import subprocess, sys, time; "
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(p.pid, flush=True); time.sleep(600)"
)
"""A server with a worker of its own; prints the worker's process id."""


def alive(pid: int) -> bool:
    """False for the dead, and for a zombie that nobody has waited for yet."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_the_guard_ends_the_whole_group_when_its_parent_is_killed() -> None:
    parent_code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, {str(GUARD)!r}, sys.executable, '-c', {SLEEPER!r}],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True)\n"
        "print(p.pid, p.stdout.readline().strip(), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    guard, worker = (int(part) for part in parent.stdout.readline().split())
    assert alive(guard)
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone([guard, worker]), "a process outlived its killed parent"


def test_the_guard_passes_the_exit_code_on() -> None:
    guard = subprocess.Popen(
        [sys.executable, str(GUARD), sys.executable, "-c", "import sys; sys.exit(7)"],
        stdin=subprocess.PIPE,
    )
    assert guard.wait(timeout=60) == 7  # our end of its stdin is still open


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(),
    reason="this kernel does not share the processor among sessions",
)
def test_the_command_yields_the_processor_to_who_measures_it() -> None:
    guard = subprocess.Popen(
        [sys.executable, str(GUARD), sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 30
        found, children = None, []
        while found != ("nice", str(BEHIND)) and time.monotonic() < deadline:
            time.sleep(0.02)
            children = Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split()
            if children:
                found = tuple(Path(f"/proc/{children[0]}/autogroup").read_text().split()[-2:])
        assert found == ("nice", str(BEHIND))
        nice = os.getpriority(os.PRIO_PROCESS, int(children[0]))
        assert nice == min(19, os.getpriority(os.PRIO_PROCESS, 0) + BEHIND)
    finally:
        guard.communicate(timeout=60)


def test_a_port_in_use_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"port {port} on 127\.0\.0\.1(.|\n)*serve\.port=N"):
            with vllm_server(tmp_path, None, 16, {}, ServeConfig(port=port), tmp_path / "log"):
                pass


def test_a_server_that_dies_shows_the_end_of_its_log_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "not-a-model").mkdir()
    log = tmp_path / "vllm.log"
    with pytest.raises(ServerError) as caught:
        with vllm_server(tmp_path / "not-a-model", None, 16, {}, ServeConfig(), log):
            pass
    assert "vLLM ended with exit code" in str(caught.value)
    assert str(log) in str(caught.value)
    assert log.stat().st_size > 0


def test_a_server_that_is_too_slow_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ServerError, match="not ready after 0.2 s"):
        slow = ServeConfig(startup_timeout_s=0.2)
        with vllm_server(tmp_path / "model", None, 16, {}, slow, tmp_path / "log"):
            pass
    own = subprocess.run(
        ["ps", "-o", "pid=,args=", "-A"], capture_output=True, text=True, check=True
    )
    left = [line for line in own.stdout.splitlines() if str(tmp_path / "model") in line]
    assert not [line for line in left if int(line.split()[0]) != os.getpid()]
