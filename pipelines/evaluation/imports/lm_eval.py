"""Sample files of the LM Evaluation Harness, `samples_TASK_DATE.jsonl`.

An answer is what the filter left of the text, as the harness graded it. Its item is `doc_id`, or
`doc.id` or `doc.task_id` where the eval set knows none of the `doc_id`s. A file with several
filters holds several answers to an item; `#FILTER` chooses. The harness states neither tokens nor
latency.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from pipelines.core import json_lines
from pipelines.core.errors import DataError
from pipelines.core.paths import shown
from pipelines.evaluation.imports import Foreign, RecordedAnswer, Row, kept_scores

TITLE = "samples of the LM Evaluation Harness"


class _Sample(Foreign):
    model_config = ConfigDict(extra="allow")

    doc_id: int | str
    doc: Any = None
    filtered_resps: list[Any] = Field(min_length=1)
    filter: str = ""
    metrics: list[str] = []
    """Names of further keys, whose values are the scores."""


def detects(head: bytes, path: Path) -> bool:
    """The first key is `doc_id`."""
    return re.match(rb'\s*\{\s*"doc_id"\s*:', head) is not None


def read(path: Path) -> Iterator[Row]:
    """The answers in the file.

    Raises:
        DataError: lines are bad, or hold no generated text.
    """
    for place, sample in json_lines.read(path, _Sample):
        text = sample.filtered_resps[0]
        if isinstance(text, list) and len(text) == 1:
            text = text[0]
        if len(sample.filtered_resps) > 1 or not isinstance(text, str):
            raise DataError(
                f"{shown(path)}: {place}: filtered_resps: expected one generated text; log "
                "likelihoods and repeats cannot be graded"
            )
        values = sample.model_extra or {}
        scores, n_left_out = kept_scores({name: values.get(name) for name in sample.metrics})
        answer = RecordedAnswer(id=str(sample.doc_id), text=text, scores=scores)
        yield Row(place, answer, sample.filter, _other_id(sample.doc), n_left_out)


def _other_id(doc: object) -> str | None:
    named = [doc.get("id"), doc.get("task_id")] if isinstance(doc, Mapping) else []
    return next((str(each) for each in named if isinstance(each, str | int)), None)
