"""1.0 when the answer equals the target after trimming spaces and case, else 0.0."""

from __future__ import annotations

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example


def score(example: Example, text: str) -> float:
    """Compare `text` with `example.target`."""
    if not example.target.strip():
        raise ScoringError(f"exact_match needs a target; example {example.id} has none")
    return float(text.strip().casefold() == example.target.strip().casefold())
