"""Answers to questions about a knowledge base: facts, abstention, citations."""

from __future__ import annotations

import pytest

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted, answer_facts, citations


def item(keys: list[list[str]] | None, passages: list[str]) -> Example:
    metadata = {"passages": passages} if keys is None else {"keys": keys, "passages": passages}
    return Example(
        id="e1",
        messages=(Message(role="user", content="?"),),
        target="x",
        metadata=metadata,  # pyright: ignore[reportArgumentType]
    )


KNOWN = item([["12 weeks", "twelve weeks"], ["80 %", "80%"]], ["leave", "pay"])
UNKNOWN = item([], [])


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Twelve weeks at 80% of your wages [leave]", 1.0),
        ("12  WEEKS, and then 80 % .", 1.0),
        ("Twelve weeks.", 0.0),  # one fact is missing
        ("112 weeks at 80 %", 0.0),  # whole words
        ("[12 weeks 80 %]", 0.0),  # a citation states nothing
        ("NOT_IN_HANDBOOK", 0.0),
        ("12 weeks at 80 %, " + "or not " * 60, 0.0),  # everything and its opposite
        ("", 0.0),
    ],
)
def test_all_facts_must_stand_there_in_few_words(answer: str, value: float) -> None:
    assert answer_facts.score(KNOWN, answer) == value


def test_declining_is_right_only_where_there_is_no_answer() -> None:
    assert answer_facts.score(UNKNOWN, "not_in_handbook") == 1.0
    assert answer_facts.score(UNKNOWN, "Twelve weeks") == 0.0

    def figure(name: str, example: Example, text: str) -> float | Weighted:
        return answer_facts.score(example, text, figure=name)

    declines = "NOT_IN_HANDBOOK"
    # Precision looks at what was declined, recall at what should have been.
    assert figure("abstention_precision", UNKNOWN, declines) == Weighted(1.0, 1.0)
    assert figure("abstention_precision", KNOWN, declines) == Weighted(0.0, 1.0)
    assert figure("abstention_precision", KNOWN, "12 weeks") == Weighted(0.0, 0.0)
    assert figure("abstention_recall", UNKNOWN, declines) == Weighted(1.0, 1.0)
    assert figure("abstention_recall", UNKNOWN, "12 weeks") == Weighted(0.0, 1.0)
    assert figure("abstention_recall", KNOWN, declines) == Weighted(1.0, 0.0)
    assert figure("answered", UNKNOWN, declines) == Weighted(1.0, 0.0)
    with pytest.raises(ScoringError, match="unknown figure"):
        figure("f1", KNOWN, "")


def test_citations_are_counted_over_the_set() -> None:
    # Cited: leave (right), sick (wrong). Gold: leave, pay.
    text = "12 weeks [leave, sick]"
    assert citations.score(KNOWN, text) == Weighted(0.5, 2.0)
    assert citations.score(KNOWN, text, figure="recall") == Weighted(0.5, 2.0)
    assert citations.score(KNOWN, "12 weeks") == Weighted(0.0, 0.0)
    assert citations.score(UNKNOWN, "see [pay]") == Weighted(0.0, 1.0)
    assert citations.score(UNKNOWN, "see [pay]", figure="recall") == Weighted(0.0, 0.0)
