"""1.0 when one field of the answer's JSON object equals the target's, else 0.0."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example


def score(example: Example, text: str, *, field: str) -> float:
    """Compare `field`; an answer without it is wrong (0.0).

    Raises:
        Unparseable: the answer holds no JSON object.
        ScoringError: the target itself is no JSON object with this field.
    """
    target = json_object(example.target)
    if target is None or field not in target:
        raise ScoringError(f"json_field: target of example {example.id} has no field {field!r}")
    answer = json_object(text)
    if answer is None:
        raise Unparseable("no JSON object")
    return float(field in answer and answer[field] == target[field])


def example_params() -> dict[str, str]:
    """Parameters that fit the contract tests' example."""
    return {"field": "label"}


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`, also when it stands in a Markdown fence; None without one."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, flags=re.DOTALL)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None
