"""Run Python code that nobody has read, where it can do no harm.

* `run(code, stdin)` runs one program in a process of its own and says how it ended.
* Landlock: it reads the standard library and writes in one throw-away folder, nothing else.
* seccomp: no network, no other processes, no signals to others, no change to foreign files.
* Limits: CPU seconds first, since wall time depends on what else runs; memory, disk, threads.
* No environment, no capabilities, and for root no root, where nobody can reach the interpreter.
* Needs Linux 5.13 with Landlock on x86_64 or aarch64, no privilege and no package. Where the
  kernel cannot confine, `Unavailable` is raised and nothing runs.

Not covered: errors in the kernel itself, and names (not contents) of files, which `stat` tells.
For models that attack on purpose, run the whole study in a virtual machine.
"""

from pipelines.sandbox.process import Finished, Unavailable, run

__all__ = ["Finished", "Unavailable", "run"]
