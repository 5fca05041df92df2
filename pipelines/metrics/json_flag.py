"""Precision, recall or rate of a yes/no field of a JSON answer, as of "a human must take over"."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted
from pipelines.metrics.json_field import json_object


def score(
    example: Example, text: str, *, field: str, figure: Literal["precision", "recall", "rate"]
) -> Weighted:
    """Precision: of the answers that say true, those that should. Recall: the other way round.

    Rate: of all answers, those that say true; neither a high nor a low one is good.

    Raises:
        Unparseable: the answer holds no JSON object; it then says nothing, which misses a true.
        ScoringError: the target has no such field, or it is neither true nor false.
    """
    target = (json_object(example.target) or {}).get(field)
    if not isinstance(target, bool):
        raise ScoringError(f"json_flag: target of example {example.id} has no true/false {field!r}")
    if figure not in ("precision", "recall", "rate"):
        raise ScoringError(f"json_flag: unknown figure {figure!r}")
    answer = json_object(text)
    if answer is None:
        weight = {"precision": 0.0, "recall": float(target), "rate": 1.0}[figure]
        raise Unparseable("no JSON object", weight)
    says = answer.get(field) is True
    if figure == "rate":
        return Weighted(float(says), 1.0)
    if figure == "precision":
        return Weighted(float(target), float(says))
    return Weighted(float(says), float(target))


def example_params() -> dict[str, JsonValue]:
    """Parameters that fit the contract tests' example."""
    return {"field": "escalate", "figure": "recall"}


def contract_example() -> Example:
    """An example for the contract tests."""
    message = Message(role="user", content="I will call my lawyer")
    return Example(id="e1", messages=(message,), target='{"escalate": true}')
