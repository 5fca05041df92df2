"""The same training in this process, in several of this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter

from pipelines.core import errors
from pipelines.core.errors import UserError
from pipelines.core.paths import ROOT
from pipelines.core.progress import say
from pipelines.core.records import TrainingRow
from pipelines.core.study import FinetuneConfig
from pipelines.training import lora, worker

LOG_FILE = "workers.log"
"""What the processes print."""
POLL_S = 0.1
RAY_NOISE = "(PlacementGroupCleaner pid="
"""It complains every second where there is no dashboard."""
SAY_EVERY_S = 10.0
GRACE_S = 10.0


def train(
    base_dir: Path,
    rows: Sequence[TrainingRow],
    config: FinetuneConfig,
    instructions: str,
    work_dir: Path,
    log: lora.Log,
    validation: Sequence[TrainingRow] = (),
) -> lora.Trained:
    """As `lora.train`, in `config.n_processes` processes that `config.launcher` starts.

    Figures come back through a file, so `log` is called here only. Processes that die are started
    again `config.n_retries` times and go on from the last checkpoint; they end when this one does.

    Raises:
        UserError: as `lora.train`, or the processes died too often.
    """
    if config.launcher == "local":
        return lora.train(base_dir, rows, config, instructions, work_dir, log, validation)
    folder = ROOT / config.shared_dir / work_dir.name if config.shared_dir else work_dir
    folder.mkdir(parents=True, exist_ok=True)
    for name in (worker.FIGURES, worker.RESULT, worker.FAILURE):
        (folder / name).unlink(missing_ok=True)
    for name, part in ((worker.ROWS, rows), (worker.VALIDATION, validation)):
        with (folder / name).open("w", encoding="utf-8") as file:
            file.writelines(row.model_dump_json() + "\n" for row in part)
    job = worker.Job(base_dir=base_dir, config=config, instructions=instructions)
    (folder / worker.JOB).write_text(job.model_dump_json(), encoding="utf-8")
    shared = ", each with a part of the base" if config.sharding == "fsdp2" else ""
    say(
        f"finetune: training in {config.n_processes} processes ({config.launcher}){shared}; "
        f"they print to {folder / LOG_FILE}"
    )
    figures = _Figures(folder / worker.FIGURES, log)
    with _started(_command(config, folder), folder / LOG_FILE) as process:
        while process.poll() is None:
            figures.pass_on()
            time.sleep(POLL_S)
        figures.pass_on()
    if (folder / worker.FAILURE).exists():
        failure = json.loads((folder / worker.FAILURE).read_text(encoding="utf-8"))
        raise getattr(errors, failure["kind"])(failure["text"])
    if process.returncode or not (folder / worker.RESULT).exists():
        raise UserError(_died(config, process.returncode, folder))
    return TypeAdapter(lora.Trained).validate_json((folder / worker.RESULT).read_bytes())


def _command(config: FinetuneConfig, folder: Path) -> list[str]:
    if config.launcher == "ray":
        return [sys.executable, "-m", "pipelines.training.ray_driver", str(folder)]
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={config.n_processes}", f"--max-restarts={config.n_retries}",
        "-m", "pipelines.training.worker", str(folder),
    ]  # fmt: skip


@contextmanager
def _started(command: list[str], log_path: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run `command` in a group of its own; its stdin ends when this process does."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # Two processes with a thread per core each wait for each other.
    env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    # In a store that outlives them, restarted processes find the addresses of the dead ones.
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with log_path.open("wb") as log_file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log_file, stderr=subprocess.STDOUT,
            cwd=ROOT, env=env, start_new_session=True,
        )  # fmt: skip
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Figures:
    """Follows the file of figures; steps that are done again after a death count once."""

    def __init__(self, path: Path, log: lora.Log) -> None:
        self.path, self.log = path, log
        self._read_to = 0
        self._last: dict[str, int] = {}
        self._said_at = time.monotonic()

    def pass_on(self) -> None:
        """Log what was written since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            step = entry["step"]
            fresh = {k: v for k, v in entry["figures"].items() if step > self._last.get(k, -1)}
            self._last.update(dict.fromkeys(fresh, step))
            if fresh:
                self.log(fresh, step)
                self._say(fresh, step)

    def _say(self, figures: dict[str, float], step: int) -> None:
        if "train/loss" in figures and time.monotonic() - self._said_at > SAY_EVERY_S:
            self._said_at = time.monotonic()
            say(f"finetune: step {step}, loss {figures['train/loss']:.3f}")


def _died(config: FinetuneConfig, code: int, folder: Path) -> str:
    """What to tell when no process came through."""
    last = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line[:300] for line in last if RAY_NOISE not in line][-8:]
    lines = "".join(f"\n    {line}" for line in told)
    return (
        f"the {config.n_processes} training processes ended without a result (exit code {code}, "
        f"{config.n_retries} retries). Checkpoints are kept: the same command goes on.\n"
        f"  {folder / LOG_FILE} ends with:{lines}"
    )
