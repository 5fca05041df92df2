"""Macro-averaged F1 of one field of a JSON answer: each label counts the same, rare or not."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.core.records import Estimate, Example
from pipelines.metrics import Labels, json_field
from pipelines.metrics.json_field import json_object
from pipelines.statistics.macro_f1 import macro_f1

example_params = json_field.example_params
score = json_field.score
"""Of one item: right or wrong."""


def label(example: Example, text: str, *, field: str) -> tuple[str, str]:
    """The target's label and the answer's; an answer without one has the label `(none)`."""
    target, answer = json_object(example.target) or {}, json_object(text) or {}
    return str(target[field]), str(answer.get(field, "(none)"))


def of_labels(labels: Labels, groups: Mapping[str, str], *, field: str) -> Estimate | None:
    """Of the whole set, instead of the mean of the items; `field` is in the labels already."""
    return macro_f1(labels, groups)
