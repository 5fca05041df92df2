"""Share of the cited passages that answer the question, over all citations of the set.

A citation is a passage id in square brackets, as in `12 weeks [leave-parental]`. The metadata's
`passages` are the ids that answer it. That the passage says what the answer says is not checked.
"""

from __future__ import annotations

import re

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted


def score(example: Example, text: str, *, figure: str = "precision") -> Weighted:
    """Compare the ids in `text` with the gold ones.

    Args:
        example: has `passages` in its metadata.
        text: the answer.
        figure: `precision` share of the citations that are right · `recall` share of the gold
            passages that are cited.

    Raises:
        ScoringError: the metadata has no passages, or there is no such figure.
    """
    raw = example.metadata.get("passages")
    if not isinstance(raw, list):
        raise ScoringError(f"citations needs metadata.passages; example {example.id} has none")
    gold = {str(each) for each in raw}
    inside = " ".join(re.findall(r"\[([^\]]*)\]", text))
    cited = set(re.findall(r"[^\s,;]+", inside))
    right = len(cited & gold)
    match figure:
        case "precision":
            return Weighted(right / len(cited) if cited else 0.0, float(len(cited)))
        case "recall":
            return Weighted(right / len(gold) if gold else 0.0, float(len(gold)))
        case _:
            raise ScoringError(f"citations: unknown figure {figure!r}")


def contract_example() -> Example:
    """An example for the contract tests."""
    return Example(
        id="e1",
        messages=(Message(role="user", content="How long is parental leave?"),),
        target="Twelve weeks [leave-parental]",
        metadata={"passages": ["leave-parental"]},
    )
