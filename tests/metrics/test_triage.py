"""Metrics of a triage: a flag's precision and recall, macro-F1, confident and wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted, json_flag, json_macro_f1, json_safe, whole_set
from pipelines.statistics.macro_f1 import macro_f1


def item(intent: str, escalate: object) -> Example:
    target = json.dumps({"intent": intent, "escalate": escalate})
    return Example(id="e1", messages=(Message(role="user", content="x"),), target=target)


def says(intent: str, escalate: object) -> str:
    return json.dumps({"intent": intent, "escalate": escalate})


@pytest.mark.parametrize(
    ("target", "answer", "precision", "recall"),
    [
        (True, True, (1, 1), (1, 1)),
        (True, False, (1, 0), (0, 1)),
        (False, True, (0, 1), (1, 0)),
        (False, False, (0, 0), (0, 0)),
        (True, "true", (1, 0), (0, 1)),  # a text is no true
    ],
)
def test_precision_weighs_what_was_flagged_and_recall_what_should_be(
    target: bool, answer: Any, precision: tuple[float, float], recall: tuple[float, float]
) -> None:
    def figure(name: Any) -> Weighted:
        return json_flag.score(item("a", target), says("a", answer), field="escalate", figure=name)

    assert figure("precision") == Weighted(*precision)
    assert figure("recall") == Weighted(*recall)
    assert figure("rate") == Weighted(float(answer is True), 1)


def test_an_answer_that_cannot_be_read_flags_nothing() -> None:
    for target, figure, weight in [
        (True, "recall", 1),
        (True, "precision", 0),
        (False, "recall", 0),
        (True, "rate", 1),
    ]:
        with pytest.raises(Unparseable) as caught:
            json_flag.score(item("a", target), "?", field="escalate", figure=figure)  # pyright: ignore[reportArgumentType]
        assert caught.value.weight == weight
    with pytest.raises(ScoringError, match="neither|no true/false"):
        json_flag.score(item("a", "yes"), says("a", True), field="escalate", figure="recall")


@pytest.mark.parametrize(
    ("intent", "escalate", "value"),
    [("a", False, 1.0), ("b", True, 1.0), ("b", False, 0.0), ("b", None, 0.0)],
)
def test_confident_and_wrong_is_wrong_without_asking_a_human(
    intent: str, escalate: object, value: float
) -> None:
    got = json_safe.score(
        item("a", False), says(intent, escalate), field="intent", escalates="escalate"
    )
    assert got == value


def test_macro_f1_by_hand_and_as_sklearn_has_it() -> None:
    # a: tp 2, fp 1, fn 0: F1 4/5. b: tp 0, fp 0, fn 1: 0. Their mean is 0.4.
    labels = {"1": ("a", "a"), "2": ("a", "a"), "3": ("b", "a"), "4": None}
    result = macro_f1(labels)
    assert result is not None
    assert result.mean == pytest.approx(0.4)
    assert (result.n_scored, result.n_total) == (3, 4)
    rng = np.random.default_rng(1)
    gold = rng.choice(list("abcd"), 300)
    said = np.where(rng.random(300) < 0.7, gold, rng.choice(list("abcd"), 300))
    many = {str(k): (str(g), str(s)) for k, (g, s) in enumerate(zip(gold, said, strict=True))}
    ours = macro_f1(many)
    assert ours is not None
    assert ours.mean == pytest.approx(f1_score(gold, said, average="macro"))
    assert ours.low < ours.mean < ours.high
    # Four answers each to 75 questions, all alike: the interval of 75 units, twice as wide.
    quads = {f"{k}-{i}": pair for k, pair in list(many.items())[:75] for i in range(4)}
    tied = macro_f1(quads, {name: name.split("-")[0] for name in quads})
    loose = macro_f1(quads)
    assert tied is not None
    assert loose is not None
    assert tied.high - tied.low == pytest.approx(2 * (loose.high - loose.low), rel=0.15)


def test_an_answer_outside_of_the_labels_is_a_miss_and_no_label() -> None:
    result = macro_f1({"1": ("a", "a"), "2": ("b", "zebra")})
    assert result is not None
    assert result.mean == pytest.approx(0.5)
    assert macro_f1({"1": None}) is None
    assert json_macro_f1.label(item("a", False), "no JSON", field="intent") == ("a", "(none)")
    assert whole_set("json_macro_f1") is not None
    assert whole_set("json_field") is None
