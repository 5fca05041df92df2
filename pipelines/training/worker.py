"""One process of a training run on several: `python -m pipelines.training.worker FOLDER`.

The launcher puts the job into FOLDER; the first process leaves figures and the result there.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pipelines.core.errors import FreeholdError
from pipelines.core.progress import say
from pipelines.core.records import Record
from pipelines.core.study import FinetuneConfig

JOB, ROWS, VALIDATION, FIGURES, RESULT, FAILURE = (
    "job.json",
    "rows.jsonl",
    "validation.jsonl",
    "figures.jsonl",
    "trained.json",
    "failure.json",
)
"""Files of the folder: the first three are read here, the others written."""


class Job(Record):
    """What is trained, rows apart."""

    base_dir: Path
    config: FinetuneConfig
    instructions: str


def run(folder: Path) -> None:
    """Train as the rank that the environment names; a failure the user must fix ends all tries.

    Raises:
        FreeholdError: as `lora.train`; its text is in `FAILURE`, too.
    """
    rank = int(os.environ.get("RANK", "0"))
    say(f"rank {rank}: process {os.getpid()} on {socket.gethostname()}")
    if not (folder / JOB).exists():
        raise FileNotFoundError(
            f"{folder / JOB} is not to be seen on {socket.gethostname()}: set finetune.shared_dir "
            "to a folder that all machines share"
        )
    if (folder / FAILURE).exists():
        return  # started again, but trying again cannot help
    job = Job.model_validate_json((folder / JOB).read_text(encoding="utf-8"))
    try:
        _train(job, folder, rank)
    except FreeholdError as error:
        _write(folder / FAILURE, json.dumps({"kind": type(error).__name__, "text": str(error)}))
        raise


def end_with_parent() -> None:
    """End this process at once when stdin ends: its other end is held by whoever wants the run."""
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()


def _train(job: Job, folder: Path, rank: int) -> None:
    from pipelines.core.row_file import opened
    from pipelines.training import base_model, lora

    base_dir = job.base_dir if job.base_dir.exists() else base_model.fetch(job.config.base)
    rows, validation = opened(folder / ROWS), opened(folder / VALIDATION)
    with (folder / FIGURES).open("a", encoding="utf-8") as file:

        def log(figures: Mapping[str, float], step: int) -> None:
            if rank == 0:
                file.write(json.dumps({"step": step, "figures": dict(figures)}) + "\n")
                file.flush()

        trained = lora.train(base_dir, rows, job.config, job.instructions, folder, log, validation)
    if rank == 0:
        _write(folder / RESULT, json.dumps(asdict(trained), default=str))


def _write(path: Path, text: str) -> None:
    """All of it or nothing, whoever reads meanwhile."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    end_with_parent()
    run(Path(sys.argv[1]))
