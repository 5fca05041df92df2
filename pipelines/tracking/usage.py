"""The traces of an experiment as a file, in the shape in which MLflow exports them."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from pipelines.core.errors import UserError

PAGE = 500
"""Traces fetched at once; MLflow's REST interface gives no more."""


def export(experiment: str, folder: Path) -> Path:
    """Write every trace of an experiment as JSON Lines, page by page.

    Args:
        experiment: its name.
        folder: where the file is made.

    Returns:
        The file; a line is `trace.to_json()`.

    Raises:
        UserError: there is no such experiment, or it holds no trace.
    """
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = [each.name for each in client.search_experiments(max_results=50)]
        raise UserError(
            f"mlflow:{experiment}: the tracking store has no such experiment; it has: "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    path = folder / f"mlflow-{found.experiment_id}.jsonl"
    token: str | None = None
    n = 0
    with path.open("w", encoding="utf-8") as file:
        while True:
            page = client.search_traces(
                locations=[found.experiment_id], max_results=PAGE, page_token=token
            )
            for trace in page:
                file.write(trace.to_json() + "\n")
            n += len(page)
            token = page.token
            if not token:
                break
    if not n:
        raise UserError(f"mlflow:{experiment}: the experiment holds no trace")
    return path
