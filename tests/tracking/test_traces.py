"""Traces say what a call cost, and nothing where that is not known."""

from __future__ import annotations

from typing import Any

import mlflow
import pytest

from pipelines.core.records import Message, Response, Score, Usage
from pipelines.tracking import store, traces


@pytest.mark.parametrize("usd", [None, 0.25])
def test_an_unknown_cost_is_not_looked_up_under_another_provider(
    store_uri: str, usd: float | None
) -> None:
    store.connect(store_uri)
    response = Response(
        example_id="e1",
        request_sha256="0",
        text="hi",
        usage=Usage(input_tokens=1000, output_tokens=1000),
        model="gpt-5.2",  # MLflow's catalog has a price for it
        started_at_s=1_700_000_000.0,
        latency_s=0.5,
    )
    item = traces.TracedItem(
        messages=(Message(role="user", content="hello"),),
        target="hi",
        response=response,
        scores=(Score(example_id="e1", metric="right", value=None, reason="not scored"),),
        usd=usd,
    )
    stage = store.Stage("evaluate", "traced", {}, candidate="own")
    with store.open_run(stage, data_sha256="0", inputs={}, description="") as run:
        traces.log_traces(run, "own", [item])
        found: Any = mlflow.search_traces(locations=[run.experiment_id], return_type="list")
    [trace] = found
    assert (trace.info.cost or {}).get("total_cost") == usd
    assert trace.info.token_usage["total_tokens"] == 2000
    assert trace.info.execution_duration == 500
    assert [a.name for a in trace.info.assessments] == ["target"]
