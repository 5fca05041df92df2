"""Metrics of labels, of long answers and of code that is Python at all, counted by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted, code_parses, one_label, rouge_l


def item(target: str, **metadata: Any) -> Example:
    message = Message(role="user", content="x")
    return Example(id="e1", messages=(message,), target=target, metadata=metadata)


@pytest.mark.parametrize(
    ("target", "answer", "recall", "precision", "others"),
    [
        ("oos", " OOS\n", (1, 1), (1, 1), (1, 0)),
        ("oos", "pay", (0, 1), (0, 0), (0, 0)),
        ("pay", "oos", (0, 0), (0, 1), (0, 1)),
        ("pay", "pay", (1, 0), (1, 0), (1, 1)),
        ("pay", "", (0, 0), (0, 0), (0, 1)),
    ],
)
def test_one_label_weighs_what_its_figure_is_about(
    target: str,
    answer: str,
    recall: tuple[float, float],
    precision: tuple[float, float],
    others: tuple[float, float],
) -> None:
    for figure, expected in (("recall", recall), ("precision", precision), ("others", others)):
        assert one_label.score(item(target), answer, label="oos", figure=figure) == expected


def test_rouge_l_by_hand() -> None:
    # Common in order: the cat mat (3 of 4 words of the reference, 3 of 5 of the answer).
    example = item("the cat's mat")
    answer = "The cat on a mat! [p1]"
    assert rouge_l.score(example, answer, figure="recall") == 3 / 4
    assert rouge_l.score(example, answer, figure="precision") == 3 / 5
    assert rouge_l.score(example, answer) == pytest.approx(6 / 9)
    assert rouge_l.score(example, "") == 0.0
    assert rouge_l.score(example, "[p1]") == 0.0
    two = item("ignored", references=["one two", "cat mat", ""])
    assert rouge_l.score(two, "cat mat") == 1.0, "the nearest reference counts"
    assert rouge_l.score(two, "mat cat") == 0.5, "order counts"


def test_rouge_l_leaves_out_what_has_no_answer() -> None:
    assert rouge_l.score(item("NONE"), "cat", leave_out="NONE") == Weighted(0.0, 0.0)
    assert rouge_l.score(item("cat"), "cat", leave_out="NONE") == Weighted(1.0, 1.0)
    assert rouge_l.score(item("NONE"), "none") == 1.0


def test_common_words_agrees_with_a_plain_table_and_bears_endless_answers() -> None:
    rng = random.Random(0)
    for _ in range(200):
        first = rng.choices("abcd", k=rng.randrange(12))
        second = rng.choices("abcd", k=rng.randrange(12))
        table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1][j + 1] = (
                    table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
                )
        assert rouge_l.common_words(first, second) == table[-1][-1]
    words = [str(number) for number in range(100)]
    assert rouge_l.common_words(words, words * 5_000) == 100


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("```python\nx = 1\n```", 1.0),
        ("    x = 1\n    y = 2", 1.0),  # an excerpt is shifted left
        ("x = ", 0.0),
        ("", 0.0),
        ("# only a comment", 0.0),
        ("(" * 10_000, 0.0),
        ("x\0", 0.0),
    ],
)
def test_code_parses(text: str, value: float) -> None:
    assert code_parses.score(item("t"), text) == value


def test_what_cannot_be_scored_says_why() -> None:
    with pytest.raises(ScoringError, match="unknown figure 'f2'"):
        one_label.score(item("x"), "x", label="x", figure="f2")
    with pytest.raises(ScoringError, match="unknown figure 'f2'"):
        rouge_l.score(item("x"), "x", figure="f2")
    with pytest.raises(ScoringError, match="example e1 has none"):
        rouge_l.score(item("x", references=["", "?!"]), "x")
