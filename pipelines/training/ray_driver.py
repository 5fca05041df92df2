"""Start the training processes with Ray Train: `python -m pipelines.training.ray_driver FOLDER`.

A process of its own, so that Ray's signal handlers, loggers and threads stay out of the command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipelines.training import worker


def main(folder: Path) -> None:
    """Train the job of `folder` on the cluster at $RAY_ADDRESS, else on this machine alone."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    text = (folder / worker.JOB).read_text(encoding="utf-8")
    config = worker.Job.model_validate_json(text).config
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address)
    else:
        _start_here(max(config.n_processes, os.cpu_count() or 1))
    on_gpu = ray.cluster_resources().get("GPU", 0) >= config.n_processes
    TorchTrainer(
        _work,
        train_loop_config={"folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=config.n_processes, use_gpu=on_gpu),
        run_config=RunConfig(
            name="train",
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=config.n_retries),
        ),
    ).fit()


def _start_here(n_cpus: int) -> None:
    """Ray on this machine alone. It gives its own processes 30 s, which a busy machine may miss."""
    import ray

    for tries_left in (2, 1, 0):
        try:
            ray.init(address="local", num_cpus=n_cpus, include_dashboard=False)
            return
        except Exception:  # bare: Ray raises no type of its own
            ray.shutdown()
            if not tries_left:
                raise


def _work(settings: dict[str, str]) -> None:
    worker.run(Path(settings["folder"]))


if __name__ == "__main__":
    worker.end_with_parent()
    main(Path(sys.argv[1]))
