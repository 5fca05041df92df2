"""Traces of MLflow as JSON Lines: `trace.to_json()` of each one a line.

An answer's item is the trace's tag `freehold.example_id`, else `example_id` in the inputs of its
first span or in its metadata, else the client's request id, else the trace's own. The answer is
what the first span put out: a text, the message of a chat completion, or JSON. Several models give
several answers to an item; `#MODEL` chooses. Assessments that are true, false or in [0, 1] are
scores. The latency is that of the whole trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field
from pydantic_core import from_json

from pipelines.core import json_lines
from pipelines.core.records import Outcome, Usage
from pipelines.evaluation.imports import (
    Count,
    Foreign,
    RecordedAnswer,
    Row,
    Seconds,
    kept_scores,
    usage_of,
)
from pipelines.providers.http import OUTCOMES, logprobs_of, mean_logprob

TITLE = "MLflow traces"
PREVIEW_LENGTHS = (1000, 10_000)
"""MLflow cuts previews to one of these lengths."""


class _Feedback(Foreign):
    value: Any = None


class _Assessment(Foreign):
    assessment_name: str
    feedback: _Feedback | None = None
    valid: bool | None = None


class _Info(Foreign):
    trace_id: str = Field(validation_alias=AliasChoices("trace_id", "request_id"))
    client_request_id: str | None = None
    state: str = Field(default="OK", validation_alias=AliasChoices("state", "status"))
    execution_duration_ms: Seconds | None = None
    trace_metadata: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    assessments: list[_Assessment] = []
    response_preview: str | None = None


class _Status(Foreign):
    message: str = ""


class _Span(Foreign):
    parent_span_id: str | None = None
    attributes: dict[str, Any] = {}
    status: _Status = _Status()


class _Data(Foreign):
    spans: list[_Span] = []


class _Trace(Foreign):
    info: _Info
    data: _Data = _Data()


class _Tokens(Foreign):
    input_tokens: Count | None = None
    """Cached ones included."""
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation_input_tokens_above_1hr: Count | None = None


def detects(head: bytes, path: Path) -> bool:
    """The first key is `info`."""
    return re.match(rb'\s*\{\s*"info"\s*:\s*\{', head) is not None


def read(path: Path) -> Iterator[Row]:
    """The answers in the file.

    Raises:
        DataError: lines are bad; lists them.
    """
    for place, trace in json_lines.read(path, _Trace):
        info = trace.info
        root = next((s for s in trace.data.spans if not s.parent_span_id), _Span())
        models = (_decoded(s.attributes.get("mlflow.llm.model")) for s in trace.data.spans)
        model = next((each for each in models if isinstance(each, str)), None)
        assessed = {
            each.assessment_name: each.feedback.value
            for each in info.assessments
            if each.feedback is not None and each.valid is not False
        }
        scores, n_left_out = kept_scores(assessed)
        text, finish_reason, logprobs = _text(root, info)
        error = None
        if info.state != "OK":
            text, error = None, root.status.message or f"the trace's state is {info.state}"
        elif text is None:
            error = "the trace holds no answer, or only the beginning of one"
        outcome: Outcome = OUTCOMES.get(finish_reason or "", "answered")
        milliseconds = info.execution_duration_ms
        answer = RecordedAnswer(
            id=_id(root, info),
            text=text,
            error=error,
            outcome=None if text is None else outcome,
            usage=_usage(info.trace_metadata.get("mlflow.trace.tokenUsage")),
            model=model,
            finish_reason=finish_reason,
            latency_s=None if milliseconds is None or text is None else milliseconds / 1000,
            mean_logprob=None if text is None else mean_logprob(logprobs),
            scores=scores,
        )
        yield Row(place, answer, model or "", n_left_out=n_left_out)


def _id(root: _Span, info: _Info) -> str:
    inputs = _decoded(root.attributes.get("mlflow.spanInputs"))
    named = (
        info.tags.get("freehold.example_id"),
        inputs.get("example_id") if isinstance(inputs, Mapping) else None,
        info.trace_metadata.get("example_id"),
        info.client_request_id,
    )
    return next((str(each) for each in named if isinstance(each, str | int)), info.trace_id)


def _text(root: _Span, info: _Info) -> tuple[str | None, str | None, list[float]]:
    """What the first span put out, why it ended there, and how likely its tokens were."""
    outputs = _decoded(root.attributes.get("mlflow.spanOutputs"))
    if "mlflow.spanOutputs" not in root.attributes:
        preview = info.response_preview
        cut = preview is not None and len(preview) in PREVIEW_LENGTHS and preview.endswith("...")
        outputs = None if cut else _decoded(preview)
    match outputs:
        case None | str():
            return outputs, None, []
        case {"choices": [{"message": {"content": str(content)}, **choice}, *_]}:
            reason = choice.get("finish_reason")
            said = choice.get("logprobs")
            logprobs = logprobs_of(said.get("content")) if isinstance(said, dict) else []
            return content, reason if isinstance(reason, str) else None, logprobs
        case _:
            return json.dumps(outputs, ensure_ascii=False), None, []


def _usage(stated: object) -> Usage | None:
    decoded = _decoded(stated)
    if not isinstance(decoded, Mapping):
        return None
    try:
        tokens = _Tokens.model_validate(decoded)
    except ValueError:
        return None
    return usage_of(
        tokens.input_tokens,
        tokens.output_tokens,
        tokens.cache_read_input_tokens,
        None,
        tokens.cache_creation_input_tokens,
        tokens.cache_creation_input_tokens_above_1hr,
    )


def _decoded(value: object) -> Any:
    """Attributes hold JSON as text; what is no JSON is taken as it is."""
    if not isinstance(value, str):
        return value
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError:
        return value
