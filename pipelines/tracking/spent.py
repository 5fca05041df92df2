"""What the runs of a stage have spent, so that a limit holds over all of them."""

from __future__ import annotations

from decimal import Decimal

from mlflow import MlflowClient
from mlflow.entities import ViewType

METRIC = "spent_usd"
PAGE = 1000
"""Runs that a store gives at once."""


def spent_usd(name: str, workload: str) -> Decimal:
    """Dollars that all runs of stage `name` have spent on a workload, deleted ones included.

    A run that was cut counts with what it had sent by then, at the most that could cost.
    """
    client = MlflowClient()
    experiment = client.get_experiment_by_name(workload)
    total, token = Decimal(0), None
    while experiment is not None:
        runs = client.search_runs(
            [experiment.experiment_id],
            f"tags.stage = '{name}'",
            run_view_type=ViewType.ALL,
            max_results=PAGE,
            page_token=token,
        )
        for run in runs:
            # The shortest digits of the logged float, which are those of the amount.
            total += Decimal(repr(run.data.metrics.get(METRIC, 0.0)))
        token = runs.token
        if not token:
            break
    return total
