"""One field of a JSON answer."""

from __future__ import annotations

import pytest

from pipelines.core.errors import Unparseable
from pipelines.core.records import Example, Message
from pipelines.metrics.json_field import score

EXAMPLE = Example(
    id="e1",
    messages=(Message(role="user", content="x"),),
    target='{"intent": "refund", "escalate": false}',
)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"intent":"refund","escalate":true}', 1.0),  # other fields do not matter
        ('```json\n{"intent": "refund"}\n```', 1.0),
        ('{"intent": "Refund"}', 0.0),
        ('{"escalate": false}', 0.0),  # the field is missing: wrong, not unscored
    ],
)
def test_the_field_decides(answer: str, value: float) -> None:
    assert score(EXAMPLE, answer, field="intent") == value


@pytest.mark.parametrize(
    "answer", ['["intent", "refund"]', "refund", "", '{"intent": "refund"', "[" * 100_000]
)
def test_an_answer_without_an_object_is_unparseable(answer: str) -> None:
    with pytest.raises(Unparseable, match="no JSON object"):
        score(EXAMPLE, answer, field="intent")


def test_false_is_not_zero_and_not_missing() -> None:
    assert score(EXAMPLE, '{"escalate": false}', field="escalate") == 1.0
    assert score(EXAMPLE, '{"escalate": null}', field="escalate") == 0.0
