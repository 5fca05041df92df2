"""A sample of items as MLflow traces, to read and to label in the UI; the labels come back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource

from pipelines.core.errors import DataError
from pipelines.core.records import Message, Record, Response, Score
from pipelines.tracking.store import StageRun

# Waiting for MLflow's queue of traces to empty takes more than a second, be there ten or none.
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
EXAMPLE_TAG, CANDIDATE_TAG = "example_id", "candidate"


class TracedItem(Record):
    """One item as it was asked, answered and graded."""

    messages: tuple[Message, ...]
    """As they were sent, system prompt and passages included."""
    target: str
    response: Response
    scores: tuple[Score, ...]
    usd: float | None
    """Price of the call; None = not known, or not paid by the token."""


def log_traces(run: StageRun, candidate: str, items: Iterable[TracedItem]) -> None:
    """Write the items to the run's experiment; scores become assessments."""
    names: list[tuple[str, TracedItem]] = []
    for item in items:
        response = item.response
        start_ns = int(response.started_at_s * 1e9)
        span = mlflow.start_span_no_context(
            f"{candidate}{' (simulated)' if response.simulated else ''}",
            span_type="CHAT_MODEL",
            inputs={"messages": [message.model_dump() for message in item.messages]},
            start_time_ns=start_ns,
            experiment_id=run.experiment_id,
            metadata={"mlflow.sourceRun": run.run_id},
            tags={
                EXAMPLE_TAG: response.example_id,
                CANDIDATE_TAG: candidate,
                "simulated": str(response.simulated).lower(),
            },
        )
        span.set_attributes(_attributes(item))
        answer = {"role": "assistant", "content": response.text or f"({response.error})"}
        span.end(
            outputs={"choices": [{"message": answer}]},
            end_time_ns=start_ns + int((response.latency_s or 0.0) * 1e9),
        )
        names.append((span.trace_id, item))
    for trace_id, item in names:
        mlflow.log_expectation(trace_id=trace_id, name="target", value=item.target)
        for score in item.scores:
            if score.value is not None:
                mlflow.log_feedback(
                    trace_id=trace_id,
                    name=score.metric,
                    value=score.value,
                    source=AssessmentSource("CODE", "freehold"),
                    rationale=score.reason or None,
                )


def human_labels(workload: str, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Labels that people gave in the UI: feedback named like a judged metric.

    Args:
        workload: the experiment.
        metrics: names of the judged metrics; other feedback is passed over.

    Returns:
        Rows of `id`, `metric`, `answer`, `label`, `labelled_by`, `candidate`, ordered.

    Raises:
        DataError: a label is neither yes or no nor a number in [0, 1].
    """
    experiment = MlflowClient().get_experiment_by_name(workload)
    if experiment is None:
        return []
    traces: Any = mlflow.search_traces(
        locations=[experiment.experiment_id],
        filter_string=f"tag.{EXAMPLE_TAG} LIKE '%'",
        return_type="list",
        include_spans=True,
        max_results=10_000,
    )
    rows: list[dict[str, Any]] = []
    for trace in traces:
        for each in trace.info.assessments:
            human = each.source.source_type == "HUMAN" and each.valid is not False
            if not human or each.name not in metrics or each.feedback is None:
                continue
            rows.append(
                {
                    "id": trace.info.tags[EXAMPLE_TAG].partition("#")[0],
                    "metric": each.name,
                    "answer": _answer(trace.data.spans[0].outputs),
                    "label": _label(each.feedback.value, each.name, trace.info.trace_id),
                    "labelled_by": each.source.source_id,
                    "candidate": trace.info.tags.get(CANDIDATE_TAG),
                }
            )
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def _attributes(item: TracedItem) -> dict[str, Any]:
    response, found = item.response, dict[str, Any]()
    found["freehold.model"] = response.model
    if (usage := response.usage) is not None:
        found["mlflow.chat.tokenUsage"] = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
    # Without a cost, MLflow takes the price of the first provider that knows the model's name.
    if item.usd is not None:
        found["mlflow.llm.model"] = response.model
        found["mlflow.llm.cost"] = {
            "input_cost": 0.0,
            "output_cost": item.usd,
            "total_cost": item.usd,
        }
    found["freehold.outcome"] = response.outcome
    return found


def _answer(outputs: Mapping[str, Any]) -> str:
    return str(outputs["choices"][0]["message"]["content"])


def _label(value: object, metric: str, trace_id: str) -> float:
    if isinstance(value, str) and value.lower() in ("yes", "no", "pass", "fail"):
        return float(value.lower() in ("yes", "pass"))
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    raise DataError(
        f"trace {trace_id}: the human feedback {metric} is {value!r}; give yes or no, or a number "
        "from 0 to 1 (in the MLflow UI, Traces)"
    )
