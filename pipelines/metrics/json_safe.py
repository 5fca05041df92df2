"""0.0 when an answer is confident and wrong: the field is wrong and nobody is asked to look at it.

1 - the mean is the rate of confident and wrong answers.
"""

from __future__ import annotations

from pydantic import JsonValue

from pipelines.core.records import Example, Message
from pipelines.metrics import json_field
from pipelines.metrics.json_field import json_object


def score(example: Example, text: str, *, field: str, escalates: str) -> float:
    """1.0 when `field` is right, or when the flag `escalates` hands the case to a human.

    Raises:
        Unparseable: the answer holds no JSON object.
        ScoringError: the target has no such field.
    """
    if json_field.score(example, text, field=field) == 1.0:
        return 1.0
    return float((json_object(text) or {}).get(escalates) is True)


def example_params() -> dict[str, JsonValue]:
    """Parameters that fit the contract tests' example."""
    return {"field": "intent", "escalates": "escalate"}


def contract_example() -> Example:
    """An example for the contract tests."""
    message = Message(role="user", content="Where is it?")
    return Example(id="e1", messages=(message,), target='{"intent": "a", "escalate": false}')
