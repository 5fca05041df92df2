"""Recall or precision of one label, such as "out of scope", or accuracy on all the others."""

from __future__ import annotations

from pydantic import JsonValue

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted


def score(example: Example, text: str, *, label: str, figure: str = "recall") -> Weighted:
    """Compare answer and target after trimming spaces and case.

    Args:
        example: its target is a label.
        text: the answer.
        label: the one in question.
        figure: `recall` share of its items that were answered with it · `precision` share of the
            answers with it that were right · `others` share of the other items that were answered
            right.

    Raises:
        ScoringError: the target is empty, or there is no such figure.
    """
    target, answer, asked = (each.strip().casefold() for each in (example.target, text, label))
    if not target:
        raise ScoringError(f"one_label needs a target; example {example.id} has none")
    right = float(answer == target)
    match figure:
        case "recall":
            return Weighted(right, float(target == asked))
        case "precision":
            return Weighted(right, float(answer == asked))
        case "others":
            return Weighted(right, float(target != asked))
        case _:
            raise ScoringError(f"one_label: unknown figure {figure!r}")


def example_params() -> dict[str, JsonValue]:
    """Parameters that fit the contract tests' example."""
    return {"label": "oos"}


def contract_example() -> Example:
    """An example for the contract tests."""
    message = Message(role="user", content="What does my cat think?")
    return Example(id="e1", messages=(message,), target="oos")
