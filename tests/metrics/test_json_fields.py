"""Fields of a JSON answer, counted by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted
from pipelines.metrics.json_fields import score

TYPES: Any = {"date": "date", "total": "money", "iban": "code", "days": "integer"}
TARGET = {
    "supplier": "Acme Ltd.",
    "date": "2026-03-04",
    "total": "1234.50",
    "iban": None,
    "days": 30,
}


def example(target: object = TARGET) -> Example:
    return Example(
        id="e1", messages=(Message(role="user", content="x"),), target=json.dumps(target)
    )


def figures(answer: dict[str, Any]) -> dict[str, float | Weighted]:
    names: Any = ("accuracy", "exact", "precision", "recall", "f1", "absent", "schema")
    text = json.dumps(answer)
    return {name: score(example(), text, figure=name, types=TYPES) for name in names}


def test_the_target_itself_is_right_everywhere() -> None:
    assert figures(TARGET) == {
        "accuracy": 1.0,
        "exact": 1.0,
        "precision": Weighted(1.0, 4),
        "recall": Weighted(1.0, 4),
        "f1": Weighted(1.0, 8),
        "absent": Weighted(1.0, 1),
        "schema": 1.0,
    }


def test_a_wrong_a_missing_and_an_invented_value() -> None:
    # Right: supplier, date. Wrong: total. Missing: days. Invented: iban. So 2 of 4 stated values
    # are right, 2 of the 4 true ones are found, 0 of 1 absent one was left empty, and 2 of the 5
    # fields are as they should be.
    answer = {**TARGET, "total": "1,234.00", "iban": "DE00", "days": None}
    got = figures(answer)
    assert got["accuracy"] == pytest.approx(0.4)
    assert got["exact"] == 0.0
    assert got["precision"] == Weighted(0.5, 4)
    assert got["recall"] == Weighted(0.5, 4)
    assert got["f1"] == Weighted(0.5, 8)  # 2 x 2 / (4 + 4)
    assert got["absent"] == Weighted(0.0, 1)
    assert got["schema"] == 1.0


def test_a_missing_key_is_an_absent_field_and_breaks_the_schema() -> None:
    got = figures({"supplier": "ACME  ltd", "date": "4 March 2026"})
    assert got["precision"] == Weighted(1.0, 2)
    assert got["recall"] == Weighted(0.5, 4)
    assert got["f1"] == Weighted(4 / 6, 6)  # 2 x 2 / (2 + 4)
    assert got["absent"] == Weighted(1.0, 1)
    assert got["schema"] == 0.0
    assert figures({**TARGET, "extra": 1})["schema"] == 0.0
    assert figures({**TARGET, "days": "30"})["schema"] == 0.0
    assert figures({**TARGET, "days": "30"})["exact"] == 1.0


@pytest.mark.parametrize(
    ("field", "same", "other"),
    [
        ("total", ["1,234.50", "1.234,50 EUR", "EUR 1'234.50", 1234.5, "1 234,5"],
         ["1234", -1234.5]),
        ("date", ["04.03.2026", "4 Mar 2026", "March 4th, 2026", "2026/03/04"],
         ["03/04/2026", "2026-04-03", "4 March"]),
        ("supplier", ["ACME LTD", "acme  ltd."], ["Acme", "Acme Limited"]),
        ("days", ["30", 30], [30.5, "30 days", True]),
    ],
)  # fmt: skip
def test_types_are_normalised_before_they_are_compared(
    field: str, same: list[Any], other: list[Any]
) -> None:
    for value in same:
        assert figures({**TARGET, field: value})["exact"] == 1.0, value
    for value in other:
        assert figures({**TARGET, field: value})["exact"] == 0.0, value


def test_codes_are_compared_without_spaces() -> None:
    target = {"iban": "DE86982678584241604299"}
    answer = json.dumps({"iban": "de86 9826 7858 4241 6042 99"})
    assert score(example(target), answer, figure="exact", types=TYPES) == 1.0


@pytest.mark.parametrize(
    ("figure", "weight"),
    [("accuracy", 1), ("exact", 1), ("recall", 4), ("f1", 4), ("precision", 0), ("schema", 1)],
)
def test_an_answer_without_an_object_weighs_what_it_should_have_found(
    figure: Any, weight: float
) -> None:
    with pytest.raises(Unparseable) as caught:
        score(example(), "I cannot read this", figure=figure, types=TYPES)
    assert caught.value.weight == weight


def test_wrong_parameters_are_no_score() -> None:
    with pytest.raises(ScoringError, match="unknown type 'colour'"):
        score(example(), "{}", types={"supplier": "colour"})
    with pytest.raises(ScoringError, match="unknown figure 'f2'"):
        score(example(), json.dumps(TARGET), figure="f2")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ScoringError, match="no JSON object"):
        score(example("just text"), "{}")
