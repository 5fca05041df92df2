"""Run a command that must not outlive its parent, nor hold it up: `python guard.py COMMAND...`.

The parent holds the other end of our stdin. When it closes it, or dies in any way, kill -9
included, the read below ends and the command's whole process group is stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE_S = 5.0

BEHIND = 15
"""Niceness of the command, so that what measures it from the same machine sends in time. With the
same rights for both, a merged toy on two cores that holds 200 a second seemed to hold 30 to 43."""


def main() -> int:
    """Start the command, wait for it or for the parent's end."""
    os.nice(BEHIND)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    # Linux shares the processor among sessions first, where they are autogroups.
    with contextlib.suppress(OSError):
        Path(f"/proc/{child.pid}/autogroup").write_text(str(BEHIND))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stop(child))
    # os.read, not sys.stdin: a thread inside a buffered read aborts the interpreter at its end.
    threading.Thread(target=lambda: (os.read(0, 1), _stop(child)), daemon=True).start()
    code = child.wait()
    _stop(child)  # workers that their dead parent left behind
    return code


def _stop(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, then SIGKILL to whoever is left."""
    deadline = time.monotonic() + GRACE_S
    number = signal.SIGTERM
    while True:
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        if number == signal.SIGKILL:
            return
        while time.monotonic() < deadline and _alive(child.pid):
            child.poll()
            time.sleep(0.05)
        number = signal.SIGKILL


def _alive(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, 0)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
