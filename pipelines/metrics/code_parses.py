"""1.0 when the answer's code is Python at all, else 0.0; what `code_scan` could look at."""

from __future__ import annotations

from pipelines.core.records import Example
from pipelines.metrics.code_tests import code_in, parse

NEEDS_TARGET = False
"""The answer alone is judged."""


def score(example: Example, text: str) -> float:
    """Parse the code in `text` (see `code_tests.code_in`); none at all gives 0.0."""
    try:
        tree = parse(code_in(text, str(example.metadata.get("entry_point") or "")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0
    return float(bool(tree.body))
